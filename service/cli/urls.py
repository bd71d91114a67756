"""Service URLs on the command line."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from service.cli.exits import fail


def address(url: str) -> SplitResult:
    """Return the parts of a service URL, or exit with a usage error if it is invalid."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        fail(f"--url: {url}: {error}", 2)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        fail(f"--url: {url}: expected http://host:port", 2)
    return parts

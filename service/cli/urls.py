"""Where a service is, as a user writes it."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from service.cli.exits import fail


def address(url: str) -> SplitResult:
    """Return the parts of a service's address, or stop if it is none."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        fail(f"--url: {url}: {error}", 2)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        fail(f"--url: {url}: expected the form http://host:port", 2)
    return parts

"""The progress line of a command."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click


def progress() -> Callable[[str], None]:
    """Return a function that replaces the progress line on a terminal; an empty text clears it."""
    if not sys.stderr.isatty():
        return lambda _text: None
    return lambda text: click.echo(f"\r\x1b[K{text}", nl=False, err=True)

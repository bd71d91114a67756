"""A line that says how far a command is."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click


def progress() -> Callable[[str], None]:
    """Return what shows a line of progress in place of the last one, if anybody looks; an empty one clears it."""
    if not sys.stderr.isatty():
        return lambda _text: None
    return lambda text: click.echo(f"\r\x1b[K{text}", nl=False, err=True)

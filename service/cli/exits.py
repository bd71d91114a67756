"""Exit of a command that fails."""

from __future__ import annotations

import sys
from typing import NoReturn

import click


def fail(reason: object, code: int) -> NoReturn:
    """Print the reason in one line on standard error, and exit.

    Args:
        reason: What is wrong, where, and what to do.
        code: The exit code: 1 for a failure, 2 for a usage error.
    """
    click.echo(f"fnet-service: {reason}", err=True)
    sys.exit(code)

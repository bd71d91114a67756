"""How a command ends when it cannot go on."""

from __future__ import annotations

import sys
from typing import NoReturn

import click


def fail(reason: object, code: int) -> NoReturn:
    """Say why in one line on standard error, and exit.

    Args:
        reason: What was wrong, where, and what would be right.
        code: The exit code: 1 for what failed, 2 for what was asked wrongly.
    """
    click.echo(f"fnet-service: {reason}", err=True)
    sys.exit(code)

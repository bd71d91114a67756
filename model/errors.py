"""The one error that this package raises for its user's sake, and how it shows what was wrong."""

from __future__ import annotations

import reprlib
from typing import Any

_MOST_SHOWN = 120


class PresetError(ValueError):
    """A preset cannot be used.

    The message is one line that names the preset's file and field, and what would be right.
    """


def shown(value: Any) -> str:
    """Return a value as a message may show it: a file can hold anything, and of any length."""
    text = reprlib.repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."

"""The error for invalid presets and checkpoints, and the representation of values in its messages."""

from __future__ import annotations

import reprlib
from typing import Any

_MAX_REPR_CHARACTERS = 120


class PresetError(ValueError):
    """A preset or checkpoint cannot be used.

    The message is one line that names the file and field, the invalid value and the expected one.
    """


def short_repr(value: Any) -> str:
    """Return a representation of bounded length: a value from a file may have any type and size."""
    text = reprlib.repr(value)
    return text if len(text) <= _MAX_REPR_CHARACTERS else f"{text[: _MAX_REPR_CHARACTERS - 3]}..."

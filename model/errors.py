"""The one error that this package raises for its user's sake."""

from __future__ import annotations


class PresetError(ValueError):
    """A preset cannot be used.

    The message is one line that names the preset's file and field, and what would be right.
    """

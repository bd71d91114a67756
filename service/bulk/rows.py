"""Rows of an input: a text, token ids, or an error."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from service.core.inputs import Text


@dataclass(frozen=True, slots=True)
class Row:
    """One row of an input.

    Attributes:
        number: Index of the row in the input and the output, from 0.
        line: Line in the file, from 1.
        text: The text or pair of texts, None for token ids.
        token_ids: The token ids, None for a text.
        segment_ids: The segments of the token ids, None if not specified.
        error: The reason why the row is invalid.
    """

    number: int
    line: int
    text: Text | None = None
    token_ids: list[int] | None = None
    segment_ids: list[int] | None = None
    error: str | None = None

    @property
    def size(self) -> int:
        """Approximate bytes of text, or of the text of as many token ids."""
        if self.text is not None:
            return len(self.text.text) + len(self.text.pair or "")
        return 4 * len(self.token_ids or ())

    @property
    def digest(self) -> bytes:
        """SHA-256 digest of the row."""
        values = (self.number, self.text, self.token_ids, self.segment_ids, self.error)
        return hashlib.sha256(repr(values).encode("utf-8", "surrogatepass")).digest()


def row_of(number: int, line: int, value: Any, field: str) -> Row:
    """Return the row that an object describes: `field`, or `token_ids` with optional `segment_ids`.

    Args:
        number: Index of the row.
        line: Line in the file.
        value: The parsed JSON value.
        field: Name of the field that contains the text.
    """
    if not isinstance(value, dict):
        return Row(number, line, error=f"expected an object with {field!r} or 'token_ids'")
    text, ids, segments = value.get(field), value.get("token_ids"), value.get("segment_ids")
    if (text is None) == (ids is None):
        received = "neither" if text is None else "both"
        return Row(number, line, error=f"expected one of {field!r} and 'token_ids', received {received}")
    if ids is not None:
        for name, values in (("token_ids", ids), ("segment_ids", [] if segments is None else segments)):
            if not isinstance(values, list) or not all(type(value) is int for value in values):
                return Row(number, line, error=f"{name}: expected a list of integers")
        return Row(number, line, token_ids=ids, segment_ids=segments)
    return _row_of_text(number, line, text, field)


def _row_of_text(number: int, line: int, text: Any, field: str) -> Row:
    match text:
        case str():
            return Row(number, line, text=Text(text))
        case [str(first), str(second)]:
            return Row(number, line, text=Text(first, second))
    return Row(number, line, error=f"{field}: expected a text or a pair of texts")

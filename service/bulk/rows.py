"""What is read from an input: rows, each a text, ids, or something wrong."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from service.core.inputs import Text


@dataclass(frozen=True, slots=True)
class Row:
    """One row of an input.

    Attributes:
        number: Which one it is, from 0; the same as its place in the output.
        line: Where it stands in the file, for people, from 1.
        text: Its text or pair, or nothing.
        token_ids: Its ids, or nothing.
        segment_ids: Segments of its ids, where it names some.
        fault: Why it is neither.
    """

    number: int
    line: int
    text: Text | None = None
    token_ids: list[int] | None = None
    segment_ids: list[int] | None = None
    fault: str | None = None

    @property
    def size(self) -> int:
        """Bytes of text that it has, or that as many ids would come from; about."""
        if self.text is not None:
            return len(self.text.text) + len(self.text.pair or "")
        return 4 * len(self.token_ids or ())

    @property
    def digest(self) -> bytes:
        """What tells this row from any other."""
        known = (self.number, self.text, self.token_ids, self.segment_ids, self.fault)
        return hashlib.sha256(repr(known).encode("utf-8", "surrogatepass")).digest()


def row_of(number: int, line: int, value: Any, field: str) -> Row:
    """Return the row that an object describes: `field`, or `token_ids` with `segment_ids` or without.

    Args:
        number: As in `Row`.
        line: As in `Row`.
        value: What a line of JSON holds.
        field: The name of the text's field.
    """
    if not isinstance(value, dict):
        return Row(number, line, fault=f"expected an object with {field!r} or 'token_ids'")
    text, ids, segments = value.get(field), value.get("token_ids"), value.get("segment_ids")
    if (text is None) == (ids is None):
        found = "neither" if text is None else "both"
        return Row(number, line, fault=f"expected one of {field!r} and 'token_ids', found {found}")
    if ids is not None:
        for name, given in (("token_ids", ids), ("segment_ids", [] if segments is None else segments)):
            if not isinstance(given, list) or not all(type(each) is int for each in given):
                return Row(number, line, fault=f"{name}: expected a list of whole numbers")
        return Row(number, line, token_ids=ids, segment_ids=segments)
    return _row_of_text(number, line, text, field)


def _row_of_text(number: int, line: int, text: Any, field: str) -> Row:
    match text:
        case str():
            return Row(number, line, text=Text(text))
        case [str(first), str(second)]:
            return Row(number, line, text=Text(first, second))
    return Row(number, line, fault=f"{field}: expected a text or a pair of texts")

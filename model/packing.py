"""Which rows of tokens exist, which sequences share one, and where each starts. Integers only.

A row is one run of the network. Sequences lie in it end to end, but not anywhere: a matrix product sums in blocks, and
only at some places does a sequence meet the same blocks wherever it lies (`Spacing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SMALLEST_ROW = 16

# Shorter rows have little to gain, and every way to cut one is a program more to make ready.
_SHORTEST_CUT = 512
# Below 64 tokens a product takes another routine.
_SEGMENTS = (64, 128, 256)


@dataclass(frozen=True, slots=True)
class Spacing:
    """Where a sequence may start.

    Attributes:
        alignment: At multiples of it.
        tile: The product sums so many tokens at a time: a sequence that crosses from one tile into the next has to
            start its tile. A shorter one lies anywhere inside one.
    """

    alignment: int = 1
    tile: int = 1

    def aligned(self, length: int) -> int:
        """Return a length rounded up to a multiple of the alignment."""
        return -(-length // self.alignment) * self.alignment

    def first(self, start: int, length: int) -> int:
        """Return the first place from `start` on where a sequence may start."""
        start = self.aligned(start)
        within = start % self.tile
        return start if not within or within + length <= self.tile else start - within + self.tile


@dataclass(frozen=True, slots=True)
class Row:
    """Sequences that run together.

    Attributes:
        length: Tokens in the row, used or not.
        members: Indices of the sequences, in the order of `starts`.
        starts: Where each of them starts.
        segment: No sequence crosses a multiple of so many tokens.
    """

    length: int
    members: tuple[int, ...]
    starts: tuple[int, ...]
    segment: int


def row_lengths(longest_sequence: int, most_tokens: int) -> tuple[int, ...]:
    """Return the row lengths to compile, ascending.

    Powers of two and, above 32, the points midway: a sequence of more than 32 tokens alone leaves at most a third of a
    row unused.

    Args:
        longest_sequence: Tokens of the longest sequence; the longest row holds it.
        most_tokens: Tokens to aim for in the longest row.
    """
    lengths = [SMALLEST_ROW]
    while lengths[-1] < longest_sequence or lengths[-1] * 2 <= most_tokens:
        power = lengths[-1] * 2
        if power > 2 * SMALLEST_ROW:
            lengths.append(power * 3 // 4)
        lengths.append(power)
    return tuple(lengths)


def shortest_row(room: int, rows: Sequence[int]) -> int:
    """Return the shortest of the ascending `rows` that has so much room.

    Raises:
        ValueError: None has.
    """
    for length in rows:
        if length >= room:
            return length
    raise ValueError(f"{room} tokens do not fit a row of at most {rows[-1]}")


class OpenRow:
    """A row that is being filled.

    Args:
        length: Tokens that it has room for.
        spacing: Where sequences may start.

    Attributes:
        used: Tokens up to the end of the last sequence.
    """

    def __init__(self, length: int, spacing: Spacing) -> None:
        self.used = 0
        self._length = length
        self._spacing = spacing
        # What was stepped over, as start and end: shorter sequences may lie there.
        self._gaps: list[tuple[int, int]] = []

    def place(self, size: int) -> int | None:
        """Return where a sequence of so many tokens now lies, or nothing if there is no room for it."""
        for index, (gap, end) in enumerate(self._gaps):
            start = self._spacing.first(gap, size)
            if start + size <= end:
                self._gaps[index : index + 1] = self._left(gap, start) + self._left(start + size, end)
                return start
        start = self._spacing.first(self.used, size)
        if start + size > self._length:
            return None
        self._gaps += self._left(self.used, start)
        self.used = start + size
        return start

    @property
    def full(self) -> bool:
        """Whether not even a sequence of one token has room."""
        return not self._gaps and self._spacing.first(self.used, 1) >= self._length

    def _left(self, start: int, end: int) -> list[tuple[int, int]]:
        return [(start, end)] if self._spacing.aligned(start) < end else []


class OpenBatch:
    """Rows that are filled together, for one run on as many devices.

    Args:
        rows: How many there are.
        length: Tokens that each has room for.
        spacing: Where sequences may start.
    """

    def __init__(self, rows: int, length: int, spacing: Spacing) -> None:
        self._open = [OpenRow(length, spacing) for _ in range(rows)]
        self._placed: list[list[tuple[int, int]]] = [[] for _ in range(rows)]
        self._count = 0

    def place(self, size: int) -> bool:
        """Take a sequence of so many tokens, if there is room for it in any row."""
        for row, placed in zip(self._open, self._placed, strict=True):
            if (start := row.place(size)) is not None:
                placed.append((self._count, start))
                self._count += 1
                return True
        return False

    @property
    def full(self) -> bool:
        """Whether not even a sequence of one token has room."""
        return all(row.full for row in self._open)

    def rows(self, lengths: Sequence[int]) -> list[Row]:
        """Return the rows that hold something, all of the shortest of the ascending `lengths` that holds each.

        Members are numbered in the order in which they were placed.
        """
        length = shortest_row(max(row.used for row in self._open), lengths)
        return [
            Row(length, tuple(member for member, _ in placed), tuple(start for _, start in placed), length)
            for placed in self._placed
            if placed
        ]


def lay(lengths: Sequence[int], rows: Sequence[int], spacing: Spacing) -> Row:
    """Lay sequences in the shortest row that holds them all, in the order given.

    Raises:
        ValueError: No row holds them.
    """
    row = OpenRow(rows[-1], spacing)
    starts = []
    for length in lengths:
        start = row.place(length)
        if start is None:
            raise ValueError(f"{sum(lengths)} tokens do not fit a row of at most {rows[-1]}")
        starts.append(start)
    length = shortest_row(row.used, rows)
    return Row(length, tuple(range(len(lengths))), tuple(starts), length)


def distribute(lengths: Sequence[int], rows: Sequence[int], spacing: Spacing) -> list[Row]:
    """Distribute any number of sequences over rows: longest first, each to the first row with room for it.

    Every sequence lies in exactly one row.

    Raises:
        ValueError: A sequence is longer than the longest row.
    """
    longest = rows[-1]
    opened: list[tuple[OpenRow, list[int], list[int]]] = []
    # Rows before it have no room for a sequence as short as any that comes.
    first = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        while first < len(opened) and opened[first][0].full:
            first += 1
        for row, members, starts in opened[first:]:
            if (start := row.place(lengths[index])) is not None:
                members.append(index)
                starts.append(start)
                break
        else:
            row = OpenRow(longest, spacing)
            if (start := row.place(lengths[index])) is None:
                raise ValueError(f"{lengths[index]} tokens do not fit a row of at most {longest}")
            opened.append((row, [index], [start]))
    laid = [(shortest_row(row.used, rows), tuple(members), tuple(starts)) for row, members, starts in opened]
    return [Row(length, members, starts, length) for length, members, starts in laid]


def segments_of(length: int) -> tuple[int, ...]:
    """Return the segments, ascending, that a row of `length` tokens may be cut in, itself left out."""
    if length < _SHORTEST_CUT:
        return ()
    return tuple(segment for segment in _SEGMENTS if length % segment == 0)


def in_segments(
    length: int, members: Sequence[int], sizes: Sequence[int], segments: Sequence[int], spacing: Spacing
) -> Row | None:
    """Lay sequences in a row so that none crosses a segment of it, in the shortest segments that allow it.

    Args:
        length: Tokens of the row.
        members: Indices of the sequences.
        sizes: Tokens of each.
        segments: Segments to try, ascending; each divides the length.
        spacing: Where in a segment sequences may start.

    Returns:
        The row, or nothing where no segments hold the sequences.
    """
    longest = max(sizes)
    for segment in segments:
        if longest <= segment and (starts := _starts_in_segments(length, sizes, segment, spacing)):
            return Row(length, tuple(members), starts, segment)
    return None


def _starts_in_segments(length: int, sizes: Sequence[int], segment: int, spacing: Spacing) -> tuple[int, ...]:
    """Return where sequences start in a row of segments, longest first in the first with room; none if one has none."""
    parts = [OpenRow(segment, spacing) for _ in range(length // segment)]
    starts = [0] * len(sizes)
    first = before = 0
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        # Where one as long had no room the next has none.
        first, before = (first if sizes[index] == before else 0), sizes[index]
        for number in range(first, len(parts)):
            if (start := parts[number].place(sizes[index])) is not None:
                starts[index], first = number * segment + start, number
                break
        else:
            return ()
    return tuple(starts)

"""Which rows of tokens exist, which sequences share one, and where each starts. Integers only.

A row is one run of the network. Sequences lie in it end to end, each at a multiple of the alignment: a matrix product
sums in blocks, and only at such places does a sequence meet the same blocks wherever it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SMALLEST_ROW = 16


@dataclass(frozen=True, slots=True)
class Row:
    """Sequences that run together.

    Attributes:
        length: Tokens in the row, used or not.
        members: Indices of the sequences, in the order in which they lie.
        starts: Where each of them starts.
    """

    length: int
    members: tuple[int, ...]
    starts: tuple[int, ...]


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


def aligned(length: int, alignment: int) -> int:
    """Return the room that a sequence takes: its length, rounded up to a multiple of the alignment."""
    return -(-length // alignment) * alignment


def shortest_row(room: int, rows: Sequence[int]) -> int:
    """Return the shortest of the ascending `rows` that has so much room.

    Raises:
        ValueError: None has.
    """
    for length in rows:
        if length >= room:
            return length
    raise ValueError(f"{room} tokens do not fit a row of at most {rows[-1]}")


def lay(lengths: Sequence[int], rows: Sequence[int], alignment: int) -> Row:
    """Lay sequences end to end in the shortest row that holds them all.

    Raises:
        ValueError: No row holds them.
    """
    starts, end = [], 0
    for length in lengths:
        starts.append(end)
        end += aligned(length, alignment)
    # The last one needs no room behind it.
    used = starts[-1] + lengths[-1] if lengths else 0
    return Row(shortest_row(used, rows), tuple(range(len(lengths))), tuple(starts))


def distribute(lengths: Sequence[int], rows: Sequence[int], alignment: int) -> list[Row]:
    """Distribute any number of sequences over rows: longest first, each to the first row with room for it.

    Every sequence lies in exactly one row.

    Raises:
        ValueError: A sequence is longer than the longest row.
    """
    longest = rows[-1]
    groups: list[list[int]] = []
    used: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        group = next((g for g, end in enumerate(used) if end + lengths[index] <= longest), len(groups))
        if group == len(groups):
            groups.append([])
            used.append(0)
        groups[group].append(index)
        used[group] += aligned(lengths[index], alignment)
    laid = [(members, lay([lengths[i] for i in members], rows, alignment)) for members in groups]
    return [Row(row.length, tuple(members), row.starts) for members, row in laid]

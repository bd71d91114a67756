"""Batch forming: the assignment of sequences to rows and offsets, computed with integers only.

A row holds the tokens of its sequences end to end. It has no gaps, and sequences may start at any token: every sequence
has its own Fourier transform (`model.mixing`), and the rest of a layer is token-wise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

MIN_ROW_TOKENS = 8


def row_lengths(max_batch_tokens: int) -> tuple[int, ...]:
    """Return the row lengths to compile, ascending: powers of two and, from 16 on, the midpoints between them.

    Every row of more than 16 tokens is therefore at least two thirds full.

    Args:
        max_batch_tokens: Upper bound of the longest row; the shortest row is the minimum.
    """
    lengths = [MIN_ROW_TOKENS]
    while (longer := lengths[-1] * 2) <= max_batch_tokens:
        if longer > 2 * MIN_ROW_TOKENS:
            lengths.append(longer * 3 // 4)
        lengths.append(longer)
    return tuple(lengths)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of a row that one call of the token-wise programs processes.

    Attributes:
        start: First token.
        tokens: Number of tokens.
        length: Row length of the program, at least `tokens`.
    """

    start: int
    tokens: int
    length: int


def chunks(tokens: int, lengths: Sequence[int]) -> tuple[Chunk, ...]:
    """Split a row into chunks: as many of the longest length as it fills, then the shortest that holds the remainder.

    Args:
        tokens: Tokens of the row, at least 1.
        lengths: Row lengths, ascending.
    """
    longest = lengths[-1]
    full = range(0, tokens - longest + 1, longest)
    split = [Chunk(start, longest, longest) for start in full]
    start = len(full) * longest
    if start < tokens:
        split.append(Chunk(start, tokens - start, next(length for length in lengths if length >= tokens - start)))
    return tuple(split)


@dataclass(frozen=True, slots=True)
class Group:
    """Consecutive sequences of equal length, which one call transforms.

    Attributes:
        start: First token.
        count: Number of sequences.
        size: Tokens of each sequence.
    """

    start: int
    count: int
    size: int

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return self.count * self.size


@dataclass(frozen=True, slots=True)
class Row:
    """Sequences that are packed end to end.

    Attributes:
        members: Indices of the sequences in the batch.
        sizes: Tokens of each sequence; sequences of equal length are neighbors.
    """

    members: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(self.sizes)

    @property
    def starts(self) -> tuple[int, ...]:
        """First token of each sequence."""
        return tuple(accumulate(self.sizes[:-1], initial=0))

    @property
    def groups(self) -> tuple[Group, ...]:
        """Runs of sequences of equal length, in order."""
        groups: list[Group] = []
        start = 0
        for size, members in groupby(self.sizes):
            groups.append(Group(start, len(list(members)), size))
            start += groups[-1].tokens
        return tuple(groups)


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """The rows of one batch, at most one row per device.

    Attributes:
        rows: The rows; none is empty.
    """

    rows: tuple[Row, ...]

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(row.tokens for row in self.rows)

    def row_tokens(self, lengths: Sequence[int]) -> int:
        """Return the tokens that the programs compute in rows of the ascending `lengths`, padding included."""
        return sum(chunk.length for row in self.rows for chunk in chunks(row.tokens, lengths))


class BatchBuilder:
    """Collects sequences for one run.

    Args:
        rows: Number of rows per run.
        capacity: Tokens of a row. A longer sequence has its own row.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        self._capacity = capacity
        self._rows: list[list[tuple[int, int]]] = [[] for _ in range(rows)]
        self._used = [0] * rows
        self._count = 0

    def add(self, size: int) -> bool:
        """Add a sequence of `size` tokens to the first row with enough space; return whether one exists."""
        for number, used in enumerate(self._used):
            if used + size <= self._capacity or not used:
                self._rows[number].append((size, self._count))
                self._used[number] += size
                self._count += 1
                return True
        return False

    @property
    def full(self) -> bool:
        """Whether no row has space for a sequence of one token."""
        return all(used >= self._capacity for used in self._used)

    def build(self) -> BatchPlan:
        """Return the plan; sequences are numbered in the order in which they were added."""
        # Sorting makes sequences of equal length neighbors.
        filled = [sorted(row) for row in self._rows if row]
        return BatchPlan(tuple(Row(tuple(m for _, m in row), tuple(size for size, _ in row)) for row in filled))


def pack_all(sizes: Sequence[int], rows: int, capacity: int) -> list[tuple[BatchPlan, tuple[int, ...]]]:
    """Distribute any number of sequences over batches, longest first.

    Args:
        sizes: Tokens of each sequence.
        rows: Number of rows per run.
        capacity: Tokens of a row.

    Returns:
        Plans, each with the sequence index of each of its members.
    """
    pending = sorted(range(len(sizes)), key=lambda index: -sizes[index])
    batches: list[tuple[BatchPlan, tuple[int, ...]]] = []
    while pending:
        builder = BatchBuilder(rows, capacity)
        added: list[int] = []
        rest: list[int] = []
        for index in pending:
            (added if not builder.full and builder.add(sizes[index]) else rest).append(index)
        batches.append((builder.build(), tuple(added)))
        pending = rest
    return batches

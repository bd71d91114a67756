"""Batch forming: row lengths, chunks, rows without gaps, and batches with every sequence once."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.packing import MIN_ROW_TOKENS, BatchBuilder, BatchPlan, Chunk, Group, Row, chunks, pack_all, row_lengths

LENGTHS = row_lengths(512)
SIZES = st.lists(st.integers(1, 200), max_size=60)


def built(sizes: list[int], rows: int, capacity: int) -> tuple[BatchPlan, list[int]]:
    """Return the plan of a batch, and the sizes of the sequences that it accepted."""
    builder = BatchBuilder(rows, capacity)
    accepted = [size for size in sizes if builder.add(size)]
    return builder.build(), accepted


# --- Row lengths ---


def test_row_lengths_are_powers_of_two_and_midpoints() -> None:
    """The default configuration has the documented row lengths."""
    assert row_lengths(512) == (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


@pytest.mark.parametrize(
    ("max_batch_tokens", "longest"), [(1, 8), (8, 8), (15, 8), (16, 16), (31, 16), (500, 256), (16384, 16384)]
)
def test_longest_row_is_the_largest_power_of_two_within_the_maximum(max_batch_tokens: int, longest: int) -> None:
    """The shortest row length exists even if it exceeds the maximum."""
    assert row_lengths(max_batch_tokens)[-1] == longest


@given(max_batch_tokens=st.integers(1, 3000))
def test_rows_of_more_than_16_tokens_are_two_thirds_full(max_batch_tokens: int) -> None:
    """The shortest row that holds the tokens wastes at most a third of its length."""
    lengths = row_lengths(max_batch_tokens)
    assert list(lengths) == sorted(set(lengths))
    assert lengths[0] == MIN_ROW_TOKENS
    for tokens in range(17, lengths[-1] + 1):
        assert 3 * tokens >= 2 * next(length for length in lengths if length >= tokens)


# --- Chunks ---


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (1, [(0, 1, 8)]),
        (8, [(0, 8, 8)]),
        (9, [(0, 9, 16)]),
        (32, [(0, 32, 32)]),
        (33, [(0, 32, 32), (32, 1, 8)]),
        (64, [(0, 32, 32), (32, 32, 32)]),
        (81, [(0, 32, 32), (32, 32, 32), (64, 17, 32)]),
    ],
)
def test_chunks_are_the_longest_rows_and_the_shortest_that_holds_the_remainder(
    tokens: int, expected: list[tuple[int, int, int]]
) -> None:
    """A row that fits has one chunk; a longer one fills the longest row length first."""
    assert chunks(tokens, (8, 16, 32)) == tuple(Chunk(*chunk) for chunk in expected)


@given(tokens=st.integers(1, 3000), max_batch_tokens=st.integers(1, 600))
def test_chunks_cover_every_token_once(tokens: int, max_batch_tokens: int) -> None:
    """Chunks are consecutive, each fits its row length, and only the last one may be padded."""
    lengths = row_lengths(max_batch_tokens)
    parts = chunks(tokens, lengths)
    assert parts[0].start == 0
    assert all(one.start + one.tokens == other.start for one, other in pairwise(parts))
    assert parts[-1].start + parts[-1].tokens == tokens
    assert all(part.length in lengths for part in parts)
    assert all(part.tokens == part.length == lengths[-1] for part in parts[:-1])
    assert 0 < parts[-1].tokens <= parts[-1].length


# --- Rows ---


def test_row_lists_starts_and_groups_of_equal_length() -> None:
    """Sequences of equal length that are neighbors form one group."""
    row = Row((4, 0, 1, 3, 2), (2, 3, 3, 3, 7))
    assert row.tokens == 18
    assert row.starts == (0, 2, 5, 8, 11)
    assert row.groups == (Group(0, 1, 2), Group(2, 3, 3), Group(11, 1, 7))
    assert [group.tokens for group in row.groups] == [2, 9, 7]


@given(sizes=SIZES.filter(bool))
def test_row_has_no_gaps(sizes: list[int]) -> None:
    """Each sequence, and each group, starts where the one before it ends."""
    (row,) = built(sizes, 1, sum(sizes))[0].rows
    assert row.starts[0] == 0
    assert all(start + size == after for (start, after), size in zip(pairwise(row.starts), row.sizes, strict=False))
    assert row.groups[0].start == 0
    assert all(one.start + one.tokens == other.start for one, other in pairwise(row.groups))
    assert sum(group.tokens for group in row.groups) == row.tokens == sum(sizes)


# --- Batches ---


@given(sizes=st.lists(st.integers(1, 600), max_size=40), rows=st.integers(1, 4), capacity=st.sampled_from(LENGTHS))
def test_batch_holds_every_accepted_sequence_once(sizes: list[int], rows: int, capacity: int) -> None:
    """Members number the sequences in the order of adding, and each has the size that was added."""
    plan, accepted = built(sizes, rows, capacity)
    members = {member: size for row in plan.rows for member, size in zip(row.members, row.sizes, strict=True)}
    assert members == dict(enumerate(accepted))
    assert sum(len(row.members) for row in plan.rows) == len(accepted)
    assert plan.tokens == sum(accepted)
    assert len(plan.rows) <= rows
    assert all(row.members for row in plan.rows)


@given(sizes=st.lists(st.integers(1, 600), max_size=40), rows=st.integers(1, 4), capacity=st.sampled_from(LENGTHS))
def test_row_exceeds_the_capacity_only_for_a_sequence_of_its_own(sizes: list[int], rows: int, capacity: int) -> None:
    """A sequence longer than the capacity has its own row."""
    for row in built(sizes, rows, capacity)[0].rows:
        assert row.tokens <= capacity or len(row.sizes) == 1


@given(sizes=SIZES, capacity=st.sampled_from(LENGTHS))
def test_sequences_of_equal_length_are_neighbors(sizes: list[int], capacity: int) -> None:
    """A row has as many groups as it has distinct lengths."""
    for row in built(sizes, 1, capacity)[0].rows:
        assert len(row.groups) == len(set(row.sizes))


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=30), spare=st.integers(0, 5))
def test_sequence_is_rejected_only_for_lack_of_tokens(sizes: list[int], spare: int) -> None:
    """A row accepts every sequence that fits its remaining tokens."""
    capacity = sum(sizes) + spare
    builder = BatchBuilder(1, capacity)
    assert all(builder.add(size) for size in sizes)
    assert builder.full is (spare == 0)
    assert not builder.add(spare + 1)
    assert builder.full is (spare == 0)
    assert spare == 0 or builder.add(spare)
    assert builder.full
    (row,) = builder.build().rows
    assert row.tokens == capacity


def test_sequence_goes_to_the_first_row_with_space() -> None:
    """Later rows are used only if earlier rows lack space."""
    builder = BatchBuilder(2, 16)
    assert [builder.add(size) for size in (10, 8, 6, 8, 1)] == [True, True, True, True, False]
    assert builder.full
    assert [row.sizes for row in builder.build().rows] == [(6, 10), (8, 8)]
    assert [row.members for row in builder.build().rows] == [(2, 0), (1, 3)]


def test_long_sequence_needs_an_empty_row() -> None:
    """A sequence longer than the capacity is rejected by rows with other sequences, and fills its row."""
    builder = BatchBuilder(2, 16)
    assert builder.add(1)
    assert builder.add(17)
    assert not builder.add(17)
    assert not builder.full
    assert builder.add(15)
    assert builder.full


def test_empty_batch_has_no_rows() -> None:
    """A plan without sequences has no rows."""
    builder = BatchBuilder(3, 16)
    assert not builder.full
    assert builder.build() == BatchPlan(())
    assert builder.build().tokens == 0


def test_row_tokens_count_padding() -> None:
    """Row tokens are the sum of the row lengths of all chunks."""
    plan = BatchPlan((Row((0, 1), (3, 6)), Row((2,), (40,)), Row((3,), (16,))))
    assert plan.tokens == 65
    assert plan.row_tokens((8, 16, 32)) == 16 + (32 + 8) + 16
    assert plan.row_tokens((32,)) == 32 + (32 + 32) + 32


# --- Any number of sequences ---


@given(sizes=st.lists(st.integers(1, 600), max_size=80), rows=st.integers(1, 4), capacity=st.sampled_from(LENGTHS))
def test_pack_all_distributes_every_sequence_once(sizes: list[int], rows: int, capacity: int) -> None:
    """Each member refers to a sequence of its size, and no batch is empty."""
    batches = pack_all(sizes, rows, capacity)
    assert sorted(index for _, indices in batches for index in indices) == list(range(len(sizes)))
    for plan, indices in batches:
        members = {member: size for row in plan.rows for member, size in zip(row.members, row.sizes, strict=True)}
        assert members == {number: sizes[index] for number, index in enumerate(indices)}
        assert members
        assert len(plan.rows) <= rows
        assert all(row.tokens <= capacity or len(row.sizes) == 1 for row in plan.rows)


@given(sizes=st.lists(st.integers(1, 64), max_size=80), capacity=st.sampled_from([64, 96, 128]))
def test_pack_all_leaves_at_most_one_row_half_empty(sizes: list[int], capacity: int) -> None:
    """At most one row is at most half full."""
    tokens = [plan.tokens for plan, _ in pack_all(sizes, 1, capacity)]
    assert sum(2 * used <= capacity for used in tokens) <= 1


def test_pack_all_starts_with_the_longest_sequences() -> None:
    """Short sequences fill the remaining space of rows."""
    sizes = [20, 40, 24, 60, 4]
    assert [[sizes[index] for index in indices] for _, indices in pack_all(sizes, 1, 64)] == [[60, 4], [40, 24], [20]]


def test_pack_all_fills_rows_to_the_last_token() -> None:
    """Sequences with exactly the tokens of a row share it, in any order."""
    ((plan, indices),) = pack_all([5, 48, 11], 1, 64)
    assert (plan.rows[0].tokens, set(indices)) == (64, {0, 1, 2})
    assert pack_all([], 1, 64) == []

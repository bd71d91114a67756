"""Which rows exist, and how sequences come to lie in them: integers in, integers out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.packing import (
    SMALLEST_ROW,
    OpenRow,
    Spacing,
    distribute,
    in_segments,
    lay,
    row_lengths,
    segments_of,
    shortest_row,
)

SPACINGS = st.sampled_from([Spacing(1), Spacing(8), Spacing(32), Spacing(2, 32), Spacing(8, 32)])
ROWS = row_lengths(longest_sequence=200, most_tokens=512)
LENGTHS = st.lists(st.integers(1, 200), max_size=60)


def test_row_lengths_are_powers_of_two_and_their_midpoints() -> None:
    """The product's default has these ten rows."""
    assert row_lengths(512, 512) == (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)


@pytest.mark.parametrize(
    ("longest", "most", "last"),
    [(1, 1, 16), (16, 16, 16), (17, 16, 32), (512, 64, 512), (64, 512, 512), (64, 500, 256)],
)
def test_the_longest_row_holds_the_longest_sequence_and_stays_within_the_aim(
    longest: int, most: int, last: int
) -> None:
    """The longest row is the longest power of two up to the aim, unless one sequence needs more."""
    assert row_lengths(longest, most)[-1] == last


@given(longest=st.integers(1, 3000), most=st.integers(1, 3000))
def test_every_sequence_has_a_row_and_wastes_little(longest: int, most: int) -> None:
    """Any sequence fits a row; one of more than 32 tokens alone leaves at most a third of its row unused."""
    rows = row_lengths(longest, most)
    assert list(rows) == sorted(set(rows))
    assert rows[0] == SMALLEST_ROW
    for length in range(33, longest + 1):
        assert 3 * length >= 2 * shortest_row(length, rows)


@given(start=st.integers(0, 600), length=st.integers(1, 200), spacing=SPACINGS)
def test_the_first_place_is_near_and_allowed(start: int, length: int, spacing: Spacing) -> None:
    """A start is aligned, less than a tile away, and no sequence crosses into a tile unless it started one."""
    first = spacing.first(start, length)
    assert 0 <= first - start < max(spacing.alignment, spacing.tile)
    assert first % spacing.alignment == 0
    assert first % spacing.tile == 0 or first // spacing.tile == (first + length - 1) // spacing.tile


@given(lengths=st.lists(st.integers(1, 200), max_size=20), size=st.integers(1, 200), spacing=SPACINGS)
def test_where_one_does_not_fit_no_larger_one_does(lengths: list[int], size: int, spacing: Spacing) -> None:
    """Whoever looks for what fits need not try what is larger than something that did not."""

    def fits(more: int) -> bool:
        row = OpenRow(256, spacing)
        for length in lengths:
            row.place(length)
        return row.place(more) is not None

    if not fits(size):
        assert not any(fits(larger) for larger in range(size + 1, size + 70))


def test_what_is_stepped_over_is_used_by_shorter_ones() -> None:
    """A long sequence starts the next tile; the gap before it goes to whoever fits, and so does what that leaves."""
    row = OpenRow(96, Spacing(2, 32))
    assert [row.place(size) for size in (5, 40, 9, 3, 10, 20, 4, 17)] == [0, 32, 6, 16, 20, 72, 92, None]
    assert row.used == 96
    assert not row.full  # two tokens are left behind the third
    assert row.place(2) == 30
    assert row.full


def test_a_row_is_chosen_by_its_room() -> None:
    """The shortest row that suffices is taken, and one token more takes the next."""
    assert [shortest_row(room, (16, 32, 48)) for room in (0, 1, 16, 17, 32, 33, 48)] == [16, 16, 16, 32, 32, 48, 48]


def test_too_many_tokens_fit_no_row() -> None:
    """What exceeds the longest row is refused with both numbers."""
    with pytest.raises(ValueError, match="49 tokens do not fit a row of at most 48"):
        shortest_row(49, (16, 32, 48))
    with pytest.raises(ValueError, match="do not fit"):
        lay([16, 17, 16], (16, 32, 48), Spacing(8))
    with pytest.raises(ValueError, match="do not fit"):
        distribute([3, 49, 3], (16, 32, 48), Spacing(8))


def test_lay_keeps_the_order_and_aligns_every_start() -> None:
    """Sequences lie end to end as given, gaps only up to the next multiple; the last needs no room behind it."""
    row = lay([3, 8, 9, 1], (16, 32, 48), Spacing(8))
    assert (row.length, row.members, row.starts) == (48, (0, 1, 2, 3), (0, 8, 16, 32))
    assert lay([8, 8], (16, 32), Spacing(8)).length == 16
    assert lay([9, 7], (16, 32), Spacing(8)).length == 32


def test_without_alignment_there_are_no_gaps() -> None:
    """At an alignment of 1 each sequence starts where the one before it ends."""
    assert lay([3, 8, 5], (16, 32), Spacing(1)).starts == (0, 3, 11)
    assert lay([3, 8, 5], (16, 32), Spacing(1)).length == 16


def test_a_row_may_be_filled_to_its_last_token() -> None:
    """Sequences that together have exactly a row's length share it."""
    (row,) = distribute([16, 32], (16, 32, 48), Spacing(8))
    assert (row.length, row.members, row.starts) == (48, (1, 0), (0, 32))


def test_nothing_takes_no_row() -> None:
    """No sequences make no rows."""
    assert distribute([], ROWS, Spacing(8)) == []


@given(lengths=LENGTHS, spacing=SPACINGS)
def test_every_sequence_lies_in_exactly_one_row(lengths: list[int], spacing: Spacing) -> None:
    """Rows together hold each sequence once, and a member's place in the row is the place of its start."""
    rows = distribute(lengths, ROWS, spacing)
    assert sorted(member for row in rows for member in row.members) == list(range(len(lengths)))
    assert all(len(row.members) == len(row.starts) > 0 for row in rows)


@given(lengths=LENGTHS, spacing=SPACINGS)
def test_sequences_neither_overlap_nor_overhang(lengths: list[int], spacing: Spacing) -> None:
    """Each starts where one of its length may, ends before the next starts, and within the row."""
    for row in distribute(lengths, ROWS, spacing):
        places = sorted((start, start + lengths[member]) for start, member in zip(row.starts, row.members, strict=True))
        assert all(spacing.first(start, end - start) == start for start, end in places)
        assert all(end <= start for (_, end), (start, _) in pairwise(places))
        assert places[-1][1] <= row.length


@given(lengths=LENGTHS, spacing=SPACINGS)
def test_each_row_is_the_shortest_that_fits(lengths: list[int], spacing: Spacing) -> None:
    """A row's length is one of those that exist, and no shorter one would hold its members."""
    for row in distribute(lengths, ROWS, spacing):
        used = max(start + lengths[member] for start, member in zip(row.starts, row.members, strict=True))
        assert row.length == min(length for length in ROWS if length >= used)


@given(lengths=LENGTHS, spacing=SPACINGS)
def test_rows_are_filled_before_another_is_begun(lengths: list[int], spacing: Spacing) -> None:
    """The first sequence of a later row would not have fitted behind those that an earlier row held by then."""
    rows = distribute(lengths, ROWS, spacing)
    for place, later in enumerate(rows):
        opener = later.members[0]
        for earlier in rows[:place]:
            # Longest first: what lay there before the opener came is at least as long.
            before = [m for m in earlier.members if (-lengths[m], m) < (-lengths[opener], opener)]
            row = OpenRow(ROWS[-1], spacing)
            assert all(row.place(lengths[member]) is not None for member in before)
            assert row.place(lengths[opener]) is None


@pytest.mark.parametrize(
    ("length", "segments"),
    [(16, ()), (384, ()), (512, (64, 128, 256)), (768, (64, 128, 256)), (1152, (64, 128)), (1024, (64, 128, 256))],
)
def test_long_rows_may_be_cut_in_segments(length: int, segments: tuple[int, ...]) -> None:
    """Segments make up the row, and each the next longer one; short rows stay whole."""
    assert segments_of(length) == segments


@given(lengths=LENGTHS, spacing=SPACINGS)
def test_no_sequence_crosses_a_segment(lengths: list[int], spacing: Spacing) -> None:
    """Laid in segments, sequences lie as they may in a row, none across a bound; the shortest segments are taken."""
    for row in distribute(lengths, ROWS, spacing):
        sizes = [lengths[member] for member in row.members]
        segments = segments_of(row.length)
        cut = in_segments(row.length, row.members, sizes, segments, spacing)
        if cut is None:
            continue
        assert (cut.length, cut.members) == (row.length, row.members)
        places = sorted((start, start + size) for start, size in zip(cut.starts, sizes, strict=True))
        assert all(end <= start for (_, end), (start, _) in pairwise(places))
        assert all(start // cut.segment == (end - 1) // cut.segment for start, end in places)
        assert all(spacing.first(start % cut.segment, end - start) == start % cut.segment for start, end in places)
        shorter = [segment for segment in segments if segment < cut.segment]
        assert in_segments(row.length, row.members, sizes, shorter, spacing) is None


def test_segments_that_hold_them_not_are_not_taken() -> None:
    """Sequences longer than a segment, or too many of more than half of one, leave the row whole."""
    assert in_segments(256, [0], [129], (64, 128), Spacing()) is None
    assert in_segments(256, range(3), [65] * 3, (64, 128), Spacing()) is None
    assert in_segments(256, [4, 2], [60, 65], (64, 128), Spacing()).starts == (65, 0)  # type: ignore[union-attr]

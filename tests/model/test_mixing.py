"""Fourier mixing equals the float64 transform, and its bits depend on the sequence alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from model.mixing import FourierMixing, _divide
from model.packing import Group, Row

Float32s = npt.NDArray[np.float32]

# Largest error, relative to the largest value of the result.
TOLERANCE = 1e-6
MIXINGS = {threads: FourierMixing(threads) for threads in (1, 2, 3, 4)}


def random_array(*shape: int, seed: int = 0) -> Float32s:
    """Return normal values."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def row_of(sizes: Sequence[int]) -> Row:
    """Return a row of sequences in the given order."""
    return Row(tuple(range(len(sizes))), tuple(sizes))


def parts_of(sizes: Sequence[int]) -> Iterator[slice]:
    """Yield the range of each sequence."""
    row = row_of(sizes)
    for start, size in zip(row.starts, sizes, strict=True):
        yield slice(start, start + size)


def mixed(x: Float32s, sizes: Sequence[int], threads: int = 1) -> Float32s:
    """Return the mixing of a row; padding is zero."""
    out = np.zeros_like(x)
    mixing = MIXINGS[threads]
    mixing.add(x, mixing.layout(row_of(sizes)), out)
    return out


def mixed_alone(x: Float32s) -> bytes:
    """Return the bits of a sequence's mixing when it is the only one, in memory of its own."""
    return mixed(x.copy(), [len(x)]).tobytes()


def expected(x: Float32s) -> npt.NDArray[np.float64]:
    """Return the mixing of one sequence in float64."""
    wide = x.astype(np.float64)
    return np.asarray(wide + np.fft.fft2(wide).real)


@given(size=st.integers(1, 200), hidden=st.integers(1, 100), seed=st.integers(0, 1000))
@example(size=1, hidden=1, seed=0)
@example(size=1, hidden=100, seed=0)
@example(size=200, hidden=1, seed=0)
@example(size=2, hidden=2, seed=0)
@example(size=3, hidden=2, seed=0)
@example(size=199, hidden=97, seed=0)
@example(size=128, hidden=64, seed=0)
def test_mixing_equals_the_transform_in_float64(size: int, hidden: int, seed: int) -> None:
    """`x + Re(fft2(x))` for even, odd and prime sizes of both axes, within float32 rounding."""
    x = random_array(size, hidden, seed=seed)
    true = expected(x)
    assert np.abs(mixed(x, [size]) - true).max() <= TOLERANCE * np.abs(true).max()


@pytest.mark.parametrize("threads", MIXINGS)
def test_each_sequence_is_transformed_alone(threads: int) -> None:
    """Results equal the transform of each sequence, not of the row."""
    sizes = [5, 5, 5, 7, 8, 8, 1, 1, 200, 31, 5]
    x = random_array(sum(sizes), 12)
    out = mixed(x, sizes, threads)
    for part in parts_of(sizes):
        true = expected(x[part])
        assert np.abs(out[part] - true).max() <= TOLERANCE * np.abs(true).max()


@pytest.mark.parametrize("threads", MIXINGS)
def test_padding_is_not_written(threads: int) -> None:
    """Tokens after the last sequence do not change."""
    x, out = random_array(250, 6), np.full((250, 6), 7, np.float32)
    mixing = MIXINGS[threads]
    mixing.add(x, mixing.layout(row_of([40, 40, 50, 50, 50])), out)
    assert (out[230:] == 7).all()
    assert (out[:230] != 7).any(axis=1).all()


@given(
    runs=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 90)), min_size=1, max_size=8),
    hidden=st.integers(1, 40),
    threads=st.sampled_from(list(MIXINGS)),
    offset=st.integers(0, 3),
)
def test_bits_depend_on_the_sequence_alone(runs: list[tuple[int, int]], hidden: int, threads: int, offset: int) -> None:
    """A sequence has the same bits alone and in a row, at any offset of row and memory, with any number of threads."""
    sizes = [size for count, size in runs for _ in range(count)]
    x = random_array(offset + sum(sizes) + 3, hidden)[offset:]
    out = mixed(x, sizes, threads)
    for part in parts_of(sizes):
        assert out[part].tobytes() == mixed_alone(x[part])


@pytest.mark.parametrize("threads", MIXINGS)
@pytest.mark.parametrize(("size", "hidden"), [(3001, 8), (2048, 7), (193, 384)])
def test_bits_of_a_long_sequence_do_not_depend_on_threads(size: int, hidden: int, threads: int) -> None:
    """One or two long sequences have equal bits with one thread and with several."""
    x = random_array(2 * size + 5, hidden)
    first, second = (mixed_alone(x[start : start + size]) for start in (0, size))
    assert mixed(x, [size], threads)[:size].tobytes() == first
    assert mixed(x, [size, size], threads)[: 2 * size].tobytes() == first + second
    assert mixed(x, [size, 5], threads)[:size].tobytes() == first


def test_long_sequence_equals_the_transform_in_float64() -> None:
    """Rounding errors do not grow with a prime length."""
    x = random_array(3001, 8)
    true = expected(x)
    assert np.abs(mixed(x, [3001], 4) - true).max() <= TOLERANCE * np.abs(true).max()


def test_layout_serves_every_layer() -> None:
    """A layout can be reused with equal bits, also for an output array with other values."""
    sizes = [100, 100, 30]
    mixing = MIXINGS[2]
    layout = mixing.layout(row_of(sizes))
    out = np.full((230, 6), np.nan, np.float32)
    for seed in (1, 2, 1):
        x = random_array(230, 6, seed=seed)
        mixing.add(x, layout, out)
        assert out.tobytes() == mixed(x, sizes).tobytes()


def test_values_that_are_not_finite_stay_in_their_sequence() -> None:
    """Other sequences of the same length keep their bits."""
    sizes = [10] * 6
    x = random_array(60, 8)
    x[25, 3] = np.nan
    out = mixed(x, sizes)
    for number, part in enumerate(parts_of(sizes)):
        if number == 2:
            assert not np.isfinite(out[part]).all()
        else:
            assert out[part].tobytes() == mixed_alone(x[part])


@given(sizes=st.lists(st.integers(1, 300), min_size=1, max_size=60), count=st.integers(1, 6))
def test_threads_share_every_sequence_once(sizes: list[int], count: int) -> None:
    """Shares are at most as many as threads, none is empty, and together they hold each sequence once."""
    row = row_of(sorted(sizes))
    shares = _divide(row.groups, row.tokens, count)
    assert 1 <= len(shares) <= count
    assert all(shares)
    groups = [group for share in shares for group in share]
    starts = [group.start + group.size * number for group in groups for number in range(group.count)]
    assert starts == list(row.starts)


def test_threads_share_tokens_evenly() -> None:
    """Short sequences are divided by tokens, not by groups."""
    shares = _divide((Group(0, 64, 8), Group(512, 16, 32)), 1024, 4)
    assert [sum(group.tokens for group in share) for share in shares] == [256] * 4

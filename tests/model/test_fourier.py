"""Mixing a row, by matrix products or with an FFT, is the two-dimensional DFT of each sequence by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.fourier import HiddenOrder, carrier, row_bases, sequence_table
from model.jax_mixing import Mixing, Waves, fft_is_invariant, mix, mix_by_fft, product
from model.packing import Spacing, in_segments, lay

Array = npt.NDArray[Any]

ROW = 64
MIX = jax.jit(mix)
MIX_BY_FFT = jax.jit(mix_by_fft)
HIDDEN = [1, 2, 3, 7, 8]


def bases_of(
    lengths: list[int], spacing: Spacing, segment: int, *, narrow: bool = False
) -> tuple[Any, tuple[int, ...]]:
    """Return the bases of a row of 64 tokens in segments, and where its sequences start."""
    row = in_segments(ROW, range(len(lengths)), lengths, (segment,), spacing) or lay(lengths, (ROW,), spacing)
    return row_bases(ROW, row.segment, row.starts, lengths, narrow=narrow, carried=True), row.starts


def waves_of(order: HiddenOrder, dtype: Any = jnp.float32) -> Waves:
    """Return what mixing needs to know of the hidden axis."""
    return Waves(jnp.asarray(order.cosines, dtype), jnp.asarray(order.sines, dtype))


def mixing_of(
    lengths: list[int], spacing: Spacing, size: int = ROW, segment: int = ROW, *, narrow: bool = False
) -> tuple[Mixing, tuple[int, ...]]:
    """Return what mixing needs to know of a row of `size` tokens, and where its sequences start."""
    bases, starts = bases_of(lengths, spacing, segment, narrow=narrow)
    carriers, others, leads = np.zeros(size, np.int32), np.zeros((size, 1), np.float32), np.zeros((size, 1), np.float32)
    for start, length in zip(starts, lengths, strict=True):
        carriers[start : start + length] = start + carrier(length)
        others[start : start + length] = 1
        others[start + carrier(length)] = 0
        leads[start] = length
    return Mixing(
        *map(jnp.asarray, (carriers, others, leads, bases.astype(jnp.bfloat16 if narrow else jnp.float32)))
    ), starts


def by_products(x: Array, mixing: Mixing) -> Array:
    """Mix a row whose hidden axis is in the published order by products, and put it back in that order."""
    order = HiddenOrder(x.shape[1])
    return np.asarray(MIX(x[:, order.order], waves_of(order), mixing))[:, order.inverse]


def by_fft(x: Array, mixing: Mixing) -> Array:
    """Mix a row with an FFT along the hidden axis."""
    return np.asarray(MIX_BY_FFT(x, mixing))


both_ways = pytest.mark.parametrize("mixed_by", [by_products, by_fft])
Mixed = Callable[[Array, Mixing], Array]


def mixed_and_true(
    mixed_by: Mixed, hidden: int, lengths: list[int], spacing: Spacing, segment: int = ROW
) -> list[tuple[Array, Array]]:
    """Mix random sequences in one row; pair each result with NumPy's transform of the sequence alone."""
    mixing, starts = mixing_of(lengths, spacing, segment=segment)
    assert mixing.bases.shape == (2, ROW // segment, segment, segment)
    # Unused places hold noise: nothing of it may reach a sequence.
    x = np.random.default_rng(hidden).normal(size=(ROW, hidden)).astype(np.float32)
    mixed = mixed_by(x, mixing)
    return [
        (mixed[start : start + length], np.fft.fft2(x[start : start + length].astype(np.float64)).real)
        for start, length in zip(starts, lengths, strict=True)
    ]


@pytest.mark.parametrize("hidden", range(1, 41))
def test_hidden_order_is_a_permutation_that_its_inverse_undoes(hidden: int) -> None:
    """Inside and published order are one another's inverse, for odd and even sizes."""
    order = HiddenOrder(hidden)
    assert sorted(order.order) == list(range(hidden))
    assert (np.arange(hidden)[order.order][order.inverse] == np.arange(hidden)).all()
    assert order.plain + 2 * order.pairs == hidden
    assert order.cosines.shape == (order.plain + order.pairs,) * 2
    assert order.sines.shape == (order.pairs,) * 2


@pytest.mark.parametrize("hidden", range(1, 41))
def test_half_the_terms_give_half_the_spectrum_along_the_hidden_axis(hidden: int) -> None:
    """Sums of pairs give the cosine half, their differences the sine half; all of NumPy's FFT follows from them."""
    order = HiddenOrder(hidden)
    x = np.random.default_rng(hidden).normal(size=(3, hidden))
    spectrum = np.fft.fft(x)
    plain, one, other = np.split(x[:, order.order], [order.plain, order.plain + order.pairs], axis=1)
    cosines = np.concatenate([plain, one + other], axis=1) @ order.cosines.T.astype(np.float64)
    sines = (one - other) @ order.sines.T.astype(np.float64)
    split = order.plain + order.pairs
    np.testing.assert_allclose(cosines, spectrum.real[:, order.order[:split]], atol=1e-5)
    np.testing.assert_allclose(sines, -spectrum.imag[:, order.order[order.plain : split]], atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 3, 17, 512, 4096])
def test_sequence_table_holds_the_unit_circle_to_float32(length: int) -> None:
    """Cosine and sine are right to the last digit of float32, long sequences included."""
    root = np.exp(2j * np.pi * np.arange(length, dtype=np.longdouble) / length)
    np.testing.assert_allclose(sequence_table(length), [root.real, root.imag], atol=6e-8)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 9, 97, 341, 360, 512, 4096])
def test_a_bfloat16_table_cancels_what_all_tokens_share(length: int) -> None:
    """Its values are of bfloat16 and within a step of the truth; those of every row but the first add up to zero."""
    table = sequence_table(length, narrow=True)
    assert np.array_equal(table, table.astype(jnp.bfloat16).astype(np.float32))
    np.testing.assert_allclose(table, sequence_table(length), atol=2.0**-8)
    for row in range(1, length):
        assert np.abs(table[:, np.arange(length) * row % length].sum(axis=1, dtype=np.float64)).max() < 1e-9


@both_ways
@pytest.mark.parametrize("hidden", range(1, 41))
def test_mixing_is_numpys_fft2_for_every_hidden_size(mixed_by: Mixed, hidden: int) -> None:
    """Sequences of 1, 2, 5, 13 and 20 tokens in one row are each transformed as if alone."""
    for mixed, true in mixed_and_true(mixed_by, hidden, [5, 1, 20, 2, 13], Spacing()):
        np.testing.assert_allclose(mixed, true, atol=1e-4)


@both_ways
@pytest.mark.parametrize("segment", [16, 32])
@pytest.mark.parametrize("hidden", [1, 2, 7, 8])
def test_a_row_in_segments_is_transformed_all_the_same(mixed_by: Mixed, hidden: int, segment: int) -> None:
    """Each segment is multiplied by a matrix of its own; a full one and one of several sequences are right."""
    for mixed, true in mixed_and_true(mixed_by, hidden, [5, 1, 16, 2, 7], Spacing(), segment):
        np.testing.assert_allclose(mixed, true, atol=1e-4)


@both_ways
@settings(max_examples=60)
@given(
    hidden=st.sampled_from(HIDDEN),
    lengths=st.lists(st.integers(1, 16), min_size=1, max_size=4),
    spacing=st.sampled_from([Spacing(), Spacing(8), Spacing(2, 32)]),
)
def test_company_and_place_do_not_matter_to_the_transform(
    mixed_by: Mixed, hidden: int, lengths: list[int], spacing: Spacing
) -> None:
    """Any lengths at any alignment: each sequence gets exactly its own unpadded transform."""
    for mixed, true in mixed_and_true(mixed_by, hidden, lengths, spacing):
        np.testing.assert_allclose(mixed, true, atol=1e-4)


@both_ways
def test_a_sequence_may_fill_the_row(mixed_by: Mixed) -> None:
    """One sequence as long as the row needs no gap around it."""
    ((mixed, true),) = mixed_and_true(mixed_by, 12, [ROW], Spacing())
    np.testing.assert_allclose(mixed, true, atol=2e-4)


def test_bases_are_zero_outside_the_blocks() -> None:
    """No entry joins tokens of different sequences, or of a sequence and an unused place."""
    bases, starts = bases_of([5, 9, 16], Spacing(8), ROW)
    inside = np.zeros((ROW, ROW), bool)
    for start, length in zip(starts, [5, 9, 16], strict=True):
        inside[start : start + length, start : start + length] = True
    np.fill_diagonal(inside, val=True)
    assert not np.asarray(bases)[:, 0, ~inside].any()


def test_a_block_is_the_same_to_the_bit_wherever_it_lies() -> None:
    """A sequence's matrices depend on its length alone."""
    first, _ = bases_of([13], Spacing(), ROW)
    later, starts = bases_of([20, 7, 13], Spacing(), ROW)
    place = slice(starts[2], starts[2] + 13)
    assert np.array_equal(first[:, 0, :13, :13], later[:, 0, place, place])
    cut, starts = bases_of([32, 13], Spacing(), 32)
    assert starts == (0, 32)
    assert np.array_equal(first[:, 0, :13, :13], cut[:, 1, :13, :13])


@pytest.mark.parametrize("length", [1, 2, 3, 10, 512])
def test_the_carrier_is_a_token_of_the_sequence_and_not_its_first(length: int) -> None:
    """Unless there is no other; and its place in the bases is empty."""
    place = carrier(length)
    assert 0 <= place < length
    assert place or length == 1
    assert not row_bases(length, length, [0], [length], narrow=False, carried=True)[..., place].any()
    assert row_bases(length, length, [0], [length], narrow=False, carried=False)[0, 0, 0].all()


def test_narrow_operands_lose_little_where_tokens_have_much_in_common() -> None:
    """In bfloat16, beside a common part a hundred times as large, every row is still right, the first one too."""
    order = HiddenOrder(64)
    random = np.random.default_rng(0)
    x = (100 * random.normal(size=64) + random.normal(size=(ROW, 64))).astype(np.float32)
    mixing, _ = mixing_of([ROW], Spacing(), narrow=True)
    mixed = np.asarray(MIX(x[:, order.order], waves_of(order, jnp.bfloat16), mixing))[:, order.inverse]
    true = np.fft.fft2(x.astype(np.float64)).real
    norms = np.linalg.norm(mixed, axis=1) * np.linalg.norm(true, axis=1)
    assert ((mixed * true).sum(axis=1) / norms).min() > 0.999


@pytest.mark.parametrize("length", [44, 52, 55])
def test_narrow_operands_lose_little_where_a_carrier_has_much_that_no_other_token_has(length: int) -> None:
    """In bfloat16 what is subtracted from all tokens cancels again, in rows of few distinct values, too."""
    order = HiddenOrder(64)
    x = np.random.default_rng(0).normal(size=(ROW, 64)).astype(np.float32)
    x[carrier(length)] *= 30
    mixing, _ = mixing_of([length], Spacing(), narrow=True)
    mixed = np.asarray(MIX(x[:, order.order], waves_of(order, jnp.bfloat16), mixing))[:length, order.inverse]
    true = np.fft.fft2(x[:length].astype(np.float64)).real
    norms = np.linalg.norm(mixed, axis=1) * np.linalg.norm(true, axis=1)
    assert ((mixed * true).sum(axis=1) / norms).min() > 0.9996


@both_ways
def test_bases_may_be_longer_than_the_row(mixed_by: Mixed) -> None:
    """A short row uses longer bases, whose surplus belongs to no sequence."""
    mixing, _ = mixing_of([16], Spacing(), 16)
    x = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
    mixed = mixed_by(x, mixing)
    assert mixed.shape == (16, 6)
    np.testing.assert_allclose(mixed, np.fft.fft2(x.astype(np.float64)).real, atol=1e-4)


@pytest.mark.parametrize("hidden", [1, 2, 7, 127, 384, 768, 1024])
def test_the_fft_here_gives_a_token_the_same_bits_among_any(hidden: int) -> None:
    """Otherwise products take its place, and the service is slower."""
    assert fft_is_invariant(hidden)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_products_are_summed_in_float32(dtype: Any) -> None:
    """Operands take the weights' dtype, the result is float32 and loses nothing to a long sum."""
    x, weights = jnp.ones((2, 4096), jnp.float32), jnp.ones((3, 4096), dtype)
    result = product(x, weights)
    assert result.dtype == jnp.float32
    assert np.asarray(result).tolist() == [[4096.0] * 3] * 2

"""Fourier mixing of a row in JAX; `model.fourier` has the mathematics.

There are two ways along the hidden axis. An FFT takes a thirtieth of the arithmetic of products at a size of 768,
rounds less, and is the faster one for float32 on a CPU from sizes of a few hundred on. Products are the faster ones
where the machine has tiles for them. Along the row it is products always, since every sequence has a transform of its
own.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

# More rows than a vector has lanes, and a remainder whatever their number.
_TRIED_ROWS = 61


class Waves(NamedTuple):
    """The DFT along the hidden axis as matrices, as in `HiddenOrder`."""

    cosines: Array
    sines: Array


class Mixing(NamedTuple):
    """What mixing needs to know of a row, as in `RowArrays`."""

    carriers: Array
    others: Array
    leads: Array
    bases: Array


def fft_is_invariant(hidden: int) -> bool:
    """Whether the FFT of a vector here is the same to the bit among any vectors, and wherever it lies among them."""
    row = np.random.default_rng(hidden).normal(size=hidden).astype(np.float32)
    transform = jax.jit(jnp.fft.rfft)
    alone, among = (np.asarray(transform(np.tile(row, (rows, 1)))) for rows in (1, _TRIED_ROWS))
    return {found.tobytes() for found in among} == {alone.tobytes()}


def mix(x: Array, waves: Waves, mixing: Mixing) -> Array:
    """Return the Fourier mixing of a row, each sequence by itself, by matrix products alone.

    Args:
        x: `[T, h]`, the hidden axis in `HiddenOrder`.
        waves: Of the hidden axis, in the dtype of the products.
        mixing: Of the row; bases may be longer than it, what is beyond belongs to no sequence.

    Returns:
        `[T, h]` float32, products summed in float32.
    """
    split, pairs = waves.cosines.shape[0], waves.sines.shape[0]
    plain = split - pairs
    one, other = x[:, plain:split], x[:, split:]
    dtype = waves.cosines.dtype

    def along(columns: Array, hidden_basis: Array, row_basis: Array) -> tuple[Array, Array]:
        # Rounded already when it is subtracted, so that what is added later is exactly what was taken away.
        common = columns.astype(dtype)[mixing.carriers].astype(jnp.float32)
        spectrum = product(columns - common * mixing.others, hidden_basis)
        return _along_row(row_basis, spectrum.astype(dtype)), spectrum

    summed = jnp.concatenate([x[:, :plain], one + other], axis=1)
    cosines, spectrum = along(summed, waves.cosines, mixing.bases[0])
    cosines += spectrum[mixing.carriers] * mixing.leads
    if not pairs:  # a hidden size of 1 or 2
        return cosines
    sines, _ = along(one - other, waves.sines, mixing.bases[1])
    paired = cosines[:, plain:]
    return jnp.concatenate([cosines[:, :plain], paired - sines, paired + sines], axis=1)


def mix_by_fft(x: Array, mixing: Mixing) -> Array:
    """Return the Fourier mixing of a row, each sequence by itself, with an FFT along the hidden axis.

    Args:
        x: `[T, h]`, the hidden axis in its published order.
        mixing: Of the row, in float32; bases may be longer than it, what is beyond belongs to no sequence.

    Returns:
        `[T, h]` float32.
    """
    hidden = x.shape[1]
    paired = slice(1, (hidden + 1) // 2)
    spectrum = jnp.fft.rfft(x - x[mixing.carriers] * mixing.others, axis=1)
    cosines = _along_row(mixing.bases[0], spectrum.real)
    cosines += spectrum.real[mixing.carriers] * mixing.leads
    # The imaginary part is the sines', negative.
    sines = _along_row(mixing.bases[1], spectrum.imag[:, paired])
    both = cosines[:, paired]
    middle = cosines[:, paired.stop :]  # h/2 where h is even
    return jnp.concatenate([cosines[:, :1], both + sines, middle, (both - sines)[:, ::-1]], axis=1)


def product(x: Array, weights: Array) -> Array:
    """Return `x @ weights.T` in float32, computed in the dtype of the weights.

    Args:
        x: `[T, in]`.
        weights: `[out, in]`: contracted on the last axis of both, which CPUs run fastest, and whose sums do not depend
            on T as long as it is 2 or more.
    """
    # Asking for float32 is also what selects the fast bfloat16 kernels on a CPU.
    return lax.dot_general(
        x.astype(weights.dtype), weights, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
    )


def _along_row(basis: Array, columns: Array) -> Array:
    """Return the product of each segment's basis with its tokens; together they may be longer than the row."""
    tokens, width = columns.shape
    segments, size, _ = basis.shape
    filled = jnp.pad(columns, ((0, segments * size - tokens), (0, 0))).reshape(segments, size, width)
    each = lax.dot_general(basis, filled, (((2,), (1,)), ((0,), (0,))), preferred_element_type=jnp.float32)
    return each.reshape(segments * size, width)[:tokens]

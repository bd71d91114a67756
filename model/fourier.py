"""Fourier mixing as matrix products, for many sequences in one row.

FNet's mixing is `Y = Re(F_n X F_h)`, unnormalised: with cosine and sine matrices `Y = C_n X C_h - S_n X S_h`.

* X is real, so column h-k of `C_n X C_h` equals column k, and of `S_n X S_h` is its negative: only half of the columns
  are computed, and `Y_k = P_k - Q_k`, `Y_{h-k} = P_k + Q_k`.
* The mirrored half comes out in descending order. Instead of turning it round, the hidden axis is kept in that order
  throughout the network, its weights are laid out for it once, and outputs are put right at the end (`HiddenOrder`).
* Sequences lie end to end in a row. Each must be transformed by itself, so the matrix along the row is zero outside the
  blocks of the sequences. It is gathered from one table per row, in which a sequence of length n has the n values of
  `cos(2πk/n)` at its own place: element (i, j) of its block is value `i·j mod n`. The table is made in float64 and
  depends on n alone, so a block is the same to the bit wherever it lies.
"""

from __future__ import annotations

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array, lax

Float32s = npt.NDArray[np.float32]
Int32s = npt.NDArray[np.int32]


class HiddenOrder:
    """The order of the hidden axis inside the network, and the DFT along it.

    Attributes:
        order: `[h]`; inside, place p holds the published feature `order[p]`.
        inverse: `[h]`; `inside[..., inverse]` is in the published order.
        plain: How many columns are their own mirror image: k = 0, and h/2 when h is even.
        pairs: How many pairs of columns k and h-k there are.
        basis: `[h, h]` float32, `[out, in]`: rows of cosines for `plain + pairs` columns, then of sines for `pairs`.
    """

    def __init__(self, hidden: int) -> None:
        paired = np.arange(1, (hidden + 1) // 2)
        plain = np.array([0] if hidden % 2 else [0, hidden // 2])
        self.plain, self.pairs = len(plain), len(paired)
        self.order: npt.NDArray[np.intp] = np.concatenate([plain, paired, hidden - paired])
        self.inverse = np.argsort(self.order)
        # Reduced modulo h as integers: a large angle loses digits.
        cosines = 2 * np.pi / hidden * (np.outer(np.concatenate([plain, paired]), self.order) % hidden)
        sines = 2 * np.pi / hidden * (np.outer(paired, self.order) % hidden)
        self.basis: Float32s = np.concatenate([np.cos(cosines), np.sin(sines)]).astype(np.float32)


@lru_cache(maxsize=4096)
def sequence_table(length: int) -> Float32s:
    """Return `[2, length]`: the cosine and the sine of `2πk/length`."""
    angles = 2 * np.pi / length * np.arange(length)
    return np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)


def block_bases(positions: Array, lengths: Array, starts: Array, tables: Array, dtype: npt.DTypeLike) -> Array:
    """Return the cosine and sine matrices along a row, zero outside each sequence's block.

    Args:
        positions: `[T]` int32, each token's place in its own sequence.
        lengths: `[T]` int32, the length of the token's sequence.
        starts: `[T]` int32, where the token's sequence starts in the row.
        tables: `[2, T]` float32, `sequence_table` of each sequence at its place.
        dtype: Of the result.

    Returns:
        `[2, T, T]`.
    """
    place = starts[:, None] + (positions[:, None] * positions[None, :]) % lengths[:, None]
    same = starts[:, None] == starts[None, :]
    return jnp.where(same, tables[:, place], 0).astype(jnp.dtype(dtype))


def mix(x: Array, order_basis: Array, bases: Array, plain: int) -> Array:
    """Return the Fourier mixing of a row, each sequence by itself.

    Args:
        x: `[T, h]`, the hidden axis in `HiddenOrder`.
        order_basis: `[h, h]`, `HiddenOrder.basis` in the dtype of the products.
        bases: `[2, L, L]` from `block_bases`, L at least T; what is beyond T belongs to no sequence.
        plain: `HiddenOrder.plain`.

    Returns:
        `[T, h]` float32, products summed in float32.
    """
    tokens, hidden = x.shape
    split = plain + (hidden - plain) // 2
    spectrum = product(x, order_basis).astype(order_basis.dtype)
    spectrum = jnp.pad(spectrum, ((0, bases.shape[1] - tokens), (0, 0)))
    cosines = _along_row(bases[0], spectrum[:, :split])[:tokens]
    if split == hidden:  # a hidden size of 1 or 2 has no pairs
        return cosines
    sines = _along_row(bases[1], spectrum[:, split:])[:tokens]
    paired = cosines[:, plain:]
    return jnp.concatenate([cosines[:, :plain], paired - sines, paired + sines], axis=1)


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
    return lax.dot_general(basis, columns, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)

"""Fourier mixing as matrix products, for many sequences in one row.

FNet's mixing is `Y = Re(F_n X F_h)`, unnormalised: with cosine and sine matrices `Y = C_n X C_h - S_n X S_h`.

* X is real, so column h-k of `C_n X C_h` equals column k, and of `S_n X S_h` is its negative: only half of the columns
  are computed, and `Y_k = P_k - Q_k`, `Y_{h-k} = P_k + Q_k`.
* Cosines are even and sines odd along X, too: `X C_h` needs only the sums of its columns k and h-k, and `X S_h` their
  differences. Both products then have half of the terms (`HiddenOrder`).
* The mirrored half comes out in descending order. Instead of turning it round, a network of products keeps the hidden
  axis in that order throughout: its weights are laid out for it once, and outputs are put right at the end
  (`HiddenOrder`).
* Sequences lie end to end in a row. Each must be transformed by itself, so the matrix along the row is zero outside the
  blocks of the sequences. Where none crosses the bounds of equal *segments* of the row, only the matrix of each segment
  is kept, and multiplied. Element (i, j) of the block of a sequence of length n is value `i·j mod n` of a table of
  `cos(2πk/n)`, which is made in float64 and depends on n alone: a block is the same to the bit wherever it lies.

* What the tokens of a sequence have in common reaches only its row 0; in all other rows it cancels, and with it the
  digits that narrow operands spent on it. So one token, the *carrier*, is subtracted from all tokens of its sequence
  first, and n times it is added to row 0 of the cosine part, n and 0 being the sums of the cosines. This is the same
  transform, with rounding errors that are small beside each row's own values. It takes an engine that keeps sums in
  float32: n times a rounding error would drown row 0.
* The carrier is then common to all other tokens, negative. It cancels only as far as the values of every row of a block
  add up to zero, and rounded to bfloat16 one by one they do not, least of all in rows of few distinct values. So the
  cosines are rounded together, some to the farther of their two neighbours, and the smallest takes what is then left,
  such that their sums stay what they are (`sequence_table`). The sums of sines are zero by symmetry.

The products themselves are in the modules that run them (`model.jax_mixing`, `model.openvino_programs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import ml_dtypes
import numpy as np
import numpy.typing as npt

Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]
Int32s = npt.NDArray[np.int32]


class HiddenOrder:
    """The order of the hidden axis inside a network of products, and the DFT along it.

    Attributes:
        order: `[h]`; inside, place p holds the published feature `order[p]`.
        inverse: `[h]`; `inside[..., inverse]` is in the published order.
        plain: How many columns are their own mirror image: k = 0, and h/2 when h is even.
        pairs: How many pairs of columns k and h-k there are.
        cosines: `[plain + pairs, plain + pairs]` float32, for the plain columns and the sums of the pairs.
        sines: `[pairs, pairs]` float32, for the differences of the pairs.
    """

    def __init__(self, hidden: int) -> None:
        paired = np.arange(1, (hidden + 1) // 2)
        plain = np.array([0] if hidden % 2 else [0, hidden // 2])
        self.plain, self.pairs = len(plain), len(paired)
        self.order: npt.NDArray[np.intp] = np.concatenate([plain, paired, hidden - paired])
        self.inverse = np.argsort(self.order)
        # Reduced modulo h as integers: a large angle loses digits.
        angles = 2 * np.pi / hidden * (np.outer(self.order, self.order) % hidden)
        whole, half = slice(self.plain + self.pairs), slice(self.plain, self.plain + self.pairs)
        self.cosines: Float32s = np.cos(angles[whole, whole]).astype(np.float32)
        self.sines: Float32s = np.sin(angles[half, half]).astype(np.float32)


@lru_cache(maxsize=4096)
def sequence_table(length: int, *, narrow: bool = False) -> Float32s:
    """Return the values of the matrices along a sequence.

    Args:
        length: Tokens of the sequence.
        narrow: Whether they are values of bfloat16. Every row but the first of a block made of them adds up to zero: in
            float32 to rounding, in bfloat16 exactly, for which some are not the nearest to the truth.

    Returns:
        `[2, length]`: the cosine and the sine of `2πk/length`.
    """
    angles = 2 * np.pi / length * np.arange(length)
    table = np.stack([np.cos(angles), np.sin(angles)])
    if not narrow:
        return table.astype(np.float32)
    # The second half mirrors the first.
    half = np.arange(length // 2 + 1)
    rounded = np.zeros_like(table)
    rounded[1, half] = _nearest(table[1, half])
    # A row holds all roots of unity of some order again and again: their cosines add up to zero if those of the
    # primitive roots of every order keep their sum.
    orders = length // np.gcd(half, length)
    for order in np.unique(orders):
        primitive = half[orders == order]
        rounded[0, primitive] = _rounded_together(table[0, primitive])
    rounded[:, length - half[1:]] = rounded[:, half[1:]] * [[1], [-1]]
    return rounded.astype(np.float32)


def _nearest(values: Float64s) -> Float64s:
    """Return the values rounded to bfloat16."""
    return values.astype(ml_dtypes.bfloat16).astype(np.float64)


def _rounded_together(values: Float64s) -> Float64s:
    """Return the values rounded to bfloat16 so that they keep their sum, each within 2⁻⁸."""
    rounded = _nearest(values)
    errors = rounded - values
    towards = np.where(errors > 0, -np.inf, np.inf).astype(ml_dtypes.bfloat16)
    others = np.nextafter(rounded.astype(ml_dtypes.bfloat16), towards).astype(np.float64)
    excess = errors.sum()
    for place in np.argsort(np.abs(others - rounded) - 2 * np.abs(errors), kind="stable"):
        left = excess + others[place] - rounded[place]
        if abs(left) < abs(excess):
            rounded[place], excess = others[place], left
    # Where bfloat16 is finest, what is left has room.
    smallest = [np.abs(values).argmin()]
    rounded[smallest] = _nearest(rounded[smallest] - excess)
    return rounded


def carrier(length: int) -> int:
    """Return which token of a sequence is subtracted from the others: neither the first nor a neighbour of the ends."""
    # The first token's row holds the sum of all, and rows near the ends the slowest waves: neither is like the others.
    return min(max(1, length // 3), length - 1)


@lru_cache(maxsize=16)
def _block(length: int, *, narrow: bool) -> Float32s:
    places = np.arange(length)
    block: Float32s = sequence_table(length, narrow=narrow)[:, np.outer(places, places) % length]
    return block


def row_bases(
    size: int, segment: int, starts: Sequence[int], lengths: Sequence[int], *, narrow: bool, carried: bool
) -> Float32s:
    """Return the cosine and sine matrices along a row, zero outside each sequence's block.

    Args:
        size: Tokens along the row.
        segment: Tokens that are transformed by themselves; it divides `size`, and no sequence crosses a multiple of it.
        starts: Where each sequence starts.
        lengths: How long each is.
        narrow: Whether their values are of bfloat16.
        carried: Whether they are for `x` less its carriers. Less itself a carrier is 0: its place is where it is kept.

    Returns:
        `[2, size / segment, segment, segment]`. A place that belongs to no sequence mixes to zero.
    """
    bases = np.zeros((2, size // segment, segment, segment), np.float32)
    for start, length in zip(starts, lengths, strict=True):
        number, first = divmod(start, segment)
        place = slice(first, first + length)
        bases[:, number, place, place] = _block(length, narrow=narrow)
        if carried:
            bases[:, number, place, first + carrier(length)] = 0
    return bases

"""What runs a row: one small interface, and who implements it. NumPy arrays are all that crosses it.

JAX is the default and runs everywhere that XLA does. OpenVINO is an extra for Intel CPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from model.checkpoints import Weights
from model.fourier import Float32s, Int32s

Dtype = Literal["float32", "bfloat16"]
EngineName = Literal["jax", "openvino"]
# How the hidden axis is transformed.
Transform = Literal["fft", "products"]
Places = npt.NDArray[np.intp] | slice
# A matrix unit sums 32 narrow terms at a time. With fewer than two such steps narrow operands bring no speed, and a
# token of so few features may be left small by chance, and its rounding errors large beside it.
_FEWEST_NARROW = 64


class RowArrays(NamedTuple):
    """What a program needs to know of the sequences in a row of T tokens.

    Attributes:
        token_ids: `[T]`, 0 where no sequence lies.
        segment_ids: `[T]`.
        positions: `[T]`, each token's place in its own sequence.
        carriers: `[T]`, where the carrier of the token's sequence lies (`model.fourier`); anywhere for no sequence.
        others: `[T, 1]`, 1 for tokens that are not carriers, 0 for carriers and where nothing lies.
        leads: `[T, 1]`, the length of the sequence at its first token, 0 elsewhere.
        bases: `[2, L / S, S, S]`, `model.fourier.row_bases`; L is T, but at least `Programs.shortest_basis`, and S a
            segment of the row or all of L.
        firsts: `[M]`, where the sequences start; M is fixed for a row length, unused places are 0.
    """

    token_ids: Int32s
    segment_ids: Int32s
    positions: Int32s
    carriers: Int32s
    others: Float32s
    leads: Float32s
    bases: Float32s
    firsts: Int32s


class Programs(Protocol):
    """A network laid out for one library, the hidden axis in an order of its own.

    Attributes:
        transform: How it transforms the hidden axis; along the row it is products always.
        published: Indexes the hidden axis of a sequence output so that it comes in the published order.
        shortest_basis: Least size of a row's bases, where the library's routine for smaller ones rounds differently.
        carries: Whether it subtracts carriers (`model.fourier`), for which the bases are then made.
        segmented: Whether it takes bases of segments.
        rows_at_once: How many rows run together, one on each device.
        devices: Names of the devices.
    """

    transform: Transform
    published: Places
    shortest_basis: int
    carries: bool
    segmented: bool
    rows_at_once: int
    devices: list[str]

    def compile(self, length: int, members: int, segments: Sequence[int]) -> None:
        """Make rows of `length` tokens and at most `members` sequences ready to run, whole and in `segments` each.

        Called from several threads.
        """

    def forget(self, length: int) -> None:
        """Free what was made for a row length."""

    def run(self, length: int, rows: list[RowArrays]) -> list[tuple[Float32s, Float32s]]:
        """Run at most `rows_at_once` rows of one length.

        Returns:
            For each, the sequence output `[T, h]`, its hidden axis in the order inside, and the pooled outputs `[M, h]`
            of its first tokens. They are the caller's: nothing writes to them later.
        """

    def mixes_alike(self, length: int, one: RowArrays, other: RowArrays) -> bool:
        """Whether a layer makes the same of a row to the last bit with bases of other segments, on every device."""


def dtype_of_operands(hidden: int, dtype: Dtype) -> Dtype:
    """Return the dtype in which a network of a hidden size multiplies, asked for `dtype`: small ones do in float32."""
    return dtype if hidden >= _FEWEST_NARROW else "float32"


def kernel_in_order(weights: Weights, name: str, of: Places, to: Places) -> Float32s:
    """Return a Dense kernel as `[out, in]`, its input axis in the order `of` and its output axis in `to`."""
    return np.ascontiguousarray(weights[f"{name}/kernel"].T[:, of][to])

"""Fourier mixing on the host: one transform per sequence.

FNet's mixing sublayer is the real part of a two-dimensional DFT of one sequence, `Y = Re(F_n X F_h)`, unnormalized
(Lee-Thorp et al., arXiv 2105.03824, section 3.2). X is real, so `Y[k, l] = Y[n - k, h - l]`: along the hidden axis
`h // 2 + 1` frequencies are computed, and the others are mirrored.

The transform along the hidden axis is token-wise, and one call serves the whole row. The transform along the sequence
is a computation of its own for each sequence, so it cannot depend on the rest of the batch; sequences of equal length
share a call. That changes no bit: the library transforms every vector by the same operations in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.fft

from model.arrays import Float32s
from model.packing import Group, Row

# With fewer tokens the transforms take less time than a second thread takes to start.
_MIN_PARALLEL_TOKENS = 192

_Spectrum = npt.NDArray[np.complex64]


class RowLayout(NamedTuple):
    """What mixing needs to know about a row, the same for all layers.

    Attributes:
        tokens: Tokens of all sequences.
        shares: The sequences, divided among threads.
        workers: Threads of the library's own for each call.
        mirror: `[tokens]`, for position k of a sequence of n tokens the index of its position n - k.
    """

    tokens: int
    shares: Sequence[Sequence[Group]]
    workers: int
    mirror: npt.NDArray[np.intp]


class FourierMixing:
    """The mixing sublayer with its residual connection, in float32.

    Args:
        threads: Number of threads, at least 1.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads - 1, thread_name_prefix="mixing") if threads > 1 else None

    def layout(self, row: Row) -> RowLayout:
        """Return the layout of a row."""
        groups = row.groups
        mirror = [start + (-np.arange(size)) % size for start, size in zip(row.starts, row.sizes, strict=True)]
        parallel = self._pool is not None and row.tokens >= _MIN_PARALLEL_TOKENS
        # The library divides the vectors of a single large transform among threads of its own.
        alone = len(row.sizes) == 1
        shares = _shares(groups, row.tokens, self._threads) if parallel and not alone else [groups]
        return RowLayout(row.tokens, shares, self._threads if parallel and alone else 1, np.concatenate(mirror))

    def add(self, x: Float32s, layout: RowLayout, out: Float32s) -> None:
        """Compute `x + Re(fft2(x))`, each sequence by itself.

        Args:
            x: `[T, h]`.
            layout: The sequences.
            out: `[T, h]`, written for every token of a sequence.
        """
        tokens, hidden = layout.tokens, x.shape[1]
        computed, mirrored = hidden // 2 + 1, (hidden - 1) // 2
        spectrum = scipy.fft.rfft(x[:tokens], axis=1, workers=layout.workers)
        first, *others = layout.shares
        running = [self._pool.submit(_transform, spectrum, share, 1) for share in others] if self._pool else []
        _transform(spectrum, first, layout.workers)
        for share in running:
            share.result()
        real = spectrum.real
        np.add(x[:tokens, :computed], real, out=out[:tokens, :computed])
        if mirrored:
            backward = real[:, mirrored:0:-1]
            np.add(x[:tokens, computed:], backward[layout.mirror], out=out[:tokens, computed:])


def _transform(spectrum: _Spectrum, groups: Sequence[Group], workers: int) -> None:
    """Transform along the sequences, in place."""
    for group in groups:
        part = spectrum[group.start : group.start + group.tokens]
        stacked = part.reshape(group.count, group.size, -1)
        stacked[:] = scipy.fft.fft(stacked, axis=1, overwrite_x=True, workers=workers)


def _shares(groups: Sequence[Group], tokens: int, count: int) -> list[list[Group]]:
    """Divide sequences into at most `count` shares of about equally many tokens."""
    shares: list[list[Group]] = [[]]
    left = -(-tokens // count)
    for group in groups:
        start, remaining = group.start, group.count
        while remaining:
            taken = min(remaining, max(1, round(left / group.size))) if len(shares) < count else remaining
            shares[-1].append(Group(start, taken, group.size))
            start, remaining, left = start + taken * group.size, remaining - taken, left - taken * group.size
            if left <= 0 and len(shares) < count:
                shares.append([])
                left = -(-tokens // count)
    return [share for share in shares if share]

"""Fourier mixing on the host: one transform per sequence.

FNet's mixing sublayer is the real part of a two-dimensional DFT of one sequence, `Y = Re(F_n X F_h)`, unnormalized
(Lee-Thorp et al., arXiv 2105.03824, section 3.2). X is real, so `Y[k, l] = Y[-k, -l]`: the transform along the sequence
is computed for `n // 2 + 1` frequencies, and the others are mirrored.

A sequence's transform is a computation of its own, so it cannot depend on the rest of the batch. Sequences of equal
length share a call, which changes no bit: the library transforms each vector by the same operations in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.fft

from model.arrays import Float32s
from model.packing import Group

# With fewer tokens the transforms take less time than a second thread takes to start.
_MIN_PARALLEL_TOKENS = 192


class FourierMixing:
    """The mixing sublayer with its residual connection, in float32, on a small thread pool.

    Args:
        threads: Number of threads, at least 1.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads - 1, thread_name_prefix="mixing") if threads > 1 else None

    def add(self, x: Float32s, groups: Sequence[Group], out: Float32s) -> None:
        """Compute `x + Re(fft2(x))`, each sequence by itself.

        Args:
            x: `[T, h]`.
            groups: The sequences.
            out: `[T, h]`, written for every token of a sequence.
        """
        tokens = sum(group.tokens for group in groups)
        if self._pool is None or tokens < _MIN_PARALLEL_TOKENS:
            _add_groups(x, groups, out, 1)
            return
        if len(groups) == 1 and groups[0].count == 1:
            # The library divides the vectors of a single large transform among threads of its own.
            _add_groups(x, groups, out, self._threads)
            return
        first, *others = _shares(groups, tokens, self._threads)
        running = [self._pool.submit(_add_groups, x, share, out, 1) for share in others]
        _add_groups(x, first, out, 1)
        for share in running:
            share.result()


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


def _add_groups(x: Float32s, groups: Sequence[Group], out: Float32s, workers: int) -> None:
    hidden = x.shape[1]
    for group in groups:
        shape = (group.count, group.size, hidden)
        part = slice(group.start, group.start + group.tokens)
        _add_sequences(x[part].reshape(shape), out[part].reshape(shape), workers)


def _add_sequences(x: Float32s, out: Float32s, workers: int) -> None:
    """Compute `x + Re(fft2(x))` for `[k, n, h]`, one transform per sequence."""
    n = x.shape[1]
    computed = n // 2 + 1
    # Real along the sequence, its last axis in `axes`, then complex along the hidden axis.
    spectrum = scipy.fft.rfft2(x, axes=(2, 1), workers=workers).real
    np.add(x[:, :computed], spectrum, out=out[:, :computed])
    if computed < n:
        # Frequency (k, l) equals (n - k, h - l).
        mirrored = spectrum[:, (n - 1) // 2 : 0 : -1]
        np.add(x[:, computed:, :1], mirrored[:, :, :1], out=out[:, computed:, :1])
        np.add(x[:, computed:, 1:], mirrored[:, :, :0:-1], out=out[:, computed:, 1:])

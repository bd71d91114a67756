"""Fourier mixing on the host: one transform per sequence.

FNet's mixing sublayer is the real part of a two-dimensional DFT of one sequence, `Y = Re(F_n X F_h)`, unnormalized
(Lee-Thorp et al., arXiv 2105.03824, section 3.2). X is real, so `Y[k, l] = Y[n - k, h - l]`: along the hidden axis
`h // 2 + 1` frequencies are computed, and the others are mirrored.

The transform along the hidden axis is token-wise, and one call serves the row. The transform along the sequence
is computed separately for each sequence, so it does not depend on the rest of the batch. Sequences of equal length
share a call. This changes no bits: the library transforms each vector by the same operations in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.fft

from model.arrays import Float32s
from model.packing import Group, Row

# With fewer tokens, the transforms take less time than the start of a second thread.
_MIN_PARALLEL_TOKENS = 192


class Share(NamedTuple):
    """Consecutive sequences of a row that one thread transforms.

    Attributes:
        tokens: Their range of tokens in the row.
        groups: The sequences; `start` is relative to the first token of the share.
        mirror: Index of position n - k for each position k of a sequence of n tokens, relative likewise.
    """

    tokens: slice
    groups: Sequence[Group]
    mirror: npt.NDArray[np.intp]


class FourierMixing:
    """The mixing sublayer with its residual connection, in float32.

    Args:
        threads: Number of threads, at least 1.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads - 1, thread_name_prefix="mixing") if threads > 1 else None

    def layout(self, row: Row) -> list[Share]:
        """Return how a row is divided among threads, the same for all layers."""
        threads = self._threads if row.tokens >= _MIN_PARALLEL_TOKENS else 1
        return [_share(groups) for groups in _divide(row.groups, row.tokens, threads)]

    def add(self, x: Float32s, layout: Sequence[Share], out: Float32s) -> None:
        """Compute `x + Re(fft2(x))` for each sequence.

        Args:
            x: `[T, h]`.
            layout: The sequences.
            out: `[T, h]`, written for every token of a sequence.
        """
        first, *others = layout
        # The library divides the vectors of one large transform among its own threads.
        is_single_large = self._pool is not None and not others and len(first.mirror) >= _MIN_PARALLEL_TOKENS
        if is_single_large:
            self._mix_in_parallel(x, first, out)
            return
        self._run(partial(_mix, x, share, out) for share in layout)

    def _mix_in_parallel(self, x: Float32s, share: Share, out: Float32s) -> None:
        """Write the result of one large sequence with all threads."""
        x, out = x[share.tokens], out[share.tokens]
        real = _transform(x, share, self._threads)
        ends = np.linspace(0, len(x), self._threads + 1).astype(int)
        parts = [slice(start, end) for start, end in pairwise(ends)]
        self._run(partial(_add, x[part], real, part, share.mirror[part], out[part]) for part in parts)

    def _run(self, calls: Iterable[Callable[[], None]]) -> None:
        """Run calls on all threads, the first on this thread."""
        first, *others = calls
        running = [self._pool.submit(call) for call in others] if self._pool else []
        first()
        for call in running:
            call.result()


def _mix(x: Float32s, share: Share, out: Float32s) -> None:
    """Write `x + Re(fft2(x))` for the sequences of a share."""
    x, out = x[share.tokens], out[share.tokens]
    _add(x, _transform(x, share, workers=1), slice(None), share.mirror, out)


def _transform(x: Float32s, share: Share, workers: int) -> Float32s:
    """Return the real part of each sequence's transform at the first `h // 2 + 1` frequencies of the hidden axis."""
    spectrum = scipy.fft.rfft(x, axis=1, workers=workers)
    for group in share.groups:
        stacked = spectrum[group.start : group.start + group.tokens].reshape(group.count, group.size, -1)
        transformed = scipy.fft.fft(stacked, axis=1, overwrite_x=True, workers=workers)
        if not np.may_share_memory(transformed, stacked):
            stacked[:] = transformed
    real: Float32s = spectrum.real
    return real


def _add(x: Float32s, real: Float32s, tokens: slice, mirror: npt.NDArray[np.intp], out: Float32s) -> None:
    """Write `x` plus its mixing for some tokens of a share.

    Args:
        x: `[t, h]`.
        real: `[T, h // 2 + 1]`, of all tokens of the share.
        tokens: Range of the t tokens within the T.
        mirror: `[t]`, as in `Share`.
        out: `[t, h]`.
    """
    hidden = x.shape[1]
    computed, mirrored = hidden // 2 + 1, (hidden - 1) // 2
    np.add(x[:, :computed], real[tokens], out=out[:, :computed])
    if mirrored:
        np.add(x[:, computed:], real[:, mirrored:0:-1][mirror], out=out[:, computed:])


def _share(groups: Sequence[Group]) -> Share:
    first, last = groups[0], groups[-1]
    shifted = [Group(group.start - first.start, group.count, group.size) for group in groups]
    starts = [group.start + group.size * number for group in shifted for number in range(group.count)]
    sizes = [group.size for group in groups for _ in range(group.count)]
    mirror = [start + (-np.arange(size)) % size for start, size in zip(starts, sizes, strict=True)]
    return Share(slice(first.start, last.start + last.tokens), shifted, np.concatenate(mirror))


def _divide(groups: Sequence[Group], tokens: int, count: int) -> list[list[Group]]:
    """Divide sequences into at most `count` shares with about equal numbers of tokens."""
    shares: list[list[Group]] = [[]]
    quota = -(-tokens // count)
    for group in groups:
        start, remaining = group.start, group.count
        while remaining:
            added = min(remaining, max(1, round(quota / group.size))) if len(shares) < count else remaining
            shares[-1].append(Group(start, added, group.size))
            start, remaining, quota = (
                start + added * group.size,
                remaining - added,
                quota - added * group.size,
            )
            if quota <= 0 and len(shares) < count:
                shares.append([])
                quota = -(-tokens // count)
    return [share for share in shares if share]

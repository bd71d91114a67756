"""What is encoded, and how much arithmetic it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from model.programs import Transform

from model.architecture import Architecture
from model.encoder import Tokens
from model.packing import OpenRow, Spacing

SENTENCE = 24
LENGTHS = (8, 16, 32, 64, 128, 256, 512)
QUEUES = (1, 4, 16, 64, 256, 1024, 4096)

# Of searches and sentences: most are short, a few are long.
_SIGMA, _SHORTEST, _LONGEST = 0.7, 5, 200
_LONG_TEXTS = 16
_SEED = 20210509
# The first ids are special tokens in every vocabulary.
_FIRST_WORD = 5


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests that are sent at once.

    Attributes:
        name: What people see.
        lengths: Tokens of each.
    """

    name: str
    lengths: tuple[int, ...]


def workloads(longest: int, texts: int = 256) -> tuple[Workload, ...]:
    """Return texts of mixed lengths, and some as long as the network takes, at most 512 tokens.

    Args:
        longest: Tokens of the longest sequence.
        texts: How many of mixed lengths.
    """
    long = min(longest, LENGTHS[-1])
    return (
        Workload(f"{texts} mixed", tuple(min(length, longest) for length in mixed_lengths(texts))),
        Workload(f"{_LONG_TEXTS} x {long}", (long,) * _LONG_TEXTS),
    )


def mixed_lengths(count: int) -> tuple[int, ...]:
    """Return log-normal lengths in tokens, median 24, from 5 to 200, the same at every call."""
    drawn = np.random.default_rng(_SEED).lognormal(np.log(SENTENCE), _SIGMA, count)
    return tuple(int(length) for length in drawn.round().clip(_SHORTEST, _LONGEST))


def filling(row: int, longest: int, spacing: Spacing) -> tuple[int, ...]:
    """Return lengths of sequences that fill a row, the longest first: one, wherever that may be as long as the row."""
    lengths = []
    room = OpenRow(row, spacing)
    for length in range(min(row, longest), 0, -1):
        while room.place(length) is not None:
            lengths.append(length)
    return tuple(lengths)


def sequences(lengths: Sequence[int], architecture: Architecture) -> list[Tokens]:
    """Return a sequence of random ids for each length, the same at every call."""
    random = np.random.default_rng(_SEED)
    first = min(_FIRST_WORD, architecture.vocabulary_size - 1)
    return [
        Tokens(
            random.integers(first, architecture.vocabulary_size, length).astype(np.int32), np.zeros(length, np.int32)
        )
        for length in lengths
    ]


def flops(architecture: Architecture, tokens: int, transform: Transform) -> int:
    """Return the floating-point operations of the matrix products for a row that one sequence fills.

    The transforms are counted as the half spectra that an encoder computes, that of the hidden axis where it is by
    products; an FFT, normalisation and the like are not.
    """
    hidden, inner = architecture.hidden_dim, architecture.intermediate_dim
    # Cosines and sines are half of the columns each. Along the hidden axis each is a product with as many terms as
    # columns; along the row each meets one matrix of `tokens` by `tokens`.
    cosines = hidden // 2 + 1
    sines = hidden - cosines
    across = 2 * (cosines * cosines + sines * sines) if transform == "products" else 0
    layer = 4 * hidden * inner + across + 2 * tokens * hidden
    pooler = projection = 2 * hidden * hidden
    return tokens * (architecture.num_layers * layer + projection) + pooler

"""Workloads: lengths of sequences, sequences of random ids, and operation counts of their dense products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.architecture import Architecture
from model.encoder import TokenSequence

LENGTHS_TOKENS = (8, 16, 32, 64, 128, 256, 512)

# Search queries and sentences: most are short, a few are long.
_MEDIAN_TOKENS, _SIGMA, _MIN_TOKENS, _MAX_TOKENS = 24, 0.7, 5, 200
_LONG_TEXTS = 16
_SEED = 20210509
# The first ids are special tokens in every vocabulary.
_FIRST_WORD_ID = 5


@dataclass(frozen=True, slots=True)
class Workload:
    """Texts that are encoded together.

    Attributes:
        name: Label in tables.
        lengths: Tokens of each text.
    """

    name: str
    lengths: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens of all texts."""
        return sum(self.lengths)


def workloads(max_tokens: int, texts: int = 256) -> tuple[Workload, ...]:
    """Return texts of mixed lengths, then texts of 512 tokens.

    Args:
        max_tokens: Longest sequence that the network accepts; longer lengths are limited to it.
        texts: Number of texts of mixed lengths.
    """
    long = min(max_tokens, LENGTHS_TOKENS[-1])
    return (
        Workload(f"{texts} mixed", tuple(min(length, max_tokens) for length in mixed_lengths(texts))),
        Workload(f"{_LONG_TEXTS} x {long}", (long,) * _LONG_TEXTS),
    )


def mixed_lengths(count: int) -> tuple[int, ...]:
    """Return log-normal lengths in tokens with a median of 24, from 5 to 200; equal in every call."""
    lengths = np.random.default_rng(_SEED).lognormal(np.log(_MEDIAN_TOKENS), _SIGMA, count)
    return tuple(int(length) for length in lengths.round().clip(_MIN_TOKENS, _MAX_TOKENS))


def single_lengths(max_tokens: int) -> tuple[int, ...]:
    """Return lengths of single sequences: powers of two up to 512, then the maximum of the network if it is longer.

    Args:
        max_tokens: Longest sequence that the network accepts.
    """
    lengths = tuple(length for length in LENGTHS_TOKENS if length <= max_tokens) or (max_tokens,)
    return (*lengths, max_tokens) if max_tokens > LENGTHS_TOKENS[-1] else lengths


def filling_lengths(tokens: int, max_tokens: int) -> tuple[int, ...]:
    """Return lengths of sequences that fill a row: as many of the maximum as fit, then the remainder.

    Args:
        tokens: Tokens of the row.
        max_tokens: Longest sequence that the network accepts.
    """
    count, remainder = divmod(tokens, max_tokens)
    return (max_tokens,) * count + ((remainder,) if remainder else ())


def sequences(lengths: Sequence[int], architecture: Architecture) -> list[TokenSequence]:
    """Return a sequence of random ids for each length; equal in every call."""
    random = np.random.default_rng(_SEED)
    first = min(_FIRST_WORD_ID, architecture.vocabulary_size - 1)
    return [
        TokenSequence(
            random.integers(first, architecture.vocabulary_size, length).astype(np.int32), np.zeros(length, np.int32)
        )
        for length in lengths
    ]


def dense_flops(architecture: Architecture, tokens: int, count: int = 1) -> int:
    """Return the floating-point operations of the dense products for sequences that are encoded and pooled.

    The Fourier transform, normalization and activations are not counted.

    Args:
        architecture: The network.
        tokens: Tokens of all sequences.
        count: Number of sequences.
    """
    hidden, inner = architecture.hidden_dim, architecture.intermediate_dim
    projection = pooler = 2 * hidden * hidden
    return tokens * (projection + architecture.num_layers * 4 * hidden * inner) + count * pooler

"""Workloads, the batches of candidates that do not pack, and floating-point operation counts. Integers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from model.architecture import Architecture
from model.arrays import Int32s

MAX_BATCH_TEXTS = 32

# Lengths of queries and sentences in tokens: most are short, a few are long.
_MEDIAN_TOKENS, _SIGMA, _MIN_TOKENS, _MAX_TOKENS = 24, 0.7, 5, 200
_SEED = 20210509
# The first ids are special tokens in every vocabulary.
_FIRST_WORD_ID = 5

_WORDS = """
a and before bread bridge city cold door early far field fire four garden glass green hill house ice inside just king
lamp letter light long market moon morning near never of old open paper people question quickly rain red river road
seven ship slowly small snow stone street the through tower train under water white who why window winter with wood
year yellow young
"""


@dataclass(frozen=True, slots=True)
class Workload:
    """Texts that are encoded in one call.

    Attributes:
        name: Name in the report.
        lengths: Tokens of each text.
    """

    name: str
    lengths: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens of all texts together."""
        return sum(self.lengths)


def base_workloads(texts: int) -> list[Workload]:
    """Return single texts, a batch of mixed lengths and a batch of long texts.

    Args:
        texts: Texts in the batch of mixed lengths.
    """
    return [*_single_texts(8, 32, 128, 512), mixed_workload(texts), Workload("16 x 512", (512,) * 16)]


def long_workloads() -> list[Workload]:
    """Return single long sequences, one with a prime length, after one of 512 tokens to compare the time per token."""
    return _single_texts(512, 2048, 3001, 4096, 8192)


def mixed_workload(texts: int) -> Workload:
    """Return a batch of texts of mixed lengths."""
    return Workload(f"{texts} mixed", mixed_lengths(texts))


def _single_texts(*lengths: int) -> list[Workload]:
    return [Workload(f"1 x {length}", (length,)) for length in lengths]


def mixed_lengths(count: int) -> tuple[int, ...]:
    """Return log-normal lengths in tokens, the same for every call."""
    lengths = np.random.default_rng(_SEED).lognormal(np.log(_MEDIAN_TOKENS), _SIGMA, count)
    return tuple(int(length) for length in lengths.round().clip(_MIN_TOKENS, _MAX_TOKENS))


def token_ids(lengths: Sequence[int], vocabulary_size: int) -> list[Int32s]:
    """Return random ids of each text, the same for every call."""
    random = np.random.default_rng(_SEED)
    return [random.integers(_FIRST_WORD_ID, vocabulary_size, length).astype(np.int32) for length in lengths]


def sorted_batches(lengths: Sequence[int], max_texts: int = MAX_BATCH_TEXTS) -> list[list[int]]:
    """Return batches of texts of similar length, as indices: padding is small."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [order[start : start + max_texts] for start in range(0, len(order), max_texts)]


def equal_batches(lengths: Sequence[int]) -> list[list[int]]:
    """Return batches of texts of equal length, as indices, without padding."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [
        batch[start : start + MAX_BATCH_TEXTS]
        for _, members in groupby(order, key=lengths.__getitem__)
        for batch in [list(members)]
        for start in range(0, len(batch), MAX_BATCH_TEXTS)
    ]


def input_order_batches(lengths: Sequence[int]) -> list[list[int]]:
    """Return batches in input order, as indices, as for a server that pads every batch to one length."""
    return [
        list(range(start, min(start + MAX_BATCH_TEXTS, len(lengths))))
        for start in range(0, len(lengths), MAX_BATCH_TEXTS)
    ]


def fnet_flops(architecture: Architecture, lengths: Sequence[int]) -> float:
    """Return the floating-point operations of an FNet's dense layers; mixing is a Fourier transform and not counted."""
    hidden, inner, layers = architecture.hidden_dim, architecture.intermediate_dim, architecture.num_layers
    projection = 2 * hidden * hidden
    per_token = layers * 4 * hidden * inner + projection
    return float(sum(length * per_token + projection for length in lengths))


def bert_flops(architecture: Architecture, lengths: Sequence[int]) -> float:
    """Return the floating-point operations of a BERT of the same size, without padding."""
    hidden, inner, layers = architecture.hidden_dim, architecture.intermediate_dim, architecture.num_layers
    dense = 8 * hidden * hidden + 4 * hidden * inner
    pooler = 2 * hidden * hidden
    return float(sum(length * layers * (dense + 4 * length * hidden) + pooler for length in lengths))


def short_text(number: int) -> str:
    """Return a text of 4 to 16 common words; different numbers give different texts, so that no cache has them."""
    random = np.random.default_rng((_SEED, number))
    return " ".join(random.choice(_WORDS.split(), random.integers(4, 17)))

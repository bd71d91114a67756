"""What is encoded, how contenders without packing batch it, and how much arithmetic it is. Integers only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np

from model.architecture import Architecture
from model.arrays import Int32s

MOST_TEXTS = 32

Axis = Literal["hidden", "row"]

# Lengths of searches and sentences: most are short, a few are long.
_MEDIAN, _SIGMA, _SHORTEST, _LONGEST = 24, 0.7, 5, 200
_SEED = 20210509
# The first ids are special tokens in every vocabulary.
_FIRST_WORD = 5

_WORDS = """
a and before bread bridge city cold door early far field fire four garden glass green hill house ice inside just king
lamp letter light long market moon morning near never of old open paper people question quickly rain red river road
seven ship slowly small snow stone street the through tower train under water white who why window winter with wood
year yellow young
"""


@dataclass(frozen=True, slots=True)
class Workload:
    """Texts that are encoded in one go.

    Attributes:
        name: What people see.
        lengths: Tokens of each text.
    """

    name: str
    lengths: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens of all texts together."""
        return sum(self.lengths)


def workloads(texts: int = 256) -> list[Workload]:
    """Return every workload: one text at a time, a batch of mixed lengths, a batch of long texts.

    Args:
        texts: How many there are in the batch of mixed lengths.
    """
    return [
        *(Workload(f"1 x {length}", (length,)) for length in (8, 32, 128, 512)),
        Workload(f"{texts} mixed", mixed_lengths(texts)),
        Workload("16 x 512", (512,) * 16),
    ]


def mixed_lengths(count: int) -> tuple[int, ...]:
    """Return log-normal lengths in tokens, the same at every call."""
    drawn = np.random.default_rng(_SEED).lognormal(np.log(_MEDIAN), _SIGMA, count)
    return tuple(int(length) for length in drawn.round().clip(_SHORTEST, _LONGEST))


def token_ids(lengths: Sequence[int], vocabulary_size: int) -> list[Int32s]:
    """Return random ids for each text, the same at every call."""
    random = np.random.default_rng(_SEED)
    return [random.integers(_FIRST_WORD, vocabulary_size, length).astype(np.int32) for length in lengths]


def sorted_batches(lengths: Sequence[int]) -> list[list[int]]:
    """Return batches of neighbours in length, as indices: little is padded."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [order[start : start + MOST_TEXTS] for start in range(0, len(order), MOST_TEXTS)]


def equal_batches(lengths: Sequence[int]) -> list[list[int]]:
    """Return batches of equal length, as indices: nothing is padded."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [
        batch[start : start + MOST_TEXTS]
        for _, members in groupby(order, key=lengths.__getitem__)
        for batch in [list(members)]
        for start in range(0, len(batch), MOST_TEXTS)
    ]


def one_by_count(lengths: Sequence[int]) -> list[list[int]]:
    """Return batches in the order given, as indices: what a server does whose batches all have one length."""
    return [list(range(start, min(start + MOST_TEXTS, len(lengths)))) for start in range(0, len(lengths), MOST_TEXTS)]


def fnet_flops(architecture: Architecture, lengths: Sequence[int], products: Collection[Axis]) -> float:
    """Return an FNet's floating-point operations for texts, each counted as a row of its own length.

    Args:
        architecture: The network.
        lengths: Tokens of each text.
        products: The axes that are transformed by matrix products, which count; an FFT is left out.
    """
    hidden, inner, layers = architecture.hidden_dim, architecture.intermediate_dim, architecture.num_layers
    dense = 4 * hidden * inner
    # Half the spectrum is cosines, half sines: along the row a square matrix for each half of the columns, along the
    # hidden axis one of a quarter of that, as folded columns are enough.
    across, along = hidden * hidden * ("hidden" in products), 2 * hidden * ("row" in products)
    a_token = [dense + across + along * length for length in lengths]
    once = 2 * hidden * hidden
    return float(sum(length * (layers * each + once) + once for length, each in zip(lengths, a_token, strict=True)))


def bert_flops(architecture: Architecture, lengths: Sequence[int]) -> float:
    """Return the same sized BERT's floating-point operations for texts, padding not counted."""
    hidden, inner, layers = architecture.hidden_dim, architecture.intermediate_dim, architecture.num_layers
    dense = 8 * hidden * hidden + 4 * hidden * inner
    once = 2 * hidden * hidden
    return float(sum(length * layers * (dense + 4 * length * hidden) + once for length in lengths))


def short_text(number: int) -> str:
    """Return a text of 4 to 16 everyday words, another for every number, so that no cache has seen it."""
    random = np.random.default_rng((_SEED, number))
    return " ".join(random.choice(_WORDS.split(), random.integers(4, 17)))

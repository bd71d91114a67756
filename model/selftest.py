"""The self-test of an encoder on the serving machine, before it serves.

It verifies two properties. *Accurate*: the outputs of a probe equal those of the NumPy reference. *Batch-invariant*:
the outputs have the same bits alone and in a batch, at any offset, in every row length. The routines of a matrix
library, and so the rounding of sums, depend on processor, library and size. The self-test therefore measures both.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from model.arrays import Float32s
from model.dtypes import Dtype
from model.encoder import ALL_OUTPUTS, EncoderInput, Encoding, PackedEncoder, TokenSequence
from model.packing import BatchBuilder, BatchPlan, Row

# Maps one unpadded sequence to its sequence output [n, h] and pooled output [h].
Reference = Callable[[TokenSequence], tuple[Float32s, Float32s]]

# Maximum absolute error of unit-scale float32 outputs.
FLOAT32_TOLERANCE = 1e-4


class CosineBounds(NamedTuple):
    """Minimum cosines between outputs and the float32 reference.

    Attributes:
        tokens: Minimum for all tokens above `quantile`.
        quantile: Fraction of the tokens that may be below `tokens`.
        token: Minimum for every token.
        pooled: Minimum for every pooled output.
    """

    tokens: float
    quantile: float
    token: float
    pooled: float


COSINE_BOUNDS: dict[Dtype, CosineBounds] = {
    "bfloat16": CosineBounds(tokens=0.999, quantile=0.01, token=0.995, pooled=0.9999),
    "int8": CosineBounds(tokens=0.999, quantile=0.5, token=0.985, pooled=0.995),
}

_SHORT_TOKENS = 5
_MAX_FILLER_TOKENS = 7
# The NumPy reference takes seconds for longer sequences.
_MAX_REFERENCE_TOKENS = 768
_SEED = 20210509
# Lengths of the fingerprint probes, equal for every configuration of an architecture.
_FINGERPRINT_TOKENS = (1, 5, 24, 100)


class SelfTestError(RuntimeError):
    """Outputs of the longest row differ from the reference, so the encoder cannot serve."""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """The result of the self-test.

    Attributes:
        row_lengths: Row lengths that passed, ascending.
        disabled: Row lengths that failed, with the reason.
        batch_invariant: Whether results are bit-identical regardless of batch composition.
        largest_error: Largest difference from the reference, relative to the output scale where it is above 1.
        numerics: SHA-256 over the output bits of fixed probes.
        tokens_per_second: Throughput of a full run.
    """

    row_lengths: tuple[int, ...]
    disabled: dict[int, str]
    batch_invariant: bool
    largest_error: float
    numerics: str
    tokens_per_second: float


def compile_and_verify(
    encoder: PackedEncoder,
    reference: Reference,
    *,
    batch_invariant: bool = True,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> SelfTest:
    """Compile an encoder's programs, verify them, and keep the row lengths that pass.

    Args:
        encoder: The encoder, not yet compiled.
        reference: The reference network with the same weights.
        batch_invariant: Whether to compare bits as well as accuracy.
        progress: Called with the number of row lengths that are compiled, and of all.

    Raises:
        SelfTestError: Outputs of the longest row differ from `reference`.
    """
    encoder.compile(progress)
    probes = _probes(encoder)
    longest = encoder.row_lengths[-1]
    expected, equal = _verify_longest(encoder, probes)
    invariant = batch_invariant and equal
    disabled: dict[int, str] = {}
    # If all rows have the bits of the longest, the accuracy of two probes in it holds for every row.
    candidates = [index for index, probe in enumerate(probes) if len(probe.token_ids) <= _MAX_REFERENCE_TOKENS]
    pairs = [(expected[index], reference(probes[index])) for index in (candidates[0], candidates[-1])]
    error = float(np.max([_error(*pair) for pair in pairs]))
    if not are_accurate(pairs, encoder.dtype):
        raise SelfTestError(f"the row of {longest} tokens differs from the reference (largest error {error:.2g})")
    if not invariant and not _accurate_in_batch(encoder, probes, reference, longest):
        raise SelfTestError(f"a batch in the row of {longest} tokens differs from the reference")
    for length in encoder.row_lengths[:-1]:
        if invariant and not _equal_in_batches(encoder, probes, expected, length):
            disabled[length] = "not bit-identical to the longest row"
        elif not invariant and not _accurate_in_batch(encoder, probes, reference, length):
            disabled[length] = "differs from the reference"
    encoder.retain_row_lengths(set(encoder.row_lengths) - set(disabled))
    return SelfTest(
        row_lengths=encoder.row_lengths,
        disabled=disabled,
        batch_invariant=invariant,
        largest_error=error,
        numerics=_fingerprint(encoder, invariant=invariant),
        tokens_per_second=_throughput(encoder),
    )


def is_accurate(encoding: Encoding, expected: tuple[Float32s, Float32s], dtype: Dtype) -> bool:
    """Whether the outputs of one sequence are within the bounds of the dtype."""
    return are_accurate([(encoding, expected)], dtype)


def are_accurate(pairs: Sequence[tuple[Encoding, tuple[Float32s, Float32s]]], dtype: Dtype) -> bool:
    """Whether the outputs of sequences, pooled over all tokens, are within the bounds of the dtype.

    Args:
        pairs: For each sequence, its outputs and the reference outputs.
        dtype: Selects the bounds.
    """
    if dtype == "float32":
        return all(_error(encoding, expected) <= FLOAT32_TOLERANCE for encoding, expected in pairs)
    bounds = COSINE_BOUNDS[dtype]
    tokens = np.concatenate([cosines(encoding.sequence_output, expected[0]) for encoding, expected in pairs])
    pooled = np.array([cosines(encoding.pooled_output[None], expected[1][None])[0] for encoding, expected in pairs])
    below = (~(tokens >= bounds.tokens)).mean()
    return bool(pooled.min() >= bounds.pooled and below <= bounds.quantile and tokens.min() >= bounds.token)


def cosines(a: Float32s, b: Float32s) -> Float32s:
    """Return the cosines `[n]` of the rows of two arrays `[n, h]`."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    values: Float32s = (a * b).sum(axis=1) / norms
    return values


def _verify_longest(encoder: PackedEncoder, probes: Sequence[TokenSequence]) -> tuple[dict[int, Encoding], bool]:
    """Return the outputs of every probe in the longest row, and whether their bits are equal in every batch.

    Every probe runs once after shorter and once after longer sequences. The shortest also runs alone, and in a row of
    copies.
    """
    length = encoder.row_lengths[-1]
    order = list(range(len(probes)))
    expected: dict[int, Encoding] = {}
    equal = True
    for members in (order, order[::-1]):
        pending = members
        while pending:
            results = _in_batch(encoder, probes, pending, length)
            for index, encoding in results:
                equal &= _equal_bits(encoding, expected.setdefault(index, encoding))
            used = {index for index, _ in results}
            pending = [index for index in pending if index not in used]
    for count in (1, length // len(probes[0].token_ids)):
        for encodings in _on_all_devices(encoder, [probes[0]] * count, length):
            equal &= all(_equal_bits(encoding, expected[0]) for encoding in encodings)
    return expected, equal


def _equal_in_batches(
    encoder: PackedEncoder, probes: Sequence[TokenSequence], expected: Mapping[int, Encoding], length: int
) -> bool:
    """Whether all probes that fit a row length have the expected bits in it."""
    order = [index for index, probe in enumerate(probes) if len(probe.token_ids) <= length]
    return all(
        _equal_bits(encoding, expected[index]) for index, encoding in _in_batch(encoder, probes, order[::-1], length)
    )


def _in_batch(
    encoder: PackedEncoder, probes: Sequence[TokenSequence], members: Sequence[int], length: int
) -> list[tuple[int, Encoding]]:
    """Run one row of members on every device; return the indices and outputs of those that fit."""
    batch, indices = _mixed_batch(encoder, [probes[index] for index in members], length)
    return [
        (members[position], encoding)
        for encodings in _on_all_devices(encoder, batch, length)
        for encoding, position in zip(encodings, indices, strict=True)
        if position is not None
    ]


def _accurate_in_batch(
    encoder: PackedEncoder, probes: Sequence[TokenSequence], reference: Reference, length: int
) -> bool:
    batch, indices = _mixed_batch(encoder, [probe for probe in probes if len(probe.token_ids) <= length][-2:], length)
    return all(
        is_accurate(encoding, reference(tokens), encoder.dtype)
        for encodings in _on_all_devices(encoder, batch, length)
        for encoding, tokens, position in zip(encodings, batch, indices, strict=True)
        if position is not None
    )


def _mixed_batch(
    encoder: PackedEncoder, probes: Sequence[TokenSequence], length: int
) -> tuple[list[TokenSequence], list[int | None]]:
    """Return a batch that alternates fillers and probes, with at least the first probe.

    Returns:
        The batch, and for each member the index of its probe, or None for a filler.
    """
    random = np.random.default_rng(length)
    batch: list[TokenSequence] = []
    indices: list[int | None] = []
    remaining = length
    for position, probe in enumerate(probes):
        size = len(probe.token_ids)
        filler = int(random.integers(1, min(_MAX_FILLER_TOKENS, encoder.architecture.max_sequence_length) + 1))
        if size + filler <= remaining:
            batch += [_sequence(encoder, random, filler), probe]
            indices += [None, position]
            remaining -= size + filler
    return (batch, indices) if batch else ([probes[0]], [0])


def _on_all_devices(encoder: PackedEncoder, batch: Sequence[TokenSequence], length: int) -> list[list[Encoding]]:
    """Run a batch in one row of a length on every device at once, and return the results per device."""
    builder = BatchBuilder(1, length)
    for tokens in batch:
        builder.add(len(tokens.token_ids))
    (row,) = builder.build().rows
    count = len(batch)
    devices = range(encoder.rows_per_run)
    rows = (Row(tuple(member + count * device for member in row.members), row.sizes) for device in devices)
    inputs = [EncoderInput(tokens, ALL_OUTPUTS) for tokens in batch] * len(devices)
    encodings = encoder.run(BatchPlan(tuple(rows)), inputs, (length,))
    return [encodings[count * device : count * (device + 1)] for device in devices]


def _fingerprint(encoder: PackedEncoder, *, invariant: bool) -> str:
    """Return the SHA-256 over the output bits of fixed probes, each encoded alone.

    If bits depend on the batch, replicas are equal only with equal row lengths.
    """
    digest = hashlib.sha256()
    if not invariant:
        digest.update(repr(encoder.row_lengths).encode())
    random = np.random.default_rng(_SEED)
    longest = encoder.architecture.max_sequence_length
    probes = [_sequence(encoder, random, min(tokens, longest)) for tokens in _FINGERPRINT_TOKENS]
    for probe in probes:
        (encoding,) = encoder.encode([probe])
        for output in sorted(encoding.arrays):
            digest.update(encoding.arrays[output].tobytes())
    return digest.hexdigest()


def _throughput(encoder: PackedEncoder) -> float:
    """Return the throughput of a full run, in tokens per second."""
    size = min(encoder.row_lengths[-1], encoder.architecture.max_sequence_length)
    sequence = _sequence(encoder, np.random.default_rng(_SEED), size)
    builder = encoder.batch_builder()
    count = 0
    while builder.add(size):
        count += 1
    inputs = [EncoderInput(sequence, frozenset(("pooled_output",)))] * count
    plan = builder.build()
    started = time.perf_counter()
    encoder.run(plan, inputs)
    return plan.tokens / (time.perf_counter() - started)


def _probes(encoder: PackedEncoder) -> list[TokenSequence]:
    """Return a short probe, one per power-of-two row that fills most of it, a full row, and one of several chunks."""
    random = np.random.default_rng(_SEED)
    longest = encoder.architecture.max_sequence_length
    lengths = encoder.row_lengths
    sizes = [
        _SHORT_TOKENS,
        *(length * 5 // 8 for length in lengths if length.bit_count() == 1),
        lengths[-1],
        lengths[-1] + lengths[0] + 1,
    ]
    return [_sequence(encoder, random, size) for size in sorted({min(size, longest) for size in sizes})]


def _sequence(encoder: PackedEncoder, random: np.random.Generator, length: int) -> TokenSequence:
    return TokenSequence(
        random.integers(0, encoder.architecture.vocabulary_size, length).astype(np.int32),
        random.integers(0, encoder.architecture.num_segments, length).astype(np.int32),
    )


def _equal_bits(one: Encoding, other: Encoding) -> bool:
    # Compares bytes, since -0.0 == 0.0.
    return all(one.arrays[name].tobytes() == other.arrays[name].tobytes() for name in ALL_OUTPUTS)


def _error(encoding: Encoding, expected: tuple[Float32s, Float32s]) -> float:
    """Return the largest difference, relative to the scale of the reference where it is above 1."""
    pairs = zip((encoding.sequence_output, encoding.pooled_output), expected, strict=True)
    # Unlike Python's `max`, NumPy's propagates NaN.
    return float(np.max([np.abs(actual - true).max() / max(1.0, np.abs(true).max()) for actual, true in pairs]))

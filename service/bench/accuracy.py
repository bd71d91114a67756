"""Accuracy of candidates: cosines to the float32 NumPy reference on a fixed set of sequences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model.architecture import Architecture
from model.arrays import Float32s
from model.dtypes import Dtype
from model.encoder import Encoding, TokenSequence
from model.presets.preset import Preset
from model.presets.weights import read_weights
from model.reference import encode_one, random_weights
from model.selftest import COSINE_BOUNDS, FLOAT32_TOLERANCE
from model.tokenizer import FNetTokenizer
from service.bench.results import Accuracy
from service.bench.texts import TEXTS
from service.bench.workloads import sequences
from service.core.inputs import Text, from_texts

# Bounds of the median over texts; the self-test defines the bounds of each text.
_MIN_POOLED_MEDIAN: dict[Dtype, float] = {"bfloat16": 0.9999, "int8": 0.999}
# Lengths of sequences of random ids, for presets without a tokenizer.
_LENGTHS_TOKENS = (3, 5, 8, 12, 17, 24, 37, 64, 100)
# The seed that `service.core.engine` uses for random weights.
_SEED = 0

Outputs = tuple[Float32s, Float32s]


def accuracy_sequences(preset: Preset, tokenizer: FNetTokenizer | None) -> list[TokenSequence]:
    """Return the sequences on which accuracy is measured.

    Args:
        preset: The preset.
        tokenizer: Its tokenizer; without one, the ids are random.

    Returns:
        Unpadded sequences, truncated to the network's maximum.
    """
    if tokenizer is None:
        max_tokens = preset.architecture.max_sequence_length
        return sequences([min(length, max_tokens) for length in _LENGTHS_TOKENS], preset.architecture)
    return from_texts([Text(text) for text in TEXTS], tokenizer, preset, truncate=True, padding="none")


def reference_outputs(preset: Preset, tokens: Sequence[TokenSequence], *, load_weights: bool) -> list[Outputs]:
    """Return the reference's sequence output `[n, h]` and pooled output `[h]` of each sequence.

    Args:
        preset: The preset.
        tokens: The sequences.
        load_weights: Whether the preset's weights are used, or the engine's random ones.
    """
    architecture: Architecture = preset.architecture
    weights = read_weights(preset.directory, architecture) if load_weights else random_weights(architecture, _SEED)
    return [encode_one(architecture, weights, *sequence) for sequence in tokens]


def compare(encodings: Sequence[Encoding], expected: Sequence[Outputs], dtype: Dtype) -> Accuracy:
    """Compare outputs with those of the reference, and with the bounds of the dtype.

    Args:
        encodings: All outputs of each sequence.
        expected: Outputs of the reference for each sequence.
        dtype: Operands of the matrix products.
    """
    tokens = np.concatenate(
        [_cosines(ours.sequence_output, theirs) for ours, (theirs, _) in zip(encodings, expected, strict=True)]
    )
    pooled = _cosines(
        np.stack([encoding.pooled_output for encoding in encodings]), np.stack([pooled for _, pooled in expected])
    )
    pairs = [
        (output, reference)
        for encoding, references in zip(encodings, expected, strict=True)
        for output, reference in zip((encoding.sequence_output, encoding.pooled_output), references, strict=True)
    ]
    error = max(float(np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max())) for ours, theirs in pairs)
    return Accuracy(
        token_median=float(np.median(tokens)),
        token_min=float(tokens.min()),
        pooled_median=float(np.median(pooled)),
        pooled_min=float(pooled.min()),
        max_error=error,
        within_bounds=_within_bounds(tokens, pooled, error, dtype),
    )


def _within_bounds(
    tokens: npt.NDArray[np.float64], pooled: npt.NDArray[np.float64], error: float, dtype: Dtype
) -> bool:
    """Return whether cosines of tokens and pooled outputs, and the largest error, are within the documented bounds."""
    if dtype == "float32":
        return error <= FLOAT32_TOLERANCE
    bounds = COSINE_BOUNDS[dtype]
    return bool(
        tokens.min() >= bounds.token
        and (tokens < bounds.tokens).mean() <= bounds.quantile
        and pooled.min() >= bounds.pooled
        and np.median(pooled) >= _MIN_POOLED_MEDIAN[dtype]
    )


def _cosines(ours: Float32s, theirs: Float32s) -> npt.NDArray[np.float64]:
    """Return the cosine of each row of two arrays `[n, h]`, computed in float64."""
    one, other = ours.astype(np.float64), theirs.astype(np.float64)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosines: npt.NDArray[np.float64] = (one * other).sum(axis=1) / norms
    return cosines

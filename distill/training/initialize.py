"""The initialization of the student: a bag of teacher vectors that the Fourier layers pass to the pooler.

Position 0 receives the cosine transform of the sum over all tokens, which keeps only the even half of it. Therefore
the vectors of the pieces, 192 principal components of the teacher's vector of each piece, are projected on the even
(cosine) vectors of the hidden axis, without the constant one. The feed-forward weights start near 0, and least squares
gives the pooler.

A student that continues from a preset keeps its variables. New words get rows predicted from the known ones, and the
rows of rare words move toward their predictions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from distill.training.examples import Examples, sample_indices
from distill.training.student import Student, pack
from distill.training.teacher import Teacher
from distill.training.vocabulary import word_of

_COMPONENT_TEXTS = 60_000
_POOLER_TEXTS = 24_000
_POOLER_TOKENS = 128
_POOLER_ROWS = 48
_POOLER_RIDGE = 1e-3
_WORD_RIDGE = 3e-4
_INITIAL_SCALE = 0.003
# Number of occurrences at which a trained row has half of the maximum weight.
_HALF_WEIGHT_COUNT = 30.0
# How far the row of a word without occurrences moves to its prediction.
_MAX_PULL = 0.5
# Frequency above which a word's weight falls (Arora et al. 2017, "A simple but tough-to-beat baseline").
_COMMON_FREQUENCY = 1e-3
_TARGET_SCALE = 3.0

Floats = npt.NDArray[np.float32]


def initialize(student: Student, examples: Examples, teacher: Teacher, seed: int) -> None:
    """Set every variable of the student.

    Args:
        student: Its backbone's variables are overwritten.
        examples: The texts for training.
        teacher: Embeds each piece.
        seed: Seed of the random values.
    """
    backbone = student.backbone
    rng = np.random.default_rng(seed)
    hidden = backbone.hidden_dim
    even = _even_vectors(hidden)
    count = examples.pieces.get_piece_size()
    surfaces = [examples.pieces.id_to_piece(piece).replace("▁", " ").strip() for piece in range(count)]
    vectors = teacher.embed([surface or "." for surface in surfaces], progress="pieces")
    sample = examples.vectors[sample_indices(examples, _COMPONENT_TEXTS, seed)].astype(np.float32)
    _, _, components = np.linalg.svd(sample.T @ sample)
    components = components[: len(even)]
    frequency = examples.piece_counts()
    weight = _COMMON_FREQUENCY / (_COMMON_FREQUENCY + frequency / frequency.sum())
    weight[[examples.pieces.is_control(piece) or examples.pieces.is_unknown(piece) for piece in range(count)]] = 0.0

    def random(*shape: int, scale: float) -> Floats:
        return (rng.normal(size=shape) * scale).astype(np.float32)

    values = {name: random(*variable.shape, scale=_INITIAL_SCALE) for name, variable in student.variables.items()}
    tokens = values["token_embedding/embeddings"]
    tokens[:count] += (weight[:, None] * (vectors @ components.T)) @ even
    # Layer normalization would give all tokens the same norm; an added constant vector preserves their relative norms.
    odd = np.sqrt(2 / hidden) * np.sin(2 * np.pi * np.arange(hidden) / hidden)
    values["segment_embedding/embeddings"][:] = odd
    values["embedding_projection/kernel"] += even.T @ even
    for name, value in values.items():
        if name.endswith("gamma"):
            value[:] = 1.0
        elif name.endswith(("beta", "bias")):
            value[:] = 0.0
        elif name.endswith("intermediate_dense/kernel"):
            value[:] = random(*value.shape, scale=1 / np.sqrt(hidden))
    _assign(student, values)
    kernel, bias = _solve_pooler(student, examples, seed)
    _assign(student, {"pooled_dense/kernel": kernel, "pooled_dense/bias": bias})


def extend_embeddings(
    embeddings: Floats, pieces: Sequence[str], occurrences: npt.NDArray[np.int64], teacher: Teacher
) -> Floats:
    """Return token embeddings with predicted rows for new words, and with the rows of rare words nearer to predictions.

    A trained row of a word is nearly a linear function of the teacher's vector of that word. Ridge regression over the
    known words therefore predicts the rows of new words, and predicts the rows of rare words better than training them
    on few occurrences does.

    Args:
        embeddings: `[known, hidden]`, the rows of the first pieces.
        pieces: All pieces; those after the known ones are words.
        occurrences: `[len(pieces)]`, how often each piece occurs in the texts of this run. Occurrences in earlier runs
            are not recorded, so well-trained rows move too if their words are rare in these texts.
        teacher: Embeds each word.

    Returns:
        `[len(pieces), hidden]` float32.

    Raises:
        ValueError: A new piece is not a whole word, or no known piece is one.
    """
    known_count = len(embeddings)
    words = {index: word for index, piece in enumerate(pieces) if (word := word_of(piece))}
    if invalid := [piece for index, piece in enumerate(pieces) if index >= known_count and index not in words]:
        raise ValueError(f"new piece {invalid[0]!r} is not a whole word; only whole words can extend a vocabulary")
    indices = np.array(list(words), np.int64)
    known = indices < known_count
    if not known.any():
        raise ValueError("no known piece is a whole word, so rows of other words cannot be predicted")
    vectors = teacher.embed(list(words.values()), progress="words").astype(np.float64)
    rows, counts = embeddings[indices[known]].astype(np.float64), occurrences[indices[known]][:, None]
    # The row of a rare word carries little information.
    weight = (counts + 1) / (counts + 1 + _HALF_WEIGHT_COUNT)
    weight /= weight.sum()
    vector_mean, row_mean = (weight * vectors[known]).sum(axis=0), (weight * rows).sum(axis=0)
    vectors -= vector_mean
    weighted = (weight * vectors[known]).T
    kernel = np.linalg.solve(
        weighted @ vectors[known] + _WORD_RIDGE * np.eye(vectors.shape[1]), weighted @ (rows - row_mean)
    )
    predicted = vectors @ kernel + row_mean
    extended = np.zeros((len(pieces), embeddings.shape[1]))
    extended[:known_count] = embeddings
    extended[indices[~known]] = predicted[~known]
    extended[indices[known]] += (
        _MAX_PULL * _HALF_WEIGHT_COUNT / (counts + _HALF_WEIGHT_COUNT) * (predicted[known] - rows)
    )
    return extended.astype(np.float32)


def _even_vectors(hidden: int) -> Floats:
    """Return the orthonormal even vectors, without the constant one: `[hidden // 2, hidden]`."""
    positions = np.arange(hidden)
    vectors = np.stack([np.cos(2 * np.pi * k * positions / hidden) for k in range(1, hidden // 2 + 1)])
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def _solve_pooler(student: Student, examples: Examples, seed: int) -> tuple[Floats, Floats]:
    """Return the pooler's kernel and bias that fit the teacher's vectors of a sample of texts best."""
    indices = [
        index for index in sample_indices(examples, _POOLER_TEXTS, seed) if examples.lengths[index] <= _POOLER_TOKENS
    ]
    targets = examples.vectors[indices].astype(np.float32)
    features_by_rows: list[Floats] = []
    start = 0
    while start < len(indices):
        rows, count = pack([examples.token_ids[index] for index in indices[start:]], _POOLER_TOKENS, _POOLER_ROWS)
        with torch.no_grad():
            features_by_rows.append(student.states(rows).flatten(0, 1)[rows.first_token_index].numpy())
        start += count
    features = np.concatenate(features_by_rows).astype(np.float64)
    center = features.mean(axis=0)
    features -= center
    gram = features.T @ features / len(features) + _POOLER_RIDGE * np.eye(features.shape[1])
    # tanh is nearly linear for small values.
    scaled = targets * _TARGET_SCALE
    kernel = np.linalg.solve(gram, features.T @ (scaled - scaled.mean(axis=0)) / len(features))
    return kernel.astype(np.float32), (scaled.mean(axis=0) - center @ kernel).astype(np.float32)


def _assign(student: Student, values: dict[str, Floats]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            student.variables[name].copy_(torch.from_numpy(value))

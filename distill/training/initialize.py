"""The student's start: a bag of the teacher's words that the Fourier layers hand through to the pooler.

Position 0 receives the cosine transform of the sum over all tokens, of which only the even half survives. So the
pieces' vectors, 192 principal components of what the teacher says of each piece alone, are laid on the even (cosine)
vectors of the hidden axis, all but the constant one. The feed-forward parts start near 0, and the pooler is solved by
least squares.

A student that goes on from a preset keeps its variables; the words that it does not know get rows foretold from those
that it does, and rows of rare words are pulled towards what is foretold of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from distill.examples import Examples, sampled
from distill.student import Student, pack
from distill.teacher import Teacher
from distill.vocabulary import word_of

_SOLVED_TEXTS = 24_000
_SOLVED_TOKENS = 128
_SOLVED_ROWS = 48
_RIDGE = 1e-3
_WORD_RIDGE = 3e-4
# Occurring this often, a row deserves half of the trust that it can have.
_FEW_TIMES = 30.0
# How far a row that never occurs goes towards what is foretold of it.
_PULL = 0.5
# Words above this share of the text are held to say less (Arora et al. 2017, "A simple but tough-to-beat baseline").
_COMMON = 1e-3
_TARGET_SCALE = 3.0

Floats = npt.NDArray[np.float32]


def initialise(student: Student, examples: Examples, teacher: Teacher, seed: int) -> None:
    """Set every variable of the student.

    Args:
        student: Its backbone's variables are overwritten.
        examples: What it will be trained on.
        teacher: Says what each piece means.
        seed: Of what is random.
    """
    backbone = student.backbone
    rng = np.random.default_rng(seed)
    hidden = backbone.hidden_dim
    even = _even_vectors(hidden)
    count = examples.pieces.get_piece_size()
    surfaces = [examples.pieces.id_to_piece(piece).replace("▁", " ").strip() for piece in range(count)]
    vectors = teacher.embed([surface or "." for surface in surfaces], progress="pieces")
    sample = examples.vectors[sampled(examples, 60_000, seed)].astype(np.float32)
    _, _, components = np.linalg.svd(sample.T @ sample)
    components = components[: len(even)]
    frequency = examples.piece_counts()
    weight = _COMMON / (_COMMON + frequency / frequency.sum())
    weight[[examples.pieces.is_control(piece) or examples.pieces.is_unknown(piece) for piece in range(count)]] = 0.0

    def random(*shape: int, scale: float) -> Floats:
        return (rng.normal(size=shape) * scale).astype(np.float32)

    values = {name: random(*variable.shape, scale=0.003) for name, variable in student.variables.items()}
    tokens = values["token_embedding/embeddings"]
    tokens[:count] += (weight[:, None] * (vectors @ components.T)) @ even
    # Normalisation would give every token the same size; beside a constant vector the sizes survive it.
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
    kernel, bias = _solved_pooler(student, examples, seed)
    _assign(student, {"pooled_dense/kernel": kernel, "pooled_dense/bias": bias})


def widened(embeddings: Floats, pieces: Sequence[str], shown: npt.NDArray[np.int64], teacher: Teacher) -> Floats:
    """Return token embeddings with a row for every piece: a new word's is foretold, a rare word's comes nearer to that.

    A trained student's row of a word is nearly a linear function of what the teacher says of the word alone, so ridge
    regression over the words that it knows foretells the rows of words that it was never shown, and better than
    training those of words that it was rarely shown.

    Args:
        embeddings: `[known, hidden]`, the rows of the first pieces.
        pieces: All pieces; those beyond the known ones are words.
        shown: `[len(pieces)]`, how often each occurs in the texts that training goes on with. What was shown before is
            not known: rows that an earlier run knew well are moved, too, where these texts hardly have their words.
        teacher: Says what each word means.

    Returns:
        `[len(pieces), hidden]` float32.

    Raises:
        ValueError: A new piece is no whole word, or no known piece is one.
    """
    known = len(embeddings)
    words = {index: word for index, piece in enumerate(pieces) if (word := word_of(piece))}
    if strange := [piece for index, piece in enumerate(pieces) if index >= known and index not in words]:
        raise ValueError(f"new pieces have to be whole words, and {strange[0]!r} is none")
    places = np.array(list(words), np.int64)
    old = places < known
    if not old.any():
        raise ValueError("no known piece is a whole word from which others could be foretold")
    vectors = teacher.embed(list(words.values()), progress="words").astype(np.float64)
    rows, times = embeddings[places[old]].astype(np.float64), shown[places[old]][:, None]
    # Of a word that was hardly shown, the row tells little.
    weight = (times + 1) / (times + 1 + _FEW_TIMES)
    weight /= weight.sum()
    centre, mean = (weight * vectors[old]).sum(axis=0), (weight * rows).sum(axis=0)
    vectors -= centre
    weighted = (weight * vectors[old]).T
    kernel = np.linalg.solve(weighted @ vectors[old] + _WORD_RIDGE * np.eye(vectors.shape[1]), weighted @ (rows - mean))
    foretold = vectors @ kernel + mean
    wider = np.zeros((len(pieces), embeddings.shape[1]))
    wider[:known] = embeddings
    wider[places[~old]] = foretold[~old]
    wider[places[old]] += _PULL * _FEW_TIMES / (times + _FEW_TIMES) * (foretold[old] - rows)
    return wider.astype(np.float32)


def _even_vectors(hidden: int) -> Floats:
    """Return the orthonormal vectors that are even around 0, without the constant one: `[hidden // 2, hidden]`."""
    places = np.arange(hidden)
    vectors = np.stack([np.cos(2 * np.pi * k * places / hidden) for k in range(1, hidden // 2 + 1)])
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def _solved_pooler(student: Student, examples: Examples, seed: int) -> tuple[Floats, Floats]:
    """Return the pooler's kernel and bias that come nearest to the teacher on a sample of texts."""
    waiting = [index for index in sampled(examples, _SOLVED_TEXTS, seed) if examples.lengths[index] <= _SOLVED_TOKENS]
    targets = examples.vectors[waiting].astype(np.float32)
    found: list[Floats] = []
    start = 0
    while start < len(waiting):
        rows, count = pack([examples.token_ids[index] for index in waiting[start:]], _SOLVED_TOKENS, _SOLVED_ROWS)
        with torch.no_grad():
            found.append(student.states(rows).flatten(0, 1)[rows.firsts].numpy())
        start += count
    features = np.concatenate(found).astype(np.float64)
    centre = features.mean(axis=0)
    features -= centre
    gram = features.T @ features / len(features) + _RIDGE * np.eye(features.shape[1])
    # A tanh follows; values small enough pass it unchanged.
    scaled = targets * _TARGET_SCALE
    kernel = np.linalg.solve(gram, features.T @ (scaled - scaled.mean(axis=0)) / len(features))
    return kernel.astype(np.float32), (scaled.mean(axis=0) - centre @ kernel).astype(np.float32)


def _assign(student: Student, values: dict[str, Floats]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            student.variables[name].copy_(torch.from_numpy(value))

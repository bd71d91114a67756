"""Training examples: the corpus and the teacher's vectors in memory, in batches of similar texts."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sentencepiece

from distill.corpus.groups import is_held_out, read_groups
from distill.corpus.sources import unseen_names
from distill.recipe import Recipe
from distill.training.teacher import TEACHER_VECTORS, teacher_vectors
from distill.training.vocabulary import VOCABULARY

# Groups with similar teacher vectors are ordered in clusters: separating unrelated texts teaches little.
_HASH_BITS = 12
_CLUSTER_GROUPS = 12
# Parameter of the random segmentation (Kudo 2018, section 3).
_SAMPLING_ALPHA = 0.2


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts of one training step.

    Attributes:
        token_ids: Token ids of each text, including special tokens.
        groups: `[texts]`, equal for texts of one group.
        vectors: `[texts, 384]` float32, the teacher's vectors.
    """

    token_ids: list[list[int]]
    groups: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32]

    def first(self, count: int) -> Batch:
        """Return the batch of the first `count` texts."""
        return Batch(self.token_ids[:count], self.groups[:count], self.vectors[:count])


class Examples:
    """The texts for training, or the held-out texts.

    Args:
        recipe: The recipe.
        work: Its working directory, with `corpus/`, `teacher_vectors/` and the vocabulary.
        held_out: Whether to load the held-out groups instead of the groups for training.

    Raises:
        ValueError: The vectors of a corpus file do not match its texts.
    """

    def __init__(self, recipe: Recipe, work: Path, *, held_out: bool = False) -> None:
        self.pieces = sentencepiece.SentencePieceProcessor(model_file=str(work / VOCABULARY))
        self.texts: list[str] = []
        self.sources: list[str] = []
        groups: list[int] = []
        vectors: list[npt.NDArray[np.float16]] = []
        unseen = unseen_names()
        group_count = 0
        for file in sorted((work / "corpus").glob("*.tsv")):
            if file.stem in unseen and not held_out:
                continue
            file_vectors = teacher_vectors(work, file.stem)
            selected_rows: list[int] = []
            row = 0
            embedded = np.asarray(file_vectors.any(axis=1))
            for group in read_groups(file):
                selected = file.stem in unseen or is_held_out(group, recipe) == held_out
                if selected and embedded[row : row + len(group)].all():
                    self.texts += group
                    groups += [group_count] * len(group)
                    selected_rows += range(row, row + len(group))
                    group_count += 1
                row += len(group)
            if row != len(file_vectors):
                raise ValueError(
                    f"{TEACHER_VECTORS}/{file.stem}.npy has {len(file_vectors)} vectors for {row} texts; "
                    "delete it and run the embed-teacher step again"
                )
            vectors.append(np.asarray(file_vectors[selected_rows]))
            self.sources += [file.stem] * len(selected_rows)
        self.vectors = np.concatenate(vectors)
        self.groups = np.asarray(groups)
        self._composed = np.isin(self.sources, list(recipe.composed_texts))
        max_tokens = recipe.architecture.max_sequence_length
        self._cls, self._sep = self.pieces.piece_to_id("[CLS]"), self.pieces.piece_to_id("[SEP]")
        self.token_ids = [
            [self._cls, *ids[: max_tokens - 2], self._sep] for ids in self.pieces.encode(self.texts, num_threads=2)
        ]
        self.lengths = np.asarray([len(ids) for ids in self.token_ids])

    def piece_counts(self) -> npt.NDArray[np.int64]:
        """Return how often each piece of the vocabulary occurs in all texts, `[pieces]`."""
        ids = np.concatenate([np.asarray(ids) for ids in self.token_ids])
        return np.bincount(ids, minlength=self.pieces.get_piece_size())

    def batches(
        self,
        rng: np.random.Generator,
        max_texts: int,
        *,
        longer_than: int,
        max_tokens: int,
        resegmented_share: float,
        composed_share: float = 1.0,
    ) -> Generator[Batch, int, None]:
        """Yield the texts of certain lengths once, in an order that `rng` determines.

        Args:
            rng: Determines the order.
            max_texts: Maximum number of texts of a batch.
            longer_than: Skip texts of at most this many tokens.
            max_tokens: Skip texts of more tokens.
            resegmented_share: Share of the texts that are split into pieces at random (Kudo 2018, section 3).
            composed_share: Share of the composed groups to use.

        Yields:
            A batch of at most `max_texts` texts. The caller sends back how many of its first texts it used; the next
            batch starts after these.
        """
        selected = (self.lengths > longer_than) & (self.lengths <= max_tokens)
        if composed_share < 1.0:
            selected_groups = rng.random(int(self.groups.max()) + 1) < composed_share
            selected &= selected_groups[self.groups] | ~self._composed
        order = self._order(rng, selected)
        start = 0
        while start < len(order):
            indices = order[start : start + max_texts]
            used: int | None = yield Batch(
                [
                    self._resegmented_ids(index, max_tokens)
                    if rng.random() < resegmented_share
                    else self.token_ids[index]
                    for index in indices
                ],
                self.groups[indices],
                self.vectors[indices].astype(np.float32),
            )
            start += used or len(indices)

    def _resegmented_ids(self, index: int, max_tokens: int) -> list[int]:
        """Return the token ids of a random segmentation, or the usual ones if it is too long."""
        ids = self.pieces.encode(self.texts[index], enable_sampling=True, alpha=_SAMPLING_ALPHA, nbest_size=-1)
        return [self._cls, *ids, self._sep] if len(ids) + 2 <= max_tokens else self.token_ids[index]

    def _order(self, rng: np.random.Generator, selected: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Return the indices of the selected texts: groups together, similar groups in clusters, clusters shuffled."""
        indices = np.flatnonzero(selected)
        _, first_indices, group = np.unique(self.groups[indices], return_index=True, return_inverse=True)
        # Locality-sensitive hashing: similar vectors lie on the same sides of random planes.
        planes = rng.normal(size=(self.vectors.shape[1], _HASH_BITS)).astype(np.float32)
        sides = self.vectors[indices[first_indices]].astype(np.float32) @ planes > 0
        code = sides @ (1 << np.arange(_HASH_BITS))
        rank = np.empty(len(first_indices), np.int64)
        rank[np.lexsort((rng.random(len(first_indices)), code))] = np.arange(len(first_indices))
        clusters = rng.permutation(len(first_indices) // _CLUSTER_GROUPS + 1)
        position = clusters[rank // _CLUSTER_GROUPS] * _CLUSTER_GROUPS + rank % _CLUSTER_GROUPS
        order: npt.NDArray[np.int64] = indices[np.lexsort((rng.random(len(indices)), position[group]))]
        return order


def sample_indices(examples: Examples, count: int, seed: int) -> Sequence[int]:
    """Return the indices of `count` random texts, the same for the same seed."""
    indices: list[int] = np.random.default_rng(seed).permutation(len(examples.texts))[:count].tolist()
    return indices

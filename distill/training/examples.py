"""Training examples: the corpus and the teacher's answers in memory, dealt in batches that are hard on purpose."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sentencepiece

from distill.families import is_held_out, read_families
from distill.recipe import Recipe
from distill.sources import SOURCES
from distill.teacher import taught_vectors
from distill.vocabulary import VOCABULARY

# Families near each other in the teacher's space are dealt in groups: telling strangers apart teaches little.
_HASH_BITS = 12
_GROUP = 12


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts of one training step.

    Attributes:
        token_ids: Special tokens included.
        families: `[texts]`, equal for texts of one family.
        vectors: `[texts, 384]` float32, the teacher's.
    """

    token_ids: list[list[int]]
    families: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32]

    def first(self, count: int) -> Batch:
        """Return the batch of the first `count` texts."""
        return Batch(self.token_ids[:count], self.families[:count], self.vectors[:count])


class Examples:
    """Everything that is trained on, or everything that is held out.

    Args:
        recipe: The recipe.
        work: Its working directory, with `corpus/`, `taught/` and the vocabulary.
        held_out: Take the families kept from training, instead of those trained on.
    """

    def __init__(self, recipe: Recipe, work: Path, *, held_out: bool = False) -> None:
        self.pieces = sentencepiece.SentencePieceProcessor(model_file=str(work / VOCABULARY))
        self.texts: list[str] = []
        self.sources: list[str] = []
        families: list[int] = []
        vectors: list[npt.NDArray[np.float16]] = []
        unseen = {source.name for source in SOURCES if source.unseen}
        family_count = 0
        for file in sorted((work / "corpus").glob("*.tsv")):
            if file.stem in unseen and not held_out:
                continue
            taught = taught_vectors(work, file.stem)
            kept: list[int] = []
            row = 0
            known = np.asarray(taught.any(axis=1))
            for family in read_families(file):
                wanted = file.stem in unseen or is_held_out(family, recipe) == held_out
                if wanted and known[row : row + len(family)].all():
                    self.texts += family
                    families += [family_count] * len(family)
                    kept += range(row, row + len(family))
                    family_count += 1
                row += len(family)
            if row != len(taught):
                raise ValueError(f"taught/{file.stem}.npy: has {len(taught)} vectors for {row} texts: teach it anew")
            vectors.append(np.asarray(taught[kept]))
            self.sources += [file.stem] * len(kept)
        self.vectors = np.concatenate(vectors)
        self.families = np.asarray(families)
        self._composed = np.isin(self.sources, list(recipe.composed))
        longest = recipe.architecture.max_sequence_length
        self._cls, self._sep = self.pieces.piece_to_id("[CLS]"), self.pieces.piece_to_id("[SEP]")
        self.token_ids = [
            [self._cls, *ids[: longest - 2], self._sep] for ids in self.pieces.encode(self.texts, num_threads=2)
        ]
        self.lengths = np.asarray([len(ids) for ids in self.token_ids])

    def piece_counts(self) -> npt.NDArray[np.int64]:
        """Return how often each piece of the vocabulary occurs in all the texts together, `[pieces]`."""
        occurring = np.concatenate([np.asarray(ids) for ids in self.token_ids])
        return np.bincount(occurring, minlength=self.pieces.get_piece_size())

    def batches(
        self,
        rng: np.random.Generator,
        texts: int,
        *,
        longer_than: int,
        at_most: int,
        resegmented: float,
        composed: float = 1.0,
    ) -> Generator[Batch, int, None]:
        """Deal the texts of certain lengths once, in an order of its own for every `rng`.

        Args:
            rng: Decides the order.
            texts: Most texts of a batch.
            longer_than: Leave out texts of at most so many tokens,
            at_most: and those of more.
            resegmented: Share of the texts to split into pieces at random (Kudo 2018, section 3).
            composed: Share of the composed families to deal.

        Yields:
            A batch of at most `texts`; send back how many of its first ones were used, the rest is dealt again.
        """
        wanted = (self.lengths > longer_than) & (self.lengths <= at_most)
        if composed < 1.0:
            kept = rng.random(int(self.families.max()) + 1) < composed
            wanted &= kept[self.families] | ~self._composed
        order = self._dealt(rng, wanted)
        place = 0
        while place < len(order):
            members = order[place : place + texts]
            used: int | None = yield Batch(
                [self._ids(member, rng.random() < resegmented, at_most) for member in members],
                self.families[members],
                self.vectors[members].astype(np.float32),
            )
            place += used or len(members)

    def _ids(self, member: int, resegmented: bool, at_most: int) -> list[int]:  # noqa: FBT001 - private
        if not resegmented:
            return self.token_ids[member]
        ids = self.pieces.encode(self.texts[member], enable_sampling=True, alpha=0.2, nbest_size=-1)
        return [self._cls, *ids, self._sep] if len(ids) + 2 <= at_most else self.token_ids[member]

    def _dealt(self, rng: np.random.Generator, wanted: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Return the wanted texts, families together, like families near each other, groups of them at random."""
        chosen = np.flatnonzero(wanted)
        _, firsts, family = np.unique(self.families[chosen], return_index=True, return_inverse=True)
        planes = rng.normal(size=(self.vectors.shape[1], _HASH_BITS)).astype(np.float32)
        sides = self.vectors[chosen[firsts]].astype(np.float32) @ planes > 0
        code = sides @ (1 << np.arange(_HASH_BITS))
        rank = np.empty(len(firsts), np.int64)
        rank[np.lexsort((rng.random(len(firsts)), code))] = np.arange(len(firsts))
        groups = rng.permutation(len(firsts) // _GROUP + 1)
        place = groups[rank // _GROUP] * _GROUP + rank % _GROUP
        dealt: npt.NDArray[np.int64] = chosen[np.lexsort((rng.random(len(chosen)), place[family]))]
        return dealt


def sampled(examples: Examples, count: int, seed: int) -> Sequence[int]:
    """Return some texts' indices, the same for the same seed."""
    found: list[int] = np.random.default_rng(seed).permutation(len(examples.texts))[:count].tolist()
    return found

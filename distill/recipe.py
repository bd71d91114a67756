"""The recipe's parameters, each with its reason. A variant is `dataclasses.replace(FNET_MINI, …)`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from model.architecture import Architecture

# Files that were renamed keep the name that their seeds derive from: another name would draw other texts.
_SEED_NAMES = {"single_words": "singles"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All parameters that determine the student, except the training time.

    Attributes:
        name: The preset's name.
        version: The preset's version.
        architecture: The student's architecture. Its number of layers is odd: position 0 holds the sum over the tokens
            only after an odd number of mixings (the transform of the transform is the sequence itself), and the pooler
            reads position 0.
        seed: Seed of every random choice.
        sources: Names of the sources to read; all sources if empty.
        max_teacher_words: Maximum number of the teacher's whole words that become pieces, the most frequent first. A
            word that is one piece starts with its teacher vector; a word of several pieces has to be learned.
        max_everyday_words: Maximum number of words that become pieces although the teacher splits them: words that
            three sources use, or that one source uses and the word list contains.
        composed_texts: Number of texts of each composed kind (`distill.corpus.compose`).
        max_single_words: Maximum number of words from the word list that become texts of their own, in addition to the
            teacher's words that are pieces. A single word is the shortest text, and its vector should be accurate.
        max_source_sentences: Maximum number of sentences of one prose source; otherwise technical manuals would
            dominate the corpus.
        max_passages: Maximum number of passages of several sentences.
        passage_words: Minimum and maximum number of words of a passage.
        max_shuffled: Maximum number of sentences that also appear with their words in another order.
        max_fragments: Maximum number of fragments of sentences.
        held_out_every: One group of texts out of this many is excluded from training.
        row_tokens: Tokens of a packed training row, for sentences and for passages.
        batch_tokens: Tokens of one training step.
        passage_interval_steps: One step out of this many trains on passages, in the early and in the late phase.
        late_start_share: Share of the time after which the late phase starts, with less composed text: the student has
            learned its templates by then.
        late_composed_share: Share of the composed groups that the late phase uses.
        learning_rate: Peak learning rate of AdamW, reached after the warmup; a cosine decay to nearly 0 follows.
        embedding_learning_rate: Peak learning rate of the token embedding, of which each step updates few rows.
        continued_rate_factor: Factor of both rates for a student that continues from a preset.
        warmup_share: Share of the time in which the learning rate rises.
        weight_decay: Weight decay of kernels; vectors and embeddings have none.
        similarity_weight: Weight of the squared error of the similarities between the texts of a batch.
        group_weight: Weight of the same error between texts of one group, which are few among all pairs.
        mean_weight: Weight of the mean output's cosine, relative to the pooled output's.
        resegmented_share: Share of the texts that are split into pieces at random, so that the pieces of a word
            together come to mean what the word means.
        token_fraction_bits: Fraction bits of the exported token embeddings, out of float16's 10. They are most of the
            weights: with 4 bits the directory would exceed the repository's limit of 25 MB.
        other_fraction_bits: Fraction bits of all other exported weights.
        history: Training of the previous versions, for the card: a checkpoint describes its own run only.
    """

    name: str
    version: str
    architecture: Architecture
    seed: int = 20261124
    sources: tuple[str, ...] = ()
    max_teacher_words: int = 23_000
    max_everyday_words: int = 19_400
    composed_texts: Mapping[str, int] = field(
        default_factory=lambda: {
            "captions": 150_000,
            "headlines": 120_000,
            "questions": 50_000,
            "statements": 70_000,
            "mentions": 160_000,
            "words": 60_000,
        }
    )
    max_single_words: int = 150_000
    max_source_sentences: int = 60_000
    max_passages: int = 20_000
    passage_words: tuple[int, int] = (45, 330)
    max_shuffled: int = 30_000
    max_fragments: int = 110_000
    held_out_every: int = 60
    row_tokens: tuple[int, int] = (128, 512)
    batch_tokens: int = 6144
    passage_interval_steps: tuple[int, int] = (16, 10)
    late_start_share: float = 0.3
    late_composed_share: float = 0.4
    learning_rate: float = 8e-4
    embedding_learning_rate: float = 1.2e-3
    continued_rate_factor: float = 0.3
    warmup_share: float = 0.02
    weight_decay: float = 0.01
    similarity_weight: float = 8.0
    group_weight: float = 4.0
    mean_weight: float = 0.2
    resegmented_share: float = 0.1
    token_fraction_bits: int = 3
    other_fraction_bits: int = 6
    history: str = ""

    def seed_for(self, name: str) -> str:
        """Return the seed of the random choices for one file of the corpus."""
        return f"{self.seed} {_SEED_NAMES.get(name, name)}"


FNET_MINI = Recipe(
    name="fnet_mini_en",
    version="1.4",
    architecture=Architecture(
        vocabulary_size=44_000, num_layers=5, hidden_dim=384, intermediate_dim=1024, max_sequence_length=512
    ),
    history="""\
Versions 1.0 to 1.2 were trained for 329 minutes on two cores of an Intel Xeon with AMX: 42,225 steps with 251,957,794
tokens of 14,326,976 texts. Version 1.3 extended the vocabulary from 20,000 to 32,000 pieces and was trained for 82 more
minutes on two cores of an AMD EPYC in float32: 2,153 steps with 12,895,209 tokens of 1,000,895 texts. Version 1.4
extended the vocabulary to 44,000 pieces and was trained on the same machine, on a fifth of the sentences and on all
single words. On 3,000 held-out texts the mean cosine was 0.8472 before training, 0.8470 after it, and is 0.8480 with
the average of both sets of weights. These figures determined the choice to export the average, and how far the rows of
rare words move. The first trial, version 0.1, had 0.843 on sentences held out of its own corpus; on the prose and
dictionary texts held out here it has 0.818.""",
)

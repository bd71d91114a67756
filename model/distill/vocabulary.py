"""The student's vocabulary: SentencePiece, seeded with the teacher's whole words.

Trained on a corpus alone, a small vocabulary spends its pieces on whatever fills that corpus, and the student sees the
rest of English in fragments. So the most usual words of the teacher's own vocabulary come first, each as one piece, and
a unigram model of what is left supplies the fragments.
"""

from __future__ import annotations

import io
import math
import random
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as protobuf

from model.distill.corpus import read_families
from model.distill.recipe import Recipe
from model.distill.teacher import package_directory
from model.presets import VOCABULARY_FILE

VOCABULARY = "vocabulary.spm"
# The corpus files whose words people use.
EVERYDAY = ("captions", "headlines", "questions", "statements", "wordnet", "novels", "state-of-the-union")

# The order in which FNet's own vocabulary has them.
_CONTROL = ("<s>", "</s>", "<pad>", "[CLS]", "[SEP]", "[MASK]")
_SAMPLED_TEXTS = 400_000
# Too rare in English text to be kept by frequency, and yet part of names and borrowed words.
_REQUIRED = "àáâãäåæçèéêëìíîïðñòóôõöøùúûüýþÿœšž"
# Generated code, whose names no type checker sees.
_PROTO: Any = protobuf
_WORD_MARK = "▁"


def train_vocabulary(recipe: Recipe, work: Path, start: Path | None = None) -> None:
    """Write `vocabulary.spm` from the corpus, or as the preset `start` has it; one that is there already is kept."""
    file = work / VOCABULARY
    if file.exists():
        return
    if start is not None:
        shutil.copyfile(start / VOCABULARY_FILE, file)
        return
    texts = [text for path in sorted((work / "corpus").glob("*.tsv")) for f in read_families(path) for text in f]
    sampled = random.Random(recipe.seed).sample(texts, min(_SAMPLED_TEXTS, len(texts)))
    words = _teacher_words(recipe.teacher_words)
    words += _everyday_words(work, set(words), recipe.everyday_words)
    fragments = _unigram(sampled, recipe.architecture.vocabulary_size - len(words), recipe.architecture.vocabulary_size)
    proto = _merged(fragments, words, recipe.architecture.vocabulary_size)
    unfinished = file.with_suffix(".tmp")
    unfinished.write_bytes(proto)
    unfinished.replace(file)


def _teacher_words(most: int) -> list[str]:
    """Return the teacher's whole words, which its vocabulary lists by falling frequency."""
    listed = (package_directory() / "vocab.txt").read_text("utf-8").splitlines()
    return [word for word in listed if re.fullmatch(r"[a-z]+|[0-9]+", word)][:most]


def _everyday_words(work: Path, known: set[str], most: int) -> list[str]:
    """Return the words that everyday text uses most and the teacher itself has in pieces, inflected verbs above all."""
    counts: Counter[str] = Counter()
    for name in EVERYDAY:
        if (file := work / "corpus" / f"{name}.tsv").exists():
            counts.update(re.findall(r"[a-z]{2,}", file.read_text("utf-8").lower()))
    return [word for word, _ in counts.most_common() if word not in known][:most]


def _unigram(texts: Sequence[str], wanted: int, most: int) -> Any:
    """Train a unigram model (Kudo 2018, arXiv 1804.10959) on casefolded text."""
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(texts),
        model_writer=trained,
        model_type="unigram",
        # Some pieces will be whole words already; a small corpus has fewer than asked for.
        vocab_size=min(most, 3 * wanted + 1000),
        hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc_cf",
        character_coverage=0.9997,
        required_chars=_REQUIRED,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        control_symbols=list(_CONTROL[3:]),
        minloglevel=2,
    )
    return _PROTO.ModelProto.FromString(trained.getvalue())


def _merged(fragments: Any, words: Sequence[str], size: int) -> bytes:
    """Return a model of `size` pieces: control pieces, characters, words, then fragments, most probable first."""
    kinds = _PROTO.ModelProto.SentencePiece
    normal = [piece for piece in fragments.pieces if piece.type == kinds.NORMAL]
    control = [piece for piece in fragments.pieces if piece.type != kinds.NORMAL]
    # A word's probability by Zipf's law; none so low that its fragments could win.
    scores = {f"{_WORD_MARK}{word}": max(-10.0, math.log(0.1 / rank)) for rank, word in enumerate(words, start=1)}
    kept = [piece for piece in normal if piece.piece not in scores]
    kept.sort(key=lambda piece: (len(piece.piece) > 1, -piece.score))
    merged = _PROTO.ModelProto()
    merged.CopyFrom(fragments)
    del merged.pieces[:]
    merged.pieces.extend(control)
    for text, score in scores.items():
        merged.pieces.add(piece=text, score=score)
    merged.pieces.extend(kept[: size - len(merged.pieces)])
    merged.trainer_spec.vocab_size = len(merged.pieces)
    merged.trainer_spec.ClearField("input")
    return bytes(merged.SerializeToString())

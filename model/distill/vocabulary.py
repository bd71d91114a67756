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
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as protobuf

from model.distill.families import read_families
from model.distill.recipe import Recipe
from model.distill.teacher import teacher_words
from model.presets import VOCABULARY_FILE

VOCABULARY = "vocabulary.spm"
# The corpus files whose words people use.
EVERYDAY = ("captions", "headlines", "questions", "statements", "wordnet", "novels", "state-of-the-union")

# The order in which FNet's own vocabulary has them.
_CONTROL = ("<s>", "</s>", "<pad>", "[CLS]", "[SEP]", "[MASK]")
_SAMPLED_TEXTS = 400_000
# Marks that the teacher's tokenizer drops: accents, as separate characters.
_MARKS = range(0x0300, 0x0370)
# What SentencePiece's own rules (its `nmt_` prefix) read as a space, and what they drop.
_SPACES = (0x9, 0xA, 0xC, 0xD, 0x1680, *range(0x200B, 0x2010), 0x2028, 0x2029, 0x2581, 0xFEFF, 0xFFFD)
_DROPPED = (*range(0x1, 0x9), 0xB, *range(0xE, 0x20), 0x7F, 0x8F, 0x9F)
_SURROGATES = range(0xD800, 0xE000)
# Generated code, whose names no type checker sees.
_PROTO: Any = protobuf
_WORD_MARK = "▁"


def train_vocabulary(recipe: Recipe, work: Path, start: Path | None = None) -> None:
    """Write `vocabulary.spm` from the corpus, or as the preset `start` has it; one that is there already is kept."""
    file = work / VOCABULARY
    if file.exists():
        return
    if start is not None:
        _replace(file, _as_taught(_PROTO.ModelProto.FromString((start / VOCABULARY_FILE).read_bytes())))
        return
    texts = [text for path in sorted((work / "corpus").glob("*.tsv")) for f in read_families(path) for text in f]
    sampled = random.Random(recipe.seed).sample(texts, min(_SAMPLED_TEXTS, len(texts)))
    words = teacher_words()[: recipe.teacher_words]
    words += _everyday_words(work, set(words), recipe.everyday_words)
    fragments = _unigram(sampled, recipe.architecture.vocabulary_size - len(words), recipe.architecture.vocabulary_size)
    _replace(file, _merged(fragments, words, recipe.architecture.vocabulary_size))


def pieces_of(file: Path) -> list[str]:
    """Return the pieces of a vocabulary file, in the order of their ids."""
    return [piece.piece for piece in _PROTO.ModelProto.FromString(file.read_bytes()).pieces]


def _replace(file: Path, proto: Any) -> None:
    unfinished = file.with_suffix(".tmp")
    unfinished.write_bytes(proto.SerializeToString())
    unfinished.replace(file)


def _normal(character: str) -> str:
    """Return a character as the teacher's tokenizer has it: small, without accents, in its compatible form."""
    apart = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", character).casefold())
    return unicodedata.normalize("NFC", "".join(mark for mark in apart if ord(mark) not in _MARKS))


def _rules() -> str:
    """Return `_normal` as SentencePiece reads it: code points in hexadecimal, what is replaced and by what."""
    lines = []
    for code in range(0x20, sys.maxunicode + 1):
        if code in _SPACES or code in _DROPPED or code in _SURROGATES or (normal := _normal(chr(code))) == chr(code):
            continue
        lines.append(f"{code:X}\t{' '.join(f'{ord(other):X}' for other in normal)}")
    lines += [f"{code:X}\t20" for code in _SPACES] + [f"{code:X}\t" for code in _DROPPED]
    return "\n".join(lines) + "\n"


def _as_taught(proto: Any) -> Any:
    """Give a vocabulary this recipe's normalisation: `Café` reads `cafe`, as the teacher reads it."""
    with tempfile.TemporaryDirectory() as directory:
        rules = Path(directory) / "rules.tsv"
        rules.write_text(_rules())
        trained = io.BytesIO()
        # SentencePiece compiles rules only while it trains: on a few words, for the sake of the rules.
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(["one two three four"]),
            model_writer=trained,
            model_type="char",
            vocab_size=20,
            hard_vocab_limit=False,
            normalization_rule_tsv=str(rules),
            minloglevel=2,
        )
    compiled = _PROTO.ModelProto.FromString(trained.getvalue()).normalizer_spec
    proto.normalizer_spec.name = compiled.name
    proto.normalizer_spec.precompiled_charsmap = compiled.precompiled_charsmap
    return proto


def _everyday_words(work: Path, known: set[str], most: int) -> list[str]:
    """Return the words that everyday text uses most and the teacher itself has in pieces, inflected verbs above all."""
    counts: Counter[str] = Counter()
    for name in EVERYDAY:
        if (file := work / "corpus" / f"{name}.tsv").exists():
            counts.update(re.findall(r"[a-z]{2,}", file.read_text("utf-8").lower()))
    return [word for word, _ in counts.most_common() if word not in known][:most]


def _unigram(texts: Sequence[str], wanted: int, most: int) -> Any:
    """Train a unigram model (Kudo 2018, arXiv 1804.10959) on normalised text."""
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=("".join(map(_normal, text)) for text in texts),
        model_writer=trained,
        model_type="unigram",
        # Some pieces will be whole words already; a small corpus has fewer than asked for.
        vocab_size=min(most, 3 * wanted + 1000),
        hard_vocab_limit=False,
        # The texts are normalised already: what the rules would do, once more.
        normalization_rule_name="identity",
        character_coverage=0.9997,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        control_symbols=list(_CONTROL[3:]),
        minloglevel=2,
    )
    return _PROTO.ModelProto.FromString(trained.getvalue())


def _merged(fragments: Any, words: Sequence[str], size: int) -> Any:
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
    return _as_taught(merged)

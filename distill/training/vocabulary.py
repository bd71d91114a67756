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
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as protobuf

from distill.families import read_families
from distill.recipe import Recipe
from distill.sources import SOURCES, WORDNET
from distill.teacher import teacher_words
from model.presets.preset import VOCABULARY_FILE

VOCABULARY = "vocabulary.spm"
# The order in which FNet's own vocabulary has them.
_CONTROL = ("<s>", "</s>", "<pad>", "[CLS]", "[SEP]", "[MASK]")
_SAMPLED_TEXTS = 400_000
# A word that fewer sources use and no list has is one of their own: a name, an identifier.
_FEWEST_SOURCES = 3
# The logarithm of a word's least probability: low, and still above that of nearly any two fragments.
_LEAST_SCORE = -10.0
# Marks that the teacher's tokenizer drops: accents, as separate characters.
_MARKS = range(0x0300, 0x0370)
# What SentencePiece's own rules (its `nmt_` prefix) read as a space, and what they drop.
_SPACES = (0x9, 0xA, 0xC, 0xD, 0x1680, *range(0x200B, 0x2010), 0x2028, 0x2029, 0x2581, 0xFEFF, 0xFFFD)
_DROPPED = (*range(0x1, 0x9), 0xB, *range(0xE, 0x20), 0x7F, 0x8F, 0x9F)
_SURROGATES = range(0xD800, 0xE000)
# Generated code, whose names no type checker sees.
_PROTO: Any = protobuf
_WORD_MARK = "▁"
_WORD = re.compile(r"[a-z]{2,}")


def train_vocabulary(recipe: Recipe, work: Path, start: Path | None = None) -> None:
    """Write `vocabulary.spm`; one that is there already is kept.

    Args:
        recipe: Says how many pieces, and how many of them are whole words.
        work: Its working directory, with the corpus.
        start: A preset to go on from: its pieces keep their ids, and words that are not among them come behind, as many
            as the recipe's vocabulary has room for.

    Raises:
        FileNotFoundError: There is no corpus yet.
        ValueError: The preset has more pieces than the recipe.
    """
    file = work / VOCABULARY
    if file.exists():
        return
    size = recipe.architecture.vocabulary_size
    words = teacher_words()[: recipe.teacher_words]
    words += _everyday_words(work, set(words), recipe.everyday_words)
    if start is not None:
        known = _PROTO.ModelProto.FromString((start / VOCABULARY_FILE).read_bytes())
        if len(known.pieces) > size:
            raise ValueError(f"{start} has {len(known.pieces)} pieces, the recipe's vocabulary {size}")
        _replace(file, _as_taught(_widened(known, words, size)))
        return
    texts = [text for path in sorted((work / "corpus").glob("*.tsv")) for f in read_families(path) for text in f]
    sampled = random.Random(recipe.seed).sample(texts, min(_SAMPLED_TEXTS, len(texts)))
    _replace(file, _merged(_unigram(sampled, size - len(words), size), words, size))


def pieces_of(file: Path) -> list[str]:
    """Return the pieces of a vocabulary file, in the order of their ids."""
    return [piece.piece for piece in _PROTO.ModelProto.FromString(file.read_bytes()).pieces]


def word_of(piece: str) -> str | None:
    """Return the whole word that a piece is, None where it is a part of words, a mark or a control piece."""
    word = piece.removeprefix(_WORD_MARK)
    return word if word != piece and word.isalnum() else None


def _replace(file: Path, proto: Any) -> None:
    unfinished = file.with_suffix(".tmp")
    unfinished.write_bytes(proto.SerializeToString())
    unfinished.replace(file)


def _normal(text: str) -> str:
    """Return text as the teacher's tokenizer has it: small, without accents, in its compatible form."""
    apart = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text).casefold())
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
    """Return words that are not known yet and text uses most.

    A source counts by the share that a word has in it: a long manual says no more than a short collection. Words that
    few sources use count where they are among those that stand alone, which a word list has.
    """
    home = work / "corpus"
    names = [WORDNET.name, *(source.name for source in SOURCES if not source.unseen)]
    files = [file for name in names if (file := home / f"{name}.tsv").exists()]
    alone = home / "singles.tsv"
    if not files or not alone.exists():
        raise FileNotFoundError(f"{home} has no texts or no words: run the corpus step first")
    shares: defaultdict[str, float] = defaultdict(float)
    used: Counter[str] = Counter()
    for file in files:
        counts = Counter(_WORD.findall(_normal(file.read_text("utf-8"))))
        used.update(counts.keys())
        total = counts.total()
        for word, count in counts.items():
            shares[word] += count / total
    fewest = min(_FEWEST_SOURCES, len(files))
    listed = {_normal(word) for family in read_families(alone) for word in family}
    usual = sorted(shares, key=lambda word: (-shares[word], word))
    return [word for word in usual if word not in known and (used[word] >= fewest or word in listed)][:most]


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


def _widened(known: Any, words: Sequence[str], size: int) -> Any:
    """Return a model with words behind its pieces, until there are `size` pieces or no further words."""
    pieces = {piece.piece for piece in known.pieces}
    fresh = [word for word in words if f"{_WORD_MARK}{word}" not in pieces]
    trial = _with_words(known, fresh)
    processor = sentencepiece.SentencePieceProcessor(model_proto=trial.SerializeToString())
    # Two usual pieces can be likelier than a short word, which then would never be used.
    whole = [word for word, ids in zip(fresh, processor.encode(fresh), strict=True) if len(ids) == 1]
    return _with_words(known, whole[: max(0, size - len(pieces))])


def _with_words(known: Any, words: Sequence[str]) -> Any:
    wider = _PROTO.ModelProto()
    wider.CopyFrom(known)
    for word in words:
        wider.pieces.add(piece=f"{_WORD_MARK}{word}", score=_LEAST_SCORE)
    wider.trainer_spec.vocab_size = len(wider.pieces)
    return wider


def _merged(fragments: Any, words: Sequence[str], size: int) -> Any:
    """Return a model of `size` pieces: control pieces, characters, words, then fragments, most probable first."""
    kinds = _PROTO.ModelProto.SentencePiece
    normal = [piece for piece in fragments.pieces if piece.type == kinds.NORMAL]
    control = [piece for piece in fragments.pieces if piece.type != kinds.NORMAL]
    # A word's probability by Zipf's law; none so low that its fragments could win.
    scores = {
        f"{_WORD_MARK}{word}": max(_LEAST_SCORE, math.log(0.1 / rank)) for rank, word in enumerate(words, start=1)
    }
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

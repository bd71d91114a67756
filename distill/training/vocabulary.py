"""The student's vocabulary: a SentencePiece model seeded with the teacher's whole words.

A small vocabulary trained on the corpus alone represents the words of that corpus, and splits other English words into
fragments. Therefore the most frequent words of the teacher's vocabulary come first, each as one piece, and a unigram
model adds the fragments.
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

from distill.corpus.groups import read_groups
from distill.corpus.sources import SOURCES, WORDNET
from distill.corpus.teacher_package import teacher_words
from distill.recipe import Recipe
from model.presets.preset import VOCABULARY_FILE

VOCABULARY = "vocabulary.spm"
# In the order of FNet's own vocabulary.
_CONTROL_PIECES = ("<s>", "</s>", "<pad>", "[CLS]", "[SEP]", "[MASK]")
_SAMPLED_TEXTS = 400_000
# A word that fewer sources use and the word list lacks is specific to them: a name or an identifier.
_MIN_SOURCES = 3
# The minimum log probability of a word: low, but above that of nearly any two fragments.
_MIN_WORD_SCORE = -10.0
# Combining accents, which the teacher's tokenizer removes.
_ACCENTS = range(0x0300, 0x0370)
# Code points that SentencePiece's own rules (prefix `nmt_`) replace with a space, and those that they remove.
_SPACES = (0x9, 0xA, 0xC, 0xD, 0x1680, *range(0x200B, 0x2010), 0x2028, 0x2029, 0x2581, 0xFEFF, 0xFFFD)
_REMOVED = (*range(0x1, 0x9), 0xB, *range(0xE, 0x20), 0x7F, 0x8F, 0x9F)
_SURROGATES = range(0xD800, 0xE000)
# Generated code without static types.
_PROTO: Any = protobuf
_WORD_MARK = "▁"
_WORD = re.compile(r"[a-z]{2,}")


def train_vocabulary(recipe: Recipe, work: Path, start: Path | None = None) -> None:
    """Write `vocabulary.spm`; an existing file is kept.

    Args:
        recipe: Gives the number of pieces, and how many of them are whole words.
        work: The recipe's working directory, with the corpus.
        start: A preset to continue from: its pieces keep their ids, and new words follow them, up to the size of the
            recipe's vocabulary.

    Raises:
        FileNotFoundError: The corpus does not exist.
        ValueError: The preset has more pieces than the recipe's vocabulary.
    """
    file = work / VOCABULARY
    if file.exists():
        return
    size = recipe.architecture.vocabulary_size
    words = teacher_words()[: recipe.max_teacher_words]
    words += _everyday_words(work, set(words), recipe.max_everyday_words)
    if start is not None:
        known = _PROTO.ModelProto.FromString((start / VOCABULARY_FILE).read_bytes())
        if len(known.pieces) > size:
            raise ValueError(f"{start} has {len(known.pieces)} pieces, which exceed the recipe's vocabulary of {size}")
        _replace(file, _with_normalization(_extended(known, words, size)))
        return
    texts = [text for path in sorted((work / "corpus").glob("*.tsv")) for group in read_groups(path) for text in group]
    sampled = random.Random(recipe.seed).sample(texts, min(_SAMPLED_TEXTS, len(texts)))
    _replace(file, _merge(_train_unigram(sampled, size - len(words), size), words, size))


def pieces_of(file: Path) -> list[str]:
    """Return the pieces of a vocabulary file, in the order of their ids."""
    return [piece.piece for piece in _PROTO.ModelProto.FromString(file.read_bytes()).pieces]


def word_of(piece: str) -> str | None:
    """Return the whole word that a piece represents, or None for a fragment, a punctuation mark or a control piece."""
    word = piece.removeprefix(_WORD_MARK)
    return word if word != piece and word.isalnum() else None


def _replace(file: Path, proto: Any) -> None:
    temporary = file.with_suffix(".tmp")
    temporary.write_bytes(proto.SerializeToString())
    temporary.replace(file)


def _normalize(text: str) -> str:
    """Return text as the teacher's tokenizer normalizes it: NFKC, case-folded, without accents."""
    decomposed = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text).casefold())
    return unicodedata.normalize("NFC", "".join(char for char in decomposed if ord(char) not in _ACCENTS))


def _normalization_rules() -> str:
    """Return `_normalize` in SentencePiece's rule format: hexadecimal code points, each with its replacement."""
    lines = []
    for code in range(0x20, sys.maxunicode + 1):
        if (
            code in _SPACES
            or code in _REMOVED
            or code in _SURROGATES
            or (normalized := _normalize(chr(code))) == chr(code)
        ):
            continue
        lines.append(f"{code:X}\t{' '.join(f'{ord(other):X}' for other in normalized)}")
    lines += [f"{code:X}\t20" for code in _SPACES] + [f"{code:X}\t" for code in _REMOVED]
    return "\n".join(lines) + "\n"


def _with_normalization(proto: Any) -> Any:
    """Set a vocabulary's normalization to the teacher's: `Café` becomes `cafe`."""
    with tempfile.TemporaryDirectory() as directory:
        rules = Path(directory) / "rules.tsv"
        rules.write_text(_normalization_rules())
        trained = io.BytesIO()
        # SentencePiece compiles rules only in a training run, so a model of a few words is trained for them.
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


def _everyday_words(work: Path, known: set[str], max_words: int) -> list[str]:
    """Return the most frequent words that are not known.

    The frequency is the sum of the word's shares in each source, so that long and short sources count alike. A word
    that few sources use is included only if it is one of the single words, which come from a word list.
    """
    directory = work / "corpus"
    names = [WORDNET.name, *(source.name for source in SOURCES if not source.unseen)]
    files = [file for name in names if (file := directory / f"{name}.tsv").exists()]
    single_words = directory / "single_words.tsv"
    if not files or not single_words.exists():
        raise FileNotFoundError(f"{directory} has no source texts or no single words; run the corpus step first")
    shares: defaultdict[str, float] = defaultdict(float)
    source_counts: Counter[str] = Counter()
    for file in files:
        counts = Counter(_WORD.findall(_normalize(file.read_text("utf-8"))))
        source_counts.update(counts.keys())
        total = counts.total()
        for word, count in counts.items():
            shares[word] += count / total
    min_sources = min(_MIN_SOURCES, len(files))
    listed = {_normalize(word) for group in read_groups(single_words) for word in group}
    by_frequency = sorted(shares, key=lambda word: (-shares[word], word))
    return [
        word for word in by_frequency if word not in known and (source_counts[word] >= min_sources or word in listed)
    ][:max_words]


def _train_unigram(texts: Sequence[str], new_pieces: int, max_pieces: int) -> Any:
    """Train a unigram model (Kudo 2018, arXiv 1804.10959) on normalized text."""
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=("".join(map(_normalize, text)) for text in texts),
        model_writer=trained,
        model_type="unigram",
        # Some pieces will duplicate whole words; a small corpus yields fewer pieces than requested.
        vocab_size=min(max_pieces, 3 * new_pieces + 1000),
        hard_vocab_limit=False,
        # The texts are normalized already.
        normalization_rule_name="identity",
        character_coverage=0.9997,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        control_symbols=list(_CONTROL_PIECES[3:]),
        minloglevel=2,
    )
    return _PROTO.ModelProto.FromString(trained.getvalue())


def _extended(known: Any, words: Sequence[str], size: int) -> Any:
    """Return a model with words appended to its pieces, up to `size` pieces."""
    pieces = {piece.piece for piece in known.pieces}
    new_words = [word for word in words if f"{_WORD_MARK}{word}" not in pieces]
    trial = _with_words(known, new_words)
    processor = sentencepiece.SentencePieceProcessor(model_proto=trial.SerializeToString())
    # Two frequent pieces can be more likely than a short word, which would then never be used.
    used_words = [word for word, ids in zip(new_words, processor.encode(new_words), strict=True) if len(ids) == 1]
    return _with_words(known, used_words[: max(0, size - len(pieces))])


def _with_words(known: Any, words: Sequence[str]) -> Any:
    extended = _PROTO.ModelProto()
    extended.CopyFrom(known)
    for word in words:
        extended.pieces.add(piece=f"{_WORD_MARK}{word}", score=_MIN_WORD_SCORE)
    extended.trainer_spec.vocab_size = len(extended.pieces)
    return extended


def _merge(fragments: Any, words: Sequence[str], size: int) -> Any:
    """Return a model of `size` pieces: control pieces, words, characters, then fragments by falling probability."""
    kinds = _PROTO.ModelProto.SentencePiece
    normal = [piece for piece in fragments.pieces if piece.type == kinds.NORMAL]
    control = [piece for piece in fragments.pieces if piece.type != kinds.NORMAL]
    # Word probabilities follow Zipf's law; the minimum keeps a word more likely than its fragments.
    scores = {
        f"{_WORD_MARK}{word}": max(_MIN_WORD_SCORE, math.log(0.1 / rank)) for rank, word in enumerate(words, start=1)
    }
    remaining = [piece for piece in normal if piece.piece not in scores]
    remaining.sort(key=lambda piece: (len(piece.piece) > 1, -piece.score))
    merged = _PROTO.ModelProto()
    merged.CopyFrom(fragments)
    del merged.pieces[:]
    merged.pieces.extend(control)
    for text, score in scores.items():
        merged.pieces.add(piece=text, score=score)
    merged.pieces.extend(remaining[: size - len(merged.pieces)])
    merged.trainer_spec.vocab_size = len(merged.pieces)
    merged.trainer_spec.ClearField("input")
    return _with_normalization(merged)

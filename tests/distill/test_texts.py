"""The parts of the recipe that need neither teacher nor training: reading, splitting and composing text."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from distill.corpus import build, compose, sources, templates, word_lists, wordnet
from distill.corpus.groups import is_held_out, is_sampled
from distill.recipe import FNET_MINI

NAMES = compose.Names(
    first_names=["Ada", "Grace", "Mary", "Emmy"],
    places=["Lima", "Oslo", "Quito"],
    rare_words=["gneiss", "lynx"],
    frequent_words=[
        first + second
        for first in ("sun", "moon", "day", "night", "house")
        for second in ("light", "boat", "work", "s")
    ],
)
KINDS = sorted(FNET_MINI.composed_texts)


def compose_groups(kind: str, seed: int, count: int) -> list[list[str]]:
    """Compose groups of one kind."""
    return list(islice(getattr(compose, kind)(random.Random(seed), NAMES), count))


@pytest.mark.parametrize("kind", KINDS)
def test_composed_text_depends_on_the_seed_only(kind: str) -> None:
    """Equal seeds compose equal texts, different seeds different ones."""
    assert compose_groups(kind, 1, 30) == compose_groups(kind, 1, 30)
    assert compose_groups(kind, 1, 30) != compose_groups(kind, 2, 30)


@pytest.mark.parametrize("kind", KINDS)
def test_composed_groups_have_distinct_texts_without_tabs_and_line_ends(kind: str) -> None:
    """Tabs and line ends are separators of the corpus files."""
    for group in compose_groups(kind, 3, 300):
        assert 2 <= len(group) <= 10
        assert len(set(group)) == len(group)
        for text in group:
            assert text == " ".join(text.split())
            assert "{" not in text
            assert "}" not in text


def test_articles_agree_with_the_next_word() -> None:
    """Texts contain "an apple" and "a pear"."""
    texts = [text for group in compose_groups("captions", 4, 2000) for text in group]
    assert not [text for text in texts if re.search(r"\b[Aa] (apple|orange|onion|old|elderly|empty)\b", text)]
    assert not [text for text in texts if re.search(r"\b[Aa]n (man|woman|dog|red|guitar|pear)\b", text)]


def test_captions_rarely_repeat() -> None:
    """More than 90 % of many captions are distinct."""
    texts = [text for group in compose_groups("captions", 5, 4000) for text in group]
    assert len(set(texts)) > 0.9 * len(texts)


def test_shuffle_words_permutes_words() -> None:
    """The result has the same words in another order."""
    text = "one two three four five six seven eight nine ten"
    shuffled = compose.shuffle_words(random.Random(0), text)
    assert shuffled != text
    assert sorted(shuffled.split()) == sorted(text.split())


def test_cut_fragment_returns_consecutive_words() -> None:
    """The fragment has two to eight words of the text in their order."""
    text = "one two three four five six seven eight nine ten"
    for seed in range(20):
        fragment = compose.cut_fragment(random.Random(seed), text)
        assert f" {fragment} " in f" {text} "
        assert 2 <= len(fragment.split()) <= 8


def test_sentences_splits_paragraphs_and_skips_repetitions_and_code() -> None:
    """Sentences that repeat in another case, code and very short texts are skipped."""
    paragraphs = [
        "The first one ends here. The second, of Dr. Who, is longer! Is this the third?",
        "THE FIRST ONE ENDS HERE. x = f(y) + 3; // {}[] == 0x1F 0x2E 0x3D",
        "Short.",
    ]
    assert list(build.sentences(paragraphs)) == [
        "The first one ends here.",
        "The second, of Dr.",
        "Who, is longer!",
        "Is this the third?",
    ]


def test_held_out_groups_depend_on_the_first_text_only() -> None:
    """About one group out of `held_out_every` is held out."""
    groups = [[f"text {number}", "another"] for number in range(6000)]
    held_out = [is_held_out(group, FNET_MINI) for group in groups]
    assert held_out == [is_held_out([group[0]], FNET_MINI) for group in groups]
    assert 0.5 < sum(held_out) / len(held_out) * FNET_MINI.held_out_every < 1.5


def test_smaller_samples_are_subsets_of_larger_ones() -> None:
    """Every sample includes the held-out groups."""
    groups = [[f"text {number}"] for number in range(3000)]
    samples = [{group[0] for group in groups if is_sampled(group, FNET_MINI, share)} for share in (0.0, 0.2, 0.5, 1.0)]
    assert samples[0] == {group[0] for group in groups if is_held_out(group, FNET_MINI)}
    assert samples[0] < samples[1] < samples[2] < samples[3]
    assert len(samples[3]) == len(groups)


def test_every_slot_of_a_template_has_values() -> None:
    """A slot is filled by a list or by a rule, and every template set has wordings."""
    template_sets = [*templates.HEADLINES, *templates.QUESTIONS, *templates.STATEMENTS, *templates.MENTIONS]
    assert all(template_set.wordings for template_set in template_sets)
    lines = [line for template_set in template_sets for line in (*template_set.wordings, *template_set.contrasts)]
    values = [value for synonym_sets in templates.SLOTS.values() for synonyms in synonym_sets for value in synonyms]
    for line in (*lines, *templates.CONTEXTS, *values):
        for slot in re.findall(r"\{([a-z]+)", line):
            assert slot in templates.SLOTS or slot in compose._RULES, line


def test_word_lists_have_no_empty_entries() -> None:
    """Actions have verbs and complements, synonym sets have members."""
    for action in (*word_lists.INDOOR_ACTIONS, *word_lists.OUTDOOR_ACTIONS, *word_lists.INTRANSITIVE_ACTIONS):
        assert all(action.verbs)
        assert all(action.complements)
    for synonym_sets in (word_lists.PEOPLE, word_lists.ANIMALS, word_lists.THINGS, *templates.SLOTS.values()):
        assert synonym_sets
        assert all(all(synonyms) for synonyms in synonym_sets)


def test_synsets_parses_the_wordnet_format(tmp_path: Path) -> None:
    """The number of words is hexadecimal, adjectives have markers, glosses contain examples."""
    lines = [
        "  1 This software and database is being provided to you",
        '00001740 03 n 02 motor_car 0 auto 0 000 | a vehicle with wheels; "he drove his car"; "cars are loud"  ',
        "00002312 00 a 01 galore(ip) 0 000 | in great numbers  ",
    ]
    for part_of_speech in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{part_of_speech}").write_text(
            "\n".join(lines if part_of_speech == "noun" else lines[:1]) + "\n"
        )
    car, galore = wordnet.synsets(tmp_path)
    assert car == wordnet.Synset(
        "noun", ["motor car", "auto"], "a vehicle with wheels", ["he drove his car", "cars are loud"]
    )
    assert galore.words == ["galore"]


def test_html_reader_skips_code_and_scripts(tmp_path: Path) -> None:
    """It returns paragraphs, list items and headings."""
    page = "<h1>Title</h1><p>One <b>bold</b>\n word.</p><pre>x = 1</pre><script>f()</script><ul><li>Two</ul><p>Three"
    (tmp_path / "page.html").write_text(page)
    assert list(sources.html("*.html")(tmp_path)) == ["Title", "One bold word.", "Two", "Three"]


def test_every_package_states_its_license() -> None:
    """Names are unique, because they name the corpus files."""
    packages = [*sources.SOURCES, sources.WORDNET, sources.WORD_LIST, sources.FIRST_NAMES, sources.GAZETTEER]
    assert len({package.name for package in packages}) == len(packages)
    assert all(package.license and package.package for package in packages)


def test_help_works_without_the_training_libraries() -> None:
    """`python -m distill --help` lists the steps in the environment of the service."""
    command = [sys.executable, "-m", "distill", "--help"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for step in ("corpus", "tokenizer", "embed-teacher", "train", "export", "evaluate", "all"):
        assert re.search(rf"^  {step}\b", output, re.MULTILINE)

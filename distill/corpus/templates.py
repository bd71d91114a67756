"""Sentence templates of the composed text and the fillings of their slots, read from `data/`.

`data/README.md` describes the format.
"""

from __future__ import annotations

import tomllib
from typing import NamedTuple

from distill.corpus.word_lists import SynonymSet, read_data

_CONTRAST_MARK = "!"


class TemplateSet(NamedTuple):
    """Templates about one content.

    Attributes:
        wordings: Paraphrases of each other.
        contrasts: The opposite, or a neighboring topic.
    """

    wordings: list[str]
    contrasts: list[str]


def _template_sets(name: str) -> list[TemplateSet]:
    """Read a file of template sets, separated by empty lines."""
    template_sets = []
    for block in read_data(f"templates/{name}.txt").strip().split("\n\n"):
        lines = block.splitlines()
        wordings = [line for line in lines if not line.startswith(_CONTRAST_MARK)]
        contrasts = [line.removeprefix(_CONTRAST_MARK).strip() for line in lines if line.startswith(_CONTRAST_MARK)]
        template_sets.append(TemplateSet(wordings, contrasts))
    return template_sets


SLOTS: dict[str, list[SynonymSet]] = tomllib.loads(read_data("slots.toml"))
HEADLINES = _template_sets("headlines")
QUESTIONS = _template_sets("questions")
STATEMENTS = _template_sets("statements")
MENTIONS = _template_sets("mentions")
# Sentences that stand before or after a question.
CONTEXTS = read_data("templates/contexts.txt").splitlines()

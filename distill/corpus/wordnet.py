"""WordNet: words, definitions and examples from its database files (Princeton, wndb(5WN))."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_EXAMPLE = re.compile(r'"([^"]+)"')
_PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")


@dataclass(frozen=True, slots=True)
class Synset:
    """Words that share one meaning.

    Attributes:
        part_of_speech: `noun`, `verb`, `adj` or `adv`.
        words: The words, the most frequent first.
        definition: Their common definition.
        examples: Sentences or phrases that use one of them.
    """

    part_of_speech: str
    words: list[str]
    definition: str
    examples: list[str]


def synsets(directory: Path) -> Iterator[Synset]:
    """Yield every entry of `data.noun`, `data.verb`, `data.adj` and `data.adv`."""
    for part_of_speech in _PARTS_OF_SPEECH:
        for line in (directory / f"data.{part_of_speech}").read_text("utf-8").splitlines():
            if line.startswith("  "):
                continue  # a line of the license
            fields, _, gloss = line.partition(" | ")
            columns = fields.split(" ")
            # The number of words is hexadecimal; a sense number follows each word. An adjective may carry a marker.
            words = [
                re.sub(r"\([a-z]+\)$", "", columns[4 + 2 * index]).replace("_", " ")
                for index in range(int(columns[3], 16))
            ]
            definition = _EXAMPLE.sub("", gloss).strip(" ;\n")
            yield Synset(part_of_speech, words, re.sub(r"(\s*;\s*)+", "; ", definition), _EXAMPLE.findall(gloss))

"""WordNet: words, their definitions and examples, from the database files (Princeton, wndb(5WN))."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_EXAMPLE = re.compile(r'"([^"]+)"')
_PARTS = ("noun", "verb", "adj", "adv")


@dataclass(frozen=True, slots=True)
class Synset:
    """Words that share one meaning.

    Attributes:
        part: `noun`, `verb`, `adj` or `adv`.
        words: The words, most usual first.
        definition: What they mean.
        examples: Sentences or phrases that use one of them.
    """

    part: str
    words: list[str]
    definition: str
    examples: list[str]


def synsets(directory: Path) -> Iterator[Synset]:
    """Yield every entry of `data.noun`, `data.verb`, `data.adj` and `data.adv`."""
    for part in _PARTS:
        for line in (directory / f"data.{part}").read_text("utf-8").splitlines():
            if line.startswith("  "):
                continue  # the licence
            fields, _, gloss = line.partition(" | ")
            columns = fields.split(" ")
            # The number of words is hexadecimal; each is followed by its sense. An adjective may carry a marker.
            words = [
                re.sub(r"\([a-z]+\)$", "", columns[4 + 2 * index]).replace("_", " ")
                for index in range(int(columns[3], 16))
            ]
            definition = _EXAMPLE.sub("", gloss).strip(" ;\n")
            yield Synset(part, words, re.sub(r"(\s*;\s*)+", "; ", definition), _EXAMPLE.findall(gloss))

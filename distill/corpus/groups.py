"""Groups of related texts as the corpus stores them: one group per line, its texts separated by tabs."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

from distill.recipe import Recipe

Group = list[str]


def read_groups(file: Path) -> list[Group]:
    """Return the groups of a corpus file."""
    return [line.split("\t") for line in file.read_text("utf-8").splitlines()]


def is_sampled(group: Sequence[str], recipe: Recipe, share: float) -> bool:
    """Return whether a group belongs to a sample of `share` of all groups; held-out groups always do.

    The sample of a smaller share is a subset of the sample of a larger one.
    """
    return is_held_out(group, recipe) or zlib.crc32(b"share " + group[0].encode()) < share * (1 << 32)


def is_held_out(group: Sequence[str], recipe: Recipe) -> bool:
    """Return whether a group is excluded from training.

    The answer depends on the group's first text only, so a group never moves between the two sets.
    """
    return zlib.crc32(group[0].encode()) % recipe.held_out_every == 0

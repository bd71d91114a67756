"""Families of related texts, as the corpus keeps them: one a line, its members parted by tabs."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

from distill.recipe import Recipe

Family = list[str]


def read_families(file: Path) -> list[Family]:
    """Return the families of a corpus file."""
    return [line.split("\t") for line in file.read_text("utf-8").splitlines()]


def is_asked_about(family: Sequence[str], recipe: Recipe, share: float) -> bool:
    """Whether the teacher is asked about a family when `share` of them is wanted; about every held-out one, always.

    The families of a smaller share are among those of a larger one.
    """
    return is_held_out(family, recipe) or zlib.crc32(b"share " + family[0].encode()) < share * (1 << 32)


def is_held_out(family: Sequence[str], recipe: Recipe) -> bool:
    """Whether a family is kept from training; a function of its first text, so that it never changes sides."""
    return zlib.crc32(family[0].encode()) % recipe.held_out == 0

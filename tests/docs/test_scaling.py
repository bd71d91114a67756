"""The arithmetic of `docs/SCALING.md` is right."""

from __future__ import annotations

import math
import re
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs/SCALING.md").read_text("utf-8")
PROSE = " ".join(PAGE.split())
SECONDS_A_DAY = 24 * 60 * 60


def numbers(pattern: str) -> list[int]:
    """Return the numbers of the only line that a pattern matches."""
    (found,) = re.findall(pattern, PAGE, re.MULTILINE)
    return [int(each.replace(",", "")) for each in ([found] if isinstance(found, str) else found)]


def test_billion_texts_a_day() -> None:
    """From texts a day to replicas, by the page's own formula."""
    (texts,) = numbers(r"^\| texts per day \| ([\d,]+) \|$")
    (per_second,) = numbers(r"^\| texts per second, at a constant rate \| ([\d,]+) \|$")
    (length,) = numbers(r"^\| tokens per text \| ([\d,]+) \|$")
    (tokens,) = numbers(r"^\| tokens per second \| ([\d,]+) \|$")
    assert per_second == round(texts / SECONDS_A_DAY)
    assert tokens == round(texts / SECONDS_A_DAY * length)
    rows = re.findall(r"^\| [^|]*float[^|]* \| ([\d,]+) \| (\d+) \| (\d+) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 3
    for speed, bulk, online in rows:
        for share, replicas in ((0.95, bulk), (0.6, online)):
            assert math.ceil(tokens / (share * int(speed.replace(",", "")))) == int(replicas)


def test_how_long_requests_wait() -> None:
    """The mean wait before a run, for the shares that the page names (M/D/1)."""
    for share, runs in ((0.5, 0.5), (0.8, 2.0), (0.95, 9.5)):
        assert share / (2 * (1 - share)) == runs or math.isclose(share / (2 * (1 - share)), runs)
    assert "half a run at $u = 0.5$, two at 0.8, ten at 0.95" in PROSE


def test_how_large_vectors_are() -> None:
    """384 numbers of four bytes, a billion times."""
    assert "1,536 bytes: a billion of them are 1.5 TB" in PROSE
    assert 384 * 4 == 1536

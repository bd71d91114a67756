"""Presets damaged at random: each loads, or is refused in one clear line, in bounded memory, and nothing in it runs.

What `test_presets.py`, `test_checkpoints.py` and `test_tokenizer.py` refuse by name, here in whatever form comes up.
"""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.errors import PresetError
from model.presets.preset import load_preset
from model.presets.weights import read_weights
from model.tokenizer import FNetTokenizer

GOLDEN = Path(__file__).parents[2] / "golden/even"
# The preset has 300 kB in all.
MOST_MEMORY = 64 << 20

any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-2, 70_000) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
)
configuration = settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
)


def load(directory: Path) -> str | None:
    """Load all of a preset as the service does; return why it was refused, if it was."""
    tracemalloc.start()
    try:
        preset = load_preset(str(directory))
        read_weights(preset.directory, preset.architecture)
        if preset.has_tokenizer:
            FNetTokenizer.from_preset(preset).encode("a text of words")
    except PresetError as error:
        return str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < MOST_MEMORY
    return None


def check(reason: str | None) -> None:
    """One line for a reader, which does not drown them."""
    if reason is not None:
        assert reason
        assert "\n" not in reason
        assert len(reason) < 1000


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where everything in a JSON value stands."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in places(each, (*path, key)))]


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return the value with another one at a place."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = put(value[path[0]], path[1:], new)
    return copy


@pytest.fixture
def damaged(tmp_path: Path) -> Callable[[str, bytes], Path]:
    """Make a copy of a preset with one file's content replaced."""
    copy = Path(shutil.copytree(GOLDEN, tmp_path / "damaged"))

    def make(file: str, content: bytes) -> Path:
        (copy / file).write_bytes(content)
        return copy

    return make


def test_whole_one_loads() -> None:
    """Or the tests below would say nothing."""
    assert load(GOLDEN) is None


@pytest.mark.parametrize("file", ["config.json", "metadata.json", "preprocessor.json", "tokenizer.json"])
def test_any_value_at_any_place(damaged: Callable[[str, bytes], Path], file: str) -> None:
    """Of each of the four descriptions: numbers that are too large, lists for names, names for numbers."""
    whole = json.loads((GOLDEN / file).read_bytes())

    @configuration
    @given(place=st.sampled_from(places(whole)), new=any_json)
    def each(place: tuple[Any, ...], new: Any) -> None:
        check(load(damaged(file, json.dumps(put(whole, place, new)).encode())))

    each()


FILES = ["config.json", "tokenizer.json", "model.weights.h5", "assets/tokenizer/vocabulary.spm"]


@pytest.mark.parametrize("file", FILES)
def test_any_bytes_in_any_file(damaged: Callable[[str, bytes], Path], file: str) -> None:
    """Some written over, some lost, some too many, all of them others."""
    whole = (GOLDEN / file).read_bytes()

    @configuration
    @given(
        at=st.floats(0, 1),
        new=st.binary(max_size=40),
        lost=st.integers(0, 64) | st.integers(0, len(whole)),
    )
    def each(at: float, new: bytes, lost: int) -> None:
        start = int(at * len(whole))
        check(load(damaged(file, whole[:start] + new + whole[start + lost :])))

    each()


@pytest.mark.parametrize("file", FILES)
def test_file_may_be_anything(damaged: Callable[[str, bytes], Path], file: str) -> None:
    """Nothing of the right form at all."""

    @configuration
    @given(content=st.binary(max_size=200))
    def each(content: bytes) -> None:
        check(load(damaged(file, content)))

    each()

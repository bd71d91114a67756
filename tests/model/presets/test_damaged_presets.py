"""Randomly damaged presets load or are rejected with one line, in bounded memory and without code execution.

These tests generate the damage; `test_preset.py`, `test_weights.py` and `test_tokenizer.py` test specific cases.
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
from model.presets.hub import load_preset
from model.presets.weights import read_weights
from model.tokenizer import FNetTokenizer

GOLDEN = Path(__file__).parents[2] / "golden/even"
# The preset has 300 kB in all.
MAX_MEMORY_BYTES = 64 << 20

any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-2, 70_000) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
)
configuration = settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
)


def load(directory: Path) -> str | None:
    """Load a preset as the service does; return the error message, or None."""
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
        assert peak < MAX_MEMORY_BYTES
    return None


def check(reason: str | None) -> None:
    """Check that an error message is one line of limited length."""
    if reason is not None:
        assert reason
        assert "\n" not in reason
        assert len(reason) < 1000


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in a JSON document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(path_to_value for key, child in inner for path_to_value in paths_of(child, (*path, key)))]


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return a JSON document with another value at a path."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = put(value[path[0]], path[1:], new)
    return copy


@pytest.fixture
def damaged(tmp_path: Path) -> Callable[[str, bytes], Path]:
    """Return a copy of a preset with the content of one file replaced."""
    copy = Path(shutil.copytree(GOLDEN, tmp_path / "damaged"))

    def make(file: str, content: bytes) -> Path:
        (copy / file).write_bytes(content)
        return copy

    return make


def test_undamaged_preset_loads() -> None:
    """The tests below depend on it."""
    assert load(GOLDEN) is None


@pytest.mark.parametrize("file", ["config.json", "metadata.json", "preprocessor.json", "tokenizer.json"])
def test_any_value_at_any_path(damaged: Callable[[str, bytes], Path], file: str) -> None:
    """Any JSON value may replace any value of the four JSON files."""
    undamaged = json.loads((GOLDEN / file).read_bytes())

    @configuration
    @given(path_to_value=st.sampled_from(paths_of(undamaged)), new=any_json)
    def run_example(path_to_value: tuple[Any, ...], new: Any) -> None:
        check(load(damaged(file, json.dumps(put(undamaged, path_to_value, new)).encode())))

    run_example()


FILES = ["config.json", "tokenizer.json", "model.weights.h5", "assets/tokenizer/vocabulary.spm"]


@pytest.mark.parametrize("file", FILES)
def test_any_bytes_in_any_file(damaged: Callable[[str, bytes], Path], file: str) -> None:
    """Bytes may be overwritten, removed or inserted."""
    undamaged = (GOLDEN / file).read_bytes()

    @configuration
    @given(
        at=st.floats(0, 1),
        new=st.binary(max_size=40),
        removed=st.integers(0, 64) | st.integers(0, len(undamaged)),
    )
    def run_example(at: float, new: bytes, removed: int) -> None:
        start = int(at * len(undamaged))
        check(load(damaged(file, undamaged[:start] + new + undamaged[start + removed :])))

    run_example()


@pytest.mark.parametrize("file", FILES)
def test_any_content_of_a_file(damaged: Callable[[str, bytes], Path], file: str) -> None:
    """A file may contain arbitrary bytes."""

    @configuration
    @given(content=st.binary(max_size=200))
    def run_example(content: bytes) -> None:
        check(load(damaged(file, content)))

    run_example()

"""Integrity checks pass for valid presets, and report one line per problem."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

from model.presets.hub import BUNDLED_DIRECTORY, DEFAULT_PRESET
from model.presets.preset import VOCABULARY_FILE
from model.presets.weights import WEIGHTS_FILE
from model.verify import fingerprint, verify

pytestmark = pytest.mark.usefixtures("quick_compilation")

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A copy of a golden preset with recorded digests and golden row."""
    copied = Path(shutil.copytree(GOLDEN / "even", tmp_path / "even"))
    record(copied, fingerprint(copied))
    return copied


def record(directory: Path, block: dict[str, Any]) -> None:
    """Write the block `fnet_service` into a preset's metadata."""
    path = directory / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fnet_service": block}))


def block_of(directory: Path) -> dict[str, Any]:
    """Return the block `fnet_service`."""
    block: dict[str, Any] = json.loads((directory / "metadata.json").read_text())["fnet_service"]
    return block


def faults(directory: Path) -> list[str]:
    """Return all problems of a preset, one line each."""
    reported = [fault for check in verify(directory) for fault in check.faults]
    assert all(len(fault.splitlines()) == 1 for fault in reported)
    return reported


@pytest.mark.parametrize("name", ["even", "odd", "sharded", "older_paths", "bfloat16", "waterfall"])
def test_presets_of_keras_hub_pass(name: str) -> None:
    """Presets of all sizes, shards and dtypes pass without recorded values."""
    assert faults(GOLDEN / name) == []


def test_bundled_preset_passes() -> None:
    """The bundled preset passes all checks."""
    assert faults(BUNDLED_DIRECTORY / DEFAULT_PRESET) == []


def test_all_checks_run(directory: Path) -> None:
    """Each check has a finding and no faults."""
    checks = list(verify(directory))
    assert [check.name for check in checks] == [
        "files",
        "description",
        "tokenizer",
        "weights",
        "network",
        "golden row",
    ]
    assert all(check.finding and not check.faults for check in checks)


def test_digests_exclude_the_metadata_and_the_card(directory: Path) -> None:
    """People may edit these two files."""
    (directory / "README.md").write_text("# A card")
    assert set(fingerprint(directory)["sha256"]) == {
        "config.json",
        "tokenizer.json",
        "preprocessor.json",
        VOCABULARY_FILE,
        WEIGHTS_FILE,
    }


def test_changed_file_is_reported_by_its_digest(directory: Path) -> None:
    """A change without effect is also reported."""
    with (directory / "config.json").open("a") as file:
        file.write("\n")
    assert [fault.split(":")[0] for fault in faults(directory)] == ["config.json"]


def test_missing_file_is_reported(directory: Path) -> None:
    """Each recorded file is required."""
    (directory / "preprocessor.json").unlink()
    assert faults(directory) == ["preprocessor.json: missing, but metadata.json records its digest"]


def test_changed_weights_are_reported_by_the_golden_row(directory: Path) -> None:
    """One changed bias value changes the golden row."""
    block = block_of(directory)
    record(directory, {"golden": block["golden"]})
    with h5py.File(directory / WEIGHTS_FILE, "a") as file:
        file["layers/dense/vars/1"][0] += 0.5
    reported = faults(directory)
    assert len(reported) == 2
    assert "pooled_output of the golden row" in reported[0]


def test_weights_of_another_shape_are_reported(directory: Path) -> None:
    """The shape is compared with config.json, whose digest has changed too."""
    path = directory / "config.json"
    path.write_text(path.read_text().replace('"intermediate_dim": 24', '"intermediate_dim": 25'))
    assert [fault.split(":")[0] for fault in faults(directory)] == ["config.json", WEIGHTS_FILE]


def test_vocabulary_larger_than_the_network_is_reported(directory: Path) -> None:
    """The vocabulary has more tokens than the embedding table."""
    shutil.copy(BUNDLED_DIRECTORY / DEFAULT_PRESET / VOCABULARY_FILE, directory / VOCABULARY_FILE)
    assert any("more than config.json's vocabulary_size" in fault for fault in faults(directory))


def test_directory_without_preset_is_reported(tmp_path: Path) -> None:
    """The configuration is missing, and later checks do not run."""
    (fault,) = faults(tmp_path)
    assert fault.startswith("config.json: missing")


@pytest.mark.parametrize(
    "change",
    [
        lambda block: block.update(sha256=7),
        lambda block: block.update(golden=[]),
        lambda block: block["golden"].update(token_ids=[260]),
        lambda block: block["golden"].update(token_ids=[-1]),
        lambda block: block["golden"].update(token_ids=[]),
        lambda block: block["golden"].update(token_ids=[True]),
        lambda block: block["golden"].update(segment_ids=[0]),
        lambda block: block["golden"].update(pooled_output="0.5"),
        lambda block: block["golden"].update(pooled_output=[float("nan")]),
        lambda block: block["golden"].update(mean_output=[0.0] * 17),
        lambda block: block["golden"].pop("pooled_output"),
    ],
)
def test_invalid_record_is_reported(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """An invalid record is a fault and not an exception."""
    block = block_of(directory)
    change(block)
    record(directory, block)
    assert len(faults(directory)) == 1

"""A whole preset is told to be whole, and each kind of damage by its own line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

from model.presets.preset import BUNDLED_DIRECTORY, DEFAULT_PRESET, VOCABULARY_FILE
from model.presets.weights import WEIGHTS_FILE
from model.verify import fingerprint, verify

pytestmark = pytest.mark.usefixtures("quick_compilation")

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A copy of a golden preset, its digests and golden row recorded."""
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
    """Return all that is wrong with a preset, each in one line."""
    found = [fault for check in verify(directory) for fault in check.faults]
    assert all(len(fault.splitlines()) == 1 for fault in found)
    return found


@pytest.mark.parametrize("name", ["even", "odd", "sharded", "older_paths", "bfloat16", "waterfall"])
def test_what_keras_hub_wrote_is_whole(name: str) -> None:
    """Whatever its sizes, shards and types, with nothing recorded."""
    assert faults(GOLDEN / name) == []


def test_the_bundled_preset_is_whole() -> None:
    """As it is shipped."""
    assert faults(BUNDLED_DIRECTORY / DEFAULT_PRESET) == []


def test_everything_is_looked_at(directory: Path) -> None:
    """And each check says what it found."""
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


def test_the_digests_are_of_all_files_but_the_metadata_and_the_card(directory: Path) -> None:
    """Those two may be edited by people."""
    (directory / "README.md").write_text("# A card")
    assert set(fingerprint(directory)["sha256"]) == {
        "config.json",
        "tokenizer.json",
        "preprocessor.json",
        VOCABULARY_FILE,
        WEIGHTS_FILE,
    }


def test_a_changed_file_is_told_by_its_digest(directory: Path) -> None:
    """Even where it says the same."""
    with (directory / "config.json").open("a") as file:
        file.write("\n")
    assert [fault.split(":")[0] for fault in faults(directory)] == ["config.json"]


def test_a_lost_file_is_told(directory: Path) -> None:
    """Each file that was recorded has to be there."""
    (directory / "preprocessor.json").unlink()
    assert faults(directory) == ["preprocessor.json: missing, although metadata.json tells its digest"]


def test_other_weights_are_told_by_what_they_compute(directory: Path) -> None:
    """One value of one bias, with no digest recorded, moves the golden row."""
    block = block_of(directory)
    record(directory, {"golden": block["golden"]})
    with h5py.File(directory / WEIGHTS_FILE, "a") as file:
        file["layers/dense/vars/1"][0] += 0.5
    found = faults(directory)
    assert len(found) == 2
    assert "pooled_output of the golden row" in found[0]


def test_weights_of_another_shape_are_told(directory: Path) -> None:
    """Against config.json, which then has another digest, too."""
    path = directory / "config.json"
    path.write_text(path.read_text().replace('"intermediate_dim": 24', '"intermediate_dim": 25'))
    assert [fault.split(":")[0] for fault in faults(directory)] == ["config.json", WEIGHTS_FILE]


def test_a_vocabulary_that_does_not_fit_is_told(directory: Path) -> None:
    """More tokens than the network has vectors."""
    shutil.copy(BUNDLED_DIRECTORY / DEFAULT_PRESET / VOCABULARY_FILE, directory / VOCABULARY_FILE)
    assert any("more than config.json's vocabulary_size" in fault for fault in faults(directory))


def test_what_is_no_preset_is_told(tmp_path: Path) -> None:
    """An empty directory lacks its configuration, and nothing more is looked for."""
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
def test_a_record_that_makes_no_sense_is_told(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """It is a fault of metadata.json, or of what it does not describe, and never an exception."""
    block = block_of(directory)
    change(block)
    record(directory, block)
    assert len(faults(directory)) == 1

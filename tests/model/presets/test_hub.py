"""`hf://` presets through the real Hugging Face client, against a hub that this test serves itself.

The client takes its hub's address from the environment when it is imported, so each step is a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.presets.preset import BUNDLED_DIRECTORY, DEFAULT_PRESET
from tests.support.hub import Hub, running

# The client keeps what it has in blocks of 10 MiB.
KEPT = 10 << 20
CUT_AFTER = KEPT + 1_000_000
SOURCE = BUNDLED_DIRECTORY / DEFAULT_PRESET
LOAD = """
import sys
from pathlib import Path
from model.errors import PresetError
from model.presets.preset import load_preset
try:
    print(load_preset(sys.argv[1], Path(sys.argv[2])).directory)
except PresetError as error:
    sys.exit(f"refused: {error}")
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub with the bundled preset."""
    with running(SOURCE) as hub:
        hub.cut_after = CUT_AFTER
        yield hub


def load(hub: Hub, handle: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """Load a preset in a new process whose hub is `hub`."""
    command = [sys.executable, "-c", LOAD, handle, str(cache)]
    return subprocess.run(
        command, env=hub.environment(cache / "home"), capture_output=True, text=True, check=False, timeout=120
    )


def test_preset_is_downloaded_once_and_then_read_without_the_hub(hub: Hub, tmp_path: Path) -> None:
    """The first load brings the preset's files, and nothing else, with a progress bar; the second asks nobody."""
    first = load(hub, "hf://team/fnet", tmp_path)
    assert first.returncode == 0, first.stderr
    directory = Path(first.stdout.strip())
    assert (directory / "model.weights.h5").read_bytes() == (SOURCE / "model.weights.h5").read_bytes()
    assert not (directory / "training_state.bin").exists()
    assert "%|" in first.stderr
    hub.asked.clear()
    second = load(hub, "hf://team/fnet", tmp_path)
    assert (second.returncode, second.stdout) == (0, first.stdout)
    assert hub.asked == []


def test_revision_is_the_one_asked_for(hub: Hub, tmp_path: Path) -> None:
    """`@revision` reaches the hub."""
    assert load(hub, "hf://team/fnet@v1.2", tmp_path).returncode == 0
    assert any("/revision/v1.2" in path for _, path, _ in hub.asked)


def test_broken_transfer_is_taken_up_where_it_broke(hub: Hub, tmp_path: Path) -> None:
    """After a broken connection only the rest is asked for, and the file is whole."""
    hub.cuts = 1
    loaded = load(hub, "hf://team/fnet", tmp_path)
    assert loaded.returncode == 0, loaded.stderr
    ranges = [span for _, path, span in hub.asked if path.endswith("model.weights.h5") and span]
    assert ranges == [f"bytes={KEPT}-"]
    stored = Path(loaded.stdout.strip()) / "model.weights.h5"
    assert stored.read_bytes() == (SOURCE / "model.weights.h5").read_bytes()


def test_failed_download_keeps_what_arrived_and_is_tried_again(hub: Hub, tmp_path: Path) -> None:
    """A line that keeps breaking fails the load plainly; a later one asks for the missing file alone."""
    hub.cuts, hub.cut_after = 100, 1000
    broken = load(hub, "hf://team/fnet", tmp_path)
    assert broken.returncode == 1
    assert "refused: preset 'hf://team/fnet': download failed" in broken.stderr
    hub.cuts = 0
    hub.asked.clear()
    assert load(hub, "hf://team/fnet", tmp_path).returncode == 0
    fetched = [path.rpartition("/")[2] for verb, path, _ in hub.asked if verb == "GET" and "/resolve/" in path]
    assert fetched == ["model.weights.h5"]


def test_what_the_hub_does_not_have_is_refused_in_one_line(hub: Hub, tmp_path: Path) -> None:
    """An unknown repository gives a plain message and leaves no record behind."""
    refused = load(hub, "hf://team/nothing", tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.strip().splitlines()[-1].startswith("refused: preset 'hf://team/nothing': download failed")
    assert not (tmp_path / "presets").exists()

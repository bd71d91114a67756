"""`hf://` presets with the real Hugging Face client, against a local hub.

The client reads the address of the hub at import, so each step runs in a new process.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.presets.hub import BUNDLED_DIRECTORY, DEFAULT_PRESET
from tests.support.hub import Hub, running

# The client writes blocks of 10 MiB.
BLOCK_BYTES = 10 << 20
INTERRUPT_AFTER_BYTES = BLOCK_BYTES + 1_000_000
SOURCE = BUNDLED_DIRECTORY / DEFAULT_PRESET
LOAD = """
import sys
from pathlib import Path
from model.errors import PresetError
from model.presets.hub import load_preset
try:
    print(load_preset(sys.argv[1], Path(sys.argv[2])).directory)
except PresetError as error:
    sys.exit(f"refused: {error}")
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub with the bundled preset."""
    with running(SOURCE) as hub:
        hub.interrupt_after_bytes = INTERRUPT_AFTER_BYTES
        yield hub


def load(hub: Hub, handle: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """Load a preset in a new process whose hub is `hub`."""
    command = [sys.executable, "-c", LOAD, handle, str(cache)]
    return subprocess.run(
        command, env=hub.environment(cache / "home"), capture_output=True, text=True, check=False, timeout=120
    )


def test_second_load_does_not_use_the_hub(hub: Hub, tmp_path: Path) -> None:
    """The first load downloads only preset files, with a progress bar; the second sends no request."""
    first = load(hub, "hf://team/fnet", tmp_path)
    assert first.returncode == 0, first.stderr
    directory = Path(first.stdout.strip())
    assert (directory / "model.weights.h5").read_bytes() == (SOURCE / "model.weights.h5").read_bytes()
    assert not (directory / "training_state.bin").exists()
    assert "%|" in first.stderr
    hub.requests.clear()
    second = load(hub, "hf://team/fnet", tmp_path)
    assert (second.returncode, second.stdout) == (0, first.stdout)
    assert hub.requests == []


def test_revision_is_requested(hub: Hub, tmp_path: Path) -> None:
    """The request to the hub contains the revision."""
    assert load(hub, "hf://team/fnet@v1.2", tmp_path).returncode == 0
    assert any("/revision/v1.2" in path for _, path, _ in hub.requests)


def test_interrupted_transfer_resumes(hub: Hub, tmp_path: Path) -> None:
    """After a broken connection, the client requests only the missing range."""
    hub.interruptions = 1
    loaded = load(hub, "hf://team/fnet", tmp_path)
    assert loaded.returncode == 0, loaded.stderr
    ranges = [span for _, path, span in hub.requests if path.endswith("model.weights.h5") and span]
    assert ranges == [f"bytes={BLOCK_BYTES}-"]
    stored = Path(loaded.stdout.strip()) / "model.weights.h5"
    assert stored.read_bytes() == (SOURCE / "model.weights.h5").read_bytes()


def test_failed_download_keeps_complete_files(hub: Hub, tmp_path: Path) -> None:
    """A load fails after repeated interruptions, and the next load requests only the missing file."""
    hub.interruptions, hub.interrupt_after_bytes = 100, 1000
    broken = load(hub, "hf://team/fnet", tmp_path)
    assert broken.returncode == 1
    assert "refused: preset 'hf://team/fnet': download failed" in broken.stderr
    hub.interruptions = 0
    hub.requests.clear()
    assert load(hub, "hf://team/fnet", tmp_path).returncode == 0
    fetched = [path.rpartition("/")[2] for verb, path, _ in hub.requests if verb == "GET" and "/resolve/" in path]
    assert fetched == ["model.weights.h5"]


def test_unknown_repository_is_rejected_with_one_line(hub: Hub, tmp_path: Path) -> None:
    """An unknown repository gives a one-line message and no record in the cache."""
    refused = load(hub, "hf://team/nothing", tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.strip().splitlines()[-1].startswith("refused: preset 'hf://team/nothing': download failed")
    assert not (tmp_path / "presets").exists()

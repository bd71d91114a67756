"""Encoding of a corpus on a Ray cluster of two local nodes: output equal to that of `fnet-service encode`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ray.cluster_utils import Cluster

from model.architecture import Architecture
from model.presets.hub import BUNDLED_DIRECTORY, DEFAULT_PRESET
from model.presets.weights import WEIGHTS_FILE, write_weights
from tests.support.bundled import VOCABULARY

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "deploy/ray/encode_corpus.py"
TIMEOUT_SECONDS = 300.0
FILES, ROWS = 3, 9_000


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Start a cluster of two nodes with one actor each, and yield its address."""
    node = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    cluster.wait_for_nodes()
    yield cluster.address
    cluster.shutdown()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write files of several chunks each."""
    directory = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(5)
    files = [directory / f"{number}.jsonl" for number in range(FILES)]
    for file in files:
        words = [" ".join(f"w{word}" for word in random.integers(0, 999, size)) for size in random.integers(1, 9, ROWS)]
        file.write_text("\n".join(json.dumps({"text": text}) for text in words))
    return files


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment that selects a tiny preset."""
    preset = tmp_path_factory.mktemp("preset") / "tiny"
    architecture = Architecture(
        vocabulary_size=VOCABULARY, num_layers=2, hidden_dim=32, intermediate_dim=48, max_sequence_length=64
    )
    random = np.random.default_rng(1)
    preset.mkdir()
    write_weights(
        preset / WEIGHTS_FILE,
        {
            name: (random.normal(size=shape) * 0.1 + name.endswith("gamma")).astype(np.float32)
            for name, shape in architecture.variable_shapes().items()
        },
    )
    fields = {name: getattr(architecture, name) for name in Architecture.__dataclass_fields__}
    config = {"class_name": "FNetBackbone", "config": {**fields, "dtype": "float32"}}
    (preset / "config.json").write_text(json.dumps(config))
    (preset / "metadata.json").write_text(json.dumps({"fnet_service": {"padding": "none"}}))
    for name in ("tokenizer.json", "preprocessor.json"):
        shutil.copy(BUNDLED_DIRECTORY / DEFAULT_PRESET / name, preset / name)
    shutil.copytree(BUNDLED_DIRECTORY / DEFAULT_PRESET / "assets", preset / "assets")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FNET_")}
    settings = {"FNET_PRESET": str(preset), "FNET_MAX_BATCH_TOKENS": "64"}
    return {**inherited, **settings, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="module")
def expected(corpus: list[Path], environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the output of the command for each file."""
    out = tmp_path_factory.mktemp("expected")
    command = [f"{sys.prefix}/bin/fnet-service", "encode", *map(str, corpus), "-o", str(out)]
    subprocess.run(command, env=environ, check=True, timeout=TIMEOUT_SECONDS)
    return {file.name: file.read_bytes() for file in out.glob("*.parquet")}


def start_script(cluster: str, corpus: list[Path], out: Path, environ: dict[str, str]) -> subprocess.Popen[str]:
    """Start the script on the cluster."""
    options = ["--output", str(out), "--workers", "2", "--cpus", "1", "--address", cluster]
    command = [sys.executable, str(SCRIPT), *options, *map(str, corpus)]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_chunk(out: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a chunk of a file is stored."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not list(out.glob("*.part/*.npz")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def actor_pids() -> list[int]:
    """Return the process ids of the actors that encode."""
    pids = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes()
        except OSError:
            continue
        if line.startswith(b"ray::") and b"FileEncoder" in line:
            pids.append(int(file.parent.name))
    return pids


def assert_outputs(out: Path, expected: dict[str, bytes]) -> None:
    """Assert that exactly the expected files exist, with the expected bytes."""
    assert {file.name: file.read_bytes() for file in out.glob("*.parquet")} == expected
    assert sorted(file.name for file in out.iterdir()) == sorted(expected)


def test_output_equals_that_of_the_command(
    cluster: str, corpus: list[Path], environ: dict[str, str], expected: dict[str, bytes], tmp_path: Path
) -> None:
    """The script prints the rows of each file, and a second run skips all of them."""
    process = start_script(cluster, corpus, tmp_path, environ)
    output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0
    assert output.count(f"{ROWS:,} rows") == FILES
    assert_outputs(tmp_path, expected)
    again = start_script(cluster, corpus, tmp_path, environ)
    assert again.communicate(timeout=TIMEOUT_SECONDS)[0] == ""
    assert again.returncode == 0


def test_killed_actor_is_replaced(
    cluster: str, corpus: list[Path], environ: dict[str, str], expected: dict[str, bytes], tmp_path: Path
) -> None:
    """Another actor resumes the file without losing or duplicating rows."""
    process = start_script(cluster, corpus, tmp_path, environ)
    wait_for_chunk(tmp_path, process)
    killed = actor_pids()
    assert killed
    os.kill(killed[0], signal.SIGKILL)
    process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0
    assert_outputs(tmp_path, expected)


def test_killed_run_resumes(
    cluster: str, corpus: list[Path], environ: dict[str, str], expected: dict[str, bytes], tmp_path: Path
) -> None:
    """The same command resumes the run."""
    process = start_script(cluster, corpus, tmp_path, environ)
    wait_for_chunk(tmp_path, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=TIMEOUT_SECONDS)
    again = start_script(cluster, corpus, tmp_path, environ)
    again.communicate(timeout=TIMEOUT_SECONDS)
    assert again.returncode == 0
    assert_outputs(tmp_path, expected)


def test_inputs_with_the_same_output_are_rejected(environ: dict[str, str], tmp_path: Path) -> None:
    """Inputs that would overwrite the output of each other are a usage error."""
    command = [sys.executable, str(SCRIPT), "-o", str(tmp_path), "a/x.jsonl", "b/x.jsonl.gz"]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    assert ran.returncode == 2
    assert "x.jsonl.parquet is the output of several inputs" in ran.stderr

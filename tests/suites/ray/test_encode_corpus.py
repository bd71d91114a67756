"""A corpus on a real Ray cluster of two nodes on this machine: the bytes of `fnet-service encode`, whatever dies."""

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
TIMEOUT = 300.0
FILES, ROWS = 3, 9_000


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Two nodes, one actor each; gives the address."""
    node = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    found = Cluster(initialize_head=True, head_node_args=node)
    found.add_node(num_cpus=1, object_store_memory=80 << 20)
    found.wait_for_nodes()
    yield found.address
    found.shutdown()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of several parts each."""
    directory = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(5)
    files = [directory / f"{number}.jsonl" for number in range(FILES)]
    for file in files:
        words = [" ".join(f"w{word}" for word in random.integers(0, 999, size)) for size in random.integers(1, 9, ROWS)]
        file.write_text("\n".join(json.dumps({"text": text}) for text in words))
    return files


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which a tiny preset is encoded with."""
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
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FNET_")}
    settings = {"FNET_PRESET": str(preset), "FNET_MAX_BATCH_TOKENS": "64"}
    return {**kept, **settings, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="module")
def expected(corpus: list[Path], environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the command gives for each file."""
    out = tmp_path_factory.mktemp("expected")
    command = [f"{sys.prefix}/bin/fnet-service", "encode", *map(str, corpus), "-o", str(out)]
    subprocess.run(command, env=environ, check=True, timeout=TIMEOUT)
    return {file.name: file.read_bytes() for file in out.glob("*.parquet")}


def begin(cluster: str, corpus: list[Path], out: Path, environ: dict[str, str]) -> subprocess.Popen[str]:
    """Start the script on the cluster."""
    options = ["--output", str(out), "--workers", "2", "--cpus", "1", "--address", cluster]
    command = [sys.executable, str(SCRIPT), *options, *map(str, corpus)]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_a_part(out: Path, process: subprocess.Popen[str]) -> None:
    """Return in the middle of a file."""
    deadline = time.monotonic() + TIMEOUT
    while not list(out.glob("*.part/*.npz")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def actors() -> list[int]:
    """Return the processes of actors that encode."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = each.read_bytes()
        except OSError:
            continue
        if line.startswith(b"ray::") and b"FileEncoder" in line:
            found.append(int(each.parent.name))
    return found


def check(out: Path, expected: dict[str, bytes]) -> None:
    """Every file is there, whole, and nothing else."""
    assert {file.name: file.read_bytes() for file in out.glob("*.parquet")} == expected
    assert sorted(file.name for file in out.iterdir()) == sorted(expected)


def test_two_nodes_give_the_bytes_of_the_command(
    cluster: str, corpus: list[Path], environ: dict[str, str], expected: dict[str, bytes], tmp_path: Path
) -> None:
    """And say how many rows each file has; a second run finds all of them there."""
    process = begin(cluster, corpus, tmp_path, environ)
    said, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    assert said.count(f"{ROWS:,} rows") == FILES
    check(tmp_path, expected)
    again = begin(cluster, corpus, tmp_path, environ)
    assert again.communicate(timeout=TIMEOUT)[0] == ""
    assert again.returncode == 0


def test_an_actor_that_is_killed_is_replaced(
    cluster: str, corpus: list[Path], environ: dict[str, str], expected: dict[str, bytes], tmp_path: Path
) -> None:
    """Its file is gone on with by another: no row is lost or doubled."""
    process = begin(cluster, corpus, tmp_path, environ)
    wait_for_a_part(tmp_path, process)
    killed = actors()
    assert killed
    os.kill(killed[0], signal.SIGKILL)
    process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    check(tmp_path, expected)


def test_a_run_that_is_killed_is_gone_on_with(
    cluster: str, corpus: list[Path], environ: dict[str, str], expected: dict[str, bytes], tmp_path: Path
) -> None:
    """By the same command."""
    process = begin(cluster, corpus, tmp_path, environ)
    wait_for_a_part(tmp_path, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=TIMEOUT)
    again = begin(cluster, corpus, tmp_path, environ)
    again.communicate(timeout=TIMEOUT)
    assert again.returncode == 0
    check(tmp_path, expected)


def test_two_inputs_never_share_an_output(environ: dict[str, str], tmp_path: Path) -> None:
    """The one would overwrite the other, and nobody would know."""
    command = [sys.executable, str(SCRIPT), "-o", str(tmp_path), "a/x.jsonl", "b/x.jsonl.gz"]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert ran.returncode == 2
    assert "x.jsonl.parquet would be written twice" in ran.stderr

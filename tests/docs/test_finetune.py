"""The commands of the fine-tuning guide train and serve a preset."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
import pytest

from model import FNetBackbone, FNetTokenizer, load_preset

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "finetune.md").read_text()
TRAIN, SERVE, REQUEST = re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)
(EXAMPLE,) = re.findall(r"```csv\n(.*?)```", GUIDE, re.DOTALL)
GOLDEN = ROOT / "tests" / "golden" / "waterfall"
# Two groups of words with similar meaning in the test: five and six tokens directory.
KINDS = (("cat", "mat", "rat", "hat"), ("dog", "log", "cog", "hog"))


@dataclass(frozen=True)
class Finished:
    """The result of the training command.

    Attributes:
        preset: The trained preset.
        source: The source preset.
        printed: Standard output.
    """

    preset: Path
    source: Path
    printed: str


@pytest.fixture(scope="module")
def tiny_preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset of a very small network with random weights, in the format of keras-hub."""
    directory = tmp_path_factory.mktemp("source") / "tiny_en"
    network = FNetBackbone(
        vocabulary_size=130, num_layers=1, hidden_dim=16, intermediate_dim=24, max_sequence_length=24
    )
    random = np.random.default_rng(1)
    network.assign_weights(
        {
            name: random.normal(scale=0.3, size=shape) + name.endswith("gamma")
            for name, shape in network.architecture.variable_shapes().items()
        }
    )
    network.save_to_preset(directory)
    for name in ("tokenizer.json", "preprocessor.json"):
        shutil.copy(GOLDEN / name, directory)
    shutil.copytree(GOLDEN / "assets", directory / "assets")
    return directory


@pytest.fixture(scope="module")
def finished(tiny_preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Train with the command of the guide, with more and larger steps than a trained preset needs."""
    directory = tmp_path_factory.mktemp("trained")
    pairs = [
        f"{a}\t{b}\t{float(one == other)}"
        for (one, words), (other, others) in product(enumerate(KINDS), repeat=2)
        for a, b in product(words, others)
        if one <= other
    ]
    (directory / "pairs.tsv").write_text("\n".join(["text_a\ttext_b\tscore", *pairs]))
    printed = _run(f"{TRAIN.strip()} --preset {tiny_preset} --epochs 20 --learning-rate 1e-2", directory)
    return Finished(directory / "my_fnet", tiny_preset, re.sub(r"\x1b\[\d*m", "", printed))


@pytest.fixture(scope="module")
def address(finished: Finished) -> Iterator[str]:
    """Serve with the command of the guide on a free port, and return its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = shlex.split(_here(SERVE))
    environ = {**os.environ, "FNET_PORT": str(port), "FNET_MAX_BATCH_TOKENS": "24"}
    with subprocess.Popen(command, cwd=finished.preset.parent, env=environ) as process:
        try:
            deadline = time.monotonic() + 120
            while not _ready(f"http://127.0.0.1:{port}"):
                assert process.poll() is None, "the server result before it was ready"
                assert time.monotonic() < deadline, "the server was not ready in time"
                time.sleep(0.1)
            yield f"127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def _here(command: str) -> str:
    """Return a command of the guide with absolute paths."""
    return command.replace(".venv/bin/", f"{sys.prefix}/bin/").replace("examples/", f"{ROOT}/examples/")


def _run(command: str, directory: Path) -> str:
    """Run a command in a shell, and return its output."""
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", _here(command)],  # noqa: S607 - bash is on the path
        cwd=directory,
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_training_lowers_the_loss(finished: Finished) -> None:
    """Both losses fall, and directory combination of lengths has one shape."""
    losses = [
        tuple(map(float, pair)) for pair in re.findall(r"\bloss: ([\d.e-]+) - val_loss: ([\d.e-]+)", finished.printed)
    ]
    assert len(losses) == 20
    assert losses[-1][0] < losses[0][0] / 2
    assert losses[-1][1] < losses[0][1]
    (shapes,) = re.findall(r"in (\d+) shapes", finished.printed)
    assert int(shapes) == 3


def test_preset_is_complete(finished: Finished) -> None:
    """The preset has all six files, unchanged tokenizer files and a description."""
    files = {str(path.relative_to(finished.preset)) for path in finished.preset.rglob("*") if path.is_file()}
    copied = {"tokenizer.json", "preprocessor.json", "assets/tokenizer/vocabulary.spm"}
    assert files == {"config.json", "metadata.json", "model.weights.h5"} | copied
    for name in copied:
        assert (finished.preset / name).read_bytes() == (finished.source / name).read_bytes()
    block = json.loads((finished.preset / "metadata.json").read_text())["fnet_service"]
    assert block == {
        "name": "my_fnet",
        "version": "1",
        "trained": True,
        "padding": "none",
        "pooling": "pooled",
        "description": "tiny_en, fine-tuned on 43 pairs of pairs.tsv.",
    }
    preset = load_preset(str(finished.preset))
    assert preset.has_tokenizer
    assert preset.architecture == load_preset(str(finished.source)).architecture


def test_every_variable_was_trained(finished: Finished) -> None:
    """Every saved array differs from its initial value."""
    before, after = (
        FNetBackbone.from_preset(directory).named_weights() for directory in (finished.source, finished.preset)
    )
    assert [name for name in before if np.array_equal(before[name], after[name])] == []


def test_service_serves_the_trained_preset(finished: Finished, address: str) -> None:
    """The request of the guide returns the vectors of the Keras model."""
    info = httpx.get(f"http://{address}/v1/info").json()
    assert (info["preset"], info["trained"], info["padding"]) == ("my_fnet", True, "none")
    response = json.loads(_run(REQUEST.replace("127.0.0.1:8000", address), finished.preset))
    network, tokenizer = FNetBackbone.from_preset(finished.preset), FNetTokenizer.from_preset(finished.preset)
    texts = json.loads(shlex.split(REQUEST)[-1])["texts"]
    assert len(response["pooled_output"]) == len(texts) == 2
    for text, vector in zip(texts, response["pooled_output"], strict=True):
        tokens = tokenizer.encode(text)
        _, pooled = network.encode_one(np.array(tokens.token_ids), np.array(tokens.segment_ids))
        np.testing.assert_allclose(vector, pooled / np.linalg.norm(pooled), rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    """The definitions of the script."""
    return runpy.run_path(str(ROOT / "examples" / "finetune.py"))


def test_example_of_the_format_can_be_read(script: dict[str, Any], tmp_path: Path) -> None:
    """The rows of the guide are read, with a quoted comma and the shorter text first."""
    (tmp_path / "pairs.csv").write_text(EXAMPLE)
    tokenizer = FNetTokenizer.from_preset("fnet_mini_en")
    pairs = script["read_pairs"](tmp_path / "pairs.csv", tokenizer, 512)
    assert [pair.score for pair in pairs] == [0.8, 0.1, 0.9]
    texts = ["how do I reset my password", "where is my invoice"]
    assert sorted((pairs[1].first, pairs[1].second)) == sorted(tokenizer.encode(text).token_ids for text in texts)
    assert tokenizer.encode("the app crashes, always").token_ids in (pairs[2].first, pairs[2].second)
    assert all(len(pair.first) <= len(pair.second) for pair in pairs)
    assert max(len(pair.second) for pair in script["read_pairs"](tmp_path / "pairs.csv", tokenizer, 5)) == 5


@pytest.mark.parametrize("row", ["a\tb", "a\tb\tmuch", "a\tb\t1.1", "a\tb\tnan", "a"])
def test_invalid_row_is_reported(script: dict[str, Any], tmp_path: Path, row: str) -> None:
    """The error contains the file, the line and the expected columns."""
    file = tmp_path / "pairs.tsv"
    file.write_text(f'text_a\ttext_b\tscore\n"a\tb\t1\n{row}\n')
    with pytest.raises(click.ClickException, match=":3: expected text_a, text_b and a score from 0 to 1"):
        script["read_pairs"](file, FNetTokenizer.from_preset("fnet_mini_en"), 512)


def test_existing_directory_is_not_overwritten(script: dict[str, Any], tmp_path: Path) -> None:
    """An existing directory is rejected before the training."""
    (tmp_path / "pairs.csv").write_text(EXAMPLE)
    with pytest.raises(click.BadParameter, match="already exists"):
        script["main"].main([str(tmp_path / "pairs.csv"), "--out", str(tmp_path)], standalone_mode=False)


def test_vocabulary_may_be_frozen(script: dict[str, Any], tiny_preset: Path) -> None:
    """The embedding table keeps its bits, and the other variables are trained."""
    assert "`backbone.token_embedding.trainable = False`" in GUIDE
    backbone = FNetBackbone.from_preset(tiny_preset, dropout=0.0)
    before = backbone.named_weights()
    backbone.token_embedding.trainable = False
    model = script["similarity_model"](backbone)
    model.compile("sgd", loss="mean_squared_error")
    model.fit(script["Batches"]([script["Pair"]([4, 7, 5], [4, 8, 9, 5], 0.5)], 1), verbose=0)
    same = [name for name, array in backbone.named_weights().items() if np.array_equal(array, before[name])]
    assert same == ["token_embedding/embeddings"]

"""`fnet-service preset`: output, exit codes and files."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.presets.hub import BUILT_IN_PRESETS, BUNDLED_DIRECTORY, DEFAULT_PRESET, load_preset
from model.presets.weights import WEIGHTS_FILE, read_weights
from model.reference import encode_one
from tests.support.bundled import PARAMETERS
from tests.support.hub import Hub, running
from tests.support.timeouts import TIMEOUT

GOLDEN = Path(__file__).parents[2] / "golden"
CHECKPOINT = GOLDEN / "hugging_face" / "checkpoint"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return an empty cache directory."""
    return tmp_path / "cache"


@pytest.fixture
def run(cache: Path) -> Run:
    """Return a function that runs `fnet-service preset …` in a new process without a network."""

    def run(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
        script = "import sys; from service.cli.main import main; sys.argv[0] = 'fnet-service'; main()"
        return subprocess.run(
            [sys.executable, "-c", script, "preset", *map(str, arguments)],
            env={**os.environ, "FNET_CACHE_DIR": str(cache), **environ},
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
        )

    return run


@pytest.fixture
def hub() -> Iterator[Hub]:
    """Yield a hub that serves a small preset written by keras-hub."""
    with running(GOLDEN / "even") as hub:
        yield hub


def files_of(directory: Path) -> dict[str, bytes]:
    """Return the content of every file below a directory."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# --- list and info ---


def test_list_shows_bundled_and_built_in_presets(run: Run) -> None:
    """The list shows sizes, and how to download a preset."""
    listed = run("list")
    assert (listed.returncode, listed.stderr) == (0, "")
    text = re.sub(r" +", " ", listed.stdout)
    assert f"{DEFAULT_PRESET} {PARAMETERS:,} 5 384 bundled" in text
    assert "f_net_base_en 82,861,056 12 768 not downloaded; run fnet-service preset fetch f_net_base_en" in text
    assert "f_net_large_en 236,945,408 24 1,024 not downloaded" in text


def test_built_in_sizes_equal_the_published_ones(run: Run) -> None:
    """The computed parameter counts equal those of keras-hub."""
    rows = {row["handle"]: row for row in json.loads(run("list", "--json").stdout)}
    for name, preset in BUILT_IN_PRESETS.items():
        assert rows[name]["parameters"] == preset["metadata"]["params"]
        assert (rows[name]["kind"], rows[name]["directory"]) == ("built-in", None)


@pytest.mark.parametrize(
    ("handle", "expected"), [("f_net_base_en", "cased, pre-trained"), ("hf://team/fnet@v1", "hf://team/fnet@v1")]
)
def test_info_describes_a_preset_that_is_not_downloaded(run: Run, cache: Path, handle: str, expected: str) -> None:
    """The description needs no download and names the command that downloads the preset."""
    described = run("info", handle)
    assert (described.returncode, described.stderr) == (0, "")
    assert expected in described.stdout
    assert described.stdout.endswith(f"Not downloaded; run fnet-service preset fetch {handle}\n")
    assert json.loads(run("info", handle, "--json").stdout)["directory"] is None
    assert not cache.exists()


def test_info_describes_an_available_preset(run: Run) -> None:
    """The description has network, tokenizer, padding, pooling, digest and card."""
    facts = json.loads(run("info", DEFAULT_PRESET, "--json").stdout)
    assert facts["directory"] == str(BUNDLED_DIRECTORY / DEFAULT_PRESET)
    assert facts["card"] == str(BUNDLED_DIRECTORY / DEFAULT_PRESET / "README.md")
    assert (facts["num_layers"], facts["hidden_dim"], facts["tokenizer"]) == (5, 384, True)
    assert (facts["padding"], facts["pooling"], len(facts["sha256"])) == ("none", "pooled", 64)
    text = run("info", DEFAULT_PRESET).stdout
    assert facts["sha256"] in text
    assert facts["description"] in text


@pytest.mark.parametrize("verb", ["info", "fetch", "verify"])
def test_unknown_handle_is_a_usage_error(run: Run, verb: str) -> None:
    """The error is one line on standard error, with exit code 2."""
    rejected = run(verb, "nothing")
    assert (rejected.returncode, rejected.stdout) == (2, "")
    assert rejected.stderr.startswith("fnet-service: preset 'nothing': no such preset or directory; known names are ")
    assert len(rejected.stderr.splitlines()) == 1


def test_info_names_a_damaged_file(run: Run, tmp_path: Path) -> None:
    """The exit code is 1."""
    (tmp_path / "config.json").write_text("{")
    described = run("info", tmp_path)
    assert described.returncode == 1
    assert described.stderr.startswith("fnet-service: config.json: not readable as JSON")


# --- fetch ---


def test_preset_is_downloaded_once(run: Run, hub: Hub, cache: Path, tmp_path: Path) -> None:
    """A second run prints the directory without requests, and the list shows the preset."""
    environ = hub.environment(tmp_path / "home") | {"FNET_CACHE_DIR": str(cache)}
    first = run("fetch", "hf://team/fnet", **environ)
    assert first.returncode == 0, first.stderr
    directory = Path(first.stdout.removesuffix("\n"))
    assert (directory / WEIGHTS_FILE).read_bytes() == (GOLDEN / "even" / WEIGHTS_FILE).read_bytes()
    assert "%|" in first.stderr
    hub.requests.clear()
    second = run("fetch", "hf://team/fnet", **environ)
    assert (second.returncode, second.stdout, second.stderr, hub.requests) == (0, first.stdout, "", [])
    (row,) = [row for row in json.loads(run("list", "--json").stdout) if row["kind"] == "cached"]
    assert (row["handle"], row["directory"], row["parameters"]) == ("hf://team/fnet", str(directory), 7056)
    assert run("verify", "hf://team/fnet").returncode == 0


def test_preset_is_copied_to_a_plain_directory(run: Run, hub: Hub, cache: Path, tmp_path: Path) -> None:
    """The directory contains the files of the preset without links, and loads by its path."""
    target = tmp_path / "volume" / "preset"
    fetched = run("fetch", "hf://team/fnet", "--to", target, **hub.environment(tmp_path / "home"))
    assert (fetched.returncode, fetched.stdout) == (0, f"{target}\n")
    expected = files_of(GOLDEN / "even")
    for extra in ("expected.npz", "texts.json"):
        del expected[extra]
    assert files_of(target) == expected
    assert not any(path.is_symlink() for path in target.rglob("*"))
    assert load_preset(str(target)).architecture.hidden_dim == 16


def test_second_copy_restores_only_missing_files(run: Run, tmp_path: Path) -> None:
    """Existing files and other directories stay unchanged."""
    target = tmp_path / "mounted"
    target.mkdir()
    (target / "lost+found").mkdir()
    assert run("fetch", GOLDEN / "even", "--to", target).returncode == 0
    before = (target / WEIGHTS_FILE).stat().st_mtime_ns
    (target / "config.json").unlink()
    assert run("fetch", GOLDEN / "even", "--to", target).returncode == 0
    assert (target / WEIGHTS_FILE).stat().st_mtime_ns == before
    assert (target / "config.json").exists()
    assert (target / "lost+found").is_dir()


def test_another_preset_is_replaced_only_with_force(run: Run, tmp_path: Path) -> None:
    """With `--force` no file of the previous preset remains."""
    target = tmp_path / "preset"
    shutil.copytree(GOLDEN / "even", target)
    rejected = run("fetch", GOLDEN / "sharded", "--to", target)
    assert rejected.returncode == 1
    assert "--force" in rejected.stderr
    assert (target / WEIGHTS_FILE).exists()
    assert run("fetch", GOLDEN / "sharded", "--to", target, "--force").returncode == 0
    assert not (target / WEIGHTS_FILE).exists()
    assert run("verify", target).returncode == 0


@pytest.mark.parametrize("offline", ["0", "1"])
def test_failed_download_is_one_line(run: Run, cache: Path, tmp_path: Path, offline: str) -> None:
    """The exit code is 1, offline and without a server, and the list shows no cached preset."""
    environ = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": offline, "HF_HOME": str(tmp_path)}
    failed = run("fetch", "hf://team/fnet", **environ)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("fnet-service: preset 'hf://team/fnet': download failed: ")
    assert len(failed.stderr.splitlines()) == 1
    assert all(row["kind"] != "cached" for row in json.loads(run("list", "--json").stdout))


# --- verify ---


def test_verify_prints_each_passed_check(run: Run) -> None:
    """The exit code is 0, and the output has the digest of the weights and no colors."""
    verified = run("verify", DEFAULT_PRESET)
    assert (verified.returncode, verified.stderr) == (0, "")
    assert all(line.startswith("ok      ") for line in verified.stdout.splitlines())
    assert re.search(r"SHA-256 [0-9a-f]{64}\n", verified.stdout)
    document = json.loads(run("verify", DEFAULT_PRESET, "--json").stdout)
    assert document["whole"] is True


def test_verify_prints_one_line_per_failure(run: Run, tmp_path: Path) -> None:
    """Failures are printed on standard error, with exit code 1."""
    directory = tmp_path / "even"
    shutil.copytree(GOLDEN / "even", directory)
    (directory / WEIGHTS_FILE).write_bytes(b"no HDF5")
    (directory / "assets" / "tokenizer" / "vocabulary.spm").write_bytes(b"no vocabulary")
    verified = run("verify", directory)
    assert verified.returncode == 1
    first, second = verified.stderr.splitlines()
    assert first.startswith(f"fnet-service: preset '{directory}': assets/tokenizer/vocabulary.spm: damaged")
    assert second.startswith(f"fnet-service: preset '{directory}': {WEIGHTS_FILE}: damaged")
    assert json.loads(run("verify", directory, "--json").stdout)["whole"] is False


def test_verify_fails_for_a_preset_that_is_not_downloaded(run: Run) -> None:
    """The error names the command that downloads the preset."""
    rejected = run("verify", "f_net_base_en")
    assert rejected.returncode == 1
    assert (
        rejected.stderr
        == "fnet-service: preset 'f_net_base_en': not downloaded; run fnet-service preset fetch f_net_base_en\n"
    )


# --- convert ---


def assert_converted(directory: Path) -> None:
    """Compare the outputs of a converted network with those of transformers."""
    preset = load_preset(str(directory))
    weights = read_weights(directory, preset.architecture)
    with np.load(GOLDEN / "hugging_face" / "outputs.npz") as stored:
        ids, segments, expected = (stored[f"7/{name}"] for name in ("token_ids", "segment_ids", "pooled_output"))
    _, pooled = encode_one(preset.architecture, weights, ids, segments)
    np.testing.assert_allclose(pooled, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kinds", [["model.safetensors", "pytorch_model.bin"], ["pytorch_model.bin"]])
def test_checkpoint_of_a_hub_is_converted(run: Run, tmp_path: Path, kinds: list[str]) -> None:
    """Pickled weights are downloaded only if no safetensors file exists."""
    source = tmp_path / "source"
    shutil.copytree(CHECKPOINT, source)
    for kind in {"model.safetensors", "pytorch_model.bin"} - set(kinds):
        (source / kind).unlink()
    target = tmp_path / "made_en"
    with running(source) as hub:
        converted = run("convert", "hf://team/fnet", target, "--padding", "none", **hub.environment(tmp_path / "home"))
        assert (converted.returncode, converted.stdout) == (0, f"{target}\n"), converted.stderr
        fetched = {path.rpartition("/")[2] for verb, path, _ in hub.requests if verb == "GET" and "/resolve/" in path}
    assert fetched & {"model.safetensors", "pytorch_model.bin"} == {kinds[0]}
    assert_converted(target)
    assert run("verify", target).returncode == 0
    facts: dict[str, Any] = json.loads(run("info", target, "--json").stdout)
    assert (facts["padding"], facts["description"]) == ("none", "Converted from hf://team/fnet.")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere", "made"], 1, "no such directory"),
        (["kaggle://a/b/keras/c", "made"], 1, "expected hf://owner/name[@revision]"),
        ([CHECKPOINT, "made", "--padding", "some"], 2, "--padding: 'some': expected none, max_length or a positive"),
        ([CHECKPOINT, "made", "--padding", "0"], 2, "--padding: '0'"),
        ([CHECKPOINT, GOLDEN], 1, "already exists and is not a preset; choose another destination"),
        ([GOLDEN / "even", "made"], 1, "config.json: model_type is None, expected 'fnet'"),
        (
            [GOLDEN, "made"],
            1,
            f"{GOLDEN}: has no config.json; expected a directory of a Hugging Face checkpoint with config",
        ),
    ],
)
def test_failed_conversion_is_one_line(run: Run, arguments: list[str | Path], code: int, message: str) -> None:
    """The error is one line on standard error."""
    rejected = run("convert", *arguments)
    assert (rejected.returncode, rejected.stdout) == (code, "")
    assert message in rejected.stderr
    assert len(rejected.stderr.splitlines()) == 1

"""`fnet-service preset`: what it prints, what it exits with, and what it leaves on the disk, as a user has it."""

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
    """A cache with nothing in it."""
    return tmp_path / "cache"


@pytest.fixture
def run(cache: Path) -> Run:
    """Run `fnet-service preset …` as a process of its own, without a network."""

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
    """A hub with a small preset that keras-hub wrote."""
    with running(GOLDEN / "even") as hub:
        yield hub


def files_of(directory: Path) -> dict[str, bytes]:
    """Return the content of every file below a directory."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# --- list and info ---


def test_the_list_has_what_is_bundled_and_built_in(run: Run) -> None:
    """With sizes, and how to have what is not here."""
    listed = run("list")
    assert (listed.returncode, listed.stderr) == (0, "")
    text = re.sub(r" +", " ", listed.stdout)
    assert f"{DEFAULT_PRESET} {PARAMETERS:,} 5 384 bundled" in text
    assert "f_net_base_en 82,861,056 12 768 not here; fnet-service preset fetch f_net_base_en" in text
    assert "f_net_large_en 236,945,408 24 1,024 not here" in text


def test_sizes_of_the_built_in_are_the_published_ones(run: Run) -> None:
    """What the list computes is what keras-hub tells."""
    rows = {row["handle"]: row for row in json.loads(run("list", "--json").stdout)}
    for name, preset in BUILT_IN_PRESETS.items():
        assert rows[name]["parameters"] == preset["metadata"]["params"]
        assert (rows[name]["kind"], rows[name]["directory"]) == ("built-in", None)


@pytest.mark.parametrize(
    ("handle", "told"), [("f_net_base_en", "cased, pre-trained"), ("hf://team/fnet@v1", "hf://team/fnet@v1")]
)
def test_what_is_not_here_is_described_all_the_same(run: Run, cache: Path, handle: str, told: str) -> None:
    """As far as it is known, without a download, and how to have it."""
    described = run("info", handle)
    assert (described.returncode, described.stderr) == (0, "")
    assert told in described.stdout
    assert described.stdout.endswith(f"Not here. To have it: fnet-service preset fetch {handle}\n")
    assert json.loads(run("info", handle, "--json").stdout)["directory"] is None
    assert not cache.exists()


def test_what_is_here_is_described_whole(run: Run) -> None:
    """Network, tokenizer, padding, pooling, version, digest and card."""
    facts = json.loads(run("info", DEFAULT_PRESET, "--json").stdout)
    assert facts["directory"] == str(BUNDLED_DIRECTORY / DEFAULT_PRESET)
    assert facts["card"] == str(BUNDLED_DIRECTORY / DEFAULT_PRESET / "README.md")
    assert (facts["num_layers"], facts["hidden_dim"], facts["tokenizer"]) == (5, 384, True)
    assert (facts["padding"], facts["pooling"], len(facts["sha256"])) == ("none", "pooled", 64)
    text = run("info", DEFAULT_PRESET).stdout
    assert facts["sha256"] in text
    assert facts["description"] in text


@pytest.mark.parametrize("verb", ["info", "fetch", "verify"])
def test_a_handle_that_names_nothing_was_asked_wrongly(run: Run, verb: str) -> None:
    """One line on standard error, exit code 2."""
    refused = run(verb, "nothing")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("fnet-service: preset 'nothing': no such preset or directory; known names are ")
    assert len(refused.stderr.splitlines()) == 1


def test_a_damaged_preset_is_told(run: Run, tmp_path: Path) -> None:
    """Its file is named, exit code 1."""
    (tmp_path / "config.json").write_text("{")
    described = run("info", tmp_path)
    assert described.returncode == 1
    assert described.stderr.startswith("fnet-service: config.json: not readable as JSON")


# --- fetch ---


def test_a_preset_is_fetched_once(run: Run, hub: Hub, cache: Path, tmp_path: Path) -> None:
    """Its directory is printed and nothing else; the second time nobody is asked, and the list knows it."""
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


def test_a_preset_is_fetched_into_a_plain_directory(run: Run, hub: Hub, cache: Path, tmp_path: Path) -> None:
    """No links, no other files, and it loads by its path."""
    target = tmp_path / "volume" / "preset"
    fetched = run("fetch", "hf://team/fnet", "--to", target, **hub.environment(tmp_path / "home"))
    assert (fetched.returncode, fetched.stdout) == (0, f"{target}\n")
    expected = files_of(GOLDEN / "even")
    for no_part in ("expected.npz", "texts.json"):
        del expected[no_part]
    assert files_of(target) == expected
    assert not any(path.is_symlink() for path in target.rglob("*"))
    assert load_preset(str(target)).architecture.hidden_dim == 16


def test_to_copy_again_changes_nothing_and_mends_what_is_missing(run: Run, tmp_path: Path) -> None:
    """Into a folder that is mounted, empty or half filled; what else lies there is left alone."""
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


def test_another_preset_is_replaced_only_when_asked(run: Run, tmp_path: Path) -> None:
    """And then none of its files stays."""
    target = tmp_path / "preset"
    shutil.copytree(GOLDEN / "even", target)
    refused = run("fetch", GOLDEN / "sharded", "--to", target)
    assert refused.returncode == 1
    assert "--force" in refused.stderr
    assert (target / WEIGHTS_FILE).exists()
    assert run("fetch", GOLDEN / "sharded", "--to", target, "--force").returncode == 0
    assert not (target / WEIGHTS_FILE).exists()
    assert run("verify", target).returncode == 0


@pytest.mark.parametrize("offline", ["0", "1"])
def test_without_a_network_it_is_told_in_one_line(run: Run, cache: Path, tmp_path: Path, offline: str) -> None:
    """Exit code 1, whether the client is forbidden to ask or nobody answers; nothing is listed afterwards."""
    environ = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": offline, "HF_HOME": str(tmp_path)}
    failed = run("fetch", "hf://team/fnet", **environ)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("fnet-service: preset 'hf://team/fnet': download failed: ")
    assert len(failed.stderr.splitlines()) == 1
    assert all(row["kind"] != "cached" for row in json.loads(run("list", "--json").stdout))


# --- verify ---


def test_a_whole_preset_is_told_check_by_check(run: Run) -> None:
    """Exit code 0, the digest of the weights among it, no colours where nobody looks."""
    verified = run("verify", DEFAULT_PRESET)
    assert (verified.returncode, verified.stderr) == (0, "")
    assert all(line.startswith("whole  ") for line in verified.stdout.splitlines())
    assert re.search(r"SHA-256 [0-9a-f]{64}\n", verified.stdout)
    document = json.loads(run("verify", DEFAULT_PRESET, "--json").stdout)
    assert document["whole"] is True


def test_each_fault_is_a_line(run: Run, tmp_path: Path) -> None:
    """On standard error, exit code 1."""
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


def test_what_is_not_here_cannot_be_verified(run: Run) -> None:
    """It is told how to have it."""
    refused = run("verify", "f_net_base_en")
    assert refused.returncode == 1
    assert refused.stderr == "fnet-service: preset 'f_net_base_en': not here: fnet-service preset fetch f_net_base_en\n"


# --- convert ---


def assert_converted(directory: Path) -> None:
    """Hold a converted network to what transformers computes."""
    preset = load_preset(str(directory))
    weights = read_weights(directory, preset.architecture)
    with np.load(GOLDEN / "hugging_face" / "outputs.npz") as stored:
        ids, segments, expected = (stored[f"7/{name}"] for name in ("token_ids", "segment_ids", "pooled_output"))
    _, pooled = encode_one(preset.architecture, weights, ids, segments)
    np.testing.assert_allclose(pooled, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kinds", [["model.safetensors", "pytorch_model.bin"], ["pytorch_model.bin"]])
def test_a_checkpoint_of_the_hub_becomes_a_preset(run: Run, tmp_path: Path, kinds: list[str]) -> None:
    """Weights that need torch are downloaded only where there are no others."""
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
    ("arguments", "code", "told"),
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
def test_what_cannot_be_converted_is_told(run: Run, arguments: list[str | Path], code: int, told: str) -> None:
    """In one line."""
    refused = run("convert", *arguments)
    assert (refused.returncode, refused.stdout) == (code, "")
    assert told in refused.stderr
    assert len(refused.stderr.splitlines()) == 1

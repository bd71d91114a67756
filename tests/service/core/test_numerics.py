"""The fingerprint of a process's results: replicas that give the same bits have the same, others do not."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.timeouts import TIMEOUT

if TYPE_CHECKING:
    from tests.support.process import Process

LENGTHS = [1, 2, 3, 5, 8, 13, 21, 34, 55, 64]


@pytest.fixture(scope="session")
def replica_preset(write_preset: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset that is large enough for products in bfloat16."""
    return write_preset(tmp_path_factory.mktemp("presets") / "replica_en", hidden=64, intermediate=128)


def described(process: Process) -> tuple[dict[str, Any], dict[str, str], list[list[float]]]:
    """Return what a process says of itself, the labels of its model, and what it computes for fixed sequences."""
    random = np.random.default_rng(3)
    ids = [random.integers(1, 30_000, length).tolist() for length in LENGTHS]
    with httpx.Client(base_url=process.url, timeout=TIMEOUT) as client:
        process.wait_until(lambda: client.get("/health/ready").status_code == 200)
        families = text_string_to_metric_families(client.get("/metrics").text)
        (labels,) = (
            sample.labels for family in families for sample in family.samples if sample.name == "fnet_model_info"
        )
        outputs = client.post("/v1/encode", json={"token_ids": ids, "outputs": ["pooled_output"]}).json()
        return client.get("/v1/info").json(), labels, outputs["pooled_output"]


def test_replicas_of_one_configuration_have_one_fingerprint(
    start: Callable[..., Process], replica_preset: Path
) -> None:
    """Limits that change no result do not change it either; it is a label of the model's metric."""
    replicas = [start(FNET_PRESET=str(replica_preset), FNET_MAX_BATCH_TOKENS=tokens) for tokens in ("128", "128", "64")]
    infos, labels, outputs = zip(*map(described, replicas), strict=True)
    assert all(info["batch_invariant"] for info in infos)
    assert [info["limits"]["max_batch_tokens"] for info in infos] == [128, 128, 64]
    assert re.fullmatch("sha256:[0-9a-f]{64}", infos[0]["numerics"])
    assert {info["numerics"] for info in infos} == {infos[0]["numerics"]}
    assert {label["numerics"] for label in labels} == {infos[0]["numerics"]}
    assert {label["backend"] for label in labels} == {"jax"}
    assert outputs[0] == outputs[1] == outputs[2]


def test_replicas_that_give_other_bits_have_other_fingerprints(
    start: Callable[..., Process], replica_preset: Path
) -> None:
    """Another dtype, other weights."""
    environ = {"FNET_PRESET": str(replica_preset), "FNET_MAX_BATCH_TOKENS": "64"}
    replicas = [
        start(**environ),
        start(**environ, FNET_DTYPE="bfloat16"),
        start(**environ, FNET_LOAD_WEIGHTS="false"),
    ]
    infos, labels, outputs = zip(*map(described, replicas), strict=True)
    assert (
        [info["dtype"] for info in infos] == [label["dtype"] for label in labels] == ["float32", "bfloat16", "float32"]
    )
    assert len({info["numerics"] for info in infos}) == 3
    assert [label["numerics"] for label in labels] == [info["numerics"] for info in infos]
    assert outputs[0] != outputs[1]
    assert outputs[0] != outputs[2]

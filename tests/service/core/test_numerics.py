"""The numerics fingerprint: replicas have equal fingerprints if and only if their outputs are bit-identical."""

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
    """A preset that is large enough for bfloat16 operands."""
    return write_preset(tmp_path_factory.mktemp("presets") / "replica_en", hidden=64, intermediate=128)


def describe(process: Process) -> tuple[dict[str, Any], dict[str, str], list[list[float]]]:
    """Return `/v1/info`, the labels of `fnet_model_info`, and the outputs of fixed sequences."""
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


def test_replicas_of_one_configuration_have_equal_fingerprints(
    start: Callable[..., Process], replica_preset: Path
) -> None:
    """Limits do not change the fingerprint. It is a label of `fnet_model_info`."""
    replicas = [start(FNET_PRESET=str(replica_preset), FNET_MAX_BATCH_TOKENS=tokens) for tokens in ("128", "128", "64")]
    infos, labels, outputs = zip(*map(describe, replicas), strict=True)
    assert all(info["batch_invariant"] for info in infos)
    assert [info["limits"]["max_batch_tokens"] for info in infos] == [128, 128, 64]
    assert re.fullmatch("sha256:[0-9a-f]{64}", infos[0]["numerics"])
    assert {info["numerics"] for info in infos} == {infos[0]["numerics"]}
    assert {label["numerics"] for label in labels} == {infos[0]["numerics"]}
    assert {label["backend"] for label in labels} == {"jax"}
    assert outputs[0] == outputs[1] == outputs[2]


def test_replicas_with_different_outputs_have_different_fingerprints(
    start: Callable[..., Process], replica_preset: Path
) -> None:
    """Dtype and weights change the fingerprint."""
    environ = {"FNET_PRESET": str(replica_preset), "FNET_MAX_BATCH_TOKENS": "64"}
    replicas = [
        start(**environ),
        start(**environ, FNET_DTYPE="bfloat16"),
        start(**environ, FNET_LOAD_WEIGHTS="false"),
    ]
    infos, labels, outputs = zip(*map(describe, replicas), strict=True)
    assert (
        [info["dtype"] for info in infos] == [label["dtype"] for label in labels] == ["float32", "bfloat16", "float32"]
    )
    assert len({info["numerics"] for info in infos}) == 3
    assert [label["numerics"] for label in labels] == [info["numerics"] for info in infos]
    assert outputs[0] != outputs[1]
    assert outputs[0] != outputs[2]

"""A request for pooled outputs does not retain token outputs, in any protocol."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from model.encoder import Encoding, Output
from service.bulk.encoders import EncodeOptions, LocalEncoder
from service.bulk.rows import Row
from service.core.inputs import Text
from tests.support.timeouts import TIMEOUT

if TYPE_CHECKING:
    from tests.service.conftest import Service
    from tests.support.process import Process

SEQUENCES, TOKENS, HIDDEN = 2048, 60, 256
# Size of the token outputs of such a request.
TOKEN_OUTPUT_BYTES = SEQUENCES * TOKENS * HIDDEN * 4
MAX_GROWTH_BYTES = 60 << 20
TEXTS = [f"text number {number}" for number in range(12)]


@pytest.fixture
def results(service: Service, monkeypatch: pytest.MonkeyPatch) -> list[Encoding]:
    """Results that the engine returns during a test."""
    returned: list[Encoding] = []
    encode = service.engine.encode

    async def recorded(*arguments: Any, **options: Any) -> Any:
        encodings, timings = await encode(*arguments, **options)
        returned.extend(encodings)
        return encodings, timings

    monkeypatch.setattr(service.engine, "encode", recorded)
    return returned


def assert_retains_only(results: list[Encoding], outputs: set[Output], hidden: int) -> None:
    """Assert that each result has one row per output and does not reference the memory of other arrays."""
    assert len(results) == len(TEXTS)
    for encoding in results:
        assert set(encoding.arrays) == outputs
        assert encoding.nbytes == len(outputs) * hidden * 4
        assert all(array.base is None for array in encoding.arrays.values())


INFER = {"inputs": [{"name": "texts", "datatype": "BYTES", "shape": [len(TEXTS)], "data": TEXTS}]}


@pytest.mark.parametrize(
    ("path", "request_body", "outputs"),
    [
        ("/v1/encode", {"texts": TEXTS, "outputs": ["pooled_output"]}, {"pooled_output"}),
        ("/v1/encode", {"texts": TEXTS, "outputs": ["mean_output"], "normalize": True}, {"mean_output"}),
        ("/v1/encode", {"texts": TEXTS, "outputs": ["mean_output", "pooled_output"]}, {"mean_output", "pooled_output"}),
        ("/v1/embeddings", {"input": TEXTS, "model": "tiny_en"}, {"pooled_output"}),
        ("/v1/embeddings", {"input": TEXTS, "model": "tiny_en", "encoding_format": "base64"}, {"pooled_output"}),
        ("/embed", {"inputs": TEXTS}, {"pooled_output"}),
        ("/", {"inputs": TEXTS}, {"pooled_output"}),
        ("/v2/models/tiny_en/infer", {**INFER, "outputs": [{"name": "mean_output"}]}, {"mean_output"}),
    ],
)
def test_route_retains_only_requested_outputs(
    service: Service, results: list[Encoding], path: str, request_body: dict[str, Any], outputs: set[Output]
) -> None:
    """The token outputs of a batch are released after its run."""
    answer = service.post(path, json=request_body)
    assert answer.status_code == 200, answer.text
    assert_retains_only(results, outputs, service.engine.require_ready().preset.architecture.hidden_dim)


@pytest.mark.parametrize("output", ["pooled_output", "mean_output"])
def test_bulk_encoding_retains_only_written_outputs(service: Service, results: list[Encoding], output: Output) -> None:
    """The rule applies to `fnet-service encode` with texts and with ids."""
    encoder = LocalEncoder(service.engine)
    encode_options = EncodeOptions(outputs=(output,), normalize=True, truncate=False, padding=None)
    hidden = service.engine.require_ready().preset.architecture.hidden_dim
    texts = [Row(number, number + 1, text=Text(text)) for number, text in enumerate(TEXTS)]
    assert len(service.run(encoder.texts(texts, encode_options))) == len(TEXTS)
    assert_retains_only(results, {output}, hidden)
    results.clear()
    ids = [Row(number, number + 1, token_ids=[4, 9, 5]) for number in range(len(TEXTS))]
    assert len(service.run(encoder.ids(ids, encode_options))) == len(TEXTS)
    assert_retains_only(results, {output}, hidden)


# === A real process ===


@dataclass
class Growth:
    """Maximum growth of the resident memory of a process, in bytes."""

    nbytes: int = 0


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) << 10


@contextmanager
def growth_of(pid: int) -> Iterator[Growth]:
    """Measure the growth of the resident memory of a process every two milliseconds."""
    growth, ended, before = Growth(), threading.Event(), resident_bytes(pid)

    def watch() -> None:
        while not ended.wait(0.002):
            growth.nbytes = max(growth.nbytes, resident_bytes(pid) - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield growth
    finally:
        ended.set()
        thread.join(TIMEOUT)


def test_large_pooled_request_takes_little_memory(
    start: Callable[..., Process], write_preset: Callable[..., Path], tmp_path: Path
) -> None:
    """A pooled request of 2,048 sequences stays below a limit that a request for token outputs exceeds."""
    preset = write_preset(tmp_path / "wide_en", layers=1, hidden=HIDDEN, intermediate=16)
    process = start(FNET_PRESET=str(preset))
    ids = np.random.default_rng(7).integers(1, 30_000, (SEQUENCES, TOKENS)).tolist()
    pooled: list[tuple[str, dict[str, Any]]] = [
        ("/v1/encode", {"token_ids": ids, "outputs": ["pooled_output"]}),
        ("/v1/embeddings", {"input": ids, "model": "wide_en", "encoding_format": "base64"}),
        ("/embed", {"inputs": ids}),
    ]
    with httpx.Client(base_url=process.url, timeout=TIMEOUT) as client:
        process.wait_until(lambda: client.get("/health/ready").status_code == 200)
        for path, body in pooled:
            # A first request initializes the route.
            for field in ("token_ids", "input", "inputs"):
                if field in body:
                    assert client.post(path, json={**body, field: ids[:64]}).status_code == 200
            with growth_of(process.pid) as growth:
                assert client.post(path, json=body).status_code == 200
            assert growth.nbytes < MAX_GROWTH_BYTES, path
        with growth_of(process.pid) as growth:
            body = {"token_ids": ids, "outputs": ["sequence_output"], "encoding_format": "base64"}
            assert client.post("/v1/encode", json=body).status_code == 200
        assert growth.nbytes > TOKEN_OUTPUT_BYTES * 3 / 4 > MAX_GROWTH_BYTES

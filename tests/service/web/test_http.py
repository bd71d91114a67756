"""The application over HTTP: fields, errors, metrics and descriptions."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import pytest
import structlog
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from model.backbone import FNetBackbone
from model.tokenizer import FNetTokenizer
from service import __version__
from service.app import create_app
from service.settings import Settings
from service.web.statuses import STATUSES
from tests.support.bundled import POISON, VOCABULARY
from tests.support.timeouts import TIMEOUT

if TYPE_CHECKING:
    from starlette.types import Message

    from tests.service.conftest import BlockingRunner, Service

    MakeBlockedService = Callable[..., tuple[Service, BlockingRunner]]
    WaitUntil = Callable[[Callable[[], bool]], None]

Array = npt.NDArray[np.float32]
# Reads all samples of `/metrics`, by name and labels.
Scrape = Callable[[], dict[tuple[str, tuple[tuple[str, str], ...]], float]]

HIDDEN = 32
POSITIONS = 64
LONG = " ".join(["word"] * 100)
OUTPUTS = ["sequence_output", "pooled_output", "mean_output"]


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that a response is a problem document, and return it."""
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    document: dict[str, Any] = response.json()
    assert set(document) == {"type", "title", "status", "detail", "code", "errors"}
    assert (document["status"], document["code"]) == (status, code)
    assert document["detail"]
    assert document["title"]
    assert response.headers["x-request-id"]
    assert STATUSES[code] == status
    return document


@pytest.fixture(scope="module")
def reference(tiny_preset: Path) -> FNetBackbone:
    """The reference backbone of the tiny preset."""
    return FNetBackbone.from_preset(tiny_preset)


@pytest.fixture(scope="module")
def tokenizer(service: Service) -> FNetTokenizer:
    """The tiny preset's tokenizer."""
    made = service.engine.require_ready().tokenizer
    assert made is not None
    return made


def truth(reference: FNetBackbone, ids: list[int], segments: list[int] | None = None) -> tuple[Array, Array]:
    """Return the backbone's outputs for one sequence."""
    return reference.encode_one(
        np.array(ids, np.int32), np.array([0] * len(ids) if segments is None else segments, np.int32)
    )


def close_to(actual: Any, expected: Array) -> None:
    """Compare an output with that of the backbone."""
    np.testing.assert_allclose(np.array(actual, np.float32), expected, atol=1e-4)


# === Encoding ===


def test_each_sequence_equals_its_separate_encoding(service: Service, reference: FNetBackbone) -> None:
    """Both default outputs equal those of the backbone for sequences of different lengths."""
    ids = [[5, 6, 7], [8], list(range(POSITIONS))]
    segments = [[0, 1, 2], [2], [1] * POSITIONS]
    response = service.encode(token_ids=ids, segment_ids=segments)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    answer = response.json()
    assert list(answer) == ["model", "hidden_dim", "sequence_output", "pooled_output", "usage"]
    assert (answer["model"], answer["hidden_dim"]) == ("tiny_en", HIDDEN)
    assert answer["usage"] == {"sequences": 3, "tokens": 3 + 1 + POSITIONS}
    for index in range(3):
        sequence_output, pooled_output = truth(reference, ids[index], segments[index])
        close_to(answer["sequence_output"][index], sequence_output)
        close_to(answer["pooled_output"][index], pooled_output)


def test_segment_ids_default_to_zeros(service: Service) -> None:
    """Other segment ids change the outputs."""
    plain = service.encode(token_ids=[[5, 6]]).json()
    assert service.encode(token_ids=[[5, 6]], segment_ids=[[0, 0]]).json() == plain
    assert service.encode(token_ids=[[5, 6]], segment_ids=[[0, 1]]).json() != plain


def test_texts_are_encoded_as_their_tokens(service: Service, tokenizer: FNetTokenizer) -> None:
    """A text is surrounded by special tokens; a pair has two segments."""
    texts = ["a small dog", ["who?", "a dog"]]
    tokens = [tokenizer.encode("a small dog"), tokenizer.encode("who?", "a dog")]
    by_text = service.encode(texts=texts).json()
    by_ids = service.encode(
        token_ids=[item.token_ids for item in tokens], segment_ids=[item.segment_ids for item in tokens]
    ).json()
    assert by_text == by_ids
    assert by_text["usage"]["tokens"] == sum(len(item.token_ids) for item in tokens)


@pytest.mark.parametrize("request_", [{"token_ids": [5, 6, 7]}, {"texts": "a dog"}])
def test_bare_input_returns_lists_of_one(service: Service, request_: dict[str, Any]) -> None:
    """The response has the same shape as for a list of one."""
    ((name, value),) = request_.items()
    assert service.encode(**request_).json() == service.encode(**{name: [value]}).json()
    assert len(service.encode(**request_).json()["pooled_output"]) == 1


def test_mean_output_is_the_mean_of_the_sequence_output(service: Service) -> None:
    """It is computed on request only."""
    answer = service.encode(texts="a small dog", outputs=["mean_output", "sequence_output"]).json()
    assert "pooled_output" not in answer
    close_to(answer["mean_output"][0], np.array(answer["sequence_output"][0], np.float32).mean(axis=0))


def test_outputs_are_in_request_order(service: Service) -> None:
    """The JSON fields have the order of the request."""
    answer = service.encode(texts="a", outputs=["mean_output", "pooled_output"]).json()
    assert list(answer) == ["model", "hidden_dim", "mean_output", "pooled_output", "usage"]


def test_outputs_are_normalized_on_request(service: Service) -> None:
    """Pooled and mean outputs get length 1; sequence outputs are unchanged."""
    plain = service.encode(texts=["a", "b"], outputs=OUTPUTS).json()
    scaled = service.encode(texts=["a", "b"], outputs=OUTPUTS, normalize=True).json()
    assert scaled["sequence_output"] == plain["sequence_output"]
    for name in ("pooled_output", "mean_output"):
        before = np.array(plain[name])
        close_to(scaled[name], before / np.linalg.norm(before, axis=1, keepdims=True))


def test_base64_contains_equal_numbers(service: Service) -> None:
    """The values are bit-identical to those in JSON."""
    request = {"texts": ["a dog", "b"], "outputs": OUTPUTS}
    numbers, strings = service.encode(**request).json(), service.encode(**request, encoding_format="base64").json()
    for name in OUTPUTS:
        for index in range(2):
            expected = np.array(numbers[name][index], np.float32)
            read = np.frombuffer(base64.b64decode(strings[name][index], validate=True), "<f4")
            assert np.array_equal(read.reshape(expected.shape), expected)
    assert strings["usage"] == numbers["usage"]


def test_archive_contains_equal_numbers(service: Service) -> None:
    """Sequence outputs are concatenated and `lengths` has the tokens per sequence."""
    request = {"token_ids": [[5, 6, 7], [8], [9, 10]], "outputs": OUTPUTS}
    numbers = service.encode(**request).json()
    response = service.post("/v1/encode", json=request, headers={"Accept": "application/x-npz"})
    assert (response.status_code, response.headers["content-type"]) == (200, "application/x-npz")
    with np.load(io.BytesIO(response.content), allow_pickle=False) as archive:
        arrays = dict(archive)
    assert arrays["lengths"].tolist() == [3, 1, 2]
    assert arrays["lengths"].dtype == np.int32
    for name in ("pooled_output", "mean_output"):
        assert np.array_equal(arrays[name], np.array(numbers[name], np.float32))
    expected = np.concatenate([np.array(item, np.float32) for item in numbers["sequence_output"]])
    assert np.array_equal(arrays["sequence_output"], expected)
    assert all(arrays[name].dtype == np.float32 for name in OUTPUTS)


def test_accept_header_selects_the_archive(service: Service) -> None:
    """The header is case-insensitive, may span lines, and sets Vary."""
    for accept, archive in (
        (["application/x-npz;q=0, application/json"], False),
        (["APPLICATION/X-NPZ"], True),
        (["text/html", "application/x-npz"], True),
    ):
        headers = [("Accept", item) for item in accept]
        response = service.post("/v1/encode", json={"texts": "a"}, headers=headers)
        assert (response.status_code, response.headers["vary"]) == (200, "Accept")
        assert response.headers["content-type"] == ("application/x-npz" if archive else "application/json")


def test_large_archive_is_streamed_with_content_length(service: Service) -> None:
    """The body has the announced size and the values of small responses."""
    ids = [[index, *range(1, POSITIONS)] for index in range(36)]
    request = {"token_ids": ids, "outputs": OUTPUTS}
    response = service.post("/v1/encode", json=request, headers={"Accept": "application/x-npz"})
    assert response.headers["content-length"] == str(len(response.content))
    with np.load(io.BytesIO(response.content), allow_pickle=False) as archive:
        arrays = dict(archive)
    for index in (0, 13, 35):
        small = service.encode(token_ids=ids[index], outputs=OUTPUTS).json()
        rows = arrays["sequence_output"][index * POSITIONS : (index + 1) * POSITIONS]
        assert np.array_equal(rows, np.array(small["sequence_output"][0], np.float32))
        for name in ("pooled_output", "mean_output"):
            assert np.array_equal(arrays[name][index], np.array(small[name][0], np.float32))


def pieces(service: Service, path: str, request: dict[str, Any], accept: str) -> list[int]:
    """Return the sizes of the chunks of a response."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"accept", accept.encode())],
    }
    body: Message = {"type": "http.request", "body": json.dumps(request).encode(), "more_body": False}
    messages = iter([body])
    sizes = []

    async def receive() -> Message:
        message = next(messages, None)
        return await asyncio.Future() if message is None else message

    async def send(message: Message) -> None:
        sizes.append(len(message.get("body", b"")))

    service.run(service.app(scope, receive, send))
    return sizes


SEQUENCES = [[index, *range(1, POSITIONS)] for index in range(36)]
TENSOR = {"name": "token_ids", "datatype": "INT64", "shape": [36, POSITIONS], "data": SEQUENCES}
BINARY = {"binary_data": True}


@pytest.mark.parametrize(
    ("path", "request_", "accept"),
    [
        ("/v1/encode", {"token_ids": SEQUENCES}, "application/x-npz"),
        ("/v1/encode", {"token_ids": SEQUENCES}, "application/json"),
        ("/v1/encode", {"token_ids": SEQUENCES, "encoding_format": "base64"}, "application/json"),
        ("/embed_all", {"inputs": SEQUENCES}, "application/json"),
        ("/v2/models/tiny_en/infer", {"inputs": [TENSOR]}, "application/json"),
        ("/v2/models/tiny_en/infer", {"inputs": [TENSOR], "parameters": {"binary_data_output": True}}, "*/*"),
        (
            "/v2/models/tiny_en/infer",
            {
                "inputs": [TENSOR],
                "outputs": [{"name": "sequence_output"}, {"name": "mean_output", "parameters": BINARY}],
            },
            "*/*",
        ),
    ],
    ids=["npz", "json", "base64", "tei", "oip", "oip binary", "oip half binary"],
)
def test_chunks_of_a_large_response_are_small(
    service: Service, path: str, request_: dict[str, Any], accept: str
) -> None:
    """Chunks of a large response are small."""
    sizes = pieces(service, path, request_, accept)
    assert sum(sizes) > 36 * POSITIONS * HIDDEN * 4
    assert max(sizes) <= (1 << 18) + POSITIONS * HIDDEN * 14


@pytest.mark.parametrize(
    ("path", "request_"),
    [
        ("/v1/encode", {"token_ids": [[5]] * 2100, "outputs": ["pooled_output"]}),
        ("/v1/encode", {"token_ids": [[5]] * 2100, "outputs": ["mean_output"], "encoding_format": "base64"}),
        ("/v1/embeddings", {"input": [[5]] * 2100, "model": "tiny_en"}),
        ("/embed", {"inputs": [[5]] * 2100}),
        ("/embed_all", {"inputs": [[5]] * 2100}),
    ],
)
def test_many_rows_are_streamed(make_blocked_service: MakeBlockedService, path: str, request_: dict[str, Any]) -> None:
    """Many rows are streamed."""
    blocked, gate = make_blocked_service(max_sequences=2100)
    gate.opened.set()
    assert 2100 * HIDDEN > 65_536
    response = blocked.post(path, json=request_)
    assert response.status_code == 200
    assert "content-length" not in response.headers
    answer = response.json()
    rows = next((answer[name] for name in ("data", *OUTPUTS) if name in answer), answer)
    assert len(rows) == 2100
    assert all(row["embedding"] == rows[0]["embedding"] if "embedding" in row else row == rows[0] for row in rows)


def test_long_inputs_are_truncated_on_request(service: Service, tokenizer: FNetTokenizer) -> None:
    """Ids lose their end; texts keep their last special token."""
    ids = list(range(1, POSITIONS + 20))
    cut = service.encode(token_ids=ids, truncate=True).json()
    assert cut == service.encode(token_ids=ids[:POSITIONS]).json()
    text = service.encode(texts=LONG, truncate=True).json()
    assert text["usage"]["tokens"] == POSITIONS
    remaining = tokenizer.encode_truncated(LONG, None, POSITIONS)
    assert text == service.encode(token_ids=remaining.token_ids).json()


@pytest.mark.parametrize(("padding", "length"), [("none", 3), ("max_length", POSITIONS), (10, 10), (2, 3), (None, 3)])
def test_texts_are_padded_on_request(
    service: Service, tokenizer: FNetTokenizer, padding: str | int | None, length: int
) -> None:
    """Texts are padded on request."""
    ids = tokenizer.encode("a").token_ids
    padded = service.encode(texts="a", padding=padding).json()
    assert padded["usage"]["tokens"] == length
    assert padded == service.encode(token_ids=ids + [tokenizer.pad_token_id] * (length - len(ids))).json()


def test_large_response_is_streamed_with_equal_values(service: Service) -> None:
    """Streaming does not change the values."""
    ids = [[index, *range(1, POSITIONS)] for index in range(36)]
    assert 36 * POSITIONS * HIDDEN > 65_536
    large = service.encode(token_ids=ids, outputs=OUTPUTS)
    assert large.status_code == 200
    answer = large.json()
    assert list(answer) == ["model", "hidden_dim", *OUTPUTS, "usage"]
    assert answer["usage"] == {"sequences": 36, "tokens": 36 * POSITIONS}
    for index in (0, 13, 35):
        small = service.encode(token_ids=ids[index], outputs=OUTPUTS).json()
        assert {name: answer[name][index] for name in OUTPUTS} == {name: small[name][0] for name in OUTPUTS}


@pytest.mark.parametrize(
    ("coding", "compress"),
    [("gzip", gzip.compress), ("deflate", zlib.compress)],
)
def test_request_bodies_can_be_compressed(service: Service, coding: str, compress: Callable[[bytes], bytes]) -> None:
    """Request bodies can be compressed."""
    body = json.dumps({"texts": "a dog"}).encode()
    response = service.post("/v1/encode", content=compress(body), headers={"Content-Encoding": coding})
    assert response.json() == service.encode(texts="a dog").json()


def test_concurrent_requests_equal_separate_requests(
    service: Service, random_ids: Callable[..., list[list[int]]]
) -> None:
    """Concurrent requests equal separate requests."""
    requests: list[dict[str, Any]] = [
        {"token_ids": random_ids([1 + (7 * n) % 63] + [1 + (11 * n) % 30] * (n % 3), seed=n), "outputs": OUTPUTS}
        for n in range(32)
    ]

    async def together() -> list[httpx.Response]:
        return await asyncio.gather(*(service.http.post("/v1/encode", json=request) for request in requests))

    before = service.app.state.metrics.registry.get_sample_value("fnet_batch_sequences_count")
    at_once = service.run(together())
    runs = service.app.state.metrics.registry.get_sample_value("fnet_batch_sequences_count") - before
    assert runs < sum(len(request["token_ids"]) for request in requests)  # the sequences shared rows
    for request, response in zip(requests, at_once, strict=True):
        assert response.status_code == 200
        assert response.json() == service.encode(**request).json()


def test_responses_have_request_id_and_timing(service: Service) -> None:
    """The response has the client's request ID and Server-Timing."""
    response = service.post("/v1/encode", json={"texts": "a"}, headers={"X-Request-Id": "mine-1"})
    assert response.headers["x-request-id"] == "mine-1"
    durations = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    assert list(durations) == ["queue", "compute", "total"]
    assert 0 < float(durations["compute"]) <= float(durations["total"])
    assert service.get("/health").headers["x-request-id"]


# === Errors ===


@pytest.mark.parametrize(
    ("request_", "loc"),
    [
        ({"token_ids": [[1], [1, VOCABULARY]]}, ["token_ids", 1, 1]),
        ({"token_ids": [1, -1]}, ["token_ids", 1]),
        ({"token_ids": [[1]], "segment_ids": [[3]]}, ["segment_ids", 0, 0]),
        ({"token_ids": [1], "segment_ids": [3]}, ["segment_ids", 0]),
        ({"token_ids": [[1, 2]], "segment_ids": [[0]]}, ["segment_ids", 0]),
        ({"token_ids": [[1], []]}, ["token_ids", 1]),
        ({"token_ids": [[1] * 65]}, ["token_ids", 0]),
        ({"token_ids": [1] * 65}, ["token_ids"]),
        ({"texts": ["a", LONG]}, ["texts", 1]),
        ({"texts": LONG}, ["texts"]),
        ({"texts": []}, ["texts"]),
        ({"texts": "a", "padding": 65}, ["padding"]),
        ({"texts": "a", "text": "b"}, ["text"]),
        ({"texts": "a", "token_ids": [1]}, ["token_ids"]),
        ({}, ["token_ids"]),
    ],
)
def test_invalid_input_has_the_location_in_the_request(
    service: Service, request_: dict[str, Any], loc: list[str | int]
) -> None:
    """Invalid input has the location in the request."""
    document = problem(service.encode(**request_), 422, "invalid_input")
    assert [error["loc"] for error in document["errors"]] == [loc]
    assert all(error["msg"] for error in document["errors"])


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'\xef\xbb\xbf{"texts": "a"}'])
def test_invalid_json_is_a_bad_request(service: Service, body: bytes) -> None:
    """Invalid JSON is a bad request."""
    problem(service.post("/v1/encode", content=body), 400, "bad_request")


@pytest.mark.parametrize("headers", [{"X-Request-Timeout": "soon"}, {"Content-Encoding": "br"}])
def test_invalid_header_is_a_bad_request(service: Service, headers: dict[str, str]) -> None:
    """The message names the header."""
    document = problem(service.post("/v1/encode", json={"texts": "a"}, headers=headers), 400, "bad_request")
    assert next(iter(headers)) in document["detail"]


def test_configured_api_keys_are_required(make_blocked_service: MakeBlockedService) -> None:
    """A request without a key gets 401 and with a key 200."""
    blocked, gate = make_blocked_service(api_keys=["first"])
    gate.opened.set()
    refused = blocked.encode(texts="a")
    problem(refused, 401, "unauthorized")
    assert refused.headers["www-authenticate"] == "Bearer"
    problem(blocked.get("/v1/info"), 401, "unauthorized")
    key_header = {"Authorization": "Bearer first"}
    assert blocked.post("/v1/encode", json={"texts": "a"}, headers=key_header).status_code == 200
    assert blocked.get("/health").status_code == blocked.get("/metrics").status_code == 200


def test_requests_rejected_by_middleware_have_their_route_label(make_blocked_service: MakeBlockedService) -> None:
    """Requests without a key and with a large body are counted under their route."""
    blocked, _ = make_blocked_service(api_keys=["first"], max_body_bytes=100)
    blocked.encode(texts="a")
    blocked.post("/v1/encode", content=b"x" * 101, headers={"X-API-Key": "first"})
    exposition = blocked.get("/metrics").text
    for status in ("401", "413"):
        assert f'fnet_requests_total{{route="/v1/encode",status="{status}"}} 1.0' in exposition


def test_unknown_route_is_not_found(service: Service) -> None:
    """Any method gets 404."""
    problem(service.get("/nothing"), 404, "not_found")
    document = problem(service.post("/v1/encode/x", json={}), 404, "not_found")
    assert document["detail"] == "unknown route POST /v1/encode/x; see /docs"


@pytest.mark.parametrize("path", ["/v1/encode/", "/v1/encode%2f", "/v1/encode//", "/v1/tokenize/"])
def test_trailing_slash_is_not_redirected(service: Service, path: str) -> None:
    """Behind TLS a redirect would have a wrong scheme."""
    problem(service.post(path, json={"texts": "a"}), 404, "not_found")
    problem(service.get("/health/"), 404, "not_found")


def test_wrong_method_returns_allowed_methods(service: Service) -> None:
    """The response is 405 with an Allow header."""
    response = service.get("/v1/encode")
    problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"
    assert "server-timing" in response.headers
    health = service.post("/health")
    problem(health, 405, "method_not_allowed")
    assert health.headers["allow"] == "GET, HEAD"
    put = service.run(service.http.put("/"))
    assert (put.status_code, put.headers["allow"]) == (405, "GET, HEAD, POST")


def test_disabled_page_returns_method_not_allowed(make_blocked_service: MakeBlockedService) -> None:
    """`/` is then a protocol route only."""
    blocked, _ = make_blocked_service(ui=False)
    assert blocked.get("/").headers["allow"] == "POST"


def test_head_equals_get_without_body(service: Service) -> None:
    """HEAD works for each GET route (RFC 9110, section 9.3.2)."""
    for path in ("/health", "/health/live", "/health/ready", "/metrics", "/v1/info", "/v1/models", "/v2/health/ready"):
        response = service.run(service.http.head(path))
        assert (path, response.status_code) == (path, 200)
        assert response.headers["content-type"] == service.get(path).headers["content-type"]
    assert service.run(service.http.head("/v1/encode")).status_code == 405


def test_rejected_requests_are_counted_by_code(make_blocked_service: MakeBlockedService) -> None:
    """Errors of the framework are included."""
    blocked, _ = make_blocked_service()
    blocked.get("/nothing")
    blocked.get("/v1/encode")
    blocked.post("/v1/encode", content=b"{")
    blocked.encode(texts=[])
    exposition = blocked.get("/metrics").text
    for code in ("not_found", "method_not_allowed", "bad_request", "invalid_input"):
        assert f'fnet_rejected_total{{reason="{code}"}} 1.0' in exposition


def test_body_size_is_limited(service: Service) -> None:
    """The limit applies to Content-Length, chunked and inflated bodies."""
    large = b'{"texts": "' + b"a" * (1 << 20) + b'"}'

    async def pieces() -> Any:
        for start in range(0, len(large), 1 << 16):
            yield large[start : start + (1 << 16)]

    problem(service.post("/v1/encode", content=large), 413, "body_too_large")
    problem(service.post("/v1/encode", content=pieces()), 413, "body_too_large")
    packed = gzip.compress(large)
    problem(service.post("/v1/encode", content=packed, headers={"Content-Encoding": "gzip"}), 413, "body_too_large")


def test_number_of_sequences_is_limited(service: Service) -> None:
    """The response is 422 with its own code."""
    assert service.encode(texts=["a"] * 40, outputs=["pooled_output"]).status_code == 200
    document = problem(service.encode(texts=["a"] * 41), 422, "too_many_sequences")
    assert document["errors"][0]["loc"] == ["texts"]


def test_request_larger_than_the_queue_is_invalid(service: Service) -> None:
    """The response is 422, because a retry would not help."""
    document = problem(service.encode(token_ids=[[1] * POSITIONS] * 37), 422, "invalid_input")
    assert "exceed the queue size" in document["detail"]


def test_requests_for_different_outputs_of_one_text_share_a_run(
    service: Service, make_blocked_service: MakeBlockedService, wait_until: WaitUntil
) -> None:
    """Requests for different outputs of one text share a run."""
    blocked, gate = make_blocked_service()
    requests: list[tuple[str, dict[str, Any]]] = [
        ("/v1/encode", {"texts": "two outputs", "outputs": ["mean_output", "pooled_output"]}),
        ("/embed_all", {"inputs": "two outputs"}),
        ("/v1/embeddings", {"input": "two outputs", "model": "tiny_en"}),
    ]

    async def meet() -> list[httpx.Response]:
        running = asyncio.ensure_future(blocked.http.post("/embed", json={"inputs": "another"}))
        assert await asyncio.to_thread(gate.entered.wait, TIMEOUT)
        waiting = [asyncio.ensure_future(blocked.http.post(path, json=body)) for path, body in requests]
        await asyncio.to_thread(wait_until, lambda: blocked.engine.queue_requests == len(requests))
        gate.opened.set()
        await running
        return await asyncio.gather(*waiting)

    answers = blocked.run(meet())
    assert gate.outputs == [
        [frozenset({"pooled_output"})],
        [frozenset({"mean_output", "pooled_output", "sequence_output"})],
    ]
    for answer, (path, body) in zip(answers, requests, strict=True):
        assert answer.status_code == 200
        assert answer.json() == service.post(path, json=body).json()


def test_full_queue_rejects_complete_requests(make_blocked_service: MakeBlockedService, wait_until: WaitUntil) -> None:
    """The response is 429 with Retry-After; a smaller request still fits."""
    blocked, gate = make_blocked_service(max_queue_tokens=128)

    async def send_all() -> None:
        def send(*lengths: int) -> asyncio.Task[httpx.Response]:
            body = {"token_ids": [[1] * length for length in lengths], "outputs": ["pooled_output"]}
            return asyncio.ensure_future(blocked.http.post("/v1/encode", json=body))

        running = send(5)
        assert await asyncio.to_thread(gate.entered.wait, TIMEOUT)
        waiting = send(64, 36)
        await asyncio.to_thread(wait_until, lambda: blocked.engine.queue_tokens == 100)
        refused = await send(20, 9)
        problem(refused, 429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert blocked.engine.queue_tokens == 100
        fits = send(20, 8)
        await asyncio.to_thread(wait_until, lambda: blocked.engine.queue_tokens == 128)
        gate.opened.set()
        assert [(await task).status_code for task in (running, waiting, fits)] == [200, 200, 200]

    blocked.run(send_all())
    assert blocked.app.state.metrics.registry.get_sample_value("fnet_rejected_total", {"reason": "overloaded"}) == 1


def test_non_finite_output_is_an_error(service: Service) -> None:
    """Only the request with such an input gets 500."""
    problem(service.encode(token_ids=[1, POISON]), 500, "non_finite_output")
    assert service.encode(token_ids=[1, 2]).status_code == 200


def test_unexpected_error_is_an_internal_error(make_blocked_service: MakeBlockedService) -> None:
    """The response is 500 without internal details, and the service continues."""
    blocked, gate = make_blocked_service()
    gate.death = KeyError("internal_name")
    gate.opened.set()
    with structlog.testing.capture_logs() as logs:
        response = blocked.encode(texts="a")
    assert "unexpected error" in [entry["event"] for entry in logs]
    problem(response, 500, "internal_error")
    assert "internal_name" not in response.text
    assert "KeyError" not in response.text
    gate.death = None
    assert blocked.encode(texts="a").status_code == 200


def test_request_timeout_is_reported(service: Service) -> None:
    """The response is 504 with the timeout."""
    response = service.post("/v1/encode", json={"texts": "a"}, headers={"X-Request-Timeout": "0.000001"})
    assert problem(response, 504, "deadline_exceeded")["detail"] == "request timed out after 1e-06 s"


def test_loading_service_is_not_ready(tiny_settings: Settings, service: Service) -> None:
    """Requests get 503 and the probes report the state."""
    young = type(service)(create_app(tiny_settings), service._runner)
    for response in (young.encode(texts="a"), young.get("/v1/info")):
        problem(response, 503, "not_ready")
        assert int(response.headers["retry-after"]) >= 1
    for path in ("/health", "/health/ready"):
        response = young.get(path)
        assert (response.status_code, response.json()) == (503, {"state": "loading", "done": 0, "of": 0})
        assert int(response.headers["retry-after"]) >= 1
    assert young.get("/health/live").status_code == 200
    assert young.get("/metrics").status_code == 200
    young.run(young.http.aclose())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/encode", {"texts": "a"}),
        ("/v1/embeddings", {"model": "tiny_en", "input": "a"}),
        (
            "/v2/models/tiny_en/infer",
            {"inputs": [{"name": "texts", "shape": [1], "datatype": "BYTES", "data": ["a"]}]},
        ),
        ("/embed", {"inputs": "a"}),
        ("/embed_all", {"inputs": "a"}),
    ],
)
def test_draining_service_rejects_new_requests(
    make_blocked_service: MakeBlockedService, path: str, body: dict[str, Any]
) -> None:
    """Draining service rejects new requests."""
    blocked, gate = make_blocked_service()

    async def drain() -> None:
        accepted = asyncio.ensure_future(blocked.http.post(path, json=body))
        assert await asyncio.to_thread(gate.entered.wait, TIMEOUT)
        blocked.engine.drain()
        refused = await blocked.http.post("/v1/encode", json={"texts": "a"})
        problem(refused, 503, "draining")
        assert refused.headers["connection"] == "close"
        assert int(refused.headers["retry-after"]) >= 1
        ready, live = await blocked.http.get("/health/ready"), await blocked.http.get("/health/live")
        assert (ready.status_code, ready.json()["state"]) == (503, "draining")
        assert live.status_code == 200
        gate.opened.set()
        assert (await accepted).status_code == 200

    blocked.run(drain())


def test_failed_worker_is_reported_by_all_routes(
    make_blocked_service: MakeBlockedService, wait_until: WaitUntil
) -> None:
    """Running and new requests get 503, and liveness fails."""
    blocked, gate = make_blocked_service()
    gate.death = SystemExit("the thread ends")
    gate.opened.set()
    waited = blocked.encode(texts="a")
    problem(waited, 503, "worker_failed")
    assert int(waited.headers["retry-after"]) >= 1

    wait_until(lambda: bool(blocked.app.state.failures))
    came = blocked.encode(texts="a")
    problem(came, 503, "worker_failed")
    assert int(came.headers["retry-after"]) >= 1
    assert blocked.get("/health/ready").json()["state"] == "failed"
    for path in ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"):
        reported = blocked.get(path)
        assert (reported.status_code, reported.headers["retry-after"]) == (503, came.headers["retry-after"])


def scope_of(path: str) -> dict[str, Any]:
    """Return the ASGI scope of a POST."""
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [],
        "scheme": "http",
        "server": ("service", 80),
        "client": ("client", 1),
        "root_path": "",
    }


def test_shutdown_delay_reports_not_ready_and_accepts_requests(make_blocked_service: MakeBlockedService) -> None:
    """Readiness fails with Retry-After, so that load balancers deregister the replica."""
    blocked, gate = make_blocked_service()
    gate.opened.set()
    blocked.engine.mark_unready()
    for path in ("/health", "/health/ready", "/v2/health/ready"):
        reported = blocked.get(path)
        assert (reported.status_code, reported.headers["retry-after"]) == (503, "1")
    assert blocked.get("/health/live").status_code == 200
    assert blocked.encode(texts="a").status_code == 200


def test_disconnect_during_rejection_is_counted_once(
    make_blocked_service: MakeBlockedService, wait_until: WaitUntil
) -> None:
    """Disconnect during rejection is counted once."""
    blocked, gate = make_blocked_service()
    left = asyncio.Event()
    messages = [{"type": "http.request", "body": json.dumps({"token_ids": [[POISON]]}).encode(), "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pytest.fail(f"{message} was sent after the client disconnected")

    async def leave() -> None:
        request = asyncio.ensure_future(blocked.app(scope_of("/v1/encode"), receive, send))
        assert await asyncio.to_thread(gate.entered.wait, TIMEOUT)
        gate.opened.set()
        wait_until(lambda: blocked.engine.idle)  # blocks the event loop, so that both events arrive together
        left.set()
        await request

    blocked.run(leave())
    samples = blocked.app.state.metrics.registry.get_sample_value
    assert samples("fnet_cancelled_total") == 1
    assert samples("fnet_rejected_total", {"reason": "non_finite_output"}) == 0


def test_disconnect_frees_queue_capacity(make_blocked_service: MakeBlockedService, wait_until: WaitUntil) -> None:
    """Its tokens leave the queue at once, and its sequences never run."""
    blocked, gate = make_blocked_service()

    async def leave() -> None:
        running = asyncio.ensure_future(blocked.http.post("/v1/encode", json={"texts": "a"}))
        assert await asyncio.to_thread(gate.entered.wait, TIMEOUT)
        left = asyncio.Event()
        messages = [{"type": "http.request", "body": b'{"token_ids": [[1, 2, 3]]}', "more_body": False}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            pytest.fail(f"{message} was sent after the client disconnected")

        request = asyncio.ensure_future(blocked.app(scope_of("/v1/encode"), receive, send))
        await asyncio.to_thread(wait_until, lambda: blocked.engine.queue_tokens == 3)
        left.set()
        await request
        assert blocked.engine.queue_tokens == 0
        gate.opened.set()
        assert (await running).status_code == 200

    blocked.run(leave())
    samples = blocked.app.state.metrics.registry.get_sample_value
    assert samples("fnet_cancelled_total") == 1
    assert samples("fnet_sequence_length_tokens_count") == 1


# === Metrics and logs ===


def test_ready_service_reports_ready(service: Service) -> None:
    """Both readiness routes return the number of row lengths."""
    assert service.get("/health/live").json() == {"alive": True}
    for path in ("/health", "/health/ready"):
        response = service.get(path)
        assert (response.status_code, response.json()) == (200, {"state": "ready", "done": 6, "of": 6})


def test_info_describes_the_served_model(service: Service) -> None:
    """Info describes the served model."""
    info = service.get("/v1/info").json()
    expected = {
        "version": __version__,
        "preset": "tiny_en",
        "preset_version": "7",
        "description": "A tiny network with random weights.",
        "trained": True,
        "dtype": "float32",
        "hidden_dim": HIDDEN,
        "tokenizer": True,
        "pooling": "pooled",
        "padding": "none",
        "batch_invariant": True,
    }
    assert {name: info[name] for name in expected} == expected
    # The machine determines which row lengths pass the self-test; the longest must.
    dropped = [item["shape"] for item in info["shapes_dropped"]]
    assert sorted([*info["shapes"], *dropped]) == [8, 16, 24, 32, 48, 64]
    assert info["shapes"][-1] == 64
    assert info["digest"].startswith("sha256:")
    assert len(info["digest"]) == 7 + 64
    assert info["devices"]
    assert info["limits"] == {
        "max_sequence_length": POSITIONS,
        "max_sequences": 40,
        "max_body_bytes": 1 << 20,
        "max_queue_tokens": 2304,
        "max_batch_tokens": 64,
        "request_timeout": TIMEOUT,
    }
    assert info["architecture"]["vocabulary_size"] == VOCABULARY
    assert info["parameters"] == service.engine.require_ready().preset.architecture.parameter_count
    assert info["backend"] == "jax"
    assert re.fullmatch("sha256:[0-9a-f]{64}", info["numerics"])
    assert not {"alignment", "tile", "engine"} & set(info)
    assert 0 <= info["largest_error"] <= 1e-4
    assert info["ready_seconds"] > 0


def test_random_weights_are_not_reported_as_trained(
    smallest_preset: Path, runner: asyncio.Runner, service: Service, wait_until: WaitUntil
) -> None:
    """Random weights are not reported as trained."""
    settings = Settings.model_validate({"preset": str(smallest_preset), "load_weights": False, "max_batch_tokens": 16})
    other = type(service)(create_app(settings), runner)

    async def described() -> dict[str, Any]:
        async with other.app.router.lifespan_context(other.app), other.http:
            await asyncio.to_thread(wait_until, lambda: other.engine.state == "ready")
            answer: dict[str, Any] = (await other.http.get("/v1/info")).json()
            texts = await other.http.post("/v1/encode", json={"texts": "a"})
            assert problem(texts, 422, "invalid_input")["errors"][0]["loc"] == ["texts"]
            return answer

    info = other.run(described())
    assert (info["digest"], info["trained"], info["tokenizer"]) == (None, False, False)


METRICS = {
    "fnet_requests_total",
    "fnet_request_duration_seconds_bucket",
    "fnet_queue_duration_seconds_bucket",
    "fnet_compute_duration_seconds_bucket",
    "fnet_tokenize_duration_seconds_bucket",
    "fnet_sequence_length_tokens_bucket",
    "fnet_batch_tokens_bucket",
    "fnet_batch_sequences_bucket",
    "fnet_batch_fill_ratio_bucket",
    "fnet_queue_tokens",
    "fnet_queue_requests",
    "fnet_rejected_total",
    "fnet_cancelled_total",
    "fnet_compilations_total",
    "fnet_non_finite_total",
    "fnet_ready",
    "fnet_model_info",
}


@pytest.fixture
def scrape(service: Service) -> Scrape:
    """Return all samples of `/metrics` by name and labels."""

    def samples() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        families = parse_text(service.get("/metrics").text)
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }

    return samples


def test_all_documented_metrics_are_exposed(service: Service) -> None:
    """The format is Prometheus text by default and OpenMetrics on request."""
    service.encode(texts="a")
    service.get("/nothing")
    service.encode(texts=[])
    text = service.get("/metrics")
    assert text.headers["content-type"].startswith("text/plain; version=")
    assert {sample.name for family in parse_text(text.text) for sample in family.samples} >= METRICS
    openmetrics = service.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert text.headers["vary"] == openmetrics.headers["vary"] == "Accept"
    families = parse_openmetrics(openmetrics.text)  # type: ignore[no-untyped-call] # prometheus_client leaves it out
    assert {sample.name for family in families for sample in family.samples} >= METRICS


def test_requests_are_counted_by_route_and_status(service: Service, scrape: Scrape) -> None:
    """Encoded requests, tokens, durations and rejections are counted."""
    before = scrape()
    service.encode(texts=["a", "b"])
    service.encode(texts=[])
    after = scrape()

    def grown(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return after[key] - before.get(key, 0.0)

    assert grown("fnet_requests_total", route="/v1/encode", status="200") == 1
    assert grown("fnet_requests_total", route="/v1/encode", status="422") == 1
    assert grown("fnet_request_duration_seconds_count", route="/v1/encode") == 2
    assert grown("fnet_rejected_total", reason="invalid_input") == 1
    assert grown("fnet_sequence_length_tokens_count") == 2
    assert grown("fnet_queue_duration_seconds_count") == 1
    assert grown("fnet_compute_duration_seconds_count") == 1
    assert grown("fnet_tokenize_duration_seconds_count") == 1
    assert after["fnet_ready", ()] == 1
    assert after["fnet_queue_tokens", ()] == after["fnet_queue_requests", ()] == 0
    (info,) = (dict(labels) for name, labels in after if name == "fnet_model_info")
    described = service.get("/v1/info").json()
    assert info == {
        "preset": "tiny_en",
        "preset_version": "7",
        "digest": described["digest"],
        "dtype": "float32",
        "backend": "jax",
        "numerics": described["numerics"],
        "version": __version__,
    }


def test_metric_labels_are_bounded(service: Service, scrape: Scrape) -> None:
    """Unknown paths and methods share one label."""
    service.get("/nothing")
    scrape()
    before = set(scrape())
    for number in range(20):
        service.get(f"/{number}")
        service.post(f"/v1/encode/{number}?key={number}", json={})
    assert set(scrape()) == before
    templates = {
        *service.get("/openapi.json").json()["paths"],
        "/docs",
        "/docs/assets",
        "/page",
        "/openapi.json",
        "/",
        "unmatched",
    }
    assert {dict(labels)["route"] for name, labels in before if name == "fnet_requests_total"} <= templates


def test_serving_does_not_compile(service: Service, random_ids: Callable[..., list[list[int]]]) -> None:
    """No sequence length causes a compilation, and compilations are counted."""
    counted = service.app.state.metrics.registry.get_sample_value
    before = counted("fnet_compilations_total")
    for length in range(1, POSITIONS + 1):
        request = {"token_ids": random_ids([length, *range(1, length % 9)], seed=length), "outputs": OUTPUTS}
        assert service.encode(**request).status_code == 200
    assert service.encode(texts=["a", ["b", LONG]], truncate=True, normalize=True).status_code == 200
    assert counted("fnet_compilations_total") == before
    jax.jit(lambda x: x * 3 + 1)(jnp.zeros(7))
    assert counted("fnet_compilations_total") > before


def test_openapi_describes_requests_without_dangling_references(service: Service) -> None:
    """Each reference resolves, and requests have fields and examples."""
    description = service.get("/openapi.json").json()
    assert description["openapi"].startswith("3.1")
    assert description["info"] == {
        "title": "FNet Encode",
        "version": __version__,
        "description": service.app.description,
    }

    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for inner in value.values():
                yield from references(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from references(inner)

    def resolve(reference: str) -> Any:
        actual: Any = description
        assert reference.startswith("#/")
        for key in reference.removeprefix("#/").split("/"):
            actual = actual[key]
        return actual

    for reference in references(description):
        assert isinstance(resolve(reference), dict)
    operation = description["paths"]["/v1/encode"]["post"]
    request = resolve(operation["requestBody"]["content"]["application/json"]["schema"]["$ref"])
    assert set(request["properties"]) == {
        "token_ids",
        "segment_ids",
        "texts",
        "outputs",
        "normalize",
        "truncate",
        "padding",
        "encoding_format",
    }
    assert all("description" in field for field in request["properties"].values())
    assert request["additionalProperties"] is False
    assert request["examples"]
    assert {"200", "400", "401", "413", "422", "429", "500", "503", "504"} <= set(operation["responses"])
    assert {"application/json", "application/x-npz"} <= set(operation["responses"]["200"]["content"])
    operations = [
        operation
        for path in description["paths"].values()
        for operation in path.values()
        if isinstance(operation, dict)
    ]
    assert all(operation["summary"] and operation["responses"] for operation in operations)
    names = [operation["operationId"] for operation in operations]
    assert sorted(set(names)) == sorted(names)


def test_openapi_examples_are_accepted(service: Service) -> None:
    """Each example gets a response."""
    description = service.get("/openapi.json").json()
    for example in description["components"]["schemas"]["EncodeRequest"]["examples"]:
        assert service.encode(**example).status_code == 200


def test_cors_allows_configured_origins(make_blocked_service: MakeBlockedService) -> None:
    """A preflight requires no key, and responses allow the origin."""
    blocked, gate = make_blocked_service(cors_origins=["http://page"], api_keys=["first"])
    gate.opened.set()
    requested = {"Origin": "http://page", "Access-Control-Request-Method": "POST"}
    preflight = blocked.run(blocked.http.options("/v1/encode", headers=requested))
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "http://page"
    headers = {"Origin": "http://page", "X-API-Key": "first"}
    answer = blocked.post("/v1/encode", json={"texts": "a"}, headers=headers)
    assert answer.headers["access-control-allow-origin"] == "http://page"
    refused = blocked.post("/v1/encode", json={"texts": "a"}, headers={"Origin": "http://page"})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "http://page")
    stranger = blocked.post("/v1/encode", json={"texts": "a"}, headers={**headers, "Origin": "http://other"})
    assert "access-control-allow-origin" not in stranger.headers


@pytest.mark.parametrize(
    ("headers", "expected_message"),
    [
        ({"Origin": "http://other", "Access-Control-Request-Method": "POST"}, "Disallowed CORS origin"),
        ({"Origin": "http://page", "Access-Control-Request-Method": "PUT"}, "Disallowed CORS method"),
    ],
)
def test_rejected_preflight_has_the_format_of_the_protocol(
    make_blocked_service: MakeBlockedService, headers: dict[str, str], expected_message: str
) -> None:
    """Rejected preflight has the format of the protocol."""
    blocked, _ = make_blocked_service(cors_origins=["http://page"])

    def preflight(path: str) -> httpx.Response:
        return blocked.run(blocked.http.options(path, headers=headers))

    assert expected_message in problem(preflight("/v1/encode"), 400, "bad_request")["detail"]
    assert expected_message in preflight("/embed").json()["error"]
    assert expected_message in preflight("/v1/embeddings").json()["error"]["message"]
    assert blocked.app.state.metrics.registry.get_sample_value("fnet_rejected_total", {"reason": "bad_request"}) == 3


def test_preflight_allows_head(make_blocked_service: MakeBlockedService) -> None:
    """Preflight allows head."""
    blocked, _ = make_blocked_service(cors_origins=["http://page"])
    headers = {"Origin": "http://page", "Access-Control-Request-Method": "HEAD"}
    assert blocked.run(blocked.http.options("/v1/info", headers=headers)).status_code == 200

"""Parsing, rendering and routes of the OpenAI protocol."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import numpy.typing as npt
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.presets.preset import Preset
from model.tokenizer import FNetTokenizer
from service.core.engine import normalized
from service.core.errors import (
    MAX_PROBLEMS,
    BadRequestError,
    DrainingError,
    InternalError,
    InvalidInputError,
    MethodNotAllowedError,
    NotFoundError,
    NotReadyError,
    OverloadedError,
    Problem,
    ServiceError,
    TooManySequencesError,
    UnauthorizedError,
)
from service.core.inputs import Text
from service.protocols.openai import EmbeddingsRequest, ParsedRequest, check_supported, parse, render, render_error
from service.web.statuses import STATUSES
from tests.support.bundled import POISON, VOCABULARY

if TYPE_CHECKING:
    from tests.service.conftest import BlockingRunner, Service

    MakeBlockedService = Callable[..., tuple[Service, BlockingRunner]]
    WaitUntil = Callable[[Callable[[], bool]], None]

Array = npt.NDArray[np.float32]

MAX_SEQUENCES = 8
HIDDEN = 32
POSITIONS = 64
MODEL = "tiny_en"
LONG = " ".join(["word"] * 100)


def call(**request: Any) -> ParsedRequest:
    """Parse a request."""
    return parse(json.dumps({"model": MODEL, **request}).encode(), MAX_SEQUENCES)


def refusal(body: Any) -> list[tuple[list[str | int], str]]:
    """Return the locations and messages of the error for a JSON body."""
    with pytest.raises(InvalidInputError) as caught:
        parse(json.dumps(body).encode(), MAX_SEQUENCES)
    assert caught.value.problems
    assert "Request" not in caught.value.detail
    assert "_form(" not in caught.value.detail
    return [(list(problem.loc), problem.msg) for problem in caught.value.problems]


# === Parse ===


@pytest.mark.parametrize(
    ("input_", "texts", "token_ids", "locations"),
    [
        ("a", ["a"], None, [("input",)]),
        ("", [""], None, [("input",)]),
        (["a", ""], ["a", ""], None, [("input", 0), ("input", 1)]),
        (["a"], ["a"], None, [("input", 0)]),
        ([5, 6], None, [[5, 6]], [("input",)]),
        ([[5, 6], [7]], None, [[5, 6], [7]], [("input", 0), ("input", 1)]),
        ([[5]], None, [[5]], [("input", 0)]),
        ([[]], None, [[]], [("input", 0)]),
    ],
)
def test_input_has_four_forms(
    input_: Any, texts: list[str] | None, token_ids: list[list[int]] | None, locations: list[tuple[str | int, ...]]
) -> None:
    """Input has four forms."""
    made = call(input=input_)
    assert made.texts == (None if texts is None else [Text(text) for text in texts])
    assert made.token_ids == token_ids
    assert [made.locate(index) for index in range(len(locations))] == locations


def test_defaults_match_openai() -> None:
    """Numbers and all dimensions; null fields are omitted fields."""
    assert call(input="a").wire == call(input="a", encoding_format=None, dimensions=None, user=None).wire
    wire = call(input="a").wire
    assert (wire.encoding_format, wire.dimensions, wire.user) == (None, None, None)


@pytest.mark.parametrize("value", [5, 1.5, None, True, {}, {"text": "a"}])
def test_input_of_another_type_is_rejected(value: Any) -> None:
    """The message names all four forms."""
    assert refusal({"input": value, "model": MODEL}) == [
        (["input"], "expected a text, a list of texts, a list of token ids or a list of such lists")
    ]


@pytest.mark.parametrize(
    ("value", "loc"),
    [
        ([], ["input"]),
        (["a", 5], ["input", 1]),
        (["a", None], ["input", 1]),
        (["a", ["b"]], ["input", 1]),
        ([5, "a"], ["input", 1]),
        ([5, 1.5], ["input", 1]),
        ([5, [6]], ["input", 1]),
        ([5, True], ["input", 1]),
        ([True], ["input", 0]),
        ([1.5], ["input", 0]),
        ([None], ["input", 0]),
        ([[5], 6], ["input", 1]),
        ([[5], ["a"]], ["input", 1, 0]),
        ([[5, 1 << 70]], ["input", 0, 1]),
    ],
)
def test_mixed_or_empty_input_is_rejected_with_its_location(value: Any, loc: list[str | int]) -> None:
    """The first entry that does not match the others is named."""
    ((actual, message),) = refusal({"input": value, "model": MODEL})
    assert (actual, bool(message)) == (loc, True)


@pytest.mark.parametrize(
    ("fields", "loc"),
    [
        ({"encoding_format": "hex"}, ["encoding_format"]),
        ({"encoding_format": 5}, ["encoding_format"]),
        ({"dimensions": 0}, ["dimensions"]),
        ({"dimensions": -1}, ["dimensions"]),
        ({"dimensions": "8"}, ["dimensions"]),
        ({"dimensions": 8.0}, ["dimensions"]),
        ({"dimensions": True}, ["dimensions"]),
        ({"user": 5}, ["user"]),
        ({"model": None}, ["model"]),
        ({"model": 5}, ["model"]),
        ({"model": ["tiny_en"]}, ["model"]),
        ({"inputs": "a"}, ["inputs"]),
        ({"shorten": True}, ["shorten"]),
        ({"text": "a"}, ["text"]),
    ],
)
def test_invalid_field_is_named(fields: dict[str, Any], loc: list[str | int]) -> None:
    """Invalid values and unknown fields are rejected."""
    assert [actual for actual, _ in refusal({"input": "a", "model": MODEL, **fields})] == [loc]


@pytest.mark.parametrize("field", ["input", "model"])
def test_input_and_model_are_required(field: str) -> None:
    """Neither has a default."""
    body = {"input": "a", "model": MODEL}
    del body[field]
    assert refusal(body) == [([field], "Field required")]


@pytest.mark.parametrize("body", [[], "input", 5, None, True, [{"input": "a"}]])
def test_body_that_is_not_an_object_is_rejected(body: Any) -> None:
    """The message contains no internal names."""
    assert refusal(body) == [([], "expected a JSON object")]


@pytest.mark.parametrize("body", [b"", b"{", b"NaN", b'{"input": "\xff"}', b"[" * 200_000])
def test_invalid_json_is_a_bad_request(body: bytes) -> None:
    """Invalid JSON is a bad request."""
    with pytest.raises(BadRequestError):
        parse(body, MAX_SEQUENCES)


@pytest.mark.parametrize("one", ["a", [5]])
def test_too_many_sequences_have_their_own_error(one: Any) -> None:
    """Too many sequences have their own error."""
    assert call(input=[one] * MAX_SEQUENCES)
    with pytest.raises(TooManySequencesError) as caught:
        call(input=[one] * (MAX_SEQUENCES + 1))
    assert [problem.loc for problem in caught.value.problems] == [("input",)]
    with pytest.raises(TooManySequencesError):
        call(input=[one] * MAX_SEQUENCES + [None], unknown=1)  # before validation
    assert call(input=[5] * (MAX_SEQUENCES + 1)).token_ids == [[5] * (MAX_SEQUENCES + 1)]


def test_number_of_reported_unknown_fields_is_limited() -> None:
    """Number of reported unknown fields is limited."""
    body = {"input": "a", "model": MODEL, **{f"field{n}": n for n in range(1000)}}
    assert len(refusal(body)) == MAX_PROBLEMS


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
FIELDS = st.sampled_from([*EmbeddingsRequest.model_fields, "text", "ids"])
INPUTS = VALUES | st.lists(
    st.text(max_size=4) | st.integers() | st.lists(st.integers(), max_size=3), max_size=MAX_SEQUENCES + 1
)


@given(
    value=VALUES
    | st.dictionaries(FIELDS, VALUES, max_size=5)
    | st.fixed_dictionaries({"input": INPUTS, "model": st.just(MODEL)}, optional={"dimensions": st.integers() | VALUES})
)
def test_any_json_is_parsed_or_rejected(value: Any) -> None:
    """The parser raises no other error."""
    try:
        made = parse(json.dumps(value).encode(), MAX_SEQUENCES)
        assert (made.texts is None) != (made.token_ids is None)
        assert 1 <= len(made.texts or made.token_ids or []) <= MAX_SEQUENCES
    except ServiceError as error:
        assert error.code in ("bad_request", "invalid_input", "too_many_sequences")  # noqa: PT017 - either outcome is right
        reported(render_error(error), STATUSES[error.code], error.code)


@given(body=st.binary(max_size=40))
def test_any_bytes_are_parsed_or_rejected(body: bytes) -> None:
    """The parser raises no other error."""
    with pytest.raises(ServiceError):
        parse(body, MAX_SEQUENCES)


# === Render ===


def embeddings(count: int) -> Array:
    """Return rows of length 1 whose values span many powers of ten."""
    random = np.random.default_rng(count)
    scale = np.float32(10) ** random.integers(-12, 0, (count, HIDDEN)).astype(np.float32)
    rows = (random.normal(size=(count, HIDDEN)) * scale).astype(np.float32)
    return np.stack([normalized(row) for row in rows])


def test_json_numbers_are_bit_identical() -> None:
    """Reading the numbers as float32 gives equal arrays."""
    rows = embeddings(3)
    document = orjson.loads(b"".join(render(call(input=["a", "b", "c"]), MODEL, rows, 11)))
    assert list(document) == ["object", "data", "model", "usage"]
    assert (document["object"], document["model"]) == ("list", MODEL)
    assert document["usage"] == {"prompt_tokens": 11, "total_tokens": 11}
    for index, item in enumerate(document["data"]):
        assert list(item) == ["object", "index", "embedding"]
        assert (item["object"], item["index"]) == ("embedding", index)
        assert np.array_equal(np.array(item["embedding"], np.float32), rows[index])


def test_base64_is_little_endian_float32() -> None:
    """The response has one string per row."""
    rows = embeddings(2)
    document = orjson.loads(b"".join(render(call(input=["a", "b"], encoding_format="base64"), MODEL, rows, 11)))
    for item, row in zip(document["data"], rows, strict=True):
        assert np.array_equal(np.frombuffer(base64.b64decode(item["embedding"], validate=True), "<f4"), row)


# === Errors in OpenAI's words ===


def reported(response: Any, status: int, code: str, param: str | None = None) -> str:
    """Check that a response has OpenAI's error format, and return its message."""
    content = response.content if isinstance(response, httpx.Response) else response.body
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json")
    document = orjson.loads(content)
    assert list(document) == ["error"]
    error = document["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["code"] == code
    if param is not None:
        assert error["param"] == param
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    assert error["type"] == kind
    assert STATUSES[code] == status
    assert error["message"]
    return str(error["message"])


@pytest.mark.parametrize(
    ("error", "status", "kind", "param"),
    [
        (BadRequestError("no"), 400, "invalid_request_error", None),
        (UnauthorizedError("no"), 401, "invalid_request_error", None),
        (NotFoundError("no", problems=[Problem(("model",), "no")]), 404, "invalid_request_error", "model"),
        (MethodNotAllowedError("no"), 405, "invalid_request_error", None),
        (InvalidInputError.of([Problem(("input", 3, 17), "no")]), 422, "invalid_request_error", "input[3][17]"),
        (InvalidInputError.of([Problem((), "no")]), 422, "invalid_request_error", None),
        (InvalidInputError.of([Problem(("a",), "no"), Problem(("b",), "no")]), 422, "invalid_request_error", "a"),
        (OverloadedError("no", retry_after=3), 429, "rate_limit_error", None),
        (InternalError("no"), 500, "server_error", None),
        (NotReadyError("no", retry_after=3), 503, "server_error", None),
        (DrainingError("no", retry_after=3), 503, "server_error", None),
    ],
)
def test_error_has_a_type_and_the_invalid_location(
    error: ServiceError, status: int, kind: str, param: str | None
) -> None:
    """Error has a type and the invalid location."""
    response = render_error(error)
    assert response.status_code == status
    document = orjson.loads(response.body)["error"]
    assert document == {"message": error.detail, "type": kind, "param": param, "code": error.code}
    assert response.headers.get("retry-after") == (None if error.retry_after is None else "3")
    assert response.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)


# === Over HTTP: embeddings ===


@pytest.fixture(scope="module")
def tokenizer(service: Service) -> FNetTokenizer:
    """The tiny preset's tokenizer."""
    made = service.engine.require_ready().tokenizer
    assert made is not None
    return made


@pytest.fixture(scope="module")
def preset(service: Service) -> Preset:
    """The tiny preset's description."""
    return service.engine.require_ready().preset


def embed(service: Service, **request: Any) -> httpx.Response:
    """Send a request to `/v1/embeddings`."""
    return service.post("/v1/embeddings", json={"model": MODEL, **request})


def rows_of(response: httpx.Response) -> Array:
    """Return the embeddings of a response as float32."""
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    return np.array([item["embedding"] for item in response.json()["data"]], np.float32)


def encoded(service: Service, output: str = "pooled_output", **request: Any) -> Array:
    """Return the outputs of the native protocol as float32."""
    answer = service.encode(**request, outputs=[output], normalize=True).json()
    return np.array(answer[output], np.float32)


TEXTS = ["a small dog", "", "interest rates rose again last week", "Zürich 東京 🦆"]


def test_embeddings_are_bit_identical_to_the_native_protocol(service: Service) -> None:
    """They are normalized pooled outputs, in input order."""
    actual = rows_of(embed(service, input=TEXTS))
    assert actual.shape == (len(TEXTS), HIDDEN)
    assert np.array_equal(actual, encoded(service, texts=TEXTS))
    np.testing.assert_allclose(np.linalg.norm(actual, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("input_", [" ".join(["word"] * 100), [7] * (POSITIONS + 9)])
def test_truncate_keeps_the_first_tokens(service: Service, input_: Any) -> None:
    """Without it, the message recommends it; with it, the embedding is that of the native protocol."""
    message = reported(embed(service, input=input_), 422, "invalid_input", "input")
    assert message.endswith(f'tokens exceed the maximum of {POSITIONS}; set "truncate": true')
    ids = {"token_ids": input_} if isinstance(input_, list) else {"texts": input_}
    expected = encoded(service, truncate=True, **ids)
    assert np.array_equal(rows_of(embed(service, input=input_, truncate=True)), expected)


def test_ignored_fields_change_nothing(service: Service) -> None:
    """Clients of other servers send them."""
    plain = rows_of(embed(service, input="a text"))
    assert np.array_equal(rows_of(embed(service, input="a text", input_type="query", priority=1)), plain)


def test_response_has_usage_and_model(service: Service, tokenizer: FNetTokenizer) -> None:
    """The usage equals that of the native protocol."""
    response = embed(service, input=TEXTS, user="user-1")
    answer = response.json()
    tokens = sum(len(tokenizer.encode(text).token_ids) for text in TEXTS)
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert service.encode(texts=TEXTS).json()["usage"]["tokens"] == tokens
    assert (answer["object"], answer["model"]) == ("list", MODEL)
    assert [(item["object"], item["index"]) for item in answer["data"]] == [("embedding", n) for n in range(4)]
    durations = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    assert float(durations["compute"]) > 0
    assert response.headers["x-request-id"]


def test_empty_text_has_only_special_tokens(service: Service, tokenizer: FNetTokenizer) -> None:
    """`[CLS] [SEP]` is a valid input."""
    assert len(tokenizer.encode("").token_ids) == 2
    answer = embed(service, input="")
    assert answer.json()["usage"]["prompt_tokens"] == 2
    assert np.array_equal(rows_of(answer), encoded(service, texts=""))


def test_ids_are_encoded_unchanged(service: Service, tokenizer: FNetTokenizer) -> None:
    """No special tokens are added."""
    ids = list(tokenizer.encode("a small dog").token_ids)
    complete = rows_of(embed(service, input=["a small dog"]))
    assert np.array_equal(rows_of(embed(service, input=ids)), complete)
    answer = embed(service, input=[ids, [7], [5, 6]])
    assert answer.json()["usage"]["prompt_tokens"] == len(ids) + 3
    assert np.array_equal(rows_of(answer), encoded(service, token_ids=[ids, [7], [5, 6]]))


def test_base64_contains_equal_numbers(service: Service) -> None:
    """The values are bit-identical to those in JSON."""
    numbers = rows_of(embed(service, input=TEXTS, encoding_format="float"))
    strings = embed(service, input=TEXTS, encoding_format="base64").json()
    for item, row in zip(strings["data"], numbers, strict=True):
        assert np.array_equal(np.frombuffer(base64.b64decode(item["embedding"], validate=True), "<f4"), row)


def test_texts_are_padded_as_the_preset_says(make_blocked_service: MakeBlockedService) -> None:
    """OpenAI's protocol has no padding field, so the preset's padding applies."""
    blocked, gate = make_blocked_service()
    gate.opened.set()
    serve(blocked, padding=16)
    answer = embed(blocked, input=["a", "a small dog"])
    assert answer.json()["usage"]["prompt_tokens"] == 32
    assert np.array_equal(rows_of(answer), encoded(blocked, texts=["a", "a small dog"]))
    assert not np.array_equal(rows_of(answer), encoded(blocked, texts=["a", "a small dog"], padding="none"))


def test_pooling_selects_the_output(make_blocked_service: MakeBlockedService) -> None:
    """The setting overrides the preset."""
    blocked, gate = make_blocked_service(pooling="mean")
    gate.opened.set()
    assert np.array_equal(rows_of(embed(blocked, input=TEXTS)), encoded(blocked, "mean_output", texts=TEXTS))


def serve(blocked: Service, **fields: Any) -> None:
    """Change fields of the preset of a blocked service."""
    loaded = blocked.engine.require_ready()
    blocked.engine.loaded = dataclasses.replace(loaded, preset=dataclasses.replace(loaded.preset, **fields))


def test_matryoshka_preset_supports_fewer_dimensions(make_blocked_service: MakeBlockedService) -> None:
    """The leading dimensions are normalized again."""
    blocked, gate = make_blocked_service()
    gate.opened.set()
    serve(blocked, matryoshka=True)
    complete = rows_of(embed(blocked, input=TEXTS))
    for dimensions in (1, 8, HIDDEN - 1):
        actual = rows_of(embed(blocked, input=TEXTS, dimensions=dimensions))
        expected = np.stack([normalized(row[:dimensions]) for row in complete])
        # Truncation precedes normalization, which runs once.
        np.testing.assert_allclose(actual, expected, rtol=1e-6)
    assert np.array_equal(rows_of(embed(blocked, input=TEXTS, dimensions=HIDDEN)), complete)
    message = reported(embed(blocked, input="a", dimensions=HIDDEN + 1), 422, "invalid_input", "dimensions")
    assert message == f"dimensions: {HIDDEN + 1} dimensions exceed the {HIDDEN} of {MODEL}"


def test_other_presets_reject_fewer_dimensions(service: Service) -> None:
    """A part of such an embedding is meaningless."""
    assert np.array_equal(rows_of(embed(service, input="a", dimensions=HIDDEN)), rows_of(embed(service, input="a")))
    message = reported(embed(service, input="a", dimensions=8), 422, "invalid_input", "dimensions")
    assert message == f"dimensions: 8 dimensions are not supported by {MODEL}; use {HIDDEN} or omit the field"
    reported(embed(service, input="a", dimensions=HIDDEN + 1), 422, "invalid_input", "dimensions")


def test_bodies_require_no_content_type(service: Service) -> None:
    """The content determines that a body is JSON."""
    body = json.dumps({"model": MODEL, "input": "a"}).encode()
    response = service.post("/v1/embeddings", content=body, headers={"Content-Type": "text/plain"})
    assert np.array_equal(rows_of(response), encoded(service, texts="a"))


# === Over HTTP: errors ===


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        ({"input": ["a", LONG]}, "input[1]"),
        ({"input": LONG}, "input"),
        ({"input": [[1], [1, VOCABULARY]]}, "input[1][1]"),
        ({"input": [1, -1]}, "input[1]"),
        ({"input": [[1], []]}, "input[1]"),
        ({"input": [[1] * 65]}, "input[0]"),
        ({"input": [1] * 65}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", 5]}, "input[1]"),
        ({"input": "a", "inputs": "b"}, "inputs"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({}, "input"),
    ],
)
def test_invalid_input_has_the_location_in_the_request(service: Service, request_: dict[str, Any], param: str) -> None:
    """Invalid input has the location in the request."""
    message = reported(embed(service, **request_), 422, "invalid_input", param)
    assert message.startswith(f"{param}: ")


def test_unknown_model_precedes_other_errors(service: Service) -> None:
    """The response is 404 and names the served model."""
    for rest in ({"input": "a"}, {"input": LONG}, {"input": [99_999]}, {"input": "a", "dimensions": 1}):
        response = service.post("/v1/embeddings", json={"model": "text-embedding-3-small", **rest})
        assert MODEL in reported(response, 404, "not_found", "model")


def test_texts_for_a_preset_without_tokenizer_are_rejected(preset: Preset) -> None:
    """Such a preset accepts token ids only."""
    ids_only = dataclasses.replace(preset, has_tokenizer=False)
    check_supported(call(input=[1]), ids_only)
    with pytest.raises(InvalidInputError) as caught:
        check_supported(call(input="a"), ids_only)
    assert caught.value.detail == f"input: the preset {MODEL} has no tokenizer; send token ids"


@pytest.mark.parametrize("body", [b"", b"{", b"\xff"])
def test_invalid_json_has_the_format_of_openai(service: Service, body: bytes) -> None:
    """The response is 400."""
    reported(service.post("/v1/embeddings", content=body), 400, "bad_request")


def test_too_many_sequences_have_the_format_of_openai(service: Service) -> None:
    """The response is 422 with its own code."""
    reported(embed(service, input=["a"] * 41), 422, "too_many_sequences", "input")


def test_request_larger_than_the_queue_is_invalid(make_blocked_service: MakeBlockedService) -> None:
    """The location is the complete body."""
    blocked, _ = make_blocked_service(max_queue_tokens=64)
    response = embed(blocked, input=[[1] * 33] * 2)
    reported(response, 422, "invalid_input")
    assert response.json()["error"]["param"] is None


def test_large_body_has_the_format_of_openai(service: Service) -> None:
    """The response is 413, before the body is read."""
    reported(service.post("/v1/embeddings", content=b"x" * ((1 << 20) + 1)), 413, "body_too_large")


@pytest.mark.parametrize("path", ["/v1/embeddings/x", "/v1/embeddings/", "/v1/models/a/b", "/v1/models/"])
def test_unknown_path_has_the_format_of_openai(service: Service, path: str) -> None:
    """The response is 404."""
    reported(service.get(path), 404, "not_found")


def test_wrong_method_has_the_format_of_openai(service: Service) -> None:
    """The response is 405 with the allowed methods."""
    for response, allowed in ((service.get("/v1/embeddings"), "POST"), (service.post("/v1/models"), "GET, HEAD")):
        reported(response, 405, "method_not_allowed")
        assert response.headers["allow"] == allowed
    assert service.get("/v1/encode").headers["content-type"] == "application/problem+json"


def test_missing_key_has_the_format_of_openai(make_blocked_service: MakeBlockedService) -> None:
    """A request without a key gets 401 and with a key 200."""
    blocked, gate = make_blocked_service(api_keys=["first"])
    gate.opened.set()
    refused = embed(blocked, input="a")
    reported(refused, 401, "unauthorized")
    assert refused.headers["www-authenticate"] == "Bearer"
    reported(blocked.get("/v1/models"), 401, "unauthorized")
    key = {"Authorization": "Bearer first"}
    body = {"model": MODEL, "input": "a"}
    assert blocked.post("/v1/embeddings", json=body, headers=key).status_code == 200
    assert blocked.get(f"/v1/models/{MODEL}", headers=key).status_code == 200


def test_full_queue_returns_retry_after(make_blocked_service: MakeBlockedService, wait_until: WaitUntil) -> None:
    """The response is 429 in OpenAI's format."""
    blocked, gate = make_blocked_service(max_queue_tokens=64)

    async def scenario() -> httpx.Response:
        first = asyncio.create_task(blocked.http.post("/v1/embeddings", json={"model": MODEL, "input": [1] * 64}))
        await asyncio.to_thread(gate.entered.wait, 60)
        second = asyncio.create_task(blocked.http.post("/v1/embeddings", json={"model": MODEL, "input": [2] * 64}))
        await asyncio.to_thread(wait_until, lambda: blocked.engine.queue_tokens == 64)
        third = await blocked.http.post("/v1/embeddings", json={"model": MODEL, "input": [3] * 64})
        gate.opened.set()
        assert [(await entry).status_code for entry in (first, second)] == [200, 200]
        return third

    refused = blocked.run(scenario())
    reported(refused, 429, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1


def test_non_finite_output_is_a_server_error(service: Service) -> None:
    """Only the request with such an input gets 500."""
    reported(embed(service, input=[5, POISON]), 500, "non_finite_output")
    assert embed(service, input=[5]).status_code == 200


def test_timeout_is_a_server_error(make_blocked_service: MakeBlockedService) -> None:
    """The response is 504."""
    blocked, _ = make_blocked_service()
    body = {"model": MODEL, "input": "a"}
    reported(
        blocked.post("/v1/embeddings", json=body, headers={"X-Request-Timeout": "0.2"}),
        504,
        "deadline_exceeded",
    )


@pytest.mark.parametrize(
    ("state", "code"), [("loading", "not_ready"), ("compiling", "not_ready"), ("draining", "draining")]
)
def test_unready_service_returns_503(make_blocked_service: MakeBlockedService, state: Any, code: str) -> None:
    """All routes return Retry-After; the model is not listed."""
    blocked, _ = make_blocked_service()
    if state == "draining":
        blocked.engine.drain()
    blocked.engine.state = state
    for response in (embed(blocked, input="a"), blocked.get("/v1/models"), blocked.get(f"/v1/models/{MODEL}")):
        reported(response, 503, code)
        assert int(response.headers["retry-after"]) >= 1


# === Over HTTP: models ===


def test_served_model_is_listed(service: Service) -> None:
    """The list has one model with the start time of the process."""
    response = service.get("/v1/models")
    assert response.status_code == 200
    answer = response.json()
    assert list(answer) == ["object", "data"]
    assert answer["object"] == "list"
    (listed,) = answer["data"]
    assert list(listed) == ["id", "object", "created", "owned_by"]
    assert (listed["id"], listed["object"]) == (MODEL, "model")
    assert time.time() - 3600 < listed["created"] <= time.time()
    assert service.get("/v1/models").json() == answer
    assert service.get(f"/v1/models/{MODEL}").json() == listed


def test_unknown_model_is_not_found(service: Service) -> None:
    """The message names the served model."""
    for name in ("text-embedding-3-small", "tiny", "tiny_en2", "Zürich"):
        assert MODEL in reported(service.get(f"/v1/models/{name}"), 404, "not_found", "model")


# === Description ===


def test_openapi_describes_types_and_errors(service: Service) -> None:
    """Each request, response and error has a schema."""
    description = service.get("/openapi.json").json()
    schemas = description["components"]["schemas"]
    post = description["paths"]["/v1/embeddings"]["post"]
    assert post["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/EmbeddingsRequest")
    assert set(schemas["EmbeddingsRequest"]["required"]) == {"input", "model"}
    statuses = {str(STATUSES[code]) for code in STATUSES if code != "method_not_allowed"}
    assert set(post["responses"]) == {"200", *statuses}
    for path in ("/v1/embeddings", "/v1/models", "/v1/models/{model}"):
        for operation in description["paths"][path].values():
            for status, response in operation["responses"].items():
                (content,) = response["content"].values()
                name = content["schema"]["$ref"].rpartition("/")[2]
                assert name in schemas
                assert (name == "OpenAIError") is (status != "200")
    (parameter,) = description["paths"]["/v1/models/{model}"]["get"]["parameters"]
    assert (parameter["name"], parameter["in"]) == ("model", "path")


def test_openapi_examples_are_accepted(service: Service) -> None:
    """Each example gets a response."""
    for example in EmbeddingsRequest.model_json_schema()["examples"]:
        assert embed(service, **{**example, "model": MODEL}).status_code == 200

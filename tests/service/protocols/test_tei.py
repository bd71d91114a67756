"""Routes of Text Embeddings Inference: formats, errors, and equality with `/v1/encode`."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from fastapi import FastAPI, Request, Response

from model.tokenizer import FNetTokenizer
from service import __version__
from service.app import create_app
from service.core import errors
from service.core.engine import Engine, normalized
from service.core.errors import ServiceError
from service.protocols.tei import error_type, protocol
from service.settings import Settings
from service.web.statuses import STATUSES
from tests.support.bundled import POISON, VOCABULARY

if TYPE_CHECKING:
    from tests.service.conftest import BlockingRunner, Service

    MakeBlockedService = Callable[..., tuple[Service, BlockingRunner]]

POSITIONS = 64
HIDDEN = 32
LONG = " ".join([*(["word"] * 60), "and", "other", *(["things"] * 60)])
MIXED: list[str | list[int]] = ["a small dog", [4, 25, 127, 5], "", [9], "Caf\xe9 \U0001f600"]


@pytest.fixture(scope="module")
def tokenizer(service: Service) -> FNetTokenizer:
    """The tiny preset's tokenizer."""
    made = service.engine.require_ready().tokenizer
    assert made is not None
    return made


def respond(service: Service, path: str, **request: Any) -> Any:
    """Send a request and return the JSON response."""
    response = service.post(path, json=request)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json"), response.text
    return response.json()


def error(response: httpx.Response, status: int, kind: str) -> str:
    """Check that a response has TEI's error format, and return its message."""
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json"), response.text
    document: dict[str, str] = response.json()
    assert list(document) == ["error", "error_type"]
    assert document["error_type"] == kind
    assert document["error"]
    return document["error"]


def encoded(service: Service, inputs: list[str | list[int]], output: str, **options: Any) -> list[Any]:
    """Return the outputs of `/v1/encode` for texts and lists of ids."""
    actual = []
    for item in inputs:
        field: dict[str, Any] = {"texts": [item]} if isinstance(item, str) else {"token_ids": [item]}
        actual.append(service.encode(**field, outputs=[output], **options).json()[output][0])
    return actual


# === Embedding ===


@pytest.mark.parametrize("path", ["/embed", "/"])
@pytest.mark.parametrize("normalize", [None, True, False])
def test_vectors_equal_those_of_the_native_protocol(
    service: Service,
    path: str,
    normalize: bool | None,  # noqa: FBT001 - a parameter of the table
) -> None:
    """Vectors equal those of the native protocol."""
    options = {} if normalize is None else {"normalize": normalize}
    output = f"{service.engine.pooling}_output"
    expected = encoded(service, MIXED, output, normalize=normalize is not False)
    assert respond(service, path, inputs=MIXED, **options) == expected


@pytest.mark.parametrize("inputs", ["a dog", [4, 25, 5]])
def test_bare_input_is_a_batch_of_one(service: Service, inputs: str | list[int]) -> None:
    """The response is a list of one vector."""
    answer = respond(service, "/embed", inputs=inputs)
    assert answer == respond(service, "/embed", inputs=[inputs])
    assert np.shape(answer) == (1, HIDDEN)


def test_optional_fields_can_be_null(service: Service) -> None:
    """Null is the same as an omitted field; `float` is accepted."""
    plain = respond(service, "/embed", inputs="a")
    nulls = {"prompt_name": None, "truncate": None, "dimensions": None, "encoding_format": None}
    assert respond(service, "/embed", inputs="a", **nulls) == plain
    assert respond(service, "/embed", inputs="a", encoding_format="float", dimensions=HIDDEN) == plain


def test_fields_can_be_in_parameters(service: Service) -> None:
    """Some releases of huggingface_hub send them there, and send the object even if it is empty."""
    plain, raw = respond(service, "/embed", inputs="a"), respond(service, "/embed", inputs="a", normalize=False)
    assert plain != raw
    assert respond(service, "/embed", inputs="a", parameters={}) == plain
    assert respond(service, "/embed", inputs="a", parameters={"normalize": False}) == raw
    for body, loc in (
        ({"parameters": {"color": 1}}, "parameters.color: unknown field"),
        ({"normalize": True, "parameters": {"normalize": False}}, "parameters.normalize: duplicates"),
        ({"parameters": []}, "parameters: expected a JSON object"),
        ({"parameters": {"normalize": 3}}, "normalize: "),
    ):
        message = error(service.post("/embed", json={"inputs": "a", **body}), 422, "Validation")
        assert message.startswith(loc)


def test_embed_all_returns_one_vector_per_token(service: Service) -> None:
    """Special tokens are included, and the vectors are not normalized."""
    answer = respond(service, "/embed_all", inputs=MIXED)
    assert answer == encoded(service, MIXED, "sequence_output")
    assert respond(service, "/embed_all", inputs="a dog") == encoded(service, ["a dog"], "sequence_output")


@pytest.mark.parametrize("path", ["/embed", "/embed_all"])
def test_long_input_is_rejected_by_default(service: Service, path: str) -> None:
    """The message has the location and the limit."""
    for inputs, loc in ((LONG, "inputs"), (["a", LONG], "inputs[1]"), ([[1], [1] * 65], "inputs[1]")):
        message = error(service.post(path, json={"inputs": inputs}), 422, "Validation")
        assert re.fullmatch(rf'{re.escape(loc)}: \d+ tokens exceed the maximum of 64; set "truncate": true', message)


@pytest.mark.parametrize("path", ["/embed", "/embed_all"])
def test_long_input_is_truncated_on_request(service: Service, tokenizer: FNetTokenizer, path: str) -> None:
    """Texts keep their special tokens; ids lose their end or beginning."""
    ids = list(range(10, 10 + POSITIONS + 9))
    words = tokenizer.tokenize(LONG)
    remaining = POSITIONS - 2
    ends: list[list[int]] = [[4, *words[:remaining], 5], ids[:POSITIONS]]
    beginnings: list[list[int]] = [[4, *words[-remaining:], 5], ids[-POSITIONS:]]
    for directions, expected in (((None, "right", "Right"), ends), (("left", "Left"), beginnings)):
        for direction in directions:
            options = {} if direction is None else {"truncation_direction": direction}
            cut = respond(service, path, inputs=[LONG, ids], truncate=True, **options)
            assert cut == respond(service, path, inputs=expected)
    assert ends != beginnings


def test_short_input_is_not_truncated(service: Service) -> None:
    """The direction has no effect."""
    plain = respond(service, "/embed", inputs=MIXED)
    for direction in ("left", "right"):
        cut = respond(service, "/embed", inputs=MIXED, truncate=True, truncation_direction=direction)
        assert cut == plain


@contextmanager
def with_preset(service: Service, **changes: Any) -> Iterator[None]:
    """Replace the engine's preset temporarily."""
    engine = service.engine
    loaded = engine.require_ready()
    engine.loaded = dataclasses.replace(loaded, preset=dataclasses.replace(loaded.preset, **changes))
    try:
        yield
    finally:
        engine.loaded = loaded


@pytest.mark.parametrize("direction", ["left", "right"])
def test_texts_are_padded_as_the_preset_says(service: Service, tokenizer: FNetTokenizer, direction: str) -> None:
    """Padding is part of the input, on whichever side a text is cut."""
    ids = tokenizer.encode("a dog").token_ids
    words = tokenizer.tokenize(LONG)
    expected: list[str | list[int]] = [
        [*ids, *[tokenizer.pad_token_id] * (10 - len(ids))],
        [4, *(words[-8:] if direction == "left" else words[:8]), 5],
    ]
    with with_preset(service, padding=10):
        actual = respond(
            service, "/embed", inputs=["a dog", LONG], truncate=True, truncation_direction=direction, normalize=False
        )
    assert actual == encoded(service, expected, "pooled_output")
    with with_preset(service, padding=1):
        refusal = service.post("/embed", json={"inputs": ["a"], "truncate": True, "truncation_direction": direction})
    assert error(refusal, 422, "Validation").startswith("inputs[0]: ")


def test_matryoshka_preset_supports_fewer_dimensions(service: Service) -> None:
    """The leading dimensions are normalized again."""
    plain = np.array(respond(service, "/embed", inputs=MIXED, normalize=False), np.float32)
    with with_preset(service, matryoshka=True):
        raw = respond(service, "/embed", inputs=MIXED, normalize=False, dimensions=5)
        scaled = respond(service, "/embed", inputs=MIXED, dimensions=5)
        message = error(service.post("/embed", json={"inputs": "a", "dimensions": HIDDEN + 1}), 422, "Validation")
    assert np.array_equal(np.array(raw, np.float32), plain[:, :5])
    rows: list[npt.NDArray[np.float32]] = [normalized(row[:5]) for row in plain]
    assert np.array_equal(np.array(scaled, np.float32), np.stack(rows))
    assert message.startswith(f"dimensions: {HIDDEN + 1} dimensions exceed")


def test_other_presets_reject_fewer_dimensions(service: Service) -> None:
    """A part of such an embedding is meaningless."""
    for dimensions in (1, HIDDEN - 1, HIDDEN + 1):
        message = error(service.post("/embed", json={"inputs": "a", "dimensions": dimensions}), 422, "Validation")
        assert message.startswith(f"dimensions: {dimensions} dimensions ")


def test_responses_have_server_timing(service: Service) -> None:
    """Responses have server timing."""
    for path in ("/embed", "/", "/embed_all"):
        response = service.post(path, json={"inputs": "a"})
        durations = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
        assert float(durations["compute"]) > 0


# === Tokens ===


def test_texts_are_tokenized_in_the_format_of_tei(service: Service, tokenizer: FNetTokenizer) -> None:
    """Special tokens have names and no offsets."""
    text = "A small DOG"
    answer = respond(service, "/tokenize", inputs=text)
    assert len(answer) == 1
    first, *middle, last = answer[0]
    assert first == {"id": 4, "text": "[CLS]", "special": True, "start": None, "stop": None}
    assert last == {"id": 5, "text": "[SEP]", "special": True, "start": None, "stop": None}
    assert [token["id"] for token in middle] == tokenizer.tokenize(text)
    assert not any(token["special"] for token in middle)
    assert [token["text"] for token in middle] == [text[token["start"] : token["stop"]] for token in middle]
    assert "".join(token["text"] for token in middle) == text


def test_offsets_count_code_points(service: Service) -> None:
    """`text[start:stop]` is the text of the token in any script."""
    for text in ("Caf\xe9 au lait", "日本 \U0001f600 a", "stra\xdfe \ufb01 ½ e\u0301"):
        (tokens,) = respond(service, "/tokenize", inputs=[text], add_special_tokens=False)
        for token in tokens:
            assert text[token["start"] : token["stop"]] == token["text"]
        assert tokens[-1]["stop"] == len(text)


def test_tokenize_returns_the_embedded_tokens(service: Service) -> None:
    """Special tokens are included by default."""
    texts = ["a small dog", "", LONG]
    answer = respond(service, "/tokenize", inputs=texts, prompt_name=None)
    ids = [[token["id"] for token in tokens] for tokens in answer]
    assert respond(service, "/embed", inputs=ids[:2]) == respond(service, "/embed", inputs=texts[:2])
    bare = respond(service, "/tokenize", inputs=texts, add_special_tokens=False)
    assert [[token["id"] for token in tokens] for tokens in bare] == [item[1:-1] for item in ids]
    assert respond(service, "/tokenize", inputs=texts[0]) == answer[:1]


def test_ids_are_decoded(service: Service, tokenizer: FNetTokenizer) -> None:
    """The response is a list of texts; special tokens are included on request."""
    ids = [tokenizer.encode("a small dog").token_ids, []]
    assert respond(service, "/decode", ids=ids) == ["a small dog", ""]
    assert respond(service, "/decode", ids=ids[0]) == ["a small dog"]
    assert respond(service, "/decode", ids=ids, skip_special_tokens=False) == ["[CLS] a small dog[SEP]", ""]


@pytest.mark.parametrize(
    ("ids", "loc"),
    [([1, 10**6], "ids[1]"), ([[1], [2, -1]], "ids[1][1]"), ([2**33], "ids[0]"), ([[1.5]], "ids[0][0]")],
)
def test_ids_outside_the_vocabulary_are_rejected_with_their_location(
    service: Service, ids: list[Any], loc: str
) -> None:
    """Ids outside the vocabulary are rejected with their location."""
    assert error(service.post("/decode", json={"ids": ids}), 422, "Validation").startswith(f"{loc}: ")


# === What is served ===


def test_info_describes_the_server(service: Service, tiny_settings: Settings) -> None:
    """It has the fields of TEI; limits that do not exist are null."""
    info = service.get("/info").json()
    native = service.get("/v1/info").json()
    assert info == {
        "model_id": "tiny_en",
        "model_sha": native["digest"].removeprefix("sha256:"),
        "model_dtype": "float32",
        "served_model_name": "tiny_en",
        "model_type": {"embedding": {"pooling": native["pooling"]}},
        "max_concurrent_requests": None,
        "max_input_length": POSITIONS,
        "max_batch_tokens": native["limits"]["max_batch_tokens"],
        "max_batch_requests": None,
        "max_client_batch_size": tiny_settings.max_sequences,
        "auto_truncate": False,
        "tokenization_workers": None,
        "version": __version__,
        "sha": None,
        "docker_label": None,
    }


def test_info_reports_the_pooling_setting(service: Service, make_blocked_service: MakeBlockedService) -> None:
    """The embeddings use the same pooling."""
    blocked, gate = make_blocked_service(pooling="mean")
    gate.opened.set()
    assert blocked.get("/info").json()["model_type"] == {"embedding": {"pooling": "mean"}}
    assert respond(blocked, "/embed", inputs=MIXED, normalize=False) == encoded(service, MIXED, "mean_output")


# === Errors ===


@pytest.mark.parametrize("path", ["/embed", "/", "/embed_all"])
@pytest.mark.parametrize(
    ("request_", "loc"),
    [
        ({}, "inputs"),
        ({"inputs": None}, "inputs"),
        ({"inputs": 5}, "inputs"),
        ({"inputs": {"a": 1}}, "inputs"),
        ({"inputs": [None]}, "inputs[0]"),
        ({"inputs": ["a", 5]}, "inputs[1]"),
        ({"inputs": [1, "a"]}, "inputs[1]"),
        ({"inputs": [True]}, "inputs[0]"),
        ({"inputs": ["a", [1, "b"]]}, "inputs[1][1]"),
        ({"inputs": ["a", []]}, "inputs[1]"),
        ({"inputs": ["a", [VOCABULARY]]}, "inputs[1][0]"),
        ({"inputs": [5, -1]}, "inputs[1]"),
        ({"inputs": "a", "truncate": "yes"}, "truncate"),
        ({"inputs": "a", "truncation_direction": "up"}, "truncation_direction"),
        ({"inputs": "a", "truncation_direction": None}, "truncation_direction"),
        ({"inputs": "a", "prompt_name": "query"}, "prompt_name"),
        ({"inputs": "a", "prompt_name": ""}, "prompt_name"),
        ({"inputs": "a", "parameters": {"x": 1}}, "parameters.x"),
        ({"inputs": "a", "input": "b"}, "input"),
    ],
)
def test_invalid_request_has_a_location(service: Service, path: str, request_: dict[str, Any], loc: str) -> None:
    """Invalid request has a location."""
    assert error(service.post(path, json=request_), 422, "Validation").startswith(f"{loc}: ")


@pytest.mark.parametrize(
    ("path", "request_", "loc"),
    [
        ("/embed", {"inputs": "a", "normalize": None}, "normalize"),
        ("/embed", {"inputs": "a", "dimensions": 0}, "dimensions"),
        ("/embed", {"inputs": "a", "dimensions": 3.5}, "dimensions"),
        ("/embed", {"inputs": "a", "encoding_format": "base64"}, "encoding_format"),
        ("/embed", {"inputs": "a", "encoding_format": "hex"}, "encoding_format"),
        ("/embed_all", {"inputs": "a", "normalize": False}, "normalize"),
        ("/embed_all", {"inputs": "a", "dimensions": HIDDEN}, "dimensions"),
        ("/tokenize", {"inputs": [[1]]}, "inputs[0]"),
        ("/tokenize", {"inputs": [1]}, "inputs[0]"),
        ("/tokenize", {"inputs": "a", "add_special_tokens": 1}, "add_special_tokens"),
        ("/tokenize", {"inputs": "a", "prompt_name": "x"}, "prompt_name"),
        ("/tokenize", {"inputs": "a", "truncate": True}, "truncate"),
        ("/decode", {"ids": "a"}, "ids"),
        ("/decode", {"ids": [["a"]]}, "ids[0][0]"),
        ("/decode", {"ids": [1], "skip_special_tokens": None}, "skip_special_tokens"),
        ("/decode", {"ids": [1], "inputs": "a"}, "inputs"),
        ("/decode", [1], "the body"),
    ],
)
def test_routes_reject_fields_of_other_routes(service: Service, path: str, request_: Any, loc: str) -> None:
    """Routes reject fields of other routes."""
    assert error(service.post(path, json=request_), 422, "Validation").startswith(f"{loc}: ")


@pytest.mark.parametrize(
    ("path", "field"),
    [("/embed", "inputs"), ("/", "inputs"), ("/embed_all", "inputs"), ("/tokenize", "inputs"), ("/decode", "ids")],
)
def test_limits_have_the_format_of_tei(service: Service, path: str, field: str) -> None:
    """An empty list has its own error type."""
    entry: Any = [5] if field == "ids" else "a"
    assert error(service.post(path, json={field: []}), 422, "Empty").startswith(f"{field}: ")
    assert "41 sequences" in error(service.post(path, json={field: [entry] * 41}), 422, "Validation")
    error(service.post(path, content=b"{"), 400, "Validation")
    error(service.post(path, content=b"x" * (2 << 20)), 413, "Validation")
    if path != "/":  # GET returns the page
        error(service.get(path), 405, "Validation")
    error(service.post(path, json={}, headers={"X-Request-Timeout": "soon"}), 400, "Validation")


def test_too_many_tokens_are_rejected(service: Service) -> None:
    """The response is much larger than the request."""
    maximum = service.engine.options.max_queue_tokens
    message = error(service.post("/tokenize", json={"inputs": ["a", "a " * maximum]}), 422, "Validation")
    assert message.startswith("inputs[1]: ")
    message = error(service.post("/tokenize", json={"inputs": "a " * (maximum + 1)}), 422, "Validation")
    assert message.startswith("inputs: ")


def test_protocol_owns_its_paths(service: Service) -> None:
    """`/` matches only itself."""
    error(service.post("/embed/more"), 404, "Validation")
    error(service.post("/embed/", json={"inputs": "a"}), 404, "Validation")
    error(service.get("/info/"), 404, "Validation")
    error(service.post("/info"), 405, "Validation")
    assert service.get("/elsewhere").headers["content-type"] == "application/problem+json"


def test_missing_key_has_the_format_of_tei(tiny_settings: Settings, make_blocked_service: MakeBlockedService) -> None:
    """The response names the scheme in a header."""
    blocked, _ = make_blocked_service(api_keys=["secret"])
    response = blocked.post("/embed", json={"inputs": "a"})
    error(response, 401, "Validation")
    assert response.headers["www-authenticate"] == "Bearer"
    assert blocked.post("/decode", json={"ids": [5]}, headers={"Authorization": "Bearer secret"}).status_code == 200


def test_full_queue_is_overloaded(make_blocked_service: MakeBlockedService) -> None:
    """The response has Retry-After."""
    blocked, gate = make_blocked_service(max_queue_tokens=64)
    # The inputs differ, because equal inputs share one queue entry.
    bodies = [json.dumps({"inputs": [list(range(first, first + 32)) for first in (i, i + 8)]}) for i in range(8)]

    async def flood() -> list[httpx.Response]:
        tasks = [asyncio.ensure_future(blocked.http.post("/embed", content=body)) for body in bodies]
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        gate.opened.set()
        await asyncio.wait(waiting)
        return [task.result() for task in done]

    refused = blocked.run(flood())
    assert refused
    for response in refused:
        error(response, 429, "Overloaded")
        assert int(response.headers["retry-after"]) >= 1


def test_unready_service_is_unhealthy(make_blocked_service: MakeBlockedService) -> None:
    """`/info` still describes a loaded model."""
    blocked, _ = make_blocked_service()
    blocked.engine.drain()
    for path in ("/embed", "/", "/embed_all", "/tokenize", "/decode"):
        response = blocked.post(path, json={})
        error(response, 503, "Unhealthy")
        assert response.headers["retry-after"]
    assert blocked.get("/info").status_code == 200
    blocked.engine.loaded, blocked.engine.state = None, "loading"
    error(blocked.get("/info"), 503, "Unhealthy")


def test_timeout_and_non_finite_output_are_backend_errors(
    service: Service, make_blocked_service: MakeBlockedService
) -> None:
    """Timeout and non finite output are backend errors."""
    blocked, _ = make_blocked_service()
    error(blocked.post("/embed", json={"inputs": "a"}, headers={"X-Request-Timeout": "0.05"}), 504, "Backend")
    error(service.post("/embed_all", json={"inputs": [POISON]}), 500, "Backend")


@pytest.mark.parametrize("kind", [item for item in vars(errors).values() if getattr(item, "code", None)], ids=str)
def test_each_error_has_a_type_of_tei(kind: type[ServiceError]) -> None:
    """Each error has a type of tei."""
    assert kind.code in STATUSES
    assert error_type(kind("why")) in {"Unhealthy", "Backend", "Overloaded", "Validation"}


def test_preset_without_tokenizer_accepts_ids(
    smallest_preset: Path, runner: asyncio.Runner, make_engine: Callable[..., Engine]
) -> None:
    """Preset without tokenizer accepts ids."""
    engine = make_engine(smallest_preset)
    tei = protocol(engine, 4)

    async def render(_request: Request, failure: ServiceError) -> Response:
        return tei.render_error(failure)

    app = FastAPI(exception_handlers={ServiceError: render})
    app.include_router(tei.routes)

    async def ask(path: str, **request: Any) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as http:
            return await http.post(path, json=request)

    def word(path: str, **request: Any) -> str:
        document = runner.run(ask(path, **request)).json()
        assert document["error"].split(": ")[1].startswith("the preset smallest_en has no tokenizer")
        return f"{document['error'].split(':')[0]} {document['error_type']}"

    assert word("/embed", inputs=[[5], "a"]) == "inputs[1] Tokenizer"
    assert word("/embed_all", inputs="a") == "inputs Tokenizer"
    assert word("/tokenize", inputs="a") == "inputs Tokenizer"
    assert word("/decode", ids=[5]) == "ids Tokenizer"


# === Description ===


def test_openapi_describes_the_routes(tiny_settings: Settings) -> None:
    """Requests, responses and errors have schemas."""
    description = create_app(tiny_settings).openapi()
    refusals = {"400", "401", "413", "422", "500", "503", "504"}
    for path, wire, queues in (
        ("/embed", "TeiEmbedRequest", True),
        ("/", "TeiEmbedRequest", True),
        ("/embed_all", "TeiEmbedAllRequest", True),
        ("/tokenize", "TeiTokenizeRequest", False),
        ("/decode", "TeiDecodeRequest", False),
    ):
        route = description["paths"][path]["post"]
        assert route["summary"]
        schema = route["requestBody"]["content"]["application/json"]["schema"]
        assert schema == {"$ref": f"#/components/schemas/{wire}"}
        assert set(route["responses"]) == {"200", *refusals, *(["429"] if queues else [])}
        refusal = route["responses"]["422"]["content"]["application/json"]["schema"]
        assert refusal == {"$ref": "#/components/schemas/TeiError"}
        assert description["components"]["schemas"][wire]["additionalProperties"] is False
    assert description["paths"]["/info"]["get"]["summary"]
    assert "TeiInfo" in description["components"]["schemas"]

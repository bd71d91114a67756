"""Text Embeddings Inference's routes: its shapes, its words, and the vectors of `/v1/encode`."""

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
    """Send a request and return its answer."""
    response = service.post(path, json=request)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json"), response.text
    return response.json()


def error(response: httpx.Response, status: int, kind: str) -> str:
    """Return the message of an error in TEI's words."""
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json"), response.text
    document: dict[str, str] = response.json()
    assert list(document) == ["error", "error_type"]
    assert document["error_type"] == kind
    assert document["error"]
    return document["error"]


def encoded(service: Service, inputs: list[str | list[int]], output: str, **options: Any) -> list[Any]:
    """Return what `/v1/encode` gives for each of some texts and lists of ids."""
    found = []
    for each in inputs:
        field: dict[str, Any] = {"texts": [each]} if isinstance(each, str) else {"token_ids": [each]}
        found.append(service.encode(**field, outputs=[output], **options).json()[output][0])
    return found


# === Embedding ===


@pytest.mark.parametrize("path", ["/embed", "/"])
@pytest.mark.parametrize("normalize", [None, True, False])
def test_vectors_are_those_of_the_native_route(
    service: Service,
    path: str,
    normalize: bool | None,  # noqa: FBT001 - a parameter of the table
) -> None:
    """Texts and ids, mixed: the same numbers to the last bit, of length 1 by default."""
    options = {} if normalize is None else {"normalize": normalize}
    output = f"{service.engine.pooling}_output"
    expected = encoded(service, MIXED, output, normalize=normalize is not False)
    assert respond(service, path, inputs=MIXED, **options) == expected


@pytest.mark.parametrize("inputs", ["a dog", [4, 25, 5]])
def test_a_bare_input_is_answered_two_deep(service: Service, inputs: str | list[int]) -> None:
    """A text or a list of ids is a batch of one."""
    answer = respond(service, "/embed", inputs=inputs)
    assert answer == respond(service, "/embed", inputs=[inputs])
    assert np.shape(answer) == (1, HIDDEN)


def test_fields_may_be_null_where_tei_lets_them(service: Service) -> None:
    """And are as if left out; numbers are what there is anyway."""
    plain = respond(service, "/embed", inputs="a")
    nulls = {"prompt_name": None, "truncate": None, "dimensions": None, "encoding_format": None}
    assert respond(service, "/embed", inputs="a", **nulls) == plain
    assert respond(service, "/embed", inputs="a", encoding_format="float", dimensions=HIDDEN) == plain


def test_fields_may_stand_in_parameters(service: Service) -> None:
    """Some releases of huggingface_hub put all but the inputs there, and send the object even when it is empty."""
    plain, raw = respond(service, "/embed", inputs="a"), respond(service, "/embed", inputs="a", normalize=False)
    assert plain != raw
    assert respond(service, "/embed", inputs="a", parameters={}) == plain
    assert respond(service, "/embed", inputs="a", parameters={"normalize": False}) == raw
    for body, loc in (
        ({"parameters": {"colour": 1}}, "parameters.colour: unknown field"),
        ({"normalize": True, "parameters": {"normalize": False}}, "parameters.normalize: duplicates"),
        ({"parameters": []}, "parameters: expected a JSON object"),
        ({"parameters": {"normalize": 3}}, "normalize: "),
    ):
        message = error(service.post("/embed", json={"inputs": "a", **body}), 422, "Validation")
        assert message.startswith(loc)


def test_each_token_is_embedded(service: Service) -> None:
    """Three deep, special tokens included, never normalised."""
    answer = respond(service, "/embed_all", inputs=MIXED)
    assert answer == encoded(service, MIXED, "sequence_output")
    assert respond(service, "/embed_all", inputs="a dog") == encoded(service, ["a dog"], "sequence_output")


@pytest.mark.parametrize("path", ["/embed", "/embed_all"])
def test_what_is_too_long_is_refused_by_default(service: Service, path: str) -> None:
    """Naming the input as the client wrote it."""
    for inputs, loc in ((LONG, "inputs"), (["a", LONG], "inputs[1]"), ([[1], [1] * 65], "inputs[1]")):
        message = error(service.post(path, json={"inputs": inputs}), 422, "Validation")
        assert re.fullmatch(rf'{re.escape(loc)}: \d+ tokens exceed the maximum of 64; set "truncate": true', message)


@pytest.mark.parametrize("path", ["/embed", "/embed_all"])
def test_what_is_too_long_is_cut_where_asked(service: Service, tokenizer: FNetTokenizer, path: str) -> None:
    """Texts keep their special tokens, ids lose their end or their beginning."""
    ids = list(range(10, 10 + POSITIONS + 9))
    words = tokenizer.tokenize(LONG)
    kept = POSITIONS - 2
    ends: list[list[int]] = [[4, *words[:kept], 5], ids[:POSITIONS]]
    beginnings: list[list[int]] = [[4, *words[-kept:], 5], ids[-POSITIONS:]]
    for directions, expected in (((None, "right", "Right"), ends), (("left", "Left"), beginnings)):
        for direction in directions:
            options = {} if direction is None else {"truncation_direction": direction}
            cut = respond(service, path, inputs=[LONG, ids], truncate=True, **options)
            assert cut == respond(service, path, inputs=expected)
    assert ends != beginnings


def test_what_fits_is_not_cut(service: Service) -> None:
    """Whatever the direction."""
    plain = respond(service, "/embed", inputs=MIXED)
    for direction in ("left", "right"):
        cut = respond(service, "/embed", inputs=MIXED, truncate=True, truncation_direction=direction)
        assert cut == plain


@contextmanager
def with_preset(service: Service, **changes: Any) -> Iterator[None]:
    """Let the engine have another description of its preset for a while."""
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
        found = respond(
            service, "/embed", inputs=["a dog", LONG], truncate=True, truncation_direction=direction, normalize=False
        )
    assert found == encoded(service, expected, "pooled_output")
    with with_preset(service, padding=1):
        refusal = service.post("/embed", json={"inputs": ["a"], "truncate": True, "truncation_direction": direction})
    assert error(refusal, 422, "Validation").startswith("inputs[0]: ")


def test_leading_components_are_given_where_the_preset_was_trained_for_it(service: Service) -> None:
    """With a length of their own."""
    plain = np.array(respond(service, "/embed", inputs=MIXED, normalize=False), np.float32)
    with with_preset(service, matryoshka=True):
        raw = respond(service, "/embed", inputs=MIXED, normalize=False, dimensions=5)
        scaled = respond(service, "/embed", inputs=MIXED, dimensions=5)
        message = error(service.post("/embed", json={"inputs": "a", "dimensions": HIDDEN + 1}), 422, "Validation")
    assert np.array_equal(np.array(raw, np.float32), plain[:, :5])
    rows: list[npt.NDArray[np.float32]] = [normalized(row[:5]) for row in plain]
    assert np.array_equal(np.array(scaled, np.float32), np.stack(rows))
    assert message.startswith(f"dimensions: {HIDDEN + 1} dimensions exceed")


def test_leading_components_are_refused_elsewhere(service: Service) -> None:
    """They would mean nothing."""
    for dimensions in (1, HIDDEN - 1, HIDDEN + 1):
        message = error(service.post("/embed", json={"inputs": "a", "dimensions": dimensions}), 422, "Validation")
        assert message.startswith(f"dimensions: {dimensions} dimensions ")


def test_timings_are_told(service: Service) -> None:
    """As on every route that encodes."""
    for path in ("/embed", "/", "/embed_all"):
        response = service.post(path, json={"inputs": "a"})
        durations = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
        assert float(durations["compute"]) > 0


# === Tokens ===


def test_texts_are_tokenised_in_teis_shape(service: Service, tokenizer: FNetTokenizer) -> None:
    """Special tokens have a name and no place; others the text that they were made of."""
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


def test_places_are_counted_in_code_points(service: Service) -> None:
    """`text[start:stop]` is the token's text, whatever the text is written in."""
    for text in ("Caf\xe9 au lait", "日本 \U0001f600 a", "stra\xdfe \ufb01 ½ e\u0301"):
        (tokens,) = respond(service, "/tokenize", inputs=[text], add_special_tokens=False)
        for token in tokens:
            assert text[token["start"] : token["stop"]] == token["text"]
        assert tokens[-1]["stop"] == len(text)


def test_tokens_are_those_that_are_embedded(service: Service) -> None:
    """With special tokens by default, without where asked."""
    texts = ["a small dog", "", LONG]
    answer = respond(service, "/tokenize", inputs=texts, prompt_name=None)
    ids = [[token["id"] for token in tokens] for tokens in answer]
    assert respond(service, "/embed", inputs=ids[:2]) == respond(service, "/embed", inputs=texts[:2])
    bare = respond(service, "/tokenize", inputs=texts, add_special_tokens=False)
    assert [[token["id"] for token in tokens] for tokens in bare] == [each[1:-1] for each in ids]
    assert respond(service, "/tokenize", inputs=texts[0]) == answer[:1]


def test_ids_are_decoded(service: Service, tokenizer: FNetTokenizer) -> None:
    """Always to a list of texts; special tokens are shown on request."""
    ids = [tokenizer.encode("a small dog").token_ids, []]
    assert respond(service, "/decode", ids=ids) == ["a small dog", ""]
    assert respond(service, "/decode", ids=ids[0]) == ["a small dog"]
    assert respond(service, "/decode", ids=ids, skip_special_tokens=False) == ["[CLS] a small dog[SEP]", ""]


@pytest.mark.parametrize(
    ("ids", "loc"),
    [([1, 10**6], "ids[1]"), ([[1], [2, -1]], "ids[1][1]"), ([2**33], "ids[0]"), ([[1.5]], "ids[0][0]")],
)
def test_ids_outside_the_vocabulary_are_refused_by_their_place(service: Service, ids: list[Any], loc: str) -> None:
    """Nothing is decoded to a guess."""
    assert error(service.post("/decode", json={"ids": ids}), 422, "Validation").startswith(f"{loc}: ")


# === What is served ===


def test_info_is_true(service: Service, tiny_settings: Settings) -> None:
    """TEI's fields, null where there is no such limit."""
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


def test_info_tells_of_another_pooling(service: Service, make_blocked_service: MakeBlockedService) -> None:
    """And the embedding is that output."""
    held, gate = make_blocked_service(pooling="mean")
    gate.opened.set()
    assert held.get("/info").json()["model_type"] == {"embedding": {"pooling": "mean"}}
    assert respond(held, "/embed", inputs=MIXED, normalize=False) == encoded(service, MIXED, "mean_output")


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
def test_what_makes_no_sense_is_refused_by_its_place(
    service: Service, path: str, request_: dict[str, Any], loc: str
) -> None:
    """Nothing is accepted and ignored."""
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
def test_each_route_has_its_own_fields(service: Service, path: str, request_: Any, loc: str) -> None:
    """And no other."""
    assert error(service.post(path, json=request_), 422, "Validation").startswith(f"{loc}: ")


@pytest.mark.parametrize(
    ("path", "field"),
    [("/embed", "inputs"), ("/", "inputs"), ("/embed_all", "inputs"), ("/tokenize", "inputs"), ("/decode", "ids")],
)
def test_limits_are_told_in_teis_words(service: Service, path: str, field: str) -> None:
    """An empty list has a word of its own; statuses are those of the one table."""
    entry: Any = [5] if field == "ids" else "a"
    assert error(service.post(path, json={field: []}), 422, "Empty").startswith(f"{field}: ")
    assert "41 sequences" in error(service.post(path, json={field: [entry] * 41}), 422, "Validation")
    error(service.post(path, content=b"{"), 400, "Validation")
    error(service.post(path, content=b"x" * (2 << 20)), 413, "Validation")
    if path != "/":  # where a browser gets a page
        error(service.get(path), 405, "Validation")
    error(service.post(path, json={}, headers={"X-Request-Timeout": "soon"}), 400, "Validation")


def test_too_many_pieces_are_refused(service: Service) -> None:
    """An answer weighs many times what was sent."""
    most = service.engine.options.max_queue_tokens
    message = error(service.post("/tokenize", json={"inputs": ["a", "a " * most]}), 422, "Validation")
    assert message.startswith("inputs[1]: ")
    message = error(service.post("/tokenize", json={"inputs": "a " * (most + 1)}), 422, "Validation")
    assert message.startswith("inputs: ")


def test_paths_below_are_teis_and_others_are_not(service: Service) -> None:
    """`/` stands for itself alone."""
    error(service.post("/embed/more"), 404, "Validation")
    error(service.post("/embed/", json={"inputs": "a"}), 404, "Validation")
    error(service.get("/info/"), 404, "Validation")
    error(service.post("/info"), 405, "Validation")
    assert service.get("/elsewhere").headers["content-type"] == "application/problem+json"


def test_keys_are_asked_for_in_teis_words(tiny_settings: Settings, make_blocked_service: MakeBlockedService) -> None:
    """With the scheme in a header."""
    held, _ = make_blocked_service(api_keys=["secret"])
    response = held.post("/embed", json={"inputs": "a"})
    error(response, 401, "Validation")
    assert response.headers["www-authenticate"] == "Bearer"
    assert held.post("/decode", json={"ids": [5]}, headers={"Authorization": "Bearer secret"}).status_code == 200


def test_a_full_queue_is_overload(make_blocked_service: MakeBlockedService) -> None:
    """With the time to wait."""
    held, gate = make_blocked_service(max_queue_tokens=64)
    # All different: equal ones would be computed once, and wait as one.
    bodies = [json.dumps({"inputs": [list(range(first, first + 32)) for first in (i, i + 8)]}) for i in range(8)]

    async def flood() -> list[httpx.Response]:
        tasks = [asyncio.ensure_future(held.http.post("/embed", content=body)) for body in bodies]
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        gate.opened.set()
        await asyncio.wait(waiting)
        return [task.result() for task in done]

    refused = held.run(flood())
    assert refused
    for response in refused:
        error(response, 429, "Overloaded")
        assert int(response.headers["retry-after"]) >= 1


def test_an_unhealthy_service_says_so(make_blocked_service: MakeBlockedService) -> None:
    """On every route but `/info`, which tells of the model as long as there is one."""
    held, _ = make_blocked_service()
    held.engine.drain()
    for path in ("/embed", "/", "/embed_all", "/tokenize", "/decode"):
        response = held.post(path, json={})
        error(response, 503, "Unhealthy")
        assert response.headers["retry-after"]
    assert held.get("/info").status_code == 200
    held.engine.loaded, held.engine.state = None, "loading"
    error(held.get("/info"), 503, "Unhealthy")


def test_a_deadline_and_a_bad_output_are_the_backends(
    service: Service, make_blocked_service: MakeBlockedService
) -> None:
    """The client cannot help it."""
    held, _ = make_blocked_service()
    error(held.post("/embed", json={"inputs": "a"}, headers={"X-Request-Timeout": "0.05"}), 504, "Backend")
    error(service.post("/embed_all", json={"inputs": [POISON]}), 500, "Backend")


@pytest.mark.parametrize("kind", [each for each in vars(errors).values() if getattr(each, "code", None)], ids=str)
def test_every_error_has_a_word_of_teis(kind: type[ServiceError]) -> None:
    """One of those that its clients know."""
    assert kind.code in STATUSES
    assert error_type(kind("why")) in {"Unhealthy", "Backend", "Overloaded", "Validation"}


def test_a_preset_without_a_tokenizer_takes_ids(
    smallest_preset: Path, runner: asyncio.Runner, make_engine: Callable[..., Engine]
) -> None:
    """Texts, and what is made of them, are refused with TEI's word for it."""
    engine = make_engine(smallest_preset)
    tei = protocol(engine, 4)

    async def tell(_request: Request, failure: ServiceError) -> Response:
        return tei.render_error(failure)

    app = FastAPI(exception_handlers={ServiceError: tell})
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


def test_the_routes_are_described(tiny_settings: Settings) -> None:
    """With what they take, what they answer, and how they refuse."""
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

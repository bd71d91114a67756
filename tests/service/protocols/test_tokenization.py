"""Tokenization routes of the native protocol."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from model.tokenizer import FNetTokenizer
from service.core.engine import Engine
from service.core.errors import InvalidInputError
from service.core.tokenization import tokenizer_of

if TYPE_CHECKING:
    from tests.service.conftest import BlockingRunner, Service

POSITIONS = 64
LONG = " ".join(["word"] * 100)
FIELDS = ["token_ids", "segment_ids", "pieces", "offsets"]


@pytest.fixture(scope="module")
def tokenizer(service: Service) -> FNetTokenizer:
    """The tiny preset's tokenizer."""
    made = service.engine.require_ready().tokenizer
    assert made is not None
    return made


def tokenized(service: Service, **request: Any) -> dict[str, Any]:
    """Send a request to `/v1/tokenize` and return the response."""
    response = service.post("/v1/tokenize", json=request)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json"), response.text
    answer: dict[str, Any] = response.json()
    assert list(answer) == ["model", *FIELDS, "usage"]
    assert answer["model"] == "tiny_en"
    return answer


def problems(response: httpx.Response, status: int = 422, code: str = "invalid_input") -> list[tuple[list[Any], str]]:
    """Return the locations and messages of a problem document."""
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    document = response.json()
    assert document["code"] == code
    return [(item["loc"], item["msg"]) for item in document["errors"]]


# === Tokenize ===


def test_tokenize_returns_the_encoded_tokens(service: Service) -> None:
    """The response, sent to `/v1/encode`, gives outputs bit-identical to those of the texts."""
    texts = ["a small dog", ["who?", "a dog"], "", "Stra\xdfe ½ \U0001f600"]
    answer = tokenized(service, texts=texts)
    by_ids = service.encode(token_ids=answer["token_ids"], segment_ids=answer["segment_ids"]).json()
    assert by_ids == service.encode(texts=texts).json()
    assert answer["usage"] == by_ids["usage"]


def test_pieces_and_offsets_are_returned(service: Service, tokenizer: FNetTokenizer) -> None:
    """Offsets are in code points, within the text of the piece; special tokens have none."""
    first, second = "Caf\xe9 \U0001f600 au lait", "e\u0301 ½"
    answer = tokenized(service, texts=[[first, second]])
    ids, pieces, offsets = (answer[name][0] for name in ("token_ids", "pieces", "offsets"))
    assert pieces == [tokenizer.id_to_token(token) for token in ids]
    assert [piece for piece, loc in zip(pieces, offsets, strict=True) if loc is None] == [
        "[CLS]",
        "[SEP]",
        "[SEP]",
    ]
    middle = pieces.index("[SEP]")
    for text, actual in ((first, offsets[1:middle]), (second, offsets[middle + 1 : -1])):
        assert actual == [[piece.start, piece.stop] for piece in tokenizer.pieces(text)]
        assert actual[-1][1] == len(text)


def test_bare_text_returns_lists_of_one(service: Service) -> None:
    """Bare text returns lists of one."""
    assert tokenized(service, texts="a dog") == tokenized(service, texts=["a dog"])


def test_long_text_is_complete_or_truncated(service: Service, tokenizer: FNetTokenizer) -> None:
    """Truncation gives the tokens that `/v1/encode` would encode."""
    complete = tokenized(service, texts=LONG)
    assert complete["token_ids"] == [tokenizer.encode(LONG).token_ids]
    assert len(complete["token_ids"][0]) > POSITIONS
    cut = tokenized(service, texts=[LONG, [LONG, LONG]], truncate=True)
    expected = [tokenizer.encode_truncated(LONG, pair, POSITIONS) for pair in (None, LONG)]
    assert cut["token_ids"] == [element.token_ids for element in expected]
    assert cut["segment_ids"] == [element.segment_ids for element in expected]
    words = len(expected[1].token_ids) - 3
    assert all(len(cut[name][index]) == POSITIONS for name in FIELDS for index in range(2))
    locations = [loc for loc in cut["offsets"][1] if loc]
    assert len(locations) == words
    assert [LONG[start:stop].strip() for start, stop in locations] == ["word"] * words


@pytest.mark.parametrize(("padding", "length"), [("none", 3), ("max_length", POSITIONS), (10, 10), (2, 3), (None, 3)])
def test_texts_are_padded_on_request(
    service: Service, tokenizer: FNetTokenizer, padding: str | int | None, length: int
) -> None:
    """Texts are padded on request."""
    answer = tokenized(service, texts="a", padding=padding)
    ids = tokenizer.encode("a").token_ids
    assert answer["token_ids"] == [ids + [tokenizer.pad_token_id] * (length - len(ids))]
    assert answer["segment_ids"] == [[0] * length]
    assert answer["pieces"][0][3:] == ["<pad>"] * (length - 3)
    assert answer["offsets"][0][3:] == [None] * (length - 3)
    assert answer["usage"] == {"sequences": 1, "tokens": length}


@pytest.mark.parametrize(
    ("request_", "loc"),
    [
        ({}, ["texts"]),
        ({"texts": []}, ["texts"]),
        ({"texts": 5}, ["texts"]),
        ({"texts": ["a", 5]}, ["texts", 1]),
        ({"texts": ["a", ["b"]]}, ["texts", 1]),
        ({"texts": "a", "text": "b"}, ["text"]),
        ({"texts": "a", "token_ids": [1]}, ["token_ids"]),
        ({"texts": "a", "truncate": 1}, ["truncate"]),
        ({"texts": "a", "padding": "longest"}, ["padding"]),
        ({"texts": "a", "padding": POSITIONS + 1}, ["padding"]),
        ({"texts": "a", "padding": 1, "truncate": True}, ["texts"]),
        ({"texts": [["a", "b"]], "padding": 2, "truncate": True}, ["texts", 0]),
    ],
)
def test_invalid_request_has_a_location(service: Service, request_: dict[str, Any], loc: list[str | int]) -> None:
    """Invalid request has a location."""
    ((actual, message),) = problems(service.post("/v1/tokenize", json=request_))
    assert actual == loc
    assert message


def test_more_tokens_than_the_queue_limit_are_rejected(service: Service) -> None:
    """The response is much larger than the request."""
    maximum = service.engine.options.max_queue_tokens
    response = service.post("/v1/tokenize", json={"texts": ["a", "a " * maximum]})
    ((loc, message),) = problems(response)
    assert loc == ["texts", 1]
    assert str(maximum) in message
    response = service.post("/v1/tokenize", json={"texts": ["a"] * 37, "padding": "max_length"})
    assert problems(response) == [
        (["padding"], f"{37 * POSITIONS} tokens with padding exceed the maximum of {maximum}")
    ]


# === Detokenising ===


def test_ids_are_detokenized(service: Service, tokenizer: FNetTokenizer) -> None:
    """Special tokens are omitted or returned as names."""
    ids = [tokenizer.encode("a small dog").token_ids, tokenizer.encode("who", "me").token_ids, []]
    plain = service.post("/v1/detokenize", json={"token_ids": ids})
    assert plain.json() == {"model": "tiny_en", "texts": ["a small dog", "who me", ""]}
    shown = service.post("/v1/detokenize", json={"token_ids": ids, "skip_special_tokens": False})
    assert shown.json()["texts"] == ["[CLS] a small dog[SEP]", "[CLS] who[SEP] me[SEP]", ""]


def test_bare_list_of_ids_is_one_text(service: Service, tokenizer: FNetTokenizer) -> None:
    """The response is a list of one."""
    response = service.post("/v1/detokenize", json={"token_ids": tokenizer.tokenize("a dog")})
    assert response.json()["texts"] == ["a dog"]


@pytest.mark.parametrize(
    ("request_", "locations"),
    [
        ({}, [["token_ids"]]),
        ({"token_ids": []}, [["token_ids"]]),
        ({"token_ids": [[1], [2, -1, 10**9]]}, [["token_ids", 1, 1], ["token_ids", 1, 2]]),
        ({"token_ids": [1, 2**40]}, [["token_ids", 1]]),
        ({"token_ids": [1, "2"]}, [["token_ids", 1]]),
        ({"token_ids": ["a"]}, [["token_ids", 0]]),
        ({"token_ids": [1], "skip_special_tokens": "no"}, [["skip_special_tokens"]]),
        ({"token_ids": [1], "texts": "a"}, [["texts"]]),
        ({"token_ids": [[-1] * 30]}, [["token_ids", 0, loc] for loc in range(20)]),
    ],
)
def test_invalid_ids_have_a_location(
    service: Service, request_: dict[str, Any], locations: list[list[str | int]]
) -> None:
    """Invalid ids have a location."""
    assert [loc for loc, _ in problems(service.post("/v1/detokenize", json=request_))] == locations


# === Both ===


@pytest.mark.parametrize(("path", "field"), [("/v1/tokenize", "texts"), ("/v1/detokenize", "token_ids")])
def test_limits_and_errors_match_the_native_protocol(service: Service, path: str, field: str) -> None:
    """Limits and errors match the native protocol."""
    entry: Any = "a" if field == "texts" else [5]
    many = problems(service.post(path, json={field: [entry] * 41}), 422, "too_many_sequences")
    assert many == [([field], "41 sequences exceed the maximum of 40 per request; split the request")]
    assert problems(service.post(path, content=b"{"), 400, "bad_request") == []
    assert problems(service.post(path, content=b"x" * (2 << 20)), 413, "body_too_large") == []
    assert problems(service.get(path), 405, "method_not_allowed") == []
    assert problems(service.post(f"{path}/more"), 404, "not_found") == []


def test_tokenization_does_not_enter_the_queue(
    make_blocked_service: Callable[..., tuple[Service, BlockingRunner]],
) -> None:
    """Requests are answered while the network is busy."""
    blocked, gate = make_blocked_service()
    assert blocked.post("/v1/tokenize", json={"texts": "a dog"}).status_code == 200
    assert blocked.post("/v1/detokenize", json={"token_ids": [5]}).status_code == 200
    assert not gate.entered.is_set()
    blocked.engine.drain()
    for path in ("/v1/tokenize", "/v1/detokenize"):
        response = blocked.post(path, json={})
        assert problems(response, 503, "draining") == []
        assert response.headers["retry-after"]


def test_preset_without_tokenizer_rejects_tokenization(
    make_engine: Callable[..., Engine], smallest_preset: Path
) -> None:
    """Preset without tokenizer rejects tokenization."""
    loaded = make_engine(smallest_preset).require_ready()
    with pytest.raises(InvalidInputError, match=r"^texts: the preset smallest_en has no tokenizer"):
        tokenizer_of(loaded, "texts")


def test_openapi_describes_the_routes(service: Service) -> None:
    """Requests, responses and errors have schemas."""
    description = service.get("/openapi.json").json()
    for path, wire in (("/v1/tokenize", "TokenizeRequest"), ("/v1/detokenize", "DetokenizeRequest")):
        route = description["paths"][path]["post"]
        assert route["summary"]
        schema = route["requestBody"]["content"]["application/json"]["schema"]
        assert schema == {"$ref": f"#/components/schemas/{wire}"}
        assert set(route["responses"]) == {"200", "400", "401", "413", "422", "500", "503", "504"}
        assert description["components"]["schemas"][wire]["additionalProperties"] is False

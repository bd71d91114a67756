"""Generated bodies for each POST route: a result, or a client error in the protocol's format.

`make fuzz` does the same for the parsers with more inputs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.web.statuses import STATUSES

if TYPE_CHECKING:
    from tests.service.conftest import Service

# POST routes with the field that an error body has.
ROUTES = {
    "/v1/encode": {"type", "title", "status", "detail", "code", "errors"},
    "/v1/tokenize": {"type", "title", "status", "detail", "code", "errors"},
    "/v1/detokenize": {"type", "title", "status", "detail", "code", "errors"},
    "/v1/embeddings": {"error"},
    "/v2/models/tiny_en/infer": {"error"},
    "/embed": {"error", "error_type"},
    "/embed_all": {"error", "error_type"},
    "/tokenize": {"error", "error_type"},
    "/decode": {"error", "error_type"},
    "/": {"error", "error_type"},
}
FIELDS = [
    *("texts", "token_ids", "segment_ids", "outputs", "normalize", "truncate", "padding", "encoding_format"),
    *("model", "input", "dimensions", "user", "inputs", "truncation_direction", "parameters", "ids", "text"),
    *("id", "name", "shape", "datatype", "data", "binary_data_size", "binary_data_output", "timeout"),
    *("add_special_tokens", "skip_special_tokens", "with_pieces", "unknown"),
]
WORDS = ["float", "base64", "pooled_output", "sequence_output", "INT32", "INT64", "BYTES", "Left", "tiny_en", "text"]
# Small requests cause neither server errors nor timeouts.
CLIENTS_FAULT = {status for status in STATUSES.values() if 400 <= status < 500} - {429}

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-2, 20_001)
    | st.floats()
    | st.sampled_from(WORDS)
    | st.text(st.characters(), max_size=30)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
)
likely = st.dictionaries(st.sampled_from(FIELDS), values, max_size=5)


def body(value: Any) -> bytes:
    """Serialize JSON with NaN and unpaired surrogates."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


bodies = st.one_of(
    likely.map(body),
    values.map(body),
    st.binary(max_size=60),
    st.builds(
        lambda data, at, new: data[: at % len(data)] + new + data[at % len(data) :],
        likely.map(body),
        st.integers(0, 500),
        st.binary(max_size=3),
    ),
    # Duplicate key, byte order mark, other encoding, deep nesting.
    st.builds(lambda a, b: b'{"texts": ' + body(a) + b', "texts": ' + body(b) + b"}", values, values),
    st.builds(lambda value: b"\xef\xbb\xbf" + body(value), likely),
    st.builds(lambda value: json.dumps(value).encode("utf-16"), likely),
    st.builds(lambda depth, value: b"[" * depth + body(value) + b"]" * depth, st.integers(1, 3000), scalars),
)


@pytest.mark.parametrize("route", ROUTES)
def test_any_body_is_answered_or_rejected(service: Service, route: str) -> None:
    """No body causes a 500; errors have the format of their protocol and no internal names."""

    @settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(content=bodies)
    def item(content: bytes) -> None:
        response = service.post(route, content=content)
        if response.status_code == 200:
            json.loads(response.content, parse_constant=pytest.fail)
            return
        assert response.status_code in CLIENTS_FAULT, response.text
        assert set(response.json()) == ROUTES[route]
        for inner in ("Traceback", "service.", "pydantic", "orjson", "/home", "site-packages"):
            assert inner not in response.text

    item()


@given(
    header=st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=24) | st.integers().map(str),
    content=bodies,
    tensors=st.binary(max_size=40),
)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_any_split_of_a_binary_body(service: Service, header: str, content: bytes, tensors: bytes) -> None:
    """The JSON size in the header and the sizes of tensors may be wrong."""
    headers = {"Inference-Header-Content-Length": header}
    response = service.post("/v2/models/tiny_en/infer", content=content + tensors, headers=headers)
    assert response.status_code == 200 or response.status_code in CLIENTS_FAULT, response.text


HEADERS = [
    *("content-type", "content-encoding", "accept", "accept-encoding", "x-request-id", "x-request-timeout"),
    *("authorization", "x-api-key", "inference-header-content-length", "origin", "expect", "cookie"),
]
header_values = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=40)


@given(headers=st.dictionaries(st.sampled_from(HEADERS), header_values, max_size=4))
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_any_headers(service: Service, headers: dict[str, str]) -> None:
    """Whatever they hold: an answer, or what is wrong with them; the request's id cannot break a line."""
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    response = service.post("/v1/encode", json={"texts": "a", "outputs": ["pooled_output"]}, headers=raw)
    assert response.status_code == 200 or response.status_code in {*CLIENTS_FAULT, 504}, response.text
    assert response.headers["x-request-id"].isprintable()
    assert " " not in response.headers["x-request-id"]

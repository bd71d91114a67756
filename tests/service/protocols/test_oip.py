"""Tensors and routes of the Open Inference Protocol."""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import numpy.typing as npt
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.encoder import Encoding
from service import __version__
from service.app import create_app
from service.core.errors import BadRequestError, InvalidInputError, ServiceError, TooManySequencesError
from service.protocols.oip import InferRequest, ParsedRequest, Result, binary_size, parse, render_binary, render_json
from service.protocols.oip_tensors import HEADER_LENGTH
from service.settings import Settings
from tests.support.bundled import POISON, VOCABULARY
from tests.support.timeouts import TIMEOUT

if TYPE_CHECKING:
    from tests.service.conftest import BlockingRunner, Service

    MakeBlockedService = Callable[..., tuple[Service, BlockingRunner]]
    WaitUntil = Callable[[Callable[[], bool]], None]

Array = npt.NDArray[np.float32]

HIDDEN = 32
POSITIONS = 64
SEGMENTS = 3
MAX_SEQUENCES = 8
OUTSIDE = f"token id {VOCABULARY} is outside [0, {VOCABULARY})"
OUTPUTS = ["sequence_output", "pooled_output", "mean_output"]
IDS = [[5, 6, 7], [8, 9, 10]]
INFER = "/v2/models/tiny_en/infer"


def tensor(name: str, datatype: str, shape: Sequence[Any], data: Any = None, **parameters: Any) -> dict[str, Any]:
    """Return an input."""
    made: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(shape)}
    return made | ({} if data is None else {"data": data}) | ({"parameters": parameters} if parameters else {})


def ids(data: Any = IDS, shape: Sequence[Any] = (2, 3), datatype: str = "INT64") -> dict[str, Any]:
    """Return `token_ids` as JSON."""
    return tensor("token_ids", datatype, shape, data)


def texts(*data: str) -> dict[str, Any]:
    """Return `texts` as JSON."""
    return tensor("texts", "BYTES", [len(data)], list(data))


def text_bytes(*data: bytes) -> bytes:
    """Return texts in the binary format of the protocol."""
    return b"".join(struct.pack("<I", len(item)) + item for item in data)


def packed(request: dict[str, Any], *tensors: bytes) -> tuple[bytes, str]:
    """Return a body of JSON and binary tensors, and the size of the JSON."""
    head = json.dumps(request).encode()
    return head + b"".join(tensors), str(len(head))


def call(*inputs: dict[str, Any], **request: Any) -> ParsedRequest:
    """Parse a JSON request."""
    return parse(json.dumps({"inputs": list(inputs), **request}).encode(), None, MAX_SEQUENCES)


def refusal(value: Any) -> str:
    """Return the error message for a JSON body."""
    with pytest.raises(InvalidInputError) as caught:
        parse(json.dumps(value).encode(), None, MAX_SEQUENCES)
    assert "Infer" not in caught.value.detail
    return caught.value.detail


def binary_refusal(request: dict[str, Any], *tensors: bytes) -> str:
    """Return the error message for a body with binary tensors."""
    body, header = packed(request, *tensors)
    with pytest.raises(InvalidInputError) as caught:
        parse(body, header, MAX_SEQUENCES)
    return caught.value.detail


# === Parse ===


@pytest.mark.parametrize("datatype", ["INT32", "INT64"])
@pytest.mark.parametrize("data", [[5, 6, 7, 8, 9, 10], IDS], ids=["flat", "nested"])
def test_ids_can_be_flat_or_nested(datatype: str, data: list[Any]) -> None:
    """Ids can be flat or nested."""
    made = call(ids(data, datatype=datatype))
    assert made.token_ids is not None
    assert made.token_ids.tolist() == IDS
    assert (made.segment_ids, made.texts) == (None, None)


@pytest.mark.parametrize(("datatype", "dtype"), [("INT32", "<i4"), ("INT64", "<i8")])
def test_ids_can_be_bytes(datatype: str, dtype: str) -> None:
    """The bytes are little-endian, in the order of the inputs."""
    values, segments = np.array(IDS, dtype), np.array([[0, 1, 2], [2, 1, 0]], "<i4")
    inputs = [
        tensor("segment_ids", "INT32", [2, 3], binary_data_size=segments.nbytes),
        tensor("token_ids", datatype, [2, 3], binary_data_size=values.nbytes),
    ]
    made = parse(*packed({"inputs": inputs}, segments.tobytes(), values.tobytes()), MAX_SEQUENCES)
    assert made.token_ids is not None
    assert made.segment_ids is not None
    assert made.token_ids.tolist() == IDS
    assert made.segment_ids.tolist() == segments.tolist()


def test_json_and_binary_inputs_can_be_mixed() -> None:
    """JSON and binary inputs can be mixed."""
    segments = np.ones((2, 3), "<i8")
    inputs = [ids(), tensor("segment_ids", "INT64", [2, 3], binary_data_size=48)]
    made = parse(*packed({"inputs": inputs}, segments.tobytes()), MAX_SEQUENCES)
    assert made.segment_ids is not None
    assert made.segment_ids.tolist() == segments.tolist()


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_texts_can_be_strings_or_bytes(shape: list[int]) -> None:
    """The shape has one dimension, or a second dimension of 1."""
    data = ["", "Grüße 👋"]
    assert call(tensor("texts", "BYTES", shape, data)).texts == data
    raw = text_bytes(*(text.encode() for text in data))
    body = packed({"inputs": [tensor("texts", "BYTES", shape, binary_data_size=len(raw))]}, raw)
    assert parse(*body, MAX_SEQUENCES).texts == data


def test_texts_can_be_nested() -> None:
    """Texts can be nested."""
    assert call(tensor("texts", "BYTES", [2, 1], [["a"], ["b"]])).texts == ["a", "b"]


@pytest.mark.parametrize("header", [None, "0", "", " 0 "])
def test_complete_body_is_json_without_a_header(header: str | None) -> None:
    """A missing header is the same as 0."""
    assert parse(json.dumps({"inputs": [texts("a")]}).encode(), header, MAX_SEQUENCES).texts == ["a"]


def test_header_can_have_the_size_of_the_complete_body() -> None:
    """Header can have the size of the complete body."""
    assert parse(*packed({"inputs": [texts("a")]}), MAX_SEQUENCES).texts == ["a"]


@pytest.mark.parametrize("header", ["-1", "+5", "1.0", "1e2", "0x10", "ten", "9999", "9" * 400, "٣", "1 2", "1_0"])
def test_invalid_json_size_is_a_bad_request(header: str) -> None:
    """The header is not a number, or exceeds the body."""
    with pytest.raises(BadRequestError, match=f"^header {HEADER_LENGTH}: ") as caught:
        parse(json.dumps({"inputs": [texts("a")]}).encode(), header, MAX_SEQUENCES)
    assert len(caught.value.detail) < 200


@pytest.mark.parametrize(
    ("body", "header"), [(b"", None), (b"{", None), (b"{}x", None), (b'{"inputs":[]}', "5"), (b"\xff", None)]
)
def test_invalid_json_is_a_bad_request(body: bytes, header: str | None) -> None:
    """Invalid JSON is a bad request."""
    with pytest.raises(BadRequestError, match=r"^the body is not valid JSON: "):
        parse(body, header, MAX_SEQUENCES)


def test_default_outputs() -> None:
    """All outputs for ids; pooled and mean outputs for texts, as JSON."""
    assert [(item.name, item.binary) for item in call(ids()).outputs] == [(name, False) for name in OUTPUTS]
    assert [item.name for item in call(texts("a")).outputs] == ["pooled_output", "mean_output"]
    assert [item.name for item in call(texts("a"), outputs=[]).outputs] == ["pooled_output", "mean_output"]
    parameters = call(ids()).parameters
    assert (parameters.timeout, parameters.normalize, parameters.truncate, parameters.padding) == (
        0,
        False,
        False,
        None,
    )


@pytest.mark.parametrize(
    ("request_", "own", "binary"),
    [
        (None, None, False),
        (False, None, False),
        (True, None, True),
        (None, True, True),
        (False, True, True),
        (True, False, False),
    ],
)
def test_parameters_of_an_output_override_those_of_the_request(
    request_: bool | None,  # noqa: FBT001 - parameters of the table
    own: bool | None,  # noqa: FBT001 - parameters of the table
    binary: bool,  # noqa: FBT001 - parameters of the table
) -> None:
    """Parameters of an output override those of the request."""
    parameters = {} if request_ is None else {"binary_data_output": request_}
    output = {"name": "mean_output"} | ({} if own is None else {"parameters": {"binary_data": own}})
    (expected_outputs,) = call(ids(), parameters=parameters, outputs=[output]).outputs
    assert (expected_outputs.name, expected_outputs.binary) == ("mean_output", binary)


def test_null_fields_are_omitted_fields() -> None:
    """Null fields are omitted fields."""
    nothing = {"id": None, "model_name": None, "parameters": None, "outputs": None}
    made = call({**texts("a"), "parameters": None}, **nothing)
    assert (made.id, made.texts) == (None, ["a"])


def test_default_values_of_unsupported_parameters_are_accepted() -> None:
    """Default values of unsupported parameters are accepted."""
    defaults = {"priority": 0, "sequence_id": "", "sequence_start": False, "sequence_end": False, "timeout": 0}
    assert call(texts("a"), parameters=defaults)
    assert call(texts("a"), parameters={"sequence_id": 0})


@pytest.mark.parametrize(
    ("value", "start"),
    [
        ([], "the body: expected a JSON object"),
        ({}, "inputs: "),
        ({"inputs": []}, "inputs: "),
        ({"inputs": {}}, "inputs: "),
        ({"inputs": [ids()], "input": 1}, "input: unknown field"),
        ({"inputs": [ids(), ids(), ids(), ids()]}, "inputs: "),
        ({"inputs": [1]}, "inputs[0]: expected a JSON object"),
        ({"inputs": [ids()], "id": 7}, "id: "),
        ({"inputs": [{**ids(), "name": "input_ids"}]}, "inputs[0].name: "),
        ({"inputs": [{**ids(), "dtype": 1}]}, "inputs[0].dtype: unknown field"),
        ({"inputs": [ids(shape=[-1, 3])]}, "inputs[0].shape[0]: "),
        ({"inputs": [ids(shape=[2, "3"])]}, "inputs[0].shape[1]: "),
        ({"inputs": [ids(shape=[2.0, 3])]}, "inputs[0].shape[0]: "),
        ({"inputs": [ids(shape=[True, 3])]}, "inputs[0].shape[0]: "),
        ({"inputs": [ids(shape=[])]}, "inputs[0].shape: "),
        ({"inputs": [ids(shape=[1] * 1000)]}, "inputs[0].shape: "),
        ({"inputs": [ids(datatype="FP32")]}, "inputs[0].datatype: "),
        ({"inputs": [ids(datatype="int64")]}, "inputs[0].datatype: "),
        ({"inputs": [ids(datatype="BYTES")]}, "inputs[0] token_ids: datatype is BYTES, expected INT32 or INT64"),
        ({"inputs": [{**texts("a"), "datatype": "INT32"}]}, "inputs[0] texts: datatype is INT32, expected BYTES"),
        ({"inputs": [ids(shape=[6])]}, "inputs[0] token_ids: shape is [6], expected [sequences, tokens]"),
        ({"inputs": [ids(shape=[1, 2, 3])]}, "inputs[0] token_ids: shape is [1, 2, 3], expected"),
        ({"inputs": [{**texts("a", "b"), "shape": [1, 2]}]}, "inputs[0] texts: shape is [1, 2], expected"),
        ({"inputs": [{**texts("a"), "shape": [1, 0]}]}, "inputs[0] texts: shape is [1, 0], expected"),
        ({"inputs": [ids([], [0, 3])]}, "inputs[0] token_ids: contains no sequence"),
        ({"inputs": [ids([], [2, 0])]}, "inputs[0] token_ids: shape is [2, 0], expected at least one token"),
        ({"inputs": [tensor("texts", "BYTES", [0], [])]}, "inputs[0] texts: contains no sequence"),
        ({"inputs": [ids(shape=[2, 4])]}, "inputs[0] token_ids[0]: contains 3 values, expected 4"),
        ({"inputs": [ids(shape=[3, 2])]}, "inputs[0] token_ids: contains 2 rows, expected 3"),
        ({"inputs": [ids([1, 2, 3], [2, 3])]}, "inputs[0] token_ids: contains 3 values, expected 6 for shape [2, 3]"),
        ({"inputs": [ids(shape=[2, 2**62])]}, "inputs[0] token_ids[0]: contains 3 values, expected"),
        ({"inputs": [ids([1], [4, 2**62])]}, "inputs[0] token_ids: contains 1 values, expected"),
        ({"inputs": [ids([[1, 2], [3]], [2, 2])]}, "inputs[0] token_ids[1]: contains 1 values, expected 2"),
        ({"inputs": [ids([[1, 2], 3], [2, 2])]}, "inputs[0] token_ids[1]: is not a list"),
        ({"inputs": [ids([1, 2, 3, [4]], [2, 2])]}, "inputs[0] token_ids[1][1]: is not an integer"),
        ({"inputs": [ids([[1, 2.0]], [1, 2])]}, "inputs[0] token_ids[0][1]: is not an integer"),
        ({"inputs": [ids([[1, True]], [1, 2])]}, "inputs[0] token_ids[0][1]: is not an integer"),
        ({"inputs": [ids([[1, "2"]], [1, 2])]}, "inputs[0] token_ids[0][1]: is not an integer"),
        ({"inputs": [ids([[1, None]], [1, 2])]}, "inputs[0] token_ids[0][1]: is not an integer"),
        ({"inputs": [ids([[1, 10**30]], [1, 2])]}, "inputs[0] token_ids[0][1]: does not fit INT64"),
        ({"inputs": [ids([[1, 2**63]], [1, 2])]}, "inputs[0] token_ids[0][1]: 9223372036854775808 does not fit INT64"),
        ({"inputs": [ids([[2**31]], [1, 1], "INT32")]}, "inputs[0] token_ids[0][0]: 2147483648 does not fit INT32"),
        ({"inputs": [ids([[-(2**31) - 1]], [1, 1], "INT32")]}, "inputs[0] token_ids[0][0]: -2147483649 does not"),
        ({"inputs": [{**texts("a"), "data": [5]}]}, "inputs[0] texts[0]: is not a string"),
        ({"inputs": [{**texts("a"), "data": [["a"]]}]}, "inputs[0] texts[0]: is not a string"),
        ({"inputs": [{**texts("a"), "data": "a"}]}, "inputs[0].data: "),
        ({"inputs": [{**texts("a"), "data": ["a", "b"]}]}, "inputs[0] texts: contains 2 values, expected 1"),
        ({"inputs": [ids(), ids()]}, "inputs[1] token_ids: duplicates inputs[0] token_ids"),
        ({"inputs": [ids(), texts("a")]}, "inputs: expected exactly one of token_ids and texts, found both"),
        ({"inputs": [{**ids(), "name": "segment_ids"}]}, "inputs: expected exactly one of token_ids and texts"),
        (
            {"inputs": [texts("a"), {**ids(), "name": "segment_ids"}]},
            "inputs[1] segment_ids: is allowed with token_ids",
        ),
        ({"inputs": [tensor("texts", "BYTES", [1])]}, "inputs[0] texts: expected exactly one of data and"),
        (
            {"inputs": [tensor("texts", "BYTES", [1], ["a"], binary_data_size=5)]},
            "inputs[0] texts: expected exactly one of",
        ),
        (
            {"inputs": [tensor("texts", "BYTES", [1], binary_data_size=5)]},
            "inputs[0] texts: binary_data_size is 5, but",
        ),
        ({"inputs": [tensor("texts", "BYTES", [1], binary_data_size=-5)]}, "inputs[0].parameters.binary_data_size: "),
        ({"inputs": [tensor("texts", "BYTES", [1], shared_memory_region="x")]}, "inputs[0].parameters.shared_memory_"),
        ({"inputs": [ids()], "parameters": []}, "parameters: expected a JSON object"),
        ({"inputs": [ids()], "parameters": {"binary_data_output": 1}}, "parameters.binary_data_output: "),
        ({"inputs": [ids()], "parameters": {"timeout": -1}}, "parameters.timeout: "),
        ({"inputs": [ids()], "parameters": {"timeout": 1.5}}, "parameters.timeout: "),
        ({"inputs": [ids()], "parameters": {"timeout": True}}, "parameters.timeout: "),
        ({"inputs": [ids()], "parameters": {"priority": 1}}, "parameters.priority: "),
        ({"inputs": [ids()], "parameters": {"sequence_id": 5}}, "parameters.sequence_id: "),
        ({"inputs": [ids()], "parameters": {"sequence_id": "x"}}, "parameters.sequence_id: "),
        ({"inputs": [ids()], "parameters": {"sequence_start": True}}, "parameters.sequence_start: "),
        ({"inputs": [ids()], "parameters": {"max_tokens": 5}}, "parameters.max_tokens: unknown field"),
        ({"inputs": [ids()], "parameters": {"data": 5}}, "parameters.data: unknown field"),
        ({"inputs": [ids()], "parameters": {"padding": "none"}}, "parameters.padding: is allowed with texts only"),
        ({"inputs": [texts("a")], "parameters": {"padding": 0}}, "parameters.padding: "),
        ({"inputs": [texts("a")], "parameters": {"padding": "longest"}}, "parameters.padding: "),
        ({"inputs": [ids()], "outputs": [{"name": "logits"}]}, "outputs[0].name: "),
        ({"inputs": [ids()], "outputs": ["pooled_output"]}, "outputs[0]: expected a JSON object"),
        ({"inputs": [ids()], "outputs": [{"name": "mean_output"}] * 2}, "outputs[1] mean_output: duplicates"),
        (
            {"inputs": [ids()], "outputs": [{"name": "mean_output", "parameters": {"classification": 3}}]},
            "outputs[0].parameters.classification: unknown field",
        ),
    ],
)
def test_invalid_request_has_a_location(value: Any, start: str) -> None:
    """No field is accepted and ignored."""
    assert refusal(value).startswith(start)


def test_bytes_that_do_not_match_their_shape_are_rejected() -> None:
    """Bytes that do not match their shape are rejected."""

    def integers(size: int, shape: Sequence[int] = (2, 3), datatype: str = "INT64") -> dict[str, Any]:
        return {"inputs": [tensor("token_ids", datatype, shape, binary_data_size=size)]}

    expected = "inputs[0] token_ids: has 24 bytes, expected 48 for shape [2, 3] of INT64"
    assert binary_refusal(integers(24), bytes(24)) == expected
    assert binary_refusal(integers(48, datatype="INT32"), bytes(48)).startswith("inputs[0] token_ids: has 48 bytes")
    assert binary_refusal(integers(48), bytes(47)).endswith(
        "binary_data_size is 48, but only 47 bytes remain after the JSON"
    )
    assert binary_refusal(integers(48), bytes(50)) == "the body: the last 2 bytes belong to no input"
    assert binary_refusal({"inputs": [ids()]}, bytes(5)) == "the body: the last 5 bytes belong to no input"
    assert binary_refusal(integers(0), b"").startswith("inputs[0] token_ids: has 0 bytes")
    assert binary_refusal(integers(8, (8, 2**61)), bytes(8)).startswith("inputs[0] token_ids: has 8 bytes, expected")
    assert "binary_data_size is 9223372036854775807" in binary_refusal(integers(2**63 - 1), bytes(8))


@pytest.mark.parametrize(
    ("raw", "count", "message"),
    [
        (b"", 1, "inputs[0] texts: contains 0 texts, expected 1 for shape [1]"),
        (b"\x01\x00\x00", 1, "inputs[0] texts: contains 0 texts, expected 1 for shape [1]"),
        (text_bytes(b"a"), 2, "inputs[0] texts: contains 1 texts, expected 2 for shape [2]"),
        (text_bytes(b"a", b"b"), 1, "inputs[0] texts: has 5 bytes after its 1 texts"),
        (b"\xff\xff\xff\xff", 1, "inputs[0] texts[0]: has 4294967295 bytes, but only 0 remain"),
        (text_bytes(b"a") + b"\x05\x00\x00\x00abcd", 2, "inputs[0] texts[1]: has 5 bytes, but only 4 remain"),
        (text_bytes(b"a", b"\xff"), 2, "inputs[0] texts[1]: is not UTF-8"),
        (text_bytes("ü".encode()[:1]), 1, "inputs[0] texts[0]: is not UTF-8"),
    ],
)
def test_invalid_text_bytes_are_rejected(raw: bytes, count: int, message: str) -> None:
    """Each text has a length prefix and is UTF-8."""
    request = {"inputs": [tensor("texts", "BYTES", [count], binary_data_size=len(raw))]}
    assert binary_refusal(request, raw) == message


@pytest.mark.parametrize("made", [ids([[1]] * (MAX_SEQUENCES + 1), [MAX_SEQUENCES + 1, 1]), ids([], [2**63, 2**63])])
def test_too_many_sequences_have_their_own_error(made: dict[str, Any]) -> None:
    """Too many sequences have their own error."""
    with pytest.raises(TooManySequencesError):
        call(made)
    assert call(ids([[1]] * MAX_SEQUENCES, [MAX_SEQUENCES, 1]))


@pytest.mark.parametrize(
    "value",
    [
        {"inputs": [ids()], **{f"x{index}": 1 for index in range(100_000)}},
        {"inputs": [{**ids(), **{f"x{index}": 1 for index in range(100_000)}}]},
        {"inputs": [ids()], "parameters": {f"x{index}": 1 for index in range(100_000)}},
        {"inputs": ["x"] * 100_000},
        {"inputs": [ids()], "outputs": ["x"] * 100_000},
        {"inputs": [ids(["x"] * 100_000, [2, 50_000])]},
        {"inputs": [ids(shape=["x"] * 100_000)]},
    ],
    ids=["fields", "input", "parameters", "inputs", "outputs", "data", "shape"],
)
def test_number_of_reported_errors_is_limited(value: Any) -> None:
    """Number of reported errors is limited."""
    assert len(refusal(value)) < 500


def test_schema_examples_are_valid_requests() -> None:
    """Schema examples are valid requests."""
    for example in InferRequest.model_json_schema()["examples"]:
        assert parse(json.dumps(example).encode(), None, MAX_SEQUENCES)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
NUMBERS = st.integers(-1, 4) | st.sampled_from([2**31, 2**63, 2**64])


def almost(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of these fields, most of them valid."""
    return st.fixed_dictionaries({}, optional={name: item | VALUES for name, item in fields.items()})


INPUTS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["token_ids", "token_ids", "texts", "segment_ids", "x"]),
        "datatype": st.sampled_from(["INT32", "INT64", "BYTES", "FP32"]),
        "shape": st.lists(NUMBERS, max_size=3),
    },
    optional={
        "data": st.lists(NUMBERS | st.text(max_size=2) | st.lists(NUMBERS, max_size=3), max_size=4) | VALUES,
        "parameters": almost(binary_data_size=st.integers(-1, 40)),
    },
)
REQUESTS = almost(
    id=st.text(max_size=3),
    parameters=almost(timeout=NUMBERS, binary_data_output=st.booleans(), padding=NUMBERS, priority=NUMBERS),
    inputs=st.lists(INPUTS, min_size=1, max_size=2),
    outputs=st.lists(almost(name=st.sampled_from(OUTPUTS), parameters=almost(binary_data=st.booleans())), max_size=2),
)
REFUSALS = {"bad_request", "invalid_input", "too_many_sequences"}


@given(value=VALUES | REQUESTS, tail=st.binary(max_size=40), offset=st.none() | st.just(0) | st.integers(-40, 40))
def test_any_json_with_any_bytes_is_parsed_or_rejected(value: Any, tail: bytes, offset: int | None) -> None:
    """The parser raises no other error."""
    head = json.dumps(value).encode()
    header = None if offset is None else str(len(head) + offset)
    try:
        made = parse(head + tail, header, MAX_SEQUENCES)
    except ServiceError as error:
        assert (error.code in REFUSALS, bool(error.detail)) == (True, True)  # noqa: PT017 - either outcome is right
    else:
        assert (made.token_ids is None) != (made.texts is None)


@st.composite
def integer_tensors(draw: st.DrawFn) -> tuple[dict[str, Any], bytes, list[list[int]]]:
    """An input in any format, its bytes after the JSON, and its values."""
    datatype, dtype = draw(st.sampled_from([("INT32", "<i4"), ("INT64", "<i8")]))
    bounds = np.iinfo(dtype)
    rows, columns = draw(st.integers(1, MAX_SEQUENCES)), draw(st.integers(1, 4))
    entry = st.integers(int(bounds.min), int(bounds.max))
    row = st.lists(entry, min_size=columns, max_size=columns)
    values = draw(st.lists(row, min_size=rows, max_size=rows))
    form = draw(st.sampled_from(["flat", "nested", "binary"]))
    raw = np.array(values, dtype).tobytes()
    if form == "binary":
        return tensor("token_ids", datatype, [rows, columns], binary_data_size=len(raw)), raw, values
    data = values if form == "nested" else list(chain.from_iterable(values))
    return tensor("token_ids", datatype, [rows, columns], data), b"", values


@given(made=integer_tensors())
def test_integers_are_preserved_in_all_formats(made: tuple[dict[str, Any], bytes, list[list[int]]]) -> None:
    """Integers are preserved in all formats."""
    input_, raw, values = made
    actual = parse(*packed({"inputs": [input_]}, raw), MAX_SEQUENCES).token_ids
    assert actual is not None
    assert actual.tolist() == values


@given(
    made=integer_tensors(),
    lie=st.sampled_from(["row", "column", "rank", "zero", "huge", "entry", "more", "bytes", "no bytes", "type"]),
)
def test_inconsistent_tensors_are_rejected(made: tuple[dict[str, Any], bytes, list[list[int]]], lie: str) -> None:
    """Inconsistent tensors are rejected."""
    input_, raw, _ = made
    rows, columns = input_["shape"]
    shapes = {
        "row": [rows + 1, columns],
        "column": [rows, columns + 1],
        "rank": [rows * columns],
        "zero": [rows, 0],
        "huge": [rows, 2**64 + columns],
    }
    input_["shape"] = shapes.get(lie, input_["shape"])
    if lie == "type":
        input_["datatype"] = "BYTES"
    elif lie == "bytes" or (lie == "no bytes" and not raw):
        raw += b"x"
    elif lie == "no bytes":
        raw = raw[:-1]
    elif lie in ("entry", "more"):
        if "data" in input_:
            input_["data"] = input_["data"][:-1] if lie == "entry" else [*input_["data"], input_["data"][0]]
        else:
            size = len(raw) - 4 if lie == "entry" else len(raw) + 4
            raw = bytes(size)
            input_["parameters"]["binary_data_size"] = size
    with pytest.raises((InvalidInputError, TooManySequencesError)):
        parse(*packed({"inputs": [input_]}, raw), MAX_SEQUENCES)


@given(body=st.binary(max_size=40), header=st.none() | st.text(max_size=4) | st.integers(-2, 50).map(str))
def test_any_bytes_are_parsed_or_rejected(body: bytes, header: str | None) -> None:
    """The parser raises no other error."""
    with pytest.raises(ServiceError):
        parse(body, header, MAX_SEQUENCES)


@given(raw=st.binary(max_size=24), count=st.integers(1, 4))
def test_any_text_bytes_are_decoded_or_rejected(raw: bytes, count: int) -> None:
    """Any text bytes are decoded or rejected."""
    request = {"inputs": [tensor("texts", "BYTES", [count], binary_data_size=len(raw))]}
    try:
        made = parse(*packed(request, raw), MAX_SEQUENCES)
    except InvalidInputError:
        return
    assert made.texts is not None
    assert text_bytes(*(text.encode() for text in made.texts)) == raw


@given(data=st.lists(st.text(max_size=6), min_size=1, max_size=MAX_SEQUENCES))
def test_texts_are_preserved_in_both_formats(data: list[str]) -> None:
    """Texts are preserved in both formats."""
    raw = text_bytes(*(text.encode() for text in data))
    request = {"inputs": [tensor("texts", "BYTES", [len(data)], binary_data_size=len(raw))]}
    assert parse(*packed(request, raw), MAX_SEQUENCES).texts == call(texts(*data)).texts == data


# === Render ===


def result(sequences: int, length: int, hidden: int = 4) -> Result:
    """Return encodings with extreme float32 values."""
    random = np.random.default_rng(sequences)
    encodings = []
    for _ in range(sequences):
        scale = np.float32(10) ** random.integers(-30, 30, (length + 2, hidden)).astype(np.float32)
        values = (random.normal(size=(length + 2, hidden)) * scale).astype(np.float32)
        encodings.append(
            Encoding({"sequence_output": values[2:], "pooled_output": values[0], "mean_output": values[1]})
        )
    return Result(encodings, length, hidden)


def expected(made: Result, name: str) -> Array:
    """Return an output as one array."""
    return np.stack([getattr(item, name) for item in made.encodings])


def test_floats_are_bit_identical_in_json_and_bytes() -> None:
    """Floats are bit identical in JSON and bytes."""
    results = result(3, 5)
    for binary in (False, True):
        made = call(ids(), id="x", parameters={"binary_data_output": binary})
        head = b"".join(render_json(made, "tiny", "1", results))
        document = orjson.loads(head)
        assert list(document) == ["model_name", "model_version", "id", "outputs"]
        assert [item["name"] for item in document["outputs"]] == OUTPUTS
        raw = b"".join(render_binary(made, results))
        assert len(raw) == binary_size(made, results)
        assert bool(raw) is binary
        for output in document["outputs"]:
            expected_outputs = expected(results, output["name"])
            assert (output["shape"], output["datatype"]) == (list(expected_outputs.shape), "FP32")
            if binary:
                size = output["parameters"]["binary_data_size"]
                values, raw = np.frombuffer(raw[:size], "<f4"), raw[size:]
                assert "data" not in output
            else:
                values = np.array(output["data"], np.float32)
                assert "parameters" not in output
            assert np.array_equal(values.reshape(output["shape"]), expected_outputs)
        assert not raw


def test_json_and_binary_outputs_can_be_mixed() -> None:
    """The bytes contain only the binary outputs, in request order."""
    results = result(2, 3)
    outputs = [
        {"name": "mean_output", "parameters": {"binary_data": True}},
        {"name": "pooled_output"},
        {"name": "sequence_output", "parameters": {"binary_data": True}},
    ]
    made = call(ids(), outputs=outputs)
    document = orjson.loads(b"".join(render_json(made, "tiny", "1", results)))
    assert "id" not in document
    assert [list(item) for item in document["outputs"]] == [
        ["name", "shape", "datatype", "parameters"],
        ["name", "shape", "datatype", "data"],
        ["name", "shape", "datatype", "parameters"],
    ]
    values = np.frombuffer(b"".join(render_binary(made, results)), "<f4")
    assert np.array_equal(values[:8].reshape(2, 4), expected(results, "mean_output"))
    assert np.array_equal(values[8:].reshape(2, 3, 4), expected(results, "sequence_output"))


def test_outputs_are_normalized_on_request() -> None:
    """Pooled and mean outputs get length 1; sequence outputs are unchanged."""
    results = result(2, 3)
    plain, scaled = call(ids()), call(ids(), parameters={"normalize": True})
    before, after = (
        orjson.loads(b"".join(render_json(item, "t", "1", results)))["outputs"] for item in (plain, scaled)
    )
    assert before[0] == after[0]
    for output in after[1:]:
        rows = np.array(output["data"]).reshape(output["shape"])
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)


# === Routes ===


def error(response: httpx.Response, status: int) -> str:
    """Check that a response is an error and return its message."""
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json")
    document = response.json()
    assert set(document) == {"error"}
    assert isinstance(document["error"], str)
    assert document["error"]
    return str(document["error"])


def arrays(response: httpx.Response) -> dict[str, Array]:
    """Return all outputs of a response."""
    assert response.status_code == 200, response.text
    length = response.headers.get(HEADER_LENGTH)
    assert response.headers["content-type"] == ("application/json" if length is None else "application/octet-stream")
    content = response.content
    head, raw = (content, b"") if length is None else (content[: int(length)], content[int(length) :])
    actual = {}
    for output in orjson.loads(head)["outputs"]:
        if "data" in output:
            values = np.array(output["data"], np.float32)
        else:
            size = output["parameters"]["binary_data_size"]
            values, raw = np.frombuffer(raw[:size], "<f4"), raw[size:]
        actual[output["name"]] = values.reshape(output["shape"])
    assert not raw
    return actual


def infer(service: Service, *inputs: dict[str, Any], **request: Any) -> httpx.Response:
    """Send a JSON request."""
    return service.post(INFER, json={"inputs": list(inputs), **request})


def native(service: Service, **request: Any) -> dict[str, Array]:
    """Return the stacked outputs of the native protocol."""
    answer = service.encode(outputs=OUTPUTS, **request).json()
    lengths = {len(item) for item in answer["sequence_output"]}
    names = OUTPUTS if len(lengths) == 1 else OUTPUTS[1:]
    return {name: np.array(answer[name], np.float32) for name in names}


def same(actual: dict[str, Array], expected_outputs: dict[str, Array]) -> bool:
    """Return whether all outputs are bit-identical."""
    return all(
        actual[name].shape == expected_outputs[name].shape and np.array_equal(actual[name], expected_outputs[name])
        for name in actual
    )


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(("datatype", "dtype"), [("INT32", "<i4"), ("INT64", "<i8")])
def test_ids_get_the_outputs_of_the_native_protocol(service: Service, datatype: str, dtype: str, binary: bool) -> None:  # noqa: FBT001 - a parameter of the table
    """The outputs are bit-identical in all formats."""
    segments = [[0, 1, 2], [2, 2, 0]]
    expected_outputs = native(service, token_ids=IDS, segment_ids=segments)
    inputs = [ids(datatype=datatype), {**ids(segments), "name": "segment_ids"}]
    parameters = {"binary_data_output": binary}
    actual = arrays(infer(service, *inputs, parameters=parameters))
    assert list(actual) == OUTPUTS
    assert same(actual, expected_outputs)
    raw = [np.array(IDS, dtype).tobytes(), np.array(segments, "<i8").tobytes()]
    inputs = [
        tensor("token_ids", datatype, [2, 3], binary_data_size=len(raw[0])),
        tensor("segment_ids", "INT64", [2, 3], binary_data_size=len(raw[1])),
    ]
    body, header = packed({"inputs": inputs, "parameters": parameters}, *raw)
    actual = arrays(service.post(INFER, content=body, headers={HEADER_LENGTH: header}))
    assert list(actual) == OUTPUTS
    assert same(actual, expected_outputs)
    assert not same(arrays(infer(service, ids())), expected_outputs)  # segment ids change the outputs


@pytest.mark.parametrize("binary", [False, True])
def test_texts_get_the_outputs_of_the_native_protocol(service: Service, binary: bool) -> None:  # noqa: FBT001 - a parameter of the table
    """The outputs are bit-identical for texts of different lengths."""
    data = ["a small dog", "b", "", "Grüße"]
    expected_outputs = native(service, texts=data)
    parameters = {"binary_data_output": binary}
    actual = arrays(infer(service, texts(*data), parameters=parameters))
    assert list(actual) == ["pooled_output", "mean_output"]
    assert same(actual, expected_outputs)
    raw = text_bytes(*(text.encode() for text in data))
    request = {"inputs": [tensor("texts", "BYTES", [4, 1], binary_data_size=len(raw))], "parameters": parameters}
    body, header = packed(request, raw)
    assert same(arrays(service.post(INFER, content=body, headers={HEADER_LENGTH: header})), expected_outputs)


def test_options_of_the_native_protocol_are_parameters(service: Service) -> None:
    """Normalizing, truncating and padding mean the same."""
    long = " ".join(["word"] * 100)
    options = {"normalize": True, "truncate": True, "padding": 10}
    expected_outputs = native(service, texts=[long, "a"], **options)
    actual = arrays(infer(service, texts(long, "a"), parameters=options))
    assert list(actual) == OUTPUTS[1:]
    assert same(actual, expected_outputs)
    ids_ = [list(range(POSITIONS + 6))]
    cut = infer(service, ids(ids_, [1, POSITIONS + 6]), parameters={"truncate": True})
    assert same(arrays(cut), native(service, token_ids=ids_, truncate=True))
    assert cut.json()["outputs"][0]["shape"] == [1, POSITIONS, HIDDEN]


def test_texts_of_equal_length_have_a_sequence_output(service: Service) -> None:
    """Texts of different lengths are rejected."""
    outputs = [{"name": "pooled_output"}, {"name": "sequence_output"}]
    for data in (["a"], ["a", "b"]):
        actual = arrays(infer(service, texts(*data), outputs=outputs))
        assert same(actual, native(service, texts=data))
        assert actual["sequence_output"].shape == (len(data), 3, HIDDEN)
    message = error(infer(service, texts("a", "a small dog"), outputs=outputs), 422)
    assert message.startswith("outputs[1] sequence_output: the texts have 3 to 5 tokens")
    padded = arrays(infer(service, texts("a", "a small dog"), outputs=outputs, parameters={"padding": 9}))
    assert padded["sequence_output"].shape == (2, 9, HIDDEN)


@pytest.mark.parametrize("binary", [False, True])
def test_large_response_is_streamed_with_equal_values(service: Service, binary: bool) -> None:  # noqa: FBT001 - a parameter of the table
    """Streaming does not change the values."""
    many = [[index, *range(1, POSITIONS)] for index in range(36)]
    response = infer(service, ids(many, [36, POSITIONS]), parameters={"binary_data_output": binary})
    actual = arrays(response)
    assert actual["sequence_output"].size > 65_536
    assert response.headers.get("content-length", str(len(response.content))) == str(len(response.content))
    assert ("content-length" in response.headers) is binary
    for index in (0, 13, 35):
        small = arrays(infer(service, ids([many[index]], [1, POSITIONS])))
        assert all(np.array_equal(actual[name][index], small[name][0]) for name in OUTPUTS)


def test_large_response_can_mix_json_and_binary_outputs(service: Service) -> None:
    """Large response can mix JSON and binary outputs."""
    many = [[index, *range(1, POSITIONS)] for index in range(36)]
    outputs = [{"name": "sequence_output"}, {"name": "pooled_output", "parameters": {"binary_data": True}}]
    response = infer(service, ids(many, [36, POSITIONS]), outputs=outputs)
    actual, expected = arrays(response), arrays(infer(service, ids(many, [36, POSITIONS])))
    assert int(response.headers[HEADER_LENGTH]) > 4 * actual["sequence_output"].size
    assert response.headers["content-length"] == str(len(response.content))
    for name in ("sequence_output", "pooled_output"):
        assert np.array_equal(actual[name], expected[name])


def test_response_has_model_metadata(service: Service) -> None:
    """Response has model metadata."""
    outputs = [{"name": "mean_output"}]
    answer = infer(service, ids(), id="mine", model_name="tiny_en", outputs=outputs).json()
    assert list(answer) == ["model_name", "model_version", "id", "outputs"]
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("tiny_en", "7", "mine")
    assert "id" not in infer(service, ids()).json()
    versioned = service.post("/v2/models/tiny_en/versions/7/infer", json={"inputs": [ids()], "outputs": outputs})
    assert versioned.json()["outputs"] == answer["outputs"]


def test_responses_have_request_id_and_timing(service: Service) -> None:
    """The response has the client's request ID and Server-Timing."""
    response = service.post(INFER, json={"inputs": [ids()]}, headers={"X-Request-Id": "mine-1"})
    assert response.headers["x-request-id"] == "mine-1"
    durations = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    assert 0 < float(durations["compute"]) <= float(durations["total"])


@pytest.mark.parametrize(("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_request_bodies_can_be_compressed(service: Service, coding: str, compress: Callable[[bytes], bytes]) -> None:
    """Request bodies can be compressed."""
    raw = np.array(IDS, "<i8").tobytes()
    body, header = packed({"inputs": [tensor("token_ids", "INT64", [2, 3], binary_data_size=48)]}, raw)
    response = service.post(INFER, content=compress(body), headers={"Content-Encoding": coding, HEADER_LENGTH: header})
    assert same(arrays(response), native(service, token_ids=IDS))


@pytest.mark.parametrize(
    ("inputs", "start"),
    [
        ([ids([[1, VOCABULARY]], [1, 2])], f"inputs[0] token_ids[0][1]: {OUTSIDE}"),
        ([ids([1, 2, 3, -1], [2, 2])], "inputs[0] token_ids[1][1]: token id -1 is outside"),
        ([ids([[2**40]], [1, 1])], "inputs[0] token_ids[0][0]: token id 1099511627776 is outside"),
        ([ids([[2**32 + 5]], [1, 1])], "inputs[0] token_ids[0][0]: token id 4294967301 is outside"),
        ([ids([VOCABULARY] * 40, [1, 40])], f"inputs[0] token_ids[0][0]: {OUTSIDE} (and more)"),
        (
            [{**ids([[3]], [1, 1]), "name": "segment_ids"}, ids([[1]], [1, 1])],
            "inputs[0] segment_ids[0][0]: segment id",
        ),
        (
            [ids(), {**ids([[1]], [1, 1]), "name": "segment_ids"}],
            "inputs[1] segment_ids: shape is [1, 1], expected [2, 3]",
        ),
        ([ids([1] * 65, [1, 65])], "inputs[0] token_ids: 65 tokens exceed the maximum of 64"),
        ([texts("a", " ".join(["word"] * 100))], "inputs[0] texts[1]: 102 tokens exceed the maximum of 64"),
        ([ids([1] * 64 * 37, [37, 64])], "the body: 2368 tokens exceed the queue size of 2304"),
        ([texts(*["a"] * 41)], "41 sequences exceed"),
        ([], "inputs: "),
    ],
)
def test_invalid_input_has_a_location(service: Service, inputs: list[dict[str, Any]], start: str) -> None:
    """Invalid input has a location."""
    assert error(infer(service, *inputs), 422).startswith(start)


def test_ids_beyond_32_bits_do_not_wrap_around(service: Service) -> None:
    """A binary id is checked before it is narrowed."""
    raw = np.array([[2**32 + 5]], "<i8").tobytes()
    body, header = packed({"inputs": [tensor("token_ids", "INT64", [1, 1], binary_data_size=8)]}, raw)
    message = error(service.post(INFER, content=body, headers={HEADER_LENGTH: header}), 422)
    assert message == f"inputs[0] token_ids[0][0]: token id 4294967301 is outside [0, {VOCABULARY})"


def test_model_name_in_the_body_must_match_the_path(service: Service) -> None:
    """Model name in the body must match the path."""
    assert error(infer(service, ids(), model_name="other"), 422).startswith("model_name: ")


@pytest.mark.parametrize("body", [b"", b"{", b"\xff"])
def test_bad_requests_have_the_format_of_the_protocol(service: Service, body: bytes) -> None:
    """Bad requests have the format of the protocol."""
    assert error(service.post(INFER, content=body), 400).startswith("the body is not valid JSON: ")
    assert HEADER_LENGTH in error(service.post(INFER, content=body, headers={HEADER_LENGTH: "10"}), 400)
    assert "Timeout" in error(service.post(INFER, content=body, headers={"X-Request-Timeout": "soon"}), 400)


@pytest.mark.parametrize("path", ["", "/models/tiny_en", "/models/tiny_en/ready", "/health/live", "/health/ready"])
def test_unknown_paths_and_methods_have_the_format_of_the_protocol(service: Service, path: str) -> None:
    """All paths below `/v2` are covered."""
    error(service.get(f"/v2{path}/nothing"), 404)
    response = service.post(f"/v2{path}", json={})
    error(response, 405)
    assert response.headers["allow"] == "GET, HEAD"
    error(service.get(INFER), 405)


def test_trailing_slash_has_the_format_of_the_protocol(service: Service) -> None:
    """It is another path, without a redirect."""
    for path in (f"{INFER}/", "/v2/models/tiny_en/versions/7/infer/"):
        error(service.post(path, json={}), 404)
    for path in ("/v2/", "/v2/health/ready/", "/v2/models/tiny_en/"):
        error(service.get(path), 404)


@pytest.mark.parametrize("model", ["tiny", "TINY_EN", "tiny_en%20", "tiny_en/versions/1", "tiny_en/versions/07", "..."])
def test_unknown_model_or_version_is_not_found(service: Service, model: str) -> None:
    """The message names the served model or version."""
    for response in (
        service.get(f"/v2/models/{model}"),
        service.get(f"/v2/models/{model}/ready"),
        service.post(f"/v2/models/{model}/infer", json={"inputs": [ids()]}),
    ):
        assert error(response, 404).endswith(("this server serves tiny_en", "this server serves version 7"))


def test_body_size_is_limited(service: Service) -> None:
    """The response is 413."""
    error(service.post(INFER, content=b" " * ((1 << 20) + 1)), 413)


def test_configured_api_keys_are_required(make_blocked_service: MakeBlockedService) -> None:
    """A request without a key gets 401 and with a key 200."""
    blocked, gate = make_blocked_service(api_keys=["first"])
    gate.opened.set()
    refused = infer(blocked, ids())
    error(refused, 401)
    assert refused.headers["www-authenticate"] == "Bearer"
    headers = {"Authorization": "Bearer first"}
    assert blocked.post(INFER, json={"inputs": [ids()]}, headers=headers).status_code == 200


def test_full_queue_and_client_timeout(make_blocked_service: MakeBlockedService, wait_until: WaitUntil) -> None:
    """429 has Retry-After; after 504 the queue capacity is free."""
    blocked, gate = make_blocked_service(max_queue_tokens=64)

    async def send_all() -> None:
        def send(tokens: int, **parameters: int) -> asyncio.Task[httpx.Response]:
            body = {"inputs": [ids([1] * tokens, [1, tokens])], "parameters": parameters}
            return asyncio.ensure_future(blocked.http.post(INFER, json=body))

        running = send(5)
        assert await asyncio.to_thread(gate.entered.wait, TIMEOUT)
        late = send(40, timeout=300_000)
        await asyncio.to_thread(wait_until, lambda: blocked.engine.queue_tokens == 40)
        full = await send(25)
        error(full, 429)
        assert int(full.headers["retry-after"]) >= 1
        assert error(await late, 504) == "request timed out after 0.3 s"
        assert blocked.engine.queue_tokens == 0
        gate.opened.set()
        assert (await running).status_code == 200

    blocked.run(send_all())


def test_timeout_parameter_can_only_lower_the_timeout(service: Service) -> None:
    """A microsecond times out; 0 and an hour do not change the timeout."""
    for made in (ids(), texts("a")):
        error(infer(service, made, parameters={"timeout": 1}), 504)
        for timeout in (0, 3_600_000_000, 2**63):
            assert infer(service, made, parameters={"timeout": timeout}).status_code == 200
        headers = {"X-Request-Timeout": "0.000001"}
        body = {"inputs": [made], "parameters": {"timeout": 3_600_000_000}}
        error(service.post(INFER, json=body, headers=headers), 504)


def test_non_finite_output_is_an_error(service: Service) -> None:
    """Only the request with such an input gets 500."""
    assert "not finite" in error(infer(service, ids([[1, POISON]], [1, 2])), 500)


def test_server_metadata(service: Service) -> None:
    """Server metadata."""
    described = service.get("/v2").json()
    assert described == {"name": "FNet Encode", "version": __version__, "extensions": ["binary_tensor_data"]}
    for path, answer in (("/v2/health/live", {"live": True}), ("/v2/health/ready", {"ready": True})):
        response = service.get(path)
        assert (response.status_code, response.json()) == (200, answer)


@pytest.mark.parametrize("version", ["", "/versions/7"])
def test_model_metadata(service: Service, version: str) -> None:
    """Model metadata."""
    assert service.get(f"/v2/models/tiny_en{version}").json() == {
        "name": "tiny_en",
        "versions": ["7"],
        "platform": "fnet",
        "inputs": [
            {"name": "token_ids", "datatype": "INT64", "shape": [-1, -1]},
            {"name": "segment_ids", "datatype": "INT64", "shape": [-1, -1]},
            {"name": "texts", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": "sequence_output", "datatype": "FP32", "shape": [-1, -1, HIDDEN]},
            {"name": "pooled_output", "datatype": "FP32", "shape": [-1, HIDDEN]},
            {"name": "mean_output", "datatype": "FP32", "shape": [-1, HIDDEN]},
        ],
    }
    response = service.get(f"/v2/models/tiny_en{version}/ready")
    assert (response.status_code, response.json()) == (200, {"name": "tiny_en", "ready": True})


def test_preset_without_tokenizer_and_version(make_blocked_service: MakeBlockedService) -> None:
    """It has no input for texts, and its version is the default."""
    blocked, gate = make_blocked_service()
    gate.opened.set()
    loaded = blocked.engine.loaded
    assert loaded is not None
    preset = replace(loaded.preset, has_tokenizer=False, version="")
    blocked.engine.loaded = replace(loaded, preset=preset, tokenizer=None)
    described = blocked.get("/v2/models/tiny_en/versions/1").json()
    assert described["versions"] == ["1"]
    assert [item["name"] for item in described["inputs"]] == ["token_ids", "segment_ids"]
    assert infer(blocked, ids()).json()["model_version"] == "1"
    assert error(infer(blocked, texts("a")), 422).startswith("texts: the preset tiny_en has no tokenizer")


def test_loading_service_is_not_ready(tiny_settings: Settings, service: Service) -> None:
    """Requests get 503 and the probes report the state."""
    young = type(service)(create_app(tiny_settings), service._runner)
    for response in (
        infer(young, ids()),
        young.get("/v2/models/tiny_en"),
        young.get("/v2/models/other/versions/1"),
    ):
        assert error(response, 503) == "the model is loading"
        assert int(response.headers["retry-after"]) >= 1
    ready = young.get("/v2/health/ready")
    assert (ready.status_code, ready.json()) == (503, {"ready": False, "error": "the model is loading"})
    assert int(ready.headers["retry-after"]) >= 1
    model = young.get("/v2/models/tiny_en/ready")
    assert (model.status_code, model.json()["ready"]) == (503, False)
    assert young.get("/v2/health/live").json() == {"live": True}
    assert young.get("/v2").status_code == 200
    young.run(young.http.aclose())


def test_draining_or_failed_service_is_not_ready(make_blocked_service: MakeBlockedService) -> None:
    """Requests and probes get 503; model metadata remains available."""
    blocked, gate = make_blocked_service()
    gate.opened.set()
    for state, live in (("draining", 200), ("failed", 503)):
        blocked.engine.drain()
        blocked.engine.state = state  # type: ignore[assignment] # one of its states
        error(infer(blocked, ids()), 503)
        assert blocked.get("/v2/health/ready").status_code == 503
        reported = blocked.get("/v2/models/tiny_en/ready").json()
        assert (reported["name"], reported["ready"], bool(reported["error"])) == ("tiny_en", False, True)
        error(blocked.get("/v2/models/other/ready"), 404)
        assert blocked.get("/v2/models/tiny_en").status_code == 200
        assert (blocked.get("/v2/health/live").status_code, blocked.get("/v2/health/live").json()["live"]) == (
            live,
            live == 200,
        )


def test_openapi_describes_requests_and_errors(service: Service) -> None:
    """OpenAPI describes requests and errors."""
    description = service.get("/openapi.json").json()
    paths = {path: methods for path, methods in description["paths"].items() if path.startswith("/v2")}
    assert len(paths) == 9
    assert all(operation["summary"] for methods in paths.values() for operation in methods.values())
    for path in ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"):
        operation = paths[path]["post"]
        content = operation["requestBody"]["content"]
        assert content["application/json"]["schema"]["$ref"].endswith("/InferRequest")
        assert set(content) == {"application/json", "application/octet-stream"}
        assert set(operation["responses"]["200"]["content"]) == {"application/json", "application/octet-stream"}
        assert {item["name"] for item in operation["parameters"]} >= {"model", HEADER_LENGTH}
        for code in ("400", "401", "404", "413", "422", "429", "500", "503", "504"):
            schema = operation["responses"][code]["content"]["application/json"]["schema"]
            assert schema["$ref"].endswith("/InferError")
    assert "HTTPValidationError" not in json.dumps(paths)

    def fields(value: Any) -> Iterator[dict[str, Any]]:
        for name, schema in description["components"]["schemas"].items():
            if name.startswith("Infer") and name in value:
                yield schema

    for schema in fields(["InferRequest", "InferInput", "InferParameters", "InferRequestedOutput"]):
        assert schema["additionalProperties"] is False
    for example in description["components"]["schemas"]["InferRequest"]["examples"]:
        assert service.post(INFER, json=example).status_code == 200

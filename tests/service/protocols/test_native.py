"""Parsing and rendering of the native protocol."""

from __future__ import annotations

import base64
import io
import json
import tracemalloc
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.architecture import Architecture
from model.encoder import Encoding, Output
from model.presets.preset import Preset
from service.core.engine import normalized
from service.core.errors import MAX_PROBLEMS, BadRequestError, InvalidInputError, ServiceError, TooManySequencesError
from service.core.inputs import Text
from service.protocols.native import NPZ, EncodeRequest, ParsedRequest, archive_arrays, parse, render_json
from service.web.encoding import npz, npz_size

HIDDEN = 4
MAX_SEQUENCES = 8
PRESET = Preset(
    name="tiny",
    directory=Path(),
    architecture=Architecture(
        vocabulary_size=8,
        num_layers=1,
        hidden_dim=HIDDEN,
        intermediate_dim=8,
        max_sequence_length=8,
        num_segments=2,
    ),
    dtype="float32",
    has_tokenizer=False,
    truncate="round_robin",
    version="",
    trained=True,
    padding="none",
    pooling="pooled",
    description="",
    matryoshka=False,
)


def call(accept: str = "application/json", **request: Any) -> ParsedRequest:
    """Parse a request."""
    return parse(json.dumps(request).encode(), accept, MAX_SEQUENCES)


def refusal(body: Any, accept: str = "") -> list[tuple[list[str | int], str]]:
    """Return the locations and messages of the error for a JSON body."""
    with pytest.raises(InvalidInputError) as caught:
        parse(json.dumps(body).encode(), accept, MAX_SEQUENCES)
    assert caught.value.problems
    assert "EncodeRequest" not in caught.value.detail
    return [(list(problem.loc), problem.msg) for problem in caught.value.problems]


# === Parse ===


@pytest.mark.parametrize(
    ("token_ids", "parsed", "single"),
    [
        ([[1, 2], [3]], [[1, 2], [3]], False),
        ([[1]], [[1]], False),
        ([1, 2], [[1, 2]], True),
        ([0], [[0]], True),
        ([[]], [[]], False),
    ],
)
def test_ids_can_be_lists_or_a_bare_list(
    token_ids: list[Any],
    parsed: list[list[int]],
    single: bool,  # noqa: FBT001 - a parameter of the table
) -> None:
    """Ids can be lists or a bare list."""
    made = call(token_ids=token_ids, segment_ids=token_ids)
    assert (made.token_ids, made.segment_ids, made.texts, made.single) == (parsed, parsed, None, single)


@pytest.mark.parametrize(
    ("texts", "parsed", "single"),
    [
        ("a", [Text("a")], True),
        ("", [Text("")], True),
        (["a", "b"], [Text("a"), Text("b")], False),
        (["a"], [Text("a")], False),
        ([["a", "b"]], [Text("a", "b")], False),
        (["a", ["b", "c"], ["d", ""]], [Text("a"), Text("b", "c"), Text("d", "")], False),
    ],
)
def test_texts_can_be_bare_listed_or_paired(
    texts: Any,
    parsed: list[Text],
    single: bool,  # noqa: FBT001 - a parameter of the table
) -> None:
    """Texts can be bare listed or paired."""
    made = call(texts=texts)
    assert (made.texts, made.token_ids, made.single) == (parsed, None, single)


def test_defaults_match_the_documentation() -> None:
    """Both default outputs, not normalized, not truncated, padded as the preset says, as numbers."""
    wire = call(texts="a").wire
    assert wire.outputs == ["sequence_output", "pooled_output"]
    assert (wire.normalize, wire.truncate, wire.padding, wire.encoding_format) == (False, False, None, "float")


@pytest.mark.parametrize("padding", ["none", "max_length", 1, 512])
def test_padding_can_be_a_name_or_a_length(padding: str | int) -> None:
    """Padding can be a name or a length."""
    assert call(texts="a", padding=padding).wire.padding == padding


@pytest.mark.parametrize("body", [{}, {"texts": None}, {"outputs": ["pooled_output"]}, {"segment_ids": [0]}])
def test_request_without_input_is_rejected(body: dict[str, Any]) -> None:
    """Exactly one of the two inputs is expected."""
    assert refusal(body) == [(["token_ids"], "expected exactly one of token_ids and texts, found neither")]


def test_request_with_both_inputs_is_rejected() -> None:
    """Exactly one of the two inputs is expected."""
    assert refusal({"token_ids": [1], "texts": "a"}) == [
        (["token_ids"], "expected exactly one of token_ids and texts, found both")
    ]


def test_segment_ids_are_rejected_with_texts() -> None:
    """Segment ids of texts are derived."""
    ((loc, message),) = refusal({"texts": "a", "segment_ids": [0]})
    assert loc == ["segment_ids"]
    assert message.startswith("is allowed with token_ids only")


@pytest.mark.parametrize(("ids", "segments"), [([1], [[0]]), ([[1]], [0]), ([1], [])])
def test_segment_ids_must_match_the_shape_of_token_ids(ids: list[Any], segments: list[Any]) -> None:
    """A bare list and a nested list do not match."""
    assert refusal({"token_ids": ids, "segment_ids": segments}) == [
        (["segment_ids"], "has a different shape than token_ids")
    ]


def test_padding_is_rejected_with_ids() -> None:
    """Token ids are encoded unchanged."""
    ((loc, _),) = refusal({"token_ids": [1], "padding": "none"})
    assert loc == ["padding"]


@pytest.mark.parametrize("name", ["text", "one", "batch", "pair", "Texts", "input", "", "a.b"])
def test_unknown_field_is_named(name: str) -> None:
    """The error names any unknown field."""
    assert refusal({"texts": "a", name: 1}) == [([name], "unknown field")]


@pytest.mark.parametrize("body", [[], [1], "texts", 5, None, True, [{"texts": "a"}]])
def test_body_that_is_not_an_object_is_rejected(body: Any) -> None:
    """The message contains no internal names."""
    assert refusal(body) == [([], "expected a JSON object")]


@pytest.mark.parametrize(
    ("request_", "loc"),
    [
        ({"token_ids": 5}, ["token_ids"]),
        ({"token_ids": "1 2"}, ["token_ids"]),
        ({"token_ids": {"0": 1}}, ["token_ids"]),
        ({"token_ids": [1, "2"]}, ["token_ids", 1]),
        ({"token_ids": ["1"]}, ["token_ids", 0]),
        ({"token_ids": [True]}, ["token_ids", 0]),
        ({"token_ids": [None]}, ["token_ids", 0]),
        ({"token_ids": [1.0]}, ["token_ids", 0]),
        ({"token_ids": [[1], [2, 3.5]]}, ["token_ids", 1, 1]),
        ({"token_ids": [[1], 2]}, ["token_ids", 1]),
        ({"token_ids": [1, [2]]}, ["token_ids", 1]),
        ({"token_ids": [[[1]]]}, ["token_ids", 0, 0]),
        ({"token_ids": [10**30]}, ["token_ids", 0]),
        ({"token_ids": [1], "segment_ids": ["0"]}, ["segment_ids", 0]),
        ({"texts": 5}, ["texts"]),
        ({"texts": {"a": "b"}}, ["texts"]),
        ({"texts": [5]}, ["texts", 0]),
        ({"texts": ["a", None]}, ["texts", 1]),
        ({"texts": ["a", ["b"]]}, ["texts", 1]),
        ({"texts": [["a", "b", "c"]]}, ["texts", 0]),
        ({"texts": [["a", 5]]}, ["texts", 0, 1]),
        ({"texts": [["a", ["b"]]]}, ["texts", 0, 1]),
        ({"texts": "a", "outputs": "pooled_output"}, ["outputs"]),
        ({"texts": "a", "outputs": []}, ["outputs"]),
        ({"texts": "a", "outputs": ["pooled_output", "hidden"]}, ["outputs", 1]),
        ({"texts": "a", "normalize": 1}, ["normalize"]),
        ({"texts": "a", "truncate": "true"}, ["truncate"]),
        ({"texts": "a", "padding": "longest"}, ["padding"]),
        ({"texts": "a", "padding": 0}, ["padding"]),
        ({"texts": "a", "padding": True}, ["padding"]),
        ({"texts": "a", "padding": 2.5}, ["padding"]),
        ({"texts": "a", "encoding_format": "hex"}, ["encoding_format"]),
        ({"texts": []}, ["texts"]),
        ({"token_ids": []}, ["token_ids"]),
    ],
)
def test_invalid_value_has_its_location_in_the_request(request_: dict[str, Any], loc: list[str | int]) -> None:
    """Invalid value has its location in the request."""
    ((actual, message),) = refusal(request_)
    assert actual == loc
    assert message


def test_several_errors_are_reported_together() -> None:
    """Each location is reported once."""
    actual = [loc for loc, _ in refusal({"texts": [1, "a", 2], "padding": 0, "x": 1})]
    assert sorted(actual, key=str) == sorted([["texts", 0], ["padding"], ["x"]], key=str)


@pytest.mark.parametrize(
    "request_",
    [
        {"token_ids": [1, *["a"] * 100_000]},
        {"token_ids": [["a"] * 100_000]},
        {"texts": "a", "outputs": ["x"] * 100_000},
        {"texts": "a", **{f"x{index}": 1 for index in range(100_000)}},
    ],
    ids=["ids", "inner ids", "outputs", "fields"],
)
def test_number_of_reported_errors_is_limited(request_: dict[str, Any]) -> None:
    """Number of reported errors is limited."""
    assert 1 <= len(refusal(request_)) <= MAX_PROBLEMS


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"{'texts': 'a'}",
        b'{"texts": "a",}',
        b"texts=a",
        b"NaN",
        b'{"token_ids": [1e999]}',
        b'{"texts": "a"} {}',
        b'{"texts": "\xff"}',
        b'{"texts": "\\ud800"}',
        b'\xef\xbb\xbf{"texts": "a"}',
        '{"texts": "a"}'.encode("utf-16"),
        b"[" * 200_000,
        b"\x00",
    ],
)
def test_invalid_json_is_a_bad_request(body: bytes) -> None:
    """Invalid JSON is a bad request."""
    with pytest.raises(BadRequestError) as caught:
        parse(body, "", MAX_SEQUENCES)
    assert caught.value.detail.startswith("the body is not valid JSON: ")
    assert len(caught.value.detail) < 200


def test_deeply_nested_json_is_rejected_with_its_location() -> None:
    """Depth causes no stack overflow."""
    deep: list[Any] = []
    for _ in range(400):
        deep = [deep]
    assert refusal({"token_ids": deep})[0][0] == ["token_ids", 0, 0]
    assert refusal({"texts": deep})[0][0] == ["texts", 0, 0]


@pytest.mark.parametrize("field", ["token_ids", "texts"])
def test_too_many_sequences_have_their_own_error(field: str) -> None:
    """Too many sequences have their own error."""
    one: Any = [1] if field == "token_ids" else "a"
    assert parse(json.dumps({field: [one] * MAX_SEQUENCES}).encode(), "", MAX_SEQUENCES)
    with pytest.raises(TooManySequencesError):
        parse(json.dumps({field: [one] * (MAX_SEQUENCES + 1)}).encode(), "", MAX_SEQUENCES)


@pytest.mark.parametrize(
    ("accept", "npz"),
    [("", False), ("*/*", False), ("application/json", False), (NPZ, True), (f"{NPZ}, application/json;q=0.5", True)],
)
def test_accept_header_selects_the_archive(accept: str, npz: bool) -> None:  # noqa: FBT001 - a parameter of the table
    """JSON is the default."""
    assert call(accept, texts="a").npz is npz


def test_base64_is_rejected_for_archives() -> None:
    """Fields without effect are rejected."""
    ((loc, _),) = refusal({"texts": "a", "encoding_format": "base64"}, NPZ)
    assert loc == ["encoding_format"]


def test_locations_match_the_request() -> None:
    """A bare input has no index."""
    assert call(token_ids=[1]).locate("token_ids", 0) == ("token_ids",)
    assert call(token_ids=[[1], [2]]).locate("token_ids", 1) == ("token_ids", 1)


def test_schema_examples_are_valid_requests() -> None:
    """Schema examples are valid requests."""
    for example in EncodeRequest.model_json_schema()["examples"]:
        assert call(**example)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
FIELDS = st.sampled_from([*EncodeRequest.model_fields, "text", "batch"])


@given(value=VALUES | st.dictionaries(FIELDS, VALUES, max_size=4))
def test_any_json_is_parsed_or_rejected(value: Any) -> None:
    """The parser raises no other error."""
    try:
        assert parse(json.dumps(value).encode(), "", MAX_SEQUENCES)
    except ServiceError as error:
        assert error.code in ("bad_request", "invalid_input", "too_many_sequences")  # noqa: PT017 - either outcome is right


@given(body=st.binary(max_size=40))
def test_any_bytes_are_parsed_or_rejected(body: bytes) -> None:
    """The parser raises no other error."""
    with pytest.raises(ServiceError):
        parse(body, "", MAX_SEQUENCES)


# === Render ===


def encodings(*lengths: int) -> list[Encoding]:
    """Return encodings with extreme float32 values."""
    random = np.random.default_rng(len(lengths))
    results = []
    for length in lengths:
        scale = np.float32(10) ** random.integers(-30, 30, (length + 2, HIDDEN)).astype(np.float32)
        values = (random.normal(size=(length + 2, HIDDEN)) * scale).astype(np.float32)
        results.append(Encoding({"sequence_output": values[2:], "pooled_output": values[0], "mean_output": values[1]}))
    return results


def output(encoding: Encoding, name: Output) -> npt.NDArray[np.float32]:
    """Return one output of a result."""
    return encoding.arrays[name]


def answer(made: ParsedRequest, results: Sequence[Encoding]) -> dict[str, Any]:
    """Render a JSON response and parse it."""
    document: dict[str, Any] = orjson.loads(b"".join(render_json(made, PRESET, results, 11)))
    return document


def archive(made: ParsedRequest, results: Sequence[Encoding]) -> dict[str, npt.NDArray[Any]]:
    """Render an archive and load it."""
    lengths = [len(encoding.sequence_output) for encoding in results]
    content = b"".join(npz(archive_arrays(made, PRESET, results, lengths)))
    assert npz_size(archive_arrays(made, PRESET, results, lengths)) == len(content)
    with zipfile.ZipFile(io.BytesIO(content)) as members:
        assert members.testzip() is None
    with np.load(io.BytesIO(content), allow_pickle=False) as read:
        return dict(read)


OUTPUTS: list[Output] = ["sequence_output", "pooled_output", "mean_output"]


def test_json_numbers_are_bit_identical() -> None:
    """Reading the numbers as float32 gives equal arrays."""
    results = encodings(3, 1, 7)
    document = answer(call(texts=["a", "b", "c"], outputs=OUTPUTS), results)
    for name in OUTPUTS:
        for index, encoding in enumerate(results):
            read = np.array(document[name][index], np.float32)
            assert np.array_equal(read, output(encoding, name))
    # The parsers of Python and orjson must agree.
    again = json.loads(b"".join(render_json(call(texts="a", outputs=OUTPUTS), PRESET, results, 11)))
    assert again == document


def test_base64_is_little_endian_float32_in_row_major_order() -> None:
    """The response has one string per sequence."""
    results = encodings(3, 2)
    document = answer(call(texts=["a", "b"], outputs=OUTPUTS, encoding_format="base64"), results)
    for name in OUTPUTS:
        for index, encoding in enumerate(results):
            expected = output(encoding, name)
            read = np.frombuffer(base64.b64decode(document[name][index], validate=True), "<f4")
            assert np.array_equal(read.reshape(expected.shape), expected)


def test_archive_concatenates_sequences() -> None:
    """Pooled and mean outputs are stacked; `lengths` has the tokens per sequence."""
    results = encodings(3, 1, 5)
    arrays = archive(call(NPZ, texts=["a", "b", "c"], outputs=OUTPUTS), results)
    assert {name: (array.dtype.name, array.shape) for name, array in arrays.items()} == {
        "lengths": ("int32", (3,)),
        "sequence_output": ("float32", (9, HIDDEN)),
        "pooled_output": ("float32", (3, HIDDEN)),
        "mean_output": ("float32", (3, HIDDEN)),
    }
    assert arrays["lengths"].tolist() == [3, 1, 5]
    for part, encoding in zip(np.split(arrays["sequence_output"], [3, 4]), results, strict=True):
        assert np.array_equal(part, encoding.sequence_output)
    for name in OUTPUTS[1:]:
        assert np.array_equal(arrays[name], [output(encoding, name) for encoding in results])


def test_archive_needs_the_memory_of_one_sequence() -> None:
    """The archive is never complete in memory."""
    (result,) = encodings(20_000)
    made = call(NPZ, texts=["a"] * MAX_SEQUENCES, outputs=["sequence_output"])
    lengths = [20_000] * 50
    pieces = npz(archive_arrays(made, PRESET, [result] * 50, lengths))
    tracemalloc.start()
    try:
        size = sum(map(len, pieces))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size == npz_size(archive_arrays(made, PRESET, [result] * 50, lengths))
    assert size > 50 * result.nbytes - 10_000
    assert peak < 8 * result.nbytes


def test_huge_archive_has_no_content_length() -> None:
    """Beyond 2 GB the zip format differs, and the response is chunked."""
    (result,) = encodings(1)
    made = call(NPZ, texts="a", outputs=["sequence_output"])
    assert (npz_size(archive_arrays(made, PRESET, [result], [100_000_000])) or 0) > 16 * 100_000_000
    assert npz_size(archive_arrays(made, PRESET, [result], [200_000_000])) is None


@pytest.mark.parametrize(
    "outputs", [["mean_output"], ["pooled_output", "mean_output"], ["mean_output", "sequence_output"], OUTPUTS]
)
def test_response_contains_only_requested_outputs(outputs: list[str]) -> None:
    """They are in request order; duplicates are returned once."""
    results = encodings(2)
    made = call(texts="a", outputs=[*outputs, outputs[0]])
    assert list(answer(made, results)) == ["model", "hidden_dim", *outputs, "usage"]
    assert list(archive(made, results)) == ["lengths", *outputs]


def test_response_has_model_metadata() -> None:
    """Response has model metadata."""
    document = answer(call(texts=["a", "b"], outputs=["pooled_output"]), encodings(3, 8))
    assert (document["model"], document["hidden_dim"]) == ("tiny", HIDDEN)
    assert document["usage"] == {"sequences": 2, "tokens": 11}


def test_normalized_outputs_have_length_one() -> None:
    """Pooled and mean outputs are scaled; sequence outputs are unchanged."""
    results = encodings(3)
    plain = answer(call(texts="a", outputs=OUTPUTS), results)
    scaled = answer(call(texts="a", outputs=OUTPUTS, normalize=True), results)
    assert scaled["sequence_output"] == plain["sequence_output"]
    for name in ("pooled_output", "mean_output"):
        row, before = np.array(scaled[name][0]), np.array(plain[name][0])
        np.testing.assert_allclose(np.linalg.norm(row), 1, rtol=1e-6)
        np.testing.assert_allclose(row, before / np.linalg.norm(before), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1.0, 1e38])
def test_extreme_rows_are_normalized_without_overflow(scale: float) -> None:
    """Extreme rows are normalized without overflow."""
    row = np.array([1, -2, 2], np.float32) * np.float32(scale)
    np.testing.assert_allclose(normalized(row), [1 / 3, -2 / 3, 2 / 3], rtol=1e-5)


def test_zero_row_stays_zero() -> None:
    """A zero row has no direction."""
    assert normalized(np.zeros(3, np.float32)).tolist() == [0, 0, 0]

"""Open Inference Protocol, version 2, as used by KServe and Triton: `/v2`, with the binary tensor extension."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from math import prod
from typing import Annotated, Any, Literal, get_args

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.encoder import Encoding, Output, TokenSequence
from model.presets.preset import Padding, Preset
from service import __version__
from service.core.engine import Engine, normalized
from service.core.errors import (
    MAX_PROBLEMS,
    InvalidInputError,
    NotFoundError,
    Problem,
    ServiceError,
)
from service.core.inputs import Text, check_count, too_long
from service.core.loader import LoadedModel
from service.protocols.base import Protocol
from service.protocols.oip_tensors import (
    FLOAT,
    HEADER_LENGTH,
    INTEGERS,
    TEXT,
    Binary,
    Integers,
    field_error,
    float_bytes,
    float_size,
    integers,
    json_values,
    split,
    texts,
)
from service.protocols.types import PaddingField
from service.web.bodies import Flag, OneText, check_sequence_counts, exclusive_if_large, message_of, read_json
from service.web.encoding import Array, json_bytes
from service.web.middleware.deadline import timed_out
from service.web.responses import respond, stream_chunks
from service.web.route import DirectRoute
from service.web.statuses import headers, status

SERVER = "FNet Encode"
PLATFORM = "fnet"
EXTENSIONS = ["binary_tensor_data"]
OCTETS = "application/octet-stream"
# Version of a preset without its own version.
FIRST_VERSION = "1"
VARIABLE = -1

# Texts differ in length, so their sequence outputs do not always form a tensor.
DEFAULT_OUTPUTS: dict[str, tuple[Output, ...]] = {
    "token_ids": ("sequence_output", "pooled_output", "mean_output"),
    "texts": ("pooled_output", "mean_output"),
}
_MATRIX = 2
_MICROSECONDS = 1e6
# Far more fields than any object has; listing a million unknown ones takes seconds.
_MAX_FIELDS = 64


# === Wire types ===

Name = Literal["token_ids", "segment_ids", "texts"]
Count = Annotated[int, Field(strict=True, ge=0)]


class InferInputParameters(BaseModel):
    """Parameters of an input."""

    model_config = ConfigDict(extra="forbid")

    binary_data_size: Count | None = Field(
        None, description="Size of this tensor after the JSON, in bytes, in the order of the inputs; replaces `data`."
    )


class InferInput(BaseModel):
    """An input tensor."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(description="`token_ids`, optionally with `segment_ids`; or `texts`.")
    shape: list[Count] = Field(
        min_length=1,
        max_length=8,
        description="`[B, L]` for ids: sequences of equal length. `[B]` or `[B, 1]` for texts.",
    )
    datatype: Literal["INT32", "INT64", "BYTES"] = Field(description="`INT32` or `INT64` for ids, `BYTES` for texts.")
    parameters: InferInputParameters | None = None
    data: list[Any] | None = Field(None, description="Integers or strings, flat or nested according to the shape.")


class InferRequestedOutputParameters(BaseModel):
    """Parameters of a requested output."""

    model_config = ConfigDict(extra="forbid")

    binary_data: Flag | None = Field(None, description="Return bytes after the JSON; defaults to `binary_data_output`.")


class InferRequestedOutput(BaseModel):
    """An output to return."""

    model_config = ConfigDict(extra="forbid")

    name: Output = Field(
        description="`sequence_output` `[B, L, hidden]`, for texts only if all have the same number of tokens; "
        "`pooled_output` and `mean_output` `[B, hidden]`."
    )
    parameters: InferRequestedOutputParameters | None = None


class InferParameters(BaseModel):
    """Parameters of the request."""

    model_config = ConfigDict(extra="forbid")

    binary_data_output: Flag = Field(False, description="Default of `binary_data` of the outputs.")
    timeout: Count = Field(
        0, description="Timeout in microseconds, capped by the timeout of the service; 0 selects the latter."
    )
    normalize: Flag = Field(False, description="L2-normalize pooled and mean outputs.")
    truncate: Flag = Field(False, description="Truncate sequences that are too long instead of rejecting them.")
    padding: PaddingField | None = Field(
        None, description="Texts only: pad with `<pad>` to this length; by default, the padding of the preset."
    )
    priority: Literal[0] = Field(0, description="Only 0 is allowed: requests have no priorities.")
    sequence_id: Literal[0, ""] = Field(0, description="Only 0 is allowed: requests are independent.")
    sequence_start: Literal[False] = Field(False, description="See `sequence_id`.")
    sequence_end: Literal[False] = Field(False, description="See `sequence_id`.")


class InferRequest(BaseModel):
    """Sequences to encode: `token_ids`, optionally with `segment_ids`, or `texts`."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "id": "42",
                    "inputs": [{"name": "texts", "shape": [2], "datatype": "BYTES", "data": ["a text", "another"]}],
                    "outputs": [{"name": "pooled_output"}],
                },
                {
                    "inputs": [
                        {"name": "token_ids", "shape": [2, 3], "datatype": "INT64", "data": [4, 25, 5, 4, 99, 5]},
                        {"name": "segment_ids", "shape": [2, 3], "datatype": "INT32", "data": [[0, 0, 0], [0, 0, 0]]},
                    ],
                },
            ]
        },
    )

    id: OneText | None = Field(None, description="Returned in the response.")
    model_name: OneText | None = Field(None, description="If present, the name in the path.")
    parameters: InferParameters | None = None
    inputs: Annotated[list[InferInput], Field(fail_fast=True, min_length=1, max_length=3)]
    outputs: Annotated[list[InferRequestedOutput], Field(fail_fast=True, max_length=3)] | None = Field(
        None,
        description="Outputs to return; by default all outputs for ids, `pooled_output` and `mean_output` for texts.",
    )


class InferTensorParameters(BaseModel):
    """Parameters of an output."""

    binary_data_size: int


class InferTensor(BaseModel):
    """An output tensor: flat `data`, or `binary_data_size` bytes after the JSON."""

    name: Output
    shape: list[int]
    datatype: Literal["FP32"]
    parameters: InferTensorParameters | None = None
    data: list[float] | None = None


class InferResponse(BaseModel):
    """The outputs, in request order."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[InferTensor]


class InferError(BaseModel):
    """An error."""

    error: str


class ServerLive(BaseModel):
    """Liveness of the process."""

    live: bool


class ServerReady(BaseModel):
    """Readiness of the server, with the reason if it is not ready."""

    ready: bool
    error: str | None = None


class ServerMetadata(BaseModel):
    """Description of the server."""

    name: str
    version: str
    extensions: list[str]


class ModelReady(BaseModel):
    """Readiness of a model."""

    name: str
    ready: bool
    error: str | None = None


class TensorMetadata(BaseModel):
    """A tensor; -1 is a variable dimension."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """Inputs and outputs of a model; a request has `token_ids`, optionally with `segment_ids`, or `texts`."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


_FIELDS = frozenset(
    field
    for wire in (InferRequest, InferParameters, InferInput, InferInputParameters, InferRequestedOutput)
    for field in wire.model_fields
) | frozenset(InferRequestedOutputParameters.model_fields)


# === Parse ===


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output to return.

    Attributes:
        name: Name of the output.
        binary: Whether it is returned as bytes.
        loc: Location in errors.
    """

    name: Output
    binary: bool
    loc: str


@dataclass(frozen=True, slots=True, eq=False)
class ParsedRequest:
    """A validated request; limits of the model are checked later.

    Attributes:
        id: Request id of the client.
        model_name: Model name in the body, if present.
        parameters: Parameters of the request.
        token_ids: `[B, L]`, if the input is token ids.
        segment_ids: Segment ids in the shape of `token_ids`.
        texts: One text per sequence, if the input is texts.
        outputs: Outputs to return, in order.
        locs: Location of each input in errors, by name.
    """

    id: str | None
    model_name: str | None
    parameters: InferParameters
    token_ids: Integers | None
    segment_ids: Integers | None
    texts: list[str] | None
    outputs: tuple[RequestedOutput, ...]
    locs: Mapping[str, str]


def parse(body: bytes, header_length: str | None, max_sequences: int) -> ParsedRequest:
    """Parse a request.

    Args:
        body: JSON, followed by the bytes of tensors.
        header_length: Header `Inference-Header-Content-Length`, if present.
        max_sequences: Maximum number of sequences per request.

    Raises:
        BadRequestError: The header is invalid, or the body does not start with JSON.
        InvalidInputError: The body is not a valid request of this protocol.
        TooManySequencesError: The request has more than `max_sequences` sequences.
    """
    text, binary = split(body, header_length)
    with exclusive_if_large(text):
        value = read_json(text)
        check_sequence_counts(value, InferRequest, (), max_sequences)
        _check_field_counts(value)
        wire = _validated(value)
        parameters = wire.parameters or InferParameters.model_validate({})
        locs = _locate(wire.inputs)
        for tensor in wire.inputs:
            _check_shape(tensor, locs[tensor.name], max_sequences)
        data = {tensor.name: _read(tensor, binary, locs[tensor.name]) for tensor in wire.inputs}
    binary.check_end()
    if "texts" not in data and parameters.padding is not None:
        raise field_error("parameters.padding", "is allowed with texts only; token ids are encoded unchanged")
    return ParsedRequest(
        id=wire.id,
        model_name=wire.model_name,
        parameters=parameters,
        token_ids=data.get("token_ids"),
        segment_ids=data.get("segment_ids"),
        texts=data.get("texts"),
        outputs=_requested(wire, "texts" if "texts" in data else "token_ids"),
        locs=locs,
    )


def _check_field_counts(value: Any) -> None:
    """Check the number of fields of nested objects before validation, as `check_sequence_counts` does for the body."""
    if not isinstance(value, dict):
        return
    nested: list[tuple[str, Any]] = [("parameters", value.get("parameters"))]
    for field in ("inputs", "outputs"):
        items = value.get(field)
        for index, item in enumerate(items[:MAX_PROBLEMS] if isinstance(items, list) else ()):
            loc = f"{field}[{index}]"
            nested.append((loc, item))
            if isinstance(item, dict):
                nested.append((f"{loc}.parameters", item.get("parameters")))
    for loc, item in nested:
        if isinstance(item, dict) and len(item) > _MAX_FIELDS:
            raise field_error(loc, f"{len(item)} fields exceed the maximum of {_MAX_FIELDS}")


def _validated(value: Any) -> InferRequest:
    """Return the value as a request, or raise an error with all invalid locations."""
    try:
        return InferRequest.model_validate(value)
    except ValidationError as error:
        messages: dict[tuple[str | int, ...], list[str]] = {}
        for item in error.errors(include_url=False, include_context=False):
            loc = item["loc"]
            if item["type"] != "extra_forbidden":
                # Other strings are union tags and not part of the location.
                loc = tuple(part for part in loc if isinstance(part, int) or part in _FIELDS)
            messages.setdefault(loc, []).append(message_of(item))
        problems = [Problem(loc, "; or ".join(parts)) for loc, parts in messages.items()]
        raise InvalidInputError.of(problems) from None


def _locate(inputs: Sequence[InferInput]) -> dict[str, str]:
    """Return the location of each input, by name, and check their combination."""
    locs: dict[str, str] = {}
    for index, tensor in enumerate(inputs):
        loc = f"inputs[{index}] {tensor.name}"
        if tensor.name in locs:
            raise field_error(loc, f"duplicates {locs[tensor.name]}")
        locs[tensor.name] = loc
    if ("token_ids" in locs) == ("texts" in locs):
        count = "both" if "texts" in locs else "neither"
        raise field_error("inputs", f"expected exactly one of token_ids and texts, found {count}")
    if "texts" in locs and "segment_ids" in locs:
        raise field_error(locs["segment_ids"], "is allowed with token_ids only; segment ids of texts are derived")
    return locs


def _check_shape(tensor: InferInput, loc: str, max_sequences: int) -> None:
    """Check datatype and shape of an input before its data is parsed."""
    types = [TEXT] if tensor.name == "texts" else list(INTEGERS)
    if tensor.datatype not in types:
        raise field_error(loc, f"datatype is {tensor.datatype}, expected {' or '.join(types)}")
    if tensor.name == "texts":
        if tensor.shape[1:] not in ([], [1]):
            raise field_error(loc, f"shape is {tensor.shape}, expected [texts] or [texts, 1]")
    elif len(tensor.shape) != _MATRIX:
        raise field_error(loc, f"shape is {tensor.shape}, expected [sequences, tokens]")
    check_count(tensor.shape[0], max_sequences, loc)
    if not tensor.shape[-1]:
        raise field_error(loc, f"shape is {tensor.shape}, expected at least one token in each sequence")


def _read(tensor: InferInput, binary: Binary, loc: str) -> Any:
    """Return the data of an input: an array of integers, or texts."""
    size = tensor.parameters.binary_data_size if tensor.parameters is not None else None
    if (tensor.data is None) == (size is None):
        count = "neither" if size is None else "both"
        raise field_error(loc, f"expected exactly one of data and parameters.binary_data_size, found {count}")
    data = binary.take(size or 0, loc) if tensor.data is None else tensor.data
    if tensor.name == "texts":
        return texts(data, tensor.shape, loc)
    return integers(data, tensor.datatype, tensor.shape, loc)


def _requested(wire: InferRequest, kind: str) -> tuple[RequestedOutput, ...]:
    """Return the requested outputs, or the default outputs."""
    binary = wire.parameters is not None and wire.parameters.binary_data_output
    if not wire.outputs:
        return tuple(RequestedOutput(name, binary, name) for name in DEFAULT_OUTPUTS[kind])
    requested: dict[str, RequestedOutput] = {}
    for index, output in enumerate(wire.outputs):
        loc = f"outputs[{index}] {output.name}"
        if output.name in requested:
            raise field_error(loc, f"duplicates {requested[output.name].loc}")
        own = output.parameters.binary_data if output.parameters is not None else None
        requested[output.name] = RequestedOutput(output.name, binary if own is None else own, loc)
    return tuple(requested.values())


def sequences(call: ParsedRequest, token_ids: Integers, preset: Preset) -> list[TokenSequence]:
    """Check ids against the limits of a preset and return one sequence per row.

    Args:
        call: Parsed request.
        token_ids: Token ids, shape [sequences, tokens].
        preset: Preset that defines the limits.

    Raises:
        InvalidInputError: A sequence is too long, the segment ids have a different shape, or an id is out of range.
    """
    architecture = preset.architecture
    segment_ids = np.zeros_like(token_ids) if call.segment_ids is None else call.segment_ids
    if segment_ids.shape != token_ids.shape:
        message = f"shape is {list(segment_ids.shape)}, expected {list(token_ids.shape)}, the shape of token_ids"
        raise field_error(call.locs["segment_ids"], message)
    length, max_tokens = token_ids.shape[1], architecture.max_sequence_length
    if length > max_tokens and not call.parameters.truncate:
        raise field_error(call.locs["token_ids"], too_long(length, max_tokens))
    problems = [
        *_out_of_range(token_ids, architecture.vocabulary_size, call.locs["token_ids"], "token id"),
        *_out_of_range(segment_ids, architecture.num_segments, call.locs.get("segment_ids", ""), "segment id"),
    ]
    if problems:
        raise InvalidInputError.of(problems)
    rows = zip(token_ids[:, :max_tokens].astype(np.int32), segment_ids[:, :max_tokens].astype(np.int32), strict=True)
    return [TokenSequence(*row) for row in rows]


def _out_of_range(ids: Integers, end: int, loc: str, what: str) -> list[Problem]:
    wrong = np.argwhere((ids < 0) | (ids >= end))[:MAX_PROBLEMS].tolist()
    return [Problem((loc, *at), f"{what} {ids[tuple(at)]} is outside [0, {end})") for at in wrong]


def check_outputs(call: ParsedRequest, lengths: Sequence[int]) -> None:
    """Check that a requested sequence output forms a tensor.

    Args:
        call: Parsed request.
        lengths: Number of tokens of each sequence.

    Raises:
        InvalidInputError: The sequence output is requested and the lengths differ.
    """
    requested = next((output for output in call.outputs if output.name == "sequence_output"), None)
    if requested is not None and any(one != other for one, other in pairwise(lengths)):
        message = (
            f"the texts have {min(lengths)} to {max(lengths)} tokens, but a tensor has one length; request "
            "pooled_output or mean_output, set parameters.padding, or send texts of equal length"
        )
        raise field_error(requested.loc, message)


# === Render ===


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """Encodings of a request.

    Attributes:
        encodings: One encoding per sequence.
        length: Number of tokens of each sequence, if it is the same for all.
        hidden: Hidden size.
    """

    encodings: Sequence[Encoding]
    length: int
    hidden: int

    def shape(self, name: Output) -> list[int]:
        """Return the shape of an output without assembling it."""
        return [len(self.encodings), *([self.length] if name == "sequence_output" else []), self.hidden]

    def arrays(self, name: Output, *, normalize: bool) -> Iterator[Array]:
        """Yield the sequence output per sequence, or all rows of another output."""
        if name == "sequence_output":
            yield from (encoding.sequence_output for encoding in self.encodings)
            return
        rows = [encoding.arrays[name] for encoding in self.encodings]
        yield np.stack([normalized(row) for row in rows] if normalize else rows)


def render_json(call: ParsedRequest, model: str, version: str, result: Result) -> Iterator[bytes]:
    """Yield the JSON response, with the size of each binary output."""
    yield b'{"model_name":' + json_bytes(model) + b',"model_version":' + json_bytes(version)
    if call.id is not None:
        yield b',"id":' + json_bytes(call.id)
    for loc, requested in enumerate(call.outputs):
        shape = result.shape(requested.name)
        yield (b"," if loc else b',"outputs":[') + b'{"name":' + json_bytes(requested.name)
        yield b',"shape":' + json_bytes(shape) + b',"datatype":' + json_bytes(FLOAT)
        if requested.binary:
            yield b',"parameters":' + json_bytes({"binary_data_size": float_size(shape)}) + b"}"
            continue
        for index, array in enumerate(result.arrays(requested.name, normalize=call.parameters.normalize)):
            yield (b"," if index else b',"data":[') + json_values(array)
        yield b"]}"
    yield b"]}"


def render_binary(call: ParsedRequest, result: Result) -> Iterator[bytes]:
    """Yield the bytes of binary outputs, in the order of the outputs."""
    for requested in call.outputs:
        if requested.binary:
            yield from map(float_bytes, result.arrays(requested.name, normalize=call.parameters.normalize))


def binary_size(call: ParsedRequest, result: Result) -> int:
    """Return the total size of `render_binary`, in bytes."""
    return sum(float_size(result.shape(requested.name)) for requested in call.outputs if requested.binary)


def model_metadata(preset: Preset) -> dict[str, Any]:
    """Return the inputs and outputs of a model."""
    hidden = preset.architecture.hidden_dim
    inputs = [_tensor(name, "INT64", VARIABLE, VARIABLE) for name in ("token_ids", "segment_ids")]
    if preset.has_tokenizer:
        inputs.append(_tensor("texts", TEXT, VARIABLE))
    outputs = [_tensor("sequence_output", FLOAT, VARIABLE, VARIABLE, hidden)]
    outputs += [_tensor(name, FLOAT, VARIABLE, hidden) for name in get_args(Output) if name != "sequence_output"]
    return {
        "name": preset.name,
        "versions": [model_version(preset)],
        "platform": PLATFORM,
        "inputs": inputs,
        "outputs": outputs,
    }


def _tensor(name: str, datatype: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}


def model_version(preset: Preset) -> str:
    """Return the served version of a preset."""
    return preset.version or FIRST_VERSION


def render_error(error: ServiceError) -> Response:
    """Render an error in the format of the protocol."""
    return Response(json_bytes({"error": error.detail}), status(error), headers(error), media_type="application/json")


# === Router ===

_ERROR: dict[str, Any] = {"description": "Error with its reason", "model": InferError}
_ERRORS: dict[int | str, dict[str, Any]] = dict.fromkeys((401, 404, 503, "default"), _ERROR)
_OCTETS: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_INFER: dict[str, Any] = {
    "response_model": InferResponse,
    "responses": {
        200: {
            "content": {OCTETS: _OCTETS},
            "headers": {
                HEADER_LENGTH: {
                    "description": "Size of the JSON in bytes, if binary outputs follow it.",
                    "schema": {"type": "integer"},
                }
            },
        },
        **dict.fromkeys((400, 401, 404, 413, 422, 429, 500, 503, 504), _ERROR),
    },
    "openapi_extra": {
        "parameters": [
            {
                "name": HEADER_LENGTH,
                "in": "header",
                "required": False,
                "description": "Size of the JSON in bytes, if binary inputs follow it; 0 is the same as no header.",
                "schema": {"type": "integer", "minimum": 0},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}},
                OCTETS: _OCTETS,
            },
        },
    },
}


def protocol(engine: Engine, max_sequences: int) -> Protocol:
    """Return the Open Inference Protocol.

    Args:
        engine: Engine that encodes.
        max_sequences: Maximum number of sequences per request.
    """
    routes = APIRouter(prefix="/v2", route_class=DirectRoute, tags=["open inference protocol"])
    _add_server(routes, engine)
    _add_model(routes, engine)
    _add_infer(routes, engine, max_sequences)
    return Protocol(routes=routes, prefixes=("/v2",), render_error=render_error, wire_types=(InferRequest,))


def _served(engine: Engine, model: str, version: str | None) -> LoadedModel:
    """Return the model of this name and version, even if it no longer accepts requests.

    Raises:
        NotFoundError: The model or version is not served.
        NotReadyError: The model is not loaded yet.
        WorkerFailedError: The model failed to load.
    """
    loaded = engine.require_ready() if engine.loaded is None else engine.loaded
    if model != loaded.preset.name:
        raise NotFoundError(f"unknown model {model}; this server serves {loaded.preset.name}")
    if version is not None and version != (served := model_version(loaded.preset)):
        raise NotFoundError(f"unknown version {version} of model {model}; this server serves version {served}")
    return loaded


def _add_server(routes: APIRouter, engine: Engine) -> None:
    @routes.get("", summary="Describe the server", response_model=ServerMetadata, responses=_ERRORS)
    async def server_metadata() -> Response:
        return _json({"name": SERVER, "version": __version__, "extensions": EXTENSIONS})

    @routes.get(
        "/health/live",
        summary="Check liveness",
        response_model=ServerLive,
        responses={503: {"model": ServerLive}},
    )
    async def server_live() -> Response:
        return _json({"live": True}) if engine.alive else _not_ready(engine, {"live": False})

    @routes.get(
        "/health/ready",
        summary="Check readiness",
        response_model=ServerReady,
        responses={503: {"model": ServerReady}},
    )
    async def server_ready() -> Response:
        ready = engine.state == "ready"
        return _json({"ready": True}) if ready else _not_ready(engine, {"ready": False})


def _add_model(routes: APIRouter, engine: Engine) -> None:
    def metadata(model: str, version: str | None) -> Response:
        return _json(model_metadata(_served(engine, model, version).preset))

    def ready(model: str, version: str | None) -> Response:
        is_ready = engine.state == "ready"
        if engine.loaded is not None:
            _served(engine, model, version)
        content = {"name": model, "ready": is_ready}
        return _json(content) if is_ready else _not_ready(engine, content)

    described: dict[str, Any] = {
        "summary": "Describe the model",
        "response_model": ModelMetadata,
        "responses": _ERRORS,
    }

    @routes.get("/models/{model}", **described)
    async def describe(model: str) -> Response:
        return metadata(model, None)

    @routes.get("/models/{model}/versions/{version}", **described)
    async def describe_version(model: str, version: str) -> Response:
        return metadata(model, version)

    readiness: dict[str, Any] = {
        "summary": "Check readiness of the model",
        "response_model": ModelReady,
        "responses": {**_ERRORS, 503: {"model": ModelReady}},
    }

    @routes.get("/models/{model}/ready", **readiness)
    async def model_ready(model: str) -> Response:
        return ready(model, None)

    @routes.get("/models/{model}/versions/{version}/ready", **readiness)
    async def model_version_ready(model: str, version: str) -> Response:
        return ready(model, version)


def _add_infer(routes: APIRouter, engine: Engine, max_sequences: int) -> None:
    async def tokens_of(call: ParsedRequest, preset: Preset) -> list[TokenSequence]:
        if call.token_ids is not None:
            return await engine.run_in_worker(sequences, call, call.token_ids, preset)
        padding: Padding | None = call.parameters.padding
        tokens = await engine.tokenize(
            [Text(text) for text in call.texts or []],
            truncate=call.parameters.truncate,
            padding=padding,
            locate=lambda index: (call.locs["texts"], index),
        )
        check_outputs(call, [len(sequence.token_ids) for sequence in tokens])
        return tokens

    async def answer(request: Request, model: str, version: str | None) -> Response:
        preset = _served(engine, model, version).preset
        engine.require_ready()
        header_length = request.headers.get(HEADER_LENGTH)
        body = await request.body()
        call = await engine.run_sized(len(body), parse, body, header_length, max_sequences)
        if call.model_name not in (None, model):
            raise field_error("model_name", "differs from the model in the path")
        left: float = request.state.time_left()
        if call.parameters.timeout:
            own = call.parameters.timeout / _MICROSECONDS - request.state.elapsed()
            left = max(0.0, min(left, own))
            request.state.timeout = min(request.state.timeout, call.parameters.timeout / _MICROSECONDS)
        try:
            async with asyncio.timeout(left):
                tokens = await tokens_of(call, preset)
                outputs = frozenset(requested.name for requested in call.outputs)
                encodings, request.state.timings = await engine.encode(tokens, left, outputs)
        except TimeoutError:
            raise timed_out(request.state.timeout) from None
        return await _answer(
            engine, call, preset, Result(encodings, len(tokens[0].token_ids), preset.architecture.hidden_dim)
        )

    @routes.post("/models/{model}/infer", summary="Encode token ids or texts", **_INFER)
    async def infer(model: str, request: Request) -> Response:
        """Encode sequences; each result equals that of the sequence alone."""
        return await answer(request, model, None)

    @routes.post("/models/{model}/versions/{version}/infer", summary="Encode token ids or texts", **_INFER)
    async def infer_version(model: str, version: str, request: Request) -> Response:
        """Encode sequences; each result equals that of the sequence alone."""
        return await answer(request, model, version)


async def _answer(engine: Engine, call: ParsedRequest, preset: Preset, result: Result) -> Response:
    """Return JSON followed by the bytes of binary outputs; stream large responses."""
    values = sum(prod(result.shape(requested.name)) for requested in call.outputs)
    pieces = render_json(call, preset.name, model_version(preset), result)
    if not any(requested.binary for requested in call.outputs):
        return await respond(engine, pieces, values, "application/json")
    # The JSON is rendered twice, because its size precedes it in a header and it may be large.
    head = sum([len(piece) async for piece in stream_chunks(engine, pieces)])
    pieces = chain(render_json(call, preset.name, model_version(preset), result), render_binary(call, result))
    sizes = {HEADER_LENGTH: str(head), "Content-Length": str(head + binary_size(call, result))}
    return await respond(engine, pieces, values, OCTETS, sizes)


def _not_ready(engine: Engine, content: dict[str, Any]) -> Response:
    """Return 503 with the content and the reason."""
    try:
        engine.check_ready()
    except ServiceError as error:
        return Response(
            json_bytes({**content, "error": error.detail}), status(error), headers(error), media_type="application/json"
        )
    return _json(content, 503)


def _json(content: dict[str, Any], code: int = 200) -> Response:
    return Response(json_bytes(content), code, media_type="application/json")

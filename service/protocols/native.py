"""The native protocol: `POST /v1/encode`, and errors as RFC 9457 problem documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from model.encoder import Encoding, Output, Tokens
from model.presets.preset import Preset
from service.core.engine import Engine, normalized
from service.core.events import Timings
from service.core.inputs import Text, check_count, from_ids
from service.protocols.base import Protocol
from service.protocols.types import Ids, PaddingField, Texts, Usage
from service.web.accept import prefers
from service.web.bodies import Flag, check_sequence_counts, exclusive_if_large, field_error, read_json, validated
from service.web.encoding import Array, ArrayParts, base64_array, json_array, json_bytes, npz, npz_size
from service.web.problem import ProblemDocument, error_responses, render_error
from service.web.responses import respond
from service.web.route import DirectRoute

JSON = "application/json"
NPZ = "application/x-npz"


# === Wire types ===


class EncodeRequest(BaseModel):
    """Sequences to encode: exactly one of `token_ids` and `texts`."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"texts": "a sentence", "outputs": ["pooled_output"]},
                {"texts": ["one text", ["a question", "and its answer"]], "normalize": True},
                {"token_ids": [[4, 25, 127, 5], [4, 99, 5]], "segment_ids": [[0, 0, 0, 0], [0, 0, 0]]},
            ]
        },
    )

    token_ids: Ids | None = Field(None, description="One list of token ids a sequence, or a single list.")
    segment_ids: Ids | None = Field(None, description="Segment ids in the shape of token_ids; zeros by default.")
    texts: Texts | None = Field(None, description="A text, or texts and pairs of texts.")
    outputs: list[Output] = Field(
        ["sequence_output", "pooled_output"], min_length=1, max_length=16, description="What to return."
    )
    normalize: Flag = Field(False, description="Give pooled and mean rows a Euclidean length of 1.")
    truncate: Flag = Field(False, description="Cut what is too long; else refuse it.")
    padding: PaddingField | None = Field(
        None, description="Texts only: pad with `<pad>` to this length. By default as the preset was trained."
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="`base64`: little-endian float32, row-major, one string a sequence."
    )


class EncodeResponse(BaseModel):
    """The outputs asked for, in the order of the request; strings where base64 was asked for."""

    model: str
    hidden_dim: int
    sequence_output: list[list[list[float]]] | list[str] | None = None
    pooled_output: list[list[float]] | list[str] | None = None
    mean_output: list[list[float]] | list[str] | None = None
    usage: Usage


# === Parse ===


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request that makes sense by itself; whether the model can take it is the engine's business.

    Attributes:
        wire: The request.
        token_ids: One list a sequence, if it came as ids.
        segment_ids: Their counterpart.
        texts: One text or pair a sequence, if it came as texts.
        single: Whether the input was a bare list of ids or a bare string.
        npz: Whether the answer is to be a NumPy archive.
    """

    wire: EncodeRequest
    token_ids: list[list[int]] | None
    segment_ids: list[list[int]] | None
    texts: list[Text] | None
    single: bool
    npz: bool

    def locate(self, field: str, index: int) -> tuple[str | int, ...]:
        """Name a sequence as the client wrote it."""
        return (field,) if self.single else (field, index)


def parse(body: bytes, accept: str, max_sequences: int) -> ParsedRequest:
    """Read a request.

    Raises:
        BadRequestError: The body is no JSON.
        InvalidInputError: It is no request of this protocol.
        TooManySequencesError: It holds more than `max_sequences`.
    """
    with exclusive_if_large(body):
        value = read_json(body)
        check_sequence_counts(value, EncodeRequest, ("token_ids", "segment_ids", "texts"), max_sequences)
        wire = validated(EncodeRequest, value)
    if (wire.token_ids is None) == (wire.texts is None):
        found = "neither" if wire.texts is None else "both"
        raise field_error("token_ids", f"expected exactly one of token_ids and texts, found {found}")
    if wire.texts is None:
        return _parse_ids(wire, accept, max_sequences)
    if wire.segment_ids is not None:
        raise field_error("segment_ids", "is allowed with token_ids only; segment ids of texts are derived")
    texts = wire.texts if isinstance(wire.texts, list) else [wire.texts]
    check_count(len(texts), max_sequences, "texts")
    return ParsedRequest(
        wire=wire,
        token_ids=None,
        segment_ids=None,
        texts=[Text(text) if isinstance(text, str) else Text(text[0], text[1]) for text in texts],
        single=isinstance(wire.texts, str),
        npz=_wants_npz(wire, accept),
    )


def _parse_ids(wire: EncodeRequest, accept: str, max_sequences: int) -> ParsedRequest:
    if wire.padding is not None:
        raise field_error("padding", "is allowed with texts only; token ids are encoded unchanged")
    token_ids, single = _batch(wire.token_ids or [])
    check_count(len(token_ids), max_sequences, "token_ids")
    segment_ids = None
    if wire.segment_ids is not None:
        segment_ids, flat = _batch(wire.segment_ids)
        if flat != single:
            raise field_error("segment_ids", "has a different shape than token_ids")
    return ParsedRequest(wire, token_ids, segment_ids, None, single, _wants_npz(wire, accept))


def _batch(ids: Sequence[Any]) -> tuple[list[list[int]], bool]:
    """Return ids as one list a sequence, and whether they were a bare list."""
    single = bool(ids) and not isinstance(ids[0], list)
    return ([list(ids)] if single else list(ids)), single


def _wants_npz(wire: EncodeRequest, accept: str) -> bool:
    wanted = prefers(accept, NPZ, JSON)
    if wanted and wire.encoding_format != "float":
        raise field_error("encoding_format", f"is allowed for JSON responses only; omit it with Accept: {NPZ}")
    return wanted


# === Render ===


def render_json(call: ParsedRequest, preset: Preset, encodings: Sequence[Encoding], tokens: int) -> Iterator[bytes]:
    """Yield the answer's JSON, a piece for each sequence and output."""
    write = base64_array if call.wire.encoding_format == "base64" else json_array
    model, hidden = preset.name, preset.architecture.hidden_dim
    yield b'{"model":' + json_bytes(model) + b',"hidden_dim":%d' % hidden
    for name in dict.fromkeys(call.wire.outputs):
        yield b',"%s":' % name.encode()
        for index, encoding in enumerate(encodings):
            yield (b"," if index else b"[") + write(_output(encoding, name, normalize=call.wire.normalize))
        yield b"]"
    yield b',"usage":' + json_bytes({"sequences": len(encodings), "tokens": tokens}) + b"}"


def archived(
    call: ParsedRequest, preset: Preset, encodings: Sequence[Encoding], lengths: Sequence[int]
) -> dict[str, ArrayParts]:
    """Return the arrays of the answer's archive; sequence outputs end to end, `lengths` says where each ends."""
    hidden = preset.architecture.hidden_dim
    arrays = {"lengths": ArrayParts("<i4", (len(lengths),), [np.array(lengths)])}
    for name in call.wire.outputs:
        rows = sum(lengths) if name == "sequence_output" else len(lengths)
        arrays[name] = ArrayParts("<f4", (rows, hidden), _rows(encodings, name, normalize=call.wire.normalize))
    return arrays


def _rows(encodings: Sequence[Encoding], name: Output, *, normalize: bool) -> Iterator[Array]:
    """Yield an output's rows, those of one sequence after the other."""
    for encoding in encodings:
        found = _output(encoding, name, normalize=normalize)
        yield found if name == "sequence_output" else found[np.newaxis]


def _output(encoding: Encoding, name: Output, *, normalize: bool) -> Array:
    output = encoding.arrays[name]
    return normalized(output) if normalize and name != "sequence_output" else output


# === Router ===


def protocol(engine: Engine, max_sequences: int) -> Protocol:
    """Return the native protocol, in whose words errors on unknown paths are told as well.

    Args:
        engine: What encodes.
        max_sequences: Sequences that one request may hold.
    """
    routes = APIRouter(route_class=DirectRoute, tags=["native"])

    async def run(
        call: ParsedRequest, size: int, time_left: Callable[[], float]
    ) -> tuple[list[Tokens], list[Encoding], Timings]:
        wire = call.wire
        if call.texts is not None:
            tokens = await engine.tokenize(
                call.texts,
                truncate=wire.truncate,
                padding=wire.padding,
                locate=lambda index: call.locate("texts", index),
            )
        else:
            preset = engine.require_ready().preset
            tokens = await engine.run_sized(
                size,
                from_ids,
                call.token_ids or [],
                call.segment_ids,
                preset,
                truncate=wire.truncate,
                locate=call.locate,
            )
        encodings, timings = await engine.encode(tokens, time_left(), frozenset(wire.outputs))
        return tokens, encodings, timings

    @routes.post(
        "/v1/encode",
        summary="Encode token ids or texts",
        response_model=EncodeResponse,
        responses={
            200: {"content": {NPZ: {"schema": {"type": "string", "format": "binary"}}}},
            **error_responses(400, 401, 413, 422, 429, 500, 503, 504),
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/EncodeRequest"}}},
            }
        },
    )
    async def encode(request: Request) -> Response:
        """Encode sequences, each exactly as if it were alone: nothing is padded unless you ask for it."""
        engine.require_ready()
        accept = ",".join(request.headers.getlist("accept"))
        body = await request.body()
        call = await engine.run_sized(len(body) + len(accept), parse, body, accept, max_sequences)
        loaded = engine.require_ready()
        tokens, encodings, request.state.timings = await run(call, len(body), request.state.time_left)
        lengths = [len(sequence.token_ids) for sequence in tokens]
        rows = (sum(lengths) if name == "sequence_output" else len(lengths) for name in set(call.wire.outputs))
        preset = loaded.preset
        values = sum(rows) * preset.architecture.hidden_dim
        varies = {"Vary": "Accept"}
        if not call.npz:
            pieces = render_json(call, preset, encodings, sum(lengths))
            return await respond(engine, pieces, values, JSON, varies)
        arrays = archived(call, preset, encodings, lengths)
        size = npz_size(arrays)
        told = {} if size is None else {"Content-Length": str(size)}
        return await respond(engine, npz(arrays), values, NPZ, varies | told)

    return Protocol(
        routes=routes,
        prefixes=("/v1/encode",),
        render_error=render_error,
        wire_types=(EncodeRequest, ProblemDocument),
    )

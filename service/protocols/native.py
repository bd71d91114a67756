"""Native protocol: `POST /v1/encode`, with errors as problem documents (RFC 9457)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from model.encoder import Encoding, Output, TokenSequence
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

    token_ids: Ids | None = Field(None, description="One list of token ids per sequence, or a single list.")
    segment_ids: Ids | None = Field(None, description="Segment ids in the shape of token_ids; zeros by default.")
    texts: Texts | None = Field(None, description="A text, or texts and pairs of texts.")
    outputs: list[Output] = Field(
        ["sequence_output", "pooled_output"], min_length=1, max_length=16, description="Outputs to return."
    )
    normalize: Flag = Field(False, description="L2-normalize pooled and mean outputs.")
    truncate: Flag = Field(False, description="Truncate sequences that are too long instead of rejecting them.")
    padding: PaddingField | None = Field(
        None, description="Texts only: pad with `<pad>` to this length; by default, the padding of the preset."
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="`base64`: little-endian float32, row-major, one string per sequence."
    )


class EncodeResponse(BaseModel):
    """The requested outputs, in request order; strings for base64."""

    model: str
    hidden_dim: int
    sequence_output: list[list[list[float]]] | list[str] | None = None
    pooled_output: list[list[float]] | list[str] | None = None
    mean_output: list[list[float]] | list[str] | None = None
    usage: Usage


# === Parse ===


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A validated request; limits of the model are checked later.

    Attributes:
        wire: The request.
        token_ids: One list per sequence, if the input is token ids.
        segment_ids: Segment ids in the shape of `token_ids`.
        texts: One text or pair per sequence, if the input is texts.
        single: Whether the input was a bare list of ids or a bare string.
        npz: Whether the response is a NumPy archive.
    """

    wire: EncodeRequest
    token_ids: list[list[int]] | None
    segment_ids: list[list[int]] | None
    texts: list[Text] | None
    single: bool
    npz: bool

    def locate(self, field: str, index: int) -> tuple[str | int, ...]:
        """Return the location of a sequence in the request."""
        return (field,) if self.single else (field, index)


def parse(body: bytes, accept: str, max_sequences: int) -> ParsedRequest:
    """Parse a request.

    Raises:
        BadRequestError: The body is not JSON.
        InvalidInputError: The body is not a valid request of this protocol.
        TooManySequencesError: The request has more than `max_sequences` sequences.
    """
    with exclusive_if_large(body):
        value = read_json(body)
        check_sequence_counts(value, EncodeRequest, ("token_ids", "segment_ids", "texts"), max_sequences)
        wire = validated(EncodeRequest, value)
    if (wire.token_ids is None) == (wire.texts is None):
        count = "neither" if wire.texts is None else "both"
        raise field_error("token_ids", f"expected exactly one of token_ids and texts, found {count}")
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
    """Return one list of ids per sequence, and whether the input was a bare list."""
    single = bool(ids) and not isinstance(ids[0], list)
    return ([list(ids)] if single else list(ids)), single


def _wants_npz(wire: EncodeRequest, accept: str) -> bool:
    npz = prefers(accept, NPZ, JSON)
    if npz and wire.encoding_format != "float":
        raise field_error("encoding_format", f"is allowed for JSON responses only; omit it with Accept: {NPZ}")
    return npz


# === Render ===


def render_json(call: ParsedRequest, preset: Preset, encodings: Sequence[Encoding], tokens: int) -> Iterator[bytes]:
    """Yield the JSON response, one piece per sequence and output."""
    write = base64_array if call.wire.encoding_format == "base64" else json_array
    model, hidden = preset.name, preset.architecture.hidden_dim
    yield b'{"model":' + json_bytes(model) + b',"hidden_dim":%d' % hidden
    for name in dict.fromkeys(call.wire.outputs):
        yield b',"%s":' % name.encode()
        for index, encoding in enumerate(encodings):
            yield (b"," if index else b"[") + write(_output(encoding, name, normalize=call.wire.normalize))
        yield b"]"
    yield b',"usage":' + json_bytes({"sequences": len(encodings), "tokens": tokens}) + b"}"


def archive_arrays(
    call: ParsedRequest, preset: Preset, encodings: Sequence[Encoding], lengths: Sequence[int]
) -> dict[str, ArrayParts]:
    """Return the arrays of the archive; sequence outputs are concatenated, `lengths` has the tokens per sequence."""
    hidden = preset.architecture.hidden_dim
    arrays = {"lengths": ArrayParts("<i4", (len(lengths),), [np.array(lengths)])}
    for name in call.wire.outputs:
        rows = sum(lengths) if name == "sequence_output" else len(lengths)
        arrays[name] = ArrayParts("<f4", (rows, hidden), _rows(encodings, name, normalize=call.wire.normalize))
    return arrays


def _rows(encodings: Sequence[Encoding], name: Output, *, normalize: bool) -> Iterator[Array]:
    """Yield the rows of an output, sequence by sequence."""
    for encoding in encodings:
        output = _output(encoding, name, normalize=normalize)
        yield output if name == "sequence_output" else output[np.newaxis]


def _output(encoding: Encoding, name: Output, *, normalize: bool) -> Array:
    output = encoding.arrays[name]
    return normalized(output) if normalize and name != "sequence_output" else output


# === Router ===


def protocol(engine: Engine, max_sequences: int) -> Protocol:
    """Return the native protocol, which also renders errors of unknown paths.

    Args:
        engine: Engine that encodes.
        max_sequences: Maximum number of sequences per request.
    """
    routes = APIRouter(route_class=DirectRoute, tags=["native"])

    async def run(
        call: ParsedRequest, preset: Preset, size: int, time_left: Callable[[], float]
    ) -> tuple[list[TokenSequence], list[Encoding], Timings]:
        wire = call.wire
        if call.texts is not None:
            tokens = await engine.tokenize(
                call.texts,
                truncate=wire.truncate,
                padding=wire.padding,
                locate=lambda index: call.locate("texts", index),
            )
        else:
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
        """Encode sequences; each result equals that of the sequence alone, without padding unless requested."""
        preset = engine.require_ready().preset
        accept = ",".join(request.headers.getlist("accept"))
        body = await request.body()
        call = await engine.run_sized(len(body) + len(accept), parse, body, accept, max_sequences)
        tokens, encodings, request.state.timings = await run(call, preset, len(body), request.state.time_left)
        lengths = [len(sequence.token_ids) for sequence in tokens]
        rows = (sum(lengths) if name == "sequence_output" else len(lengths) for name in set(call.wire.outputs))
        values = sum(rows) * preset.architecture.hidden_dim
        vary = {"Vary": "Accept"}
        if not call.npz:
            pieces = render_json(call, preset, encodings, sum(lengths))
            return await respond(engine, pieces, values, JSON, vary)
        arrays = archive_arrays(call, preset, encodings, lengths)
        size = npz_size(arrays)
        length = {} if size is None else {"Content-Length": str(size)}
        return await respond(engine, npz(arrays), values, NPZ, vary | length)

    return Protocol(
        routes=routes,
        prefixes=("/v1/encode",),
        render_error=render_error,
        wire_types=(EncodeRequest, ProblemDocument),
    )

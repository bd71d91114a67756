"""OpenAI protocol: `POST /v1/embeddings` and `GET /v1/models`, with errors in OpenAI's format."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from model.encoder import TokenSequence
from model.presets.hub import DEFAULT_PRESET
from model.presets.preset import Preset
from service.core.engine import Engine
from service.core.errors import NotFoundError, Problem, ServiceError
from service.core.inputs import Text, check_count, check_dimensions, from_ids
from service.protocols.base import Protocol
from service.web.bodies import (
    Flag,
    IdList,
    OneText,
    check_sequence_counts,
    exceeds_64_bits,
    exclusive_if_large,
    field_error,
    read_json,
    validated,
)
from service.web.encoding import Array, base64_array, json_array, json_bytes
from service.web.responses import respond
from service.web.route import DirectRoute
from service.web.statuses import headers, status

_TOO_MANY_REQUESTS = 429
_FIRST_SERVER_ERROR = 500

# === Wire types ===


def _form(value: Any) -> str | None:
    if isinstance(value, str):
        return "text"
    if not isinstance(value, list):
        return None
    if value and isinstance(value[0], list):
        return "id_lists"
    return "ids" if value and (isinstance(value[0], int) or exceeds_64_bits(value[0])) else "texts"


Input = Annotated[
    Annotated[OneText, Tag("text")]
    | Annotated[list[OneText], Field(fail_fast=True), Tag("texts")]
    | Annotated[IdList, Tag("ids")]
    | Annotated[list[IdList], Field(fail_fast=True), Tag("id_lists")],
    Discriminator(
        _form,
        custom_error_type="input_form",
        custom_error_message="expected a text, a list of texts, a list of token ids or a list of such lists",
    ),
]


class EmbeddingsRequest(BaseModel):
    """Texts or sequences of token ids to embed."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"input": "a sentence", "model": DEFAULT_PRESET},
                {"input": ["one text", "another"], "model": DEFAULT_PRESET, "encoding_format": "base64"},
                {"input": [[4, 25, 127, 5], [4, 99, 5]], "model": DEFAULT_PRESET},
            ]
        },
    )

    input: Input = Field(
        description="A text, a list of texts, a sequence of token ids, or a list of these; ids are encoded unchanged."
    )
    model: OneText = Field(description="Name of the model; see `GET /v1/models`.")
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="`float`, the default, or `base64`: a string of little-endian float32."
    )
    dimensions: Annotated[int, Field(strict=True, ge=1)] | None = Field(
        None,
        description="Dimensions of each embedding; fewer than all require a model that was trained for it.",
    )
    truncate: Flag = Field(False, description="Truncate sequences that exceed the maximum; otherwise reject them.")
    user: OneText | None = Field(None, description="Ignored; accepted for compatibility.")
    input_type: OneText | None = Field(None, description="Ignored; accepted for compatibility.")
    priority: Annotated[int, Field(strict=True)] | None = Field(
        None, description="Ignored; accepted for compatibility."
    )


class Embedding(BaseModel):
    """L2-normalized embedding of one input; a string for base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(BaseModel):
    """Token counts; both are the tokens of the input."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """Embeddings, in input order."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage


class ServedModel(BaseModel):
    """A served model; `created` is the start time of this process, in seconds since 1970."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ServedModels(BaseModel):
    """All served models."""

    object: Literal["list"]
    data: list[ServedModel]


class OpenAIErrorBody(BaseModel):
    """Details of an error; `param` is the invalid location of the request, if there is one."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(BaseModel):
    """An error in OpenAI's format."""

    error: OpenAIErrorBody


# === Parse ===


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A validated request; limits of the model are checked later.

    Attributes:
        wire: The request.
        token_ids: One list per sequence, if the input is token ids.
        texts: One text per sequence, if the input is texts.
        single: Whether the input was a bare text or a bare list of ids.
    """

    wire: EmbeddingsRequest
    token_ids: list[list[int]] | None
    texts: list[Text] | None
    single: bool

    def locate(self, index: int) -> tuple[str | int, ...]:
        """Return the location of a sequence in the request."""
        return ("input",) if self.single else ("input", index)


def parse(body: bytes, max_sequences: int) -> ParsedRequest:
    """Parse a request.

    Raises:
        BadRequestError: The body is not JSON.
        InvalidInputError: The body is not a valid request of this protocol.
        TooManySequencesError: The request has more than `max_sequences` sequences.
    """
    with exclusive_if_large(body):
        value = read_json(body)
        check_sequence_counts(value, EmbeddingsRequest, ("input",), max_sequences)
        wire = validated(EmbeddingsRequest, value)
    form = _form(wire.input)
    single = form in ("text", "ids")
    sequences: list[Any] = [wire.input] if single else list(wire.input)
    check_count(len(sequences), max_sequences, "input")
    if form in ("text", "texts"):
        return ParsedRequest(wire, None, [Text(text) for text in sequences], single)
    return ParsedRequest(wire, sequences, None, single)


def check_supported(call: ParsedRequest, preset: Preset) -> None:
    """Check that the served model supports a request.

    Raises:
        NotFoundError: The request names another model.
        InvalidInputError: The model does not support the requested dimensions, or has no tokenizer for texts.
    """
    wire = call.wire
    if wire.model != preset.name:
        raise _unknown_model(wire.model, preset)
    check_dimensions(wire.dimensions, preset)
    if call.texts is not None and not preset.has_tokenizer:
        raise field_error("input", f"the preset {preset.name} has no tokenizer; send token ids")


def _unknown_model(name: str, preset: Preset) -> NotFoundError:
    message = f"unknown model {name}; this server serves {preset.name}"
    return NotFoundError(message, problems=[Problem(("model",), message)])


# === Render ===


def render(call: ParsedRequest, model: str, embeddings: Array, tokens: int) -> Iterator[bytes]:
    """Yield the JSON response, one piece per embedding."""
    write = base64_array if call.wire.encoding_format == "base64" else json_array
    yield b'{"object":"list","data":['
    for index, embedding in enumerate(embeddings):
        comma = b"," if index else b""
        yield comma + b'{"object":"embedding","index":%d,"embedding":' % index + write(embedding) + b"}"
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    yield b'],"model":' + json_bytes(model) + b',"usage":' + json_bytes(usage) + b"}"


def render_error(error: ServiceError) -> Response:
    """Render an error in OpenAI's format."""
    document = {
        "error": {
            "message": error.detail,
            "type": _error_type(status(error)),
            "param": _parameter(error.problems[0]) if error.problems else None,
            "code": error.code,
        }
    }
    return Response(json_bytes(document), status(error), headers(error), media_type="application/json")


def _error_type(status: int) -> str:
    if status >= _FIRST_SERVER_ERROR:
        return "server_error"
    return "rate_limit_error" if status == _TOO_MANY_REQUESTS else "invalid_request_error"


def _parameter(problem: Problem) -> str | None:
    """Return a location such as `input[3]`, or None for the complete body."""
    if not problem.loc:
        return None
    field, *indices = problem.loc
    return str(field) + "".join(f"[{index}]" for index in indices)


def _describe(preset: Preset, created: int) -> dict[str, Any]:
    return {"id": preset.name, "object": "model", "created": created, "owned_by": "fnet-encode"}


# === Router ===

_ERROR: dict[str, Any] = {
    "description": "Error with its reason",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/OpenAIError"}}},
}


def _error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return dict.fromkeys(statuses, _ERROR)


def protocol(engine: Engine, max_sequences: int) -> Protocol:
    """Return the OpenAI protocol.

    Args:
        engine: Engine that encodes.
        max_sequences: Maximum number of sequences per request.
    """
    routes = APIRouter(route_class=DirectRoute, tags=["openai"])
    created = int(time.time())

    async def tokens_of(call: ParsedRequest, preset: Preset) -> list[TokenSequence]:
        if call.texts is not None:
            return await engine.tokenize(call.texts, truncate=call.wire.truncate, padding=None, locate=call.locate)
        return await engine.run_in_worker(
            from_ids,
            call.token_ids or [],
            None,
            preset,
            truncate=call.wire.truncate,
            locate=lambda _field, index: call.locate(index),
        )

    @routes.post(
        "/v1/embeddings",
        summary="Create embeddings (OpenAI)",
        response_model=EmbeddingsResponse,
        responses=_error_responses(400, 401, 404, 413, 422, 429, 500, 503, 504),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/EmbeddingsRequest"}}},
            }
        },
    )
    async def embeddings(request: Request) -> Response:
        """Embed inputs; each embedding is the L2-normalized output that the model's pooling selects."""
        preset = engine.require_ready().preset
        body = await request.body()
        call = await engine.run_sized(len(body), parse, body, max_sequences)
        check_supported(call, preset)
        tokens = await tokens_of(call, preset)
        rows, request.state.timings = await engine.embed(
            tokens, request.state.time_left(), dimensions=call.wire.dimensions
        )
        count = sum(len(sequence.token_ids) for sequence in tokens)
        return await respond(engine, render(call, preset.name, rows, count), rows.size, "application/json")

    @routes.get(
        "/v1/models",
        summary="List models (OpenAI)",
        response_model=ServedModels,
        responses=_error_responses(400, 401, 413, 500, 503, 504),
    )
    async def models() -> Response:
        """List the served model."""
        content = {"object": "list", "data": [_describe(engine.require_ready().preset, created)]}
        return Response(json_bytes(content), media_type="application/json")

    @routes.get(
        "/v1/models/{model}",  # noqa: FAST003 - an argument would document a 422 that cannot occur
        summary="Describe a model (OpenAI)",
        response_model=ServedModel,
        responses=_error_responses(400, 401, 404, 413, 500, 503, 504),
        openapi_extra={"parameters": [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}]},
    )
    async def model(request: Request) -> Response:
        """Describe the served model."""
        preset = engine.require_ready().preset
        if request.path_params["model"] != preset.name:
            raise _unknown_model(request.path_params["model"], preset)
        return Response(json_bytes(_describe(preset, created)), media_type="application/json")

    return Protocol(
        routes=routes,
        prefixes=("/v1/embeddings", "/v1/models"),
        render_error=render_error,
        wire_types=(EmbeddingsRequest, OpenAIError),
    )

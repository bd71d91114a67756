"""OpenAI's protocol: `POST /v1/embeddings` and `GET /v1/models`, and errors as its clients read them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from model.encoder import Tokens
from model.presets.hub import DEFAULT_PRESET
from model.presets.preset import Preset
from service.core.engine import Engine
from service.core.errors import NotFoundError, Problem, ServiceError
from service.core.inputs import Text, check_count, check_dimensions, from_ids
from service.protocols.base import Protocol
from service.web.bodies import (
    IdList,
    OneText,
    check_sequence_counts,
    exclusive_if_large,
    field_error,
    is_huge,
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
    return "ids" if value and (isinstance(value[0], int) or is_huge(value[0])) else "texts"


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
    """Texts, or sequences of token ids, to embed."""

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
        description="A text, a list of texts, one sequence of token ids, or a list of such; ids are taken as they are."
    )
    model: OneText = Field(description="Name of the model; `GET /v1/models` lists what is served.")
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="`float`, the default, or `base64`: a string of little-endian float32."
    )
    dimensions: Annotated[int, Field(strict=True, ge=1)] | None = Field(
        None,
        description="Length of each embedding; all of it by default, and less only of a model that was trained for it.",
    )
    user: OneText | None = Field(None, description="Whom the request is for; has no effect.")


class Embedding(BaseModel):
    """One input's embedding, of length 1; a string where base64 was asked for."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(BaseModel):
    """What a request took; nothing but the prompt has tokens."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """Embeddings in the order of the input."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage


class ServedModel(BaseModel):
    """A model that is served; `created` is when this process began to, in seconds since 1970."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ServedModels(BaseModel):
    """All models that are served."""

    object: Literal["list"]
    data: list[ServedModel]


class OpenAIErrorBody(BaseModel):
    """What went wrong; `param` is the place of the request, where one is to blame."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(BaseModel):
    """An error in OpenAI's words."""

    error: OpenAIErrorBody


# === Parse ===


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request that makes sense by itself; whether the model can take it is the engine's business.

    Attributes:
        wire: The request.
        token_ids: One list a sequence, if it came as ids.
        texts: One text a sequence, if it came as texts.
        single: Whether the input was a bare text or a bare list of ids.
    """

    wire: EmbeddingsRequest
    token_ids: list[list[int]] | None
    texts: list[Text] | None
    single: bool

    def locate(self, index: int) -> tuple[str | int, ...]:
        """Name a sequence as the client wrote it."""
        return ("input",) if self.single else ("input", index)


def parse(body: bytes, max_sequences: int) -> ParsedRequest:
    """Read a request.

    Raises:
        BadRequestError: The body is no JSON.
        InvalidInputError: It is no request of this protocol.
        TooManySequencesError: It holds more than `max_sequences`.
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


def refuse_unserved(call: ParsedRequest, preset: Preset) -> None:
    """Refuse what another model might give, but not this one.

    Raises:
        NotFoundError: It asks for another model.
        InvalidInputError: It asks for embeddings of a length that the model does not have, or sends texts to a model
            that has no tokenizer.
    """
    wire = call.wire
    if wire.model != preset.name:
        raise _no_such_model(preset)
    check_dimensions(wire.dimensions, preset)
    if call.texts is not None and not preset.has_tokenizer:
        raise field_error("input", f"holds texts, but {preset.name} has no tokenizer: send token ids")


def _no_such_model(preset: Preset) -> NotFoundError:
    return NotFoundError(
        f"there is no such model: {preset.name} is served here", problems=[Problem(("model",), "is not served here")]
    )


# === Render ===


def render(call: ParsedRequest, model: str, embeddings: Array, tokens: int) -> Iterator[bytes]:
    """Yield the answer's JSON, a piece for each embedding."""
    write = base64_array if call.wire.encoding_format == "base64" else json_array
    yield b'{"object":"list","data":['
    for index, embedding in enumerate(embeddings):
        comma = b"," if index else b""
        yield comma + b'{"object":"embedding","index":%d,"embedding":' % index + write(embedding) + b"}"
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    yield b'],"model":' + json_bytes(model) + b',"usage":' + json_bytes(usage) + b"}"


def render_error(error: ServiceError) -> Response:
    """Return an error as OpenAI's clients read it."""
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
    """Return a place as the client would write it, `input[3]`; nothing where it is the whole body."""
    if not problem.loc:
        return None
    field, *indices = problem.loc
    return str(field) + "".join(f"[{index}]" for index in indices)


def _describe(preset: Preset, created: int) -> dict[str, Any]:
    return {"id": preset.name, "object": "model", "created": created, "owned_by": "fnet-encode"}


# === Router ===

_REFUSAL: dict[str, Any] = {
    "description": "Refused or failed, with the reason",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/OpenAIError"}}},
}


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return dict.fromkeys(statuses, _REFUSAL)


def protocol(engine: Engine, max_sequences: int) -> Protocol:
    """Return OpenAI's protocol.

    Args:
        engine: What encodes.
        max_sequences: Sequences that one request may hold.
    """
    routes = APIRouter(route_class=DirectRoute, tags=["openai"])
    created = int(time.time())

    async def tokens_of(call: ParsedRequest) -> list[Tokens]:
        if call.texts is not None:
            return await engine.tokenize(call.texts, truncate=False, padding=None, locate=call.locate)
        return await engine.run_in_worker(
            from_ids,
            call.token_ids or [],
            None,
            engine.require_ready().preset,
            truncate=False,
            locate=lambda _field, index: call.locate(index),
        )

    @routes.post(
        "/v1/embeddings",
        summary="Embed texts or token ids, as OpenAI does",
        response_model=EmbeddingsResponse,
        responses=_refusals(400, 401, 404, 413, 422, 429, 500, 503, 504),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/EmbeddingsRequest"}}},
            }
        },
    )
    async def embeddings(request: Request) -> Response:
        """Embed each input as if it were alone: the output that the model's pooling names, of length 1."""
        engine.require_ready()
        body = await request.body()
        call = await engine.run_sized(len(body), parse, body, max_sequences)
        preset = engine.require_ready().preset
        refuse_unserved(call, preset)
        tokens = await tokens_of(call)
        rows, request.state.timings = await engine.embed(
            tokens, request.state.time_left(), dimensions=call.wire.dimensions
        )
        count = sum(len(sequence.token_ids) for sequence in tokens)
        return await respond(engine, render(call, preset.name, rows, count), rows.size, "application/json")

    @routes.get(
        "/v1/models",
        summary="List the models, as OpenAI does",
        response_model=ServedModels,
        responses=_refusals(400, 401, 413, 500, 503, 504),
    )
    async def models() -> Response:
        """List the one model that is served."""
        content = {"object": "list", "data": [_describe(engine.require_ready().preset, created)]}
        return Response(json_bytes(content), media_type="application/json")

    @routes.get(
        "/v1/models/{model}",  # noqa: FAST003 - as an argument it would add a 422 to the description that cannot happen
        summary="Describe a model, as OpenAI does",
        response_model=ServedModel,
        responses=_refusals(400, 401, 404, 413, 500, 503, 504),
        openapi_extra={"parameters": [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}]},
    )
    async def model(request: Request) -> Response:
        """Describe the model of that name, if it is served."""
        preset = engine.require_ready().preset
        if request.path_params["model"] != preset.name:
            raise _no_such_model(preset)
        return Response(json_bytes(_describe(preset, created)), media_type="application/json")

    return Protocol(
        routes=routes,
        prefixes=("/v1/embeddings", "/v1/models"),
        render_error=render_error,
        wire_types=(EmbeddingsRequest, OpenAIError),
    )

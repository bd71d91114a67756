"""REST protocol of Text Embeddings Inference: `/embed`, `/`, `/embed_all`, `/tokenize`, `/decode` and `/info`.

Names and shapes follow huggingface/text-embeddings-inference, `router/src/http` and `core/src/tokenization.rs`.
Statuses are those of `service.web.statuses`. Fields that TEI would ignore are rejected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from model.encoder import TokenSequence
from model.tokenizer import FNetTokenizer, Piece
from service import __version__
from service.core.engine import Engine
from service.core.errors import MAX_PROBLEMS, InvalidInputError, Problem, ServiceError
from service.core.inputs import Text, check_count, check_dimensions, from_ids
from service.core.loader import LoadedModel
from service.core.tokenization import pieces_of, texts_of
from service.protocols.base import Protocol
from service.protocols.types import Ids
from service.web.bodies import (
    Flag,
    IdList,
    OneText,
    Wire,
    check_sequence_counts,
    exclusive_if_large,
    field_error,
    read_json,
    validated,
)
from service.web.encoding import Array, json_array, json_bytes
from service.web.responses import respond
from service.web.route import DirectRoute
from service.web.statuses import STATUSES, headers, status

# === Wire types; the prefix keeps their names unique in the OpenAPI description ===


def _one_or_batch(value: Any) -> str:
    nested = isinstance(value, list) and (not value or isinstance(value[0], str | list))
    return "batch" if nested else "ids" if isinstance(value, list) else "text"


def _text_or_ids(value: Any) -> str:
    return "ids" if isinstance(value, list) else "text"


TextOrIds = Annotated[Annotated[OneText, Tag("text")] | Annotated[IdList, Tag("ids")], Discriminator(_text_or_ids)]
Inputs = Annotated[
    Annotated[list[TextOrIds], Field(fail_fast=True), Tag("batch")]
    | Annotated[IdList, Tag("ids")]
    | Annotated[OneText, Tag("text")],
    Discriminator(_one_or_batch),
]
TextInputs = Annotated[
    Annotated[list[OneText], Field(fail_fast=True), Tag("batch")] | Annotated[OneText, Tag("text")],
    Discriminator(lambda value: "batch" if isinstance(value, list) else "text"),
]
PromptName = Annotated[str | None, Field(description="Presets have no prompts; only null is allowed.")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    prompt_name: PromptName = None


class TeiEmbedAllRequest(_Request):
    """Inputs whose token embeddings are returned."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": "a text"}, {"inputs": ["one", [4, 25, 5]]}]})

    inputs: Inputs = Field(
        description="A text, a list of token ids, or a list of both. Token ids are encoded unchanged. All other fields "
        "are also accepted in an object `parameters`, as some clients send them."
    )
    truncate: Flag | None = Field(
        None, description="Truncate inputs that are too long; otherwise, and by default, they are rejected."
    )
    truncation_direction: Literal["Left", "left", "Right", "right"] = Field(
        "right", description="Side on which an input is truncated; special tokens of texts are kept."
    )


class TeiEmbedRequest(TeiEmbedAllRequest):
    """Inputs to embed."""

    normalize: Flag = Field(True, description="L2-normalize embeddings.")
    dimensions: Annotated[int, Field(strict=True, ge=1)] | None = Field(
        None, description="Leading dimensions to return, for presets that were trained for it; all by default."
    )
    encoding_format: Literal["float", "base64"] | None = Field(None, description="Only `float` is supported.")


class TeiTokenizeRequest(_Request):
    """Texts to tokenize."""

    inputs: TextInputs = Field(description="A text or a list of texts.")
    add_special_tokens: Flag = Field(True, description="Add `[CLS]` before and `[SEP]` after each text.")


class TeiDecodeRequest(BaseModel):
    """Token ids to detokenize."""

    model_config = ConfigDict(extra="forbid")

    ids: Ids = Field(description="A list of token ids, or a list of such lists.")
    skip_special_tokens: Flag = Field(True, description="Omit special tokens; otherwise return their names.")


class TeiToken(BaseModel):
    """A token with its start and stop in the text, in Unicode code points; null for special tokens."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class TeiEmbeddingModel(BaseModel):
    """Pooling of the embeddings."""

    pooling: str = Field(description="`mean`, or `pooled`: a trained dense layer over the first token.")


class TeiModelType(BaseModel):
    """Type of the model."""

    embedding: TeiEmbeddingModel


class TeiInfo(BaseModel):
    """Description of the server; null for limits that do not exist."""

    model_id: str
    model_sha: str | None
    model_dtype: str
    served_model_name: str
    model_type: TeiModelType
    max_concurrent_requests: int | None
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int | None
    version: str
    sha: str | None
    docker_label: str | None


class TeiError(BaseModel):
    """An error."""

    error: str
    error_type: Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]


# === Parse ===


class _EmptyInputError(InvalidInputError):
    """An input list is empty; TEI has a separate error type for it."""


class _TokenizerError(InvalidInputError):
    """The preset has no tokenizer; TEI has a separate error type for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedRequest:
    """A validated request; limits of the model are checked later.

    Attributes:
        inputs: One text or list of token ids per sequence.
        single: Whether the input was a bare text or a bare list of ids.
        truncate: Whether inputs that are too long are truncated.
        left: Whether truncation removes the beginning.
        normalize: Whether embeddings are L2-normalized.
        dimensions: Leading dimensions to return; None for all.
    """

    inputs: list[str | list[int]]
    single: bool
    truncate: bool
    left: bool
    normalize: bool = False
    dimensions: int | None = None

    def locate(self, index: int) -> tuple[str | int, ...]:
        """Return the location of an input in the request."""
        return ("inputs",) if self.single else ("inputs", index)


def parse_embed_all(body: bytes, max_sequences: int) -> ParsedRequest:
    """Parse a request for token embeddings.

    Raises:
        BadRequestError: The body is not JSON.
        InvalidInputError: The body is not a valid request of this protocol.
        TooManySequencesError: The request has more than `max_sequences` sequences.
    """
    return _call(_read(body, TeiEmbedAllRequest, "inputs", max_sequences))


def parse_embed(body: bytes, max_sequences: int) -> ParsedRequest:
    """Parse a request for embeddings; it raises the errors of `parse_embed_all`."""
    wire = _read(body, TeiEmbedRequest, "inputs", max_sequences)
    if wire.encoding_format == "base64":
        raise field_error(
            "encoding_format",
            "base64 is not supported on this route; omit the field, or use /v1/embeddings or /v1/encode",
        )
    return replace(_call(wire), normalize=wire.normalize, dimensions=wire.dimensions)


def _call(wire: TeiEmbedAllRequest) -> ParsedRequest:
    inputs: Any = wire.inputs
    single = _one_or_batch(inputs) != "batch"
    return ParsedRequest(
        inputs=[inputs] if single else inputs,
        single=single,
        truncate=bool(wire.truncate),
        left=wire.truncation_direction in ("Left", "left"),
    )


def _read(body: bytes, wire_type: type[Wire], field: str, max_sequences: int) -> Wire:
    with exclusive_if_large(body):
        value = _unnested(read_json(body), wire_type)
        if isinstance(value, dict) and value.get(field) == []:
            raise _EmptyInputError.of([Problem((field,), "is empty; expected at least one")])
        check_sequence_counts(value, wire_type, (field,), max_sequences)
        wire = validated(wire_type, value)
    if isinstance(wire, _Request) and wire.prompt_name is not None:
        raise field_error("prompt_name", "presets have no prompts; omit the field or send null")
    return wire


def _unnested(value: Any, wire_type: type[BaseModel]) -> Any:
    """Return a body with the fields of its object `parameters` moved to the top level.

    huggingface_hub 0.28 to 0.30 send all fields but the inputs there, and send the object even if it is empty.
    """
    if not issubclass(wire_type, TeiEmbedAllRequest) or not isinstance(value, dict) or "parameters" not in value:
        return value
    nested = value["parameters"]
    if not isinstance(nested, dict):
        raise field_error("parameters", "expected a JSON object")
    for name in islice(nested, MAX_PROBLEMS):
        if name not in wire_type.model_fields:
            raise field_error(f"parameters.{name}", "unknown field")
        if name in value:
            raise field_error(f"parameters.{name}", f"duplicates {name}")
    return {name: item for name, item in value.items() if name != "parameters"} | nested


def _tokenizer(loaded: LoadedModel, locate: tuple[str | int, ...]) -> FNetTokenizer:
    if loaded.tokenizer is None:
        message = f"the preset {loaded.preset.name} has no tokenizer; send token ids"
        raise _TokenizerError.of([Problem(locate, message)])
    return loaded.tokenizer


# === Sequences ===


async def _sequences(engine: Engine, loaded: LoadedModel, call: ParsedRequest) -> list[TokenSequence]:
    """Return the sequences of texts and token ids, in request order."""
    text_indices = [index for index, item in enumerate(call.inputs) if isinstance(item, str)]
    id_indices = [index for index, item in enumerate(call.inputs) if not isinstance(item, str)]
    sequences: dict[int, TokenSequence] = {}
    if text_indices:
        texts = [str(call.inputs[index]) for index in text_indices]
        tokenizer = _tokenizer(loaded, call.locate(text_indices[0]))

        def locate(index: int) -> tuple[str | int, ...]:
            return call.locate(text_indices[index])

        if call.truncate and call.left:
            tokens = await engine.run_in_worker(
                _truncate_left, texts, loaded, tokenizer, lambda n: call.locate(text_indices[n])
            )
        else:
            tokens = await engine.tokenize(
                [Text(text) for text in texts],
                truncate=call.truncate,
                padding=None,
                locate=locate,
            )
        sequences.update(zip(text_indices, tokens, strict=True))
    if id_indices:
        sequences.update(zip(id_indices, await engine.run_in_worker(_from_ids, call, id_indices, loaded), strict=True))
    return [sequences[index] for index in range(len(call.inputs))]


def _from_ids(call: ParsedRequest, indices: Sequence[int], loaded: LoadedModel) -> list[TokenSequence]:
    max_tokens = loaded.preset.architecture.max_sequence_length
    ids: list[Any] = [call.inputs[index] for index in indices]
    if call.truncate and call.left:
        ids = [sequence[-max_tokens:] for sequence in ids]
    return from_ids(ids, None, loaded.preset, truncate=call.truncate, locate=lambda _, n: call.locate(indices[n]))


def _truncate_left(
    texts: Sequence[str], loaded: LoadedModel, tokenizer: FNetTokenizer, locate: Callable[[int], tuple[str | int, ...]]
) -> list[TokenSequence]:
    """Tokenize texts, truncate their beginning, and apply the padding of the preset."""
    max_tokens, padding = loaded.preset.architecture.max_sequence_length, loaded.preset.padding
    padded = max_tokens if padding == "max_length" else 0 if padding == "none" else padding
    sequences = []
    for index, text in enumerate(texts):
        try:
            tokens = tokenizer.pad(tokenizer.encode_truncated(text, None, padded or max_tokens, "left"), padded)
        except ValueError as error:
            raise InvalidInputError.of([Problem(locate(index), str(error))]) from None
        sequences.append(TokenSequence(np.array(tokens.token_ids, np.int32), np.array(tokens.segment_ids, np.int32)))
    return sequences


def _render(arrays: Iterable[Array]) -> Iterator[bytes]:
    for index, array in enumerate(arrays):
        yield (b"," if index else b"[") + json_array(array)
    yield b"]"


def _tokenize(body: bytes, loaded: LoadedModel, max_sequences: int, max_tokens: int) -> bytes:
    wire = _read(body, TeiTokenizeRequest, "inputs", max_sequences)
    texts = wire.inputs if isinstance(wire.inputs, list) else [wire.inputs]
    check_count(len(texts), max_sequences, "inputs")
    tokenizer = _tokenizer(loaded, ("inputs",))
    pieces = pieces_of(
        texts, tokenizer, max_tokens, lambda index: ("inputs", index) if isinstance(wire.inputs, list) else ("inputs",)
    )
    answer = []
    for text, text_pieces in zip(texts, pieces, strict=True):
        tokens = _simple_tokens(text, text_pieces)
        if wire.add_special_tokens:
            tokens = [
                _special(tokenizer, tokenizer.cls_token_id),
                *tokens,
                _special(tokenizer, tokenizer.sep_token_id),
            ]
        answer.append(tokens)
    return json_bytes(answer)


def _simple_tokens(text: str, pieces: Sequence[Piece]) -> list[dict[str, Any]]:
    return [
        {
            "id": piece.id,
            "text": text[piece.start : piece.stop],
            "special": False,
            "start": piece.start,
            "stop": piece.stop,
        }
        for piece in pieces
    ]


def _special(tokenizer: FNetTokenizer, token_id: int) -> dict[str, Any]:
    return {"id": token_id, "text": tokenizer.id_to_token(token_id), "special": True, "start": None, "stop": None}


def _decode(body: bytes, loaded: LoadedModel, max_sequences: int) -> bytes:
    wire = _read(body, TeiDecodeRequest, "ids", max_sequences)
    single = not isinstance(wire.ids[0], list)
    ids: Any = [wire.ids] if single else wire.ids
    check_count(len(ids), max_sequences, "ids")
    texts = texts_of(
        ids,
        _tokenizer(loaded, ("ids",)),
        lambda index: ("ids",) if single else ("ids", index),
        skip_special_tokens=wire.skip_special_tokens,
    )
    return json_bytes(texts)


# === Errors ===

_ERROR_TYPES = {
    "overloaded": "Overloaded",
    "not_ready": "Unhealthy",
    "draining": "Unhealthy",
    "worker_failed": "Unhealthy",
}


def error_type(error: ServiceError) -> str:
    """Return the TEI error type."""
    if isinstance(error, _EmptyInputError):
        return "Empty"
    if isinstance(error, _TokenizerError):
        return "Tokenizer"
    server_side = STATUSES[error.code] >= STATUSES["internal_error"]
    return _ERROR_TYPES.get(error.code, "Backend" if server_side else "Validation")


def render_error(error: ServiceError) -> Response:
    """Render an error in the format of TEI."""
    document = {"error": error.detail, "error_type": error_type(error)}
    return Response(json_bytes(document), status(error), headers(error), media_type="application/json")


# === Router ===

_ERROR: dict[str, Any] = {
    "description": "Error with its reason",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/TeiError"}}},
}


def _described(wire: type[BaseModel], *, queues: bool) -> dict[str, Any]:
    """Return the OpenAPI description of a route with a body of type `wire`; `queues` adds status 429."""
    schema = {"$ref": f"#/components/schemas/{wire.__name__}"}
    return {
        "responses": dict.fromkeys((400, 401, 413, 422, *([429] if queues else []), 500, 503, 504), _ERROR),
        "openapi_extra": {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}},
    }


def _info(engine: Engine, max_sequences: int) -> dict[str, Any]:
    loaded = engine.require_ready() if engine.loaded is None else engine.loaded
    preset = loaded.preset
    return {
        "model_id": preset.name,
        "model_sha": loaded.digest or None,
        "model_dtype": engine.options.dtype,
        "served_model_name": preset.name,
        "model_type": {"embedding": {"pooling": engine.options.pooling or preset.pooling}},
        "max_concurrent_requests": None,  # the queue limit counts tokens, not requests
        "max_input_length": preset.architecture.max_sequence_length,
        "max_batch_tokens": loaded.test.row_lengths[-1],
        "max_batch_requests": None,
        "max_client_batch_size": max_sequences,
        "auto_truncate": False,
        "tokenization_workers": None,  # the worker threads are shared
        "version": __version__,
        "sha": None,
        "docker_label": None,
    }


def protocol(engine: Engine, max_sequences: int) -> Protocol:
    """Return the protocol of Text Embeddings Inference.

    Args:
        engine: Engine that encodes.
        max_sequences: Maximum number of sequences per request.
    """
    routes = APIRouter(route_class=DirectRoute, tags=["tei"])

    async def embed(request: Request) -> Response:
        """Embed inputs; each result equals that of the input alone. `/` is an alias of `/embed`."""
        loaded = engine.require_ready()
        body = await request.body()
        call = await engine.run_sized(len(body), parse_embed, body, max_sequences)
        check_dimensions(call.dimensions, loaded.preset)
        sequences = await _sequences(engine, loaded, call)
        embeddings, request.state.timings = await engine.embed(
            sequences, request.state.time_left(), normalize=call.normalize, dimensions=call.dimensions
        )
        return await respond(engine, _render(embeddings), embeddings.size, "application/json")

    async def embed_all(request: Request) -> Response:
        """Return one vector per token of each input, including special tokens."""
        loaded = engine.require_ready()
        call = await engine.run_in_worker(parse_embed_all, await request.body(), max_sequences)
        sequences = await _sequences(engine, loaded, call)
        encodings, request.state.timings = await engine.encode(
            sequences, request.state.time_left(), frozenset(("sequence_output",))
        )
        values = sum(encoding.sequence_output.size for encoding in encodings)
        pieces = _render(encoding.sequence_output for encoding in encodings)
        return await respond(engine, pieces, values, "application/json")

    async def tokenize(request: Request) -> Response:
        """Return the tokens of each text with their offsets."""
        loaded = engine.require_ready()
        body = await request.body()
        max_tokens = engine.options.max_queue_tokens
        content = await engine.run_in_worker(_tokenize, body, loaded, max_sequences, max_tokens)
        return Response(content, media_type="application/json")

    async def decode(request: Request) -> Response:
        """Return the texts of token ids."""
        loaded = engine.require_ready()
        body = await request.body()
        content = await engine.run_in_worker(_decode, body, loaded, max_sequences)
        return Response(content, media_type="application/json")

    async def info() -> Response:
        """Describe the served model; fields that do not apply are null."""
        return Response(json_bytes(_info(engine, max_sequences)), media_type="application/json")

    for path, endpoint, summary, wire, answer in (
        ("/embed", embed, "Embed texts or token ids", TeiEmbedRequest, list[list[float]]),
        ("/", embed, "Alias of /embed", TeiEmbedRequest, list[list[float]]),
        ("/embed_all", embed_all, "Return token embeddings", TeiEmbedAllRequest, list[list[list[float]]]),
        ("/tokenize", tokenize, "Tokenize texts", TeiTokenizeRequest, list[list[TeiToken]]),
        ("/decode", decode, "Detokenize token ids", TeiDecodeRequest, list[str]),
    ):
        described = _described(wire, queues=issubclass(wire, TeiEmbedAllRequest))
        routes.add_api_route(path, endpoint, methods=["POST"], summary=summary, response_model=answer, **described)
    routes.add_api_route(
        "/info",
        info,
        methods=["GET"],
        summary="Describe the server",
        response_model=TeiInfo,
        responses=dict.fromkeys((400, 401, 413, 500, 503, 504), _ERROR),
    )
    return Protocol(
        routes=routes,
        prefixes=("/", "/embed", "/embed_all", "/tokenize", "/decode", "/info"),
        render_error=render_error,
        wire_types=(TeiEmbedRequest, TeiEmbedAllRequest, TeiTokenizeRequest, TeiDecodeRequest, TeiError),
    )

"""Text Embeddings Inference's REST: `POST /embed`, `/` and `/embed_all`, `/tokenize`, `/decode` and `GET /info`.

Source: huggingface/text-embeddings-inference, `router/src/http` and `core/src/tokenization.rs`, whose names and shapes
these are. Statuses are those of `service.web.statuses`, and what TEI would ignore is refused by name.
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

from model.encoder import Tokens
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

# === Wire types, whose names share one description with those of other protocols ===


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
PromptName = Annotated[str | None, Field(description="Presets have no prompts: anything but null is refused.")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    prompt_name: PromptName = None


class TeiEmbedAllRequest(_Request):
    """Inputs to embed token by token."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": "a text"}, {"inputs": ["one", [4, 25, 5]]}]})

    inputs: Inputs = Field(
        description="A text or a list of token ids, or a list of such. Ids are taken as they are. All other fields may "
        "also stand in an object `parameters`, as some clients send them."
    )
    truncate: Flag | None = Field(None, description="Cut what is too long; else, and by default, refuse it.")
    truncation_direction: Literal["Left", "left", "Right", "right"] = Field(
        "right", description="Where what is too long is cut; special tokens of texts are kept."
    )


class TeiEmbedRequest(TeiEmbedAllRequest):
    """Inputs to embed."""

    normalize: Flag = Field(True, description="Give embeddings a Euclidean length of 1.")
    dimensions: Annotated[int, Field(strict=True, ge=1)] | None = Field(
        None, description="Leading components to keep, where the preset was trained for it; all by default."
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="This protocol answers with numbers: base64 is refused."
    )


class TeiTokenizeRequest(_Request):
    """Texts to tokenise."""

    inputs: TextInputs = Field(description="A text or a list of texts.")
    add_special_tokens: Flag = Field(True, description="Put `[CLS]` before and `[SEP]` behind each text.")


class TeiDecodeRequest(BaseModel):
    """Token ids to turn into texts."""

    model_config = ConfigDict(extra="forbid")

    ids: Ids = Field(description="A list of token ids, or a list of such.")
    skip_special_tokens: Flag = Field(True, description="Leave special tokens out; else they stand as their names.")


class TeiToken(BaseModel):
    """A token, and where it is in its text, counted in Unicode code points; null for special tokens."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class TeiEmbeddingModel(BaseModel):
    """How a text's embedding is made."""

    pooling: str = Field(description="`mean`, or `pooled`: a trained dense layer over the first token.")


class TeiModelType(BaseModel):
    """What the model is for."""

    embedding: TeiEmbeddingModel


class TeiInfo(BaseModel):
    """What is served; null where there is no such limit."""

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
    """A list holds nothing, for which TEI has a word of its own."""


class _TokenizerError(InvalidInputError):
    """There is no tokenizer for a text, for which TEI has a word of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedCall:
    """A request that makes sense by itself.

    Attributes:
        inputs: One text or list of ids a sequence.
        single: Whether the input was a bare text or a bare list of ids.
        truncate: Whether what is too long is cut.
        left: Whether it loses its beginning then.
        normalize: Whether embeddings get a Euclidean length of 1.
        dimensions: Leading components to keep, where not all.
    """

    inputs: list[str | list[int]]
    single: bool
    truncate: bool
    left: bool
    normalize: bool = False
    dimensions: int | None = None

    def locate(self, index: int) -> tuple[str | int, ...]:
        """Name an input as the client wrote it."""
        return ("inputs",) if self.single else ("inputs", index)


def parse_embed_all(body: bytes, max_sequences: int) -> EmbedCall:
    """Read a request to embed token by token.

    Raises:
        BadRequestError: The body is no JSON.
        InvalidInputError: It is no request of this protocol.
        TooManySequencesError: It holds more than `max_sequences`.
    """
    return _call(_read(body, TeiEmbedAllRequest, "inputs", max_sequences))


def parse_embed(body: bytes, max_sequences: int) -> EmbedCall:
    """Read a request to embed; errors as of `parse_embed_all`."""
    wire = _read(body, TeiEmbedRequest, "inputs", max_sequences)
    if wire.encoding_format == "base64":
        raise field_error(
            "encoding_format",
            "base64 is not supported on this route; omit the field, or use /v1/embeddings or /v1/encode",
        )
    return replace(_call(wire), normalize=wire.normalize, dimensions=wire.dimensions)


def _call(wire: TeiEmbedAllRequest) -> EmbedCall:
    given: Any = wire.inputs
    single = _one_or_batch(given) != "batch"
    return EmbedCall(
        inputs=[given] if single else given,
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
    """Return a body whose fields may stand in an object `parameters`, where some clients put all but the inputs.

    Source: huggingface_hub 0.28 to 0.30, which send that object even when it is empty.
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
    return {name: found for name, found in value.items() if name != "parameters"} | nested


def _tokenizer(loaded: LoadedModel, locate: tuple[str | int, ...]) -> FNetTokenizer:
    if loaded.tokenizer is None:
        message = f"the preset {loaded.preset.name} has no tokenizer; send token ids"
        raise _TokenizerError.of([Problem(locate, message)])
    return loaded.tokenizer


# === Work ===


async def _sequences(engine: Engine, call: EmbedCall) -> list[Tokens]:
    """Make texts and ids into sequences, in the order of the request."""
    loaded = engine.require_ready()
    of_texts = [index for index, each in enumerate(call.inputs) if isinstance(each, str)]
    of_ids = [index for index, each in enumerate(call.inputs) if not isinstance(each, str)]
    made: dict[int, Tokens] = {}
    if of_texts:
        texts = [str(call.inputs[index]) for index in of_texts]
        tokenizer = _tokenizer(loaded, call.locate(of_texts[0]))
        if call.truncate and call.left:
            tokens = await engine.run_in_worker(_cut_left, texts, loaded, tokenizer, lambda n: call.locate(of_texts[n]))
        else:
            tokens = await engine.tokenize(
                [Text(text) for text in texts],
                truncate=call.truncate,
                padding=None,
                locate=lambda n: call.locate(of_texts[n]),
            )
        made.update(zip(of_texts, tokens, strict=True))
    if of_ids:
        made.update(zip(of_ids, await engine.run_in_worker(_from_ids, call, of_ids, loaded), strict=True))
    return [made[index] for index in range(len(call.inputs))]


def _from_ids(call: EmbedCall, indices: Sequence[int], loaded: LoadedModel) -> list[Tokens]:
    max_tokens = loaded.preset.architecture.max_sequence_length
    ids: list[Any] = [call.inputs[index] for index in indices]
    if call.truncate and call.left:
        ids = [each[-max_tokens:] for each in ids]
    return from_ids(ids, None, loaded.preset, truncate=call.truncate, locate=lambda _, n: call.locate(indices[n]))


def _cut_left(
    texts: Sequence[str], loaded: LoadedModel, tokenizer: FNetTokenizer, locate: Callable[[int], tuple[str | int, ...]]
) -> list[Tokens]:
    """Tokenise texts, cut at their beginning; padded as the preset says, like any text."""
    max_tokens, padding = loaded.preset.architecture.max_sequence_length, loaded.preset.padding
    padded = max_tokens if padding == "max_length" else 0 if padding == "none" else padding
    sequences = []
    for index, text in enumerate(texts):
        try:
            cut = tokenizer.pad(tokenizer.encode_truncated(text, None, padded or max_tokens, "left"), padded)
        except ValueError as error:
            raise InvalidInputError.of([Problem(locate(index), str(error))]) from None
        sequences.append(Tokens(np.array(cut.token_ids, np.int32), np.array(cut.segment_ids, np.int32)))
    return sequences


def _render(arrays: Iterable[Array]) -> Iterator[bytes]:
    for index, array in enumerate(arrays):
        yield (b"," if index else b"[") + json_array(array)
    yield b"]"


def _tokenize(body: bytes, loaded: LoadedModel, max_sequences: int, most_tokens: int) -> bytes:
    wire = _read(body, TeiTokenizeRequest, "inputs", max_sequences)
    texts = wire.inputs if isinstance(wire.inputs, list) else [wire.inputs]
    check_count(len(texts), max_sequences, "inputs")
    tokenizer = _tokenizer(loaded, ("inputs",))
    pieces = pieces_of(
        texts, tokenizer, most_tokens, lambda index: ("inputs", index) if isinstance(wire.inputs, list) else ("inputs",)
    )
    answer = []
    for text, found in zip(texts, pieces, strict=True):
        tokens = _simple_tokens(text, found)
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
    """Return TEI's word for an error."""
    if isinstance(error, _EmptyInputError):
        return "Empty"
    if isinstance(error, _TokenizerError):
        return "Tokenizer"
    server_side = STATUSES[error.code] >= STATUSES["internal_error"]
    return _ERROR_TYPES.get(error.code, "Backend" if server_side else "Validation")


def render_error(error: ServiceError) -> Response:
    """Return an error as TEI words it."""
    document = {"error": error.detail, "error_type": error_type(error)}
    return Response(json_bytes(document), status(error), headers(error), media_type="application/json")


# === Router ===

_REFUSAL: dict[str, Any] = {
    "description": "Refused or failed, with the reason",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/TeiError"}}},
}


def _described(wire: type[BaseModel], *, queues: bool) -> dict[str, Any]:
    """Return the description of a route that reads `wire` and may find the queue full."""
    schema = {"$ref": f"#/components/schemas/{wire.__name__}"}
    return {
        "responses": dict.fromkeys((400, 401, 413, 422, *([429] if queues else []), 500, 503, 504), _REFUSAL),
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
        "max_concurrent_requests": None,  # tokens that wait are bounded, not requests
        "max_input_length": preset.architecture.max_sequence_length,
        "max_batch_tokens": loaded.test.row_lengths[-1],
        "max_batch_requests": None,
        "max_client_batch_size": max_sequences,
        "auto_truncate": False,
        "tokenization_workers": None,  # threads have other work as well
        "version": __version__,
        "sha": None,
        "docker_label": None,
    }


def protocol(engine: Engine, max_sequences: int) -> Protocol:
    """Return Text Embeddings Inference's protocol.

    Args:
        engine: What encodes.
        max_sequences: Sequences that one request may hold.
    """
    routes = APIRouter(route_class=DirectRoute, tags=["tei"])

    async def embed(request: Request) -> Response:
        """Embed each input, exactly as if it were alone; `/` is the same as `/embed`."""
        engine.require_ready()
        body = await request.body()
        call = await engine.run_sized(len(body), parse_embed, body, max_sequences)
        check_dimensions(call.dimensions, engine.require_ready().preset)
        sequences = await _sequences(engine, call)
        embeddings, request.state.timings = await engine.embed(
            sequences, request.state.time_left(), normalize=call.normalize, dimensions=call.dimensions
        )
        return await respond(engine, _render(embeddings), embeddings.size, "application/json")

    async def embed_all(request: Request) -> Response:
        """Give the vector of each token of each input, special tokens included."""
        engine.require_ready()
        call = await engine.run_in_worker(parse_embed_all, await request.body(), max_sequences)
        sequences = await _sequences(engine, call)
        encodings, request.state.timings = await engine.encode(
            sequences, request.state.time_left(), frozenset(("sequence_output",))
        )
        values = sum(encoding.sequence_output.size for encoding in encodings)
        pieces = _render(encoding.sequence_output for encoding in encodings)
        return await respond(engine, pieces, values, "application/json")

    async def tokenize(request: Request) -> Response:
        """Give the tokens of each text, and where in it they are."""
        engine.require_ready()
        body = await request.body()
        max_tokens = engine.options.max_queue_tokens
        content = await engine.run_in_worker(_tokenize, body, engine.require_ready(), max_sequences, max_tokens)
        return Response(content, media_type="application/json")

    async def decode(request: Request) -> Response:
        """Give the texts that ids stand for."""
        engine.require_ready()
        body = await request.body()
        content = await engine.run_in_worker(_decode, body, engine.require_ready(), max_sequences)
        return Response(content, media_type="application/json")

    async def info() -> Response:
        """Tell what is served. Fields that mean nothing here are null."""
        return Response(json_bytes(_info(engine, max_sequences)), media_type="application/json")

    for path, endpoint, summary, wire, answer in (
        ("/embed", embed, "Embed texts or token ids", TeiEmbedRequest, list[list[float]]),
        ("/", embed, "The same as /embed", TeiEmbedRequest, list[list[float]]),
        ("/embed_all", embed_all, "Embed each token", TeiEmbedAllRequest, list[list[list[float]]]),
        ("/tokenize", tokenize, "Tokenise texts", TeiTokenizeRequest, list[list[TeiToken]]),
        ("/decode", decode, "Turn token ids into texts", TeiDecodeRequest, list[str]),
    ):
        described = _described(wire, queues=issubclass(wire, TeiEmbedAllRequest))
        routes.add_api_route(path, endpoint, methods=["POST"], summary=summary, response_model=answer, **described)
    routes.add_api_route(
        "/info",
        info,
        methods=["GET"],
        summary="What is served",
        response_model=TeiInfo,
        responses=dict.fromkeys((400, 401, 413, 500, 503, 504), _REFUSAL),
    )
    return Protocol(
        routes=routes,
        prefixes=("/", "/embed", "/embed_all", "/tokenize", "/decode", "/info"),
        render_error=render_error,
        wire_types=(TeiEmbedRequest, TeiEmbedAllRequest, TeiTokenizeRequest, TeiDecodeRequest, TeiError),
    )

"""Native routes that tokenize and detokenize; their requests do not enter the queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from model.presets.preset import Padding, Preset
from model.tokenizer import Piece, TokenizedText
from service.core.engine import Engine
from service.core.errors import InvalidInputError, Problem
from service.core.inputs import check_count
from service.core.loader import LoadedModel
from service.core.tokenization import pieces_of, texts_of, tokenizer_of
from service.protocols.base import Protocol
from service.protocols.types import Ids, PaddingField, Texts, Usage
from service.web.bodies import Flag, check_sequence_counts, exclusive_if_large, field_error, read_json, validated
from service.web.encoding import json_bytes
from service.web.problem import ProblemDocument, error_responses, render_error
from service.web.route import DirectRoute

# === Wire types ===


class TokenizeRequest(BaseModel):
    """Texts to tokenize in the same way as `/v1/encode`."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"texts": "a sentence"}, {"texts": ["one text", ["a question", "its answer"]]}]
        },
    )

    texts: Texts = Field(description="A text, or texts and pairs of texts.")
    truncate: Flag = Field(False, description="Truncate texts to the model's maximum; otherwise return all tokens.")
    padding: PaddingField | None = Field(
        None, description="Pad with `<pad>` to this length; by default, the padding of the preset."
    )


class TokenizeResponse(BaseModel):
    """One list per text: token ids and segment ids as accepted by `/v1/encode`, pieces, and offsets."""

    model: str
    token_ids: list[list[int]]
    segment_ids: list[list[int]]
    pieces: list[list[str]] = Field(description="Pieces of the vocabulary; `▁` represents a space.")
    offsets: list[list[tuple[int, int] | None]] = Field(
        description="Start and end of each piece in its text, in Unicode code points; null for special tokens."
    )
    usage: Usage


class DetokenizeRequest(BaseModel):
    """Token ids to detokenize."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"token_ids": [[4, 25, 127, 5]]}]})

    token_ids: Ids = Field(description="One list of token ids per text, or a single list.")
    skip_special_tokens: Flag = Field(True, description="Omit special tokens; otherwise return their names.")


class DetokenizeResponse(BaseModel):
    """One text per list of token ids."""

    model: str
    texts: list[str]


# === Work, off the event loop ===


def _tokenize(body: bytes, loaded: LoadedModel, max_sequences: int, max_tokens: int) -> bytes:
    with exclusive_if_large(body):
        value = read_json(body)
        check_sequence_counts(value, TokenizeRequest, ("texts",), max_sequences)
        wire = validated(TokenizeRequest, value)
    texts = wire.texts if isinstance(wire.texts, list) else [wire.texts]
    check_count(len(texts), max_sequences, "texts")
    pairs = [[item] if isinstance(item, str) else item for item in texts]
    tokenizer = tokenizer_of(loaded, "texts")
    padded = _padded(wire.padding, loaded.preset)
    limit = padded or loaded.preset.architecture.max_sequence_length

    def locate(index: int) -> tuple[str | int, ...]:
        return ("texts", index) if isinstance(wire.texts, list) else ("texts",)

    text_indices = [index for index, pair in enumerate(pairs) for _ in pair]
    pieces = pieces_of(
        [text for pair in pairs for text in pair], tokenizer, max_tokens, lambda n: locate(text_indices[n])
    )
    if padded * len(pairs) > max_tokens:
        raise field_error("padding", f"{padded * len(pairs)} tokens with padding exceed the maximum of {max_tokens}")
    answer: dict[str, list[Any]] = {"token_ids": [], "segment_ids": [], "pieces": [], "offsets": []}
    rest = iter(pieces)
    for index, (text, second) in enumerate((pair[0], pair[1] if len(pair) > 1 else None) for pair in pairs):
        if second is not None and loaded.preset.architecture.num_segments < 2:  # noqa: PLR2004 - a pair has two
            message = f"is a pair, but the preset {loaded.preset.name} supports one segment only; send single texts"
            raise InvalidInputError.of([Problem(locate(index), message)])
        try:
            tokens = (
                tokenizer.encode_truncated(text, second, limit) if wire.truncate else tokenizer.encode(text, second)
            )
        except ValueError as error:
            raise InvalidInputError.of([Problem(locate(index), str(error))]) from None
        offsets = _offsets(tokens, next(rest), None if second is None else next(rest))
        tokens = tokenizer.pad(tokens, padded)
        answer["token_ids"].append(tokens.token_ids)
        answer["segment_ids"].append(tokens.segment_ids)
        answer["pieces"].append([tokenizer.id_to_token(token_id) for token_id in tokens.token_ids])
        answer["offsets"].append(offsets + [None] * (len(tokens.token_ids) - len(offsets)))
    usage = {"sequences": len(pairs), "tokens": sum(map(len, answer["token_ids"]))}
    return json_bytes({"model": loaded.preset.name, **answer, "usage": usage})


def _padded(padding: Padding | None, preset: Preset) -> int:
    """Return the padded length in tokens, 0 for none, as in `service.core.inputs.from_texts`."""
    max_tokens = preset.architecture.max_sequence_length
    chosen = preset.padding if padding is None else padding
    length = max_tokens if chosen == "max_length" else 0 if chosen == "none" else chosen
    if length > max_tokens:
        raise field_error("padding", f"{length} exceeds the maximum of {max_tokens} tokens")
    return length


def _offsets(
    tokens: TokenizedText, first: Sequence[Piece], second: Sequence[Piece] | None
) -> list[tuple[int, int] | None]:
    """Return the offsets of each token before padding; a truncated text keeps its first pieces."""
    of_second = sum(tokens.segment_ids) - 1 if second is not None else 0
    of_first = len(tokens.token_ids) - of_second - (2 if second is None else 3)
    offsets: list[tuple[int, int] | None] = [None, *((piece.start, piece.stop) for piece in first[:of_first]), None]
    if second is not None:
        offsets += [*((piece.start, piece.stop) for piece in second[:of_second]), None]
    return offsets


def _detokenize(body: bytes, loaded: LoadedModel, max_sequences: int) -> bytes:
    with exclusive_if_large(body):
        value = read_json(body)
        check_sequence_counts(value, DetokenizeRequest, ("token_ids",), max_sequences)
        wire = validated(DetokenizeRequest, value)
    single = bool(wire.token_ids) and not isinstance(wire.token_ids[0], list)
    ids: Any = [wire.token_ids] if single else wire.token_ids
    check_count(len(ids), max_sequences, "token_ids")
    texts = texts_of(
        ids,
        tokenizer_of(loaded, "token_ids"),
        lambda index: ("token_ids",) if single else ("token_ids", index),
        skip_special_tokens=wire.skip_special_tokens,
    )
    return json_bytes({"model": loaded.preset.name, "texts": texts})


# === Router ===


def protocol(engine: Engine, max_sequences: int) -> Protocol:
    """Return the tokenization routes.

    Args:
        engine: Engine whose tokenizer is used.
        max_sequences: Maximum number of texts or lists of ids per request.
    """
    routes = APIRouter(route_class=DirectRoute, tags=["native"])
    responses = error_responses(400, 401, 413, 422, 500, 503, 504)

    def request_body(wire: type[BaseModel]) -> dict[str, Any]:
        schema = {"$ref": f"#/components/schemas/{wire.__name__}"}
        return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}

    @routes.post(
        "/v1/tokenize",
        summary="Tokenize texts",
        response_model=TokenizeResponse,
        responses=responses,
        openapi_extra=request_body(TokenizeRequest),
    )
    async def tokenize(request: Request) -> Response:
        """Return the tokens that `/v1/encode` would encode, with their offsets."""
        loaded = engine.require_ready()
        body = await request.body()
        max_tokens = engine.options.max_queue_tokens
        content = await engine.run_in_worker(_tokenize, body, loaded, max_sequences, max_tokens)
        return Response(content, media_type="application/json")

    @routes.post(
        "/v1/detokenize",
        summary="Detokenize token ids",
        response_model=DetokenizeResponse,
        responses=responses,
        openapi_extra=request_body(DetokenizeRequest),
    )
    async def detokenize(request: Request) -> Response:
        """Return the texts of token ids."""
        loaded = engine.require_ready()
        body = await request.body()
        content = await engine.run_in_worker(_detokenize, body, loaded, max_sequences)
        return Response(content, media_type="application/json")

    return Protocol(
        routes=routes,
        prefixes=("/v1/tokenize", "/v1/detokenize"),
        render_error=render_error,
        wire_types=(TokenizeRequest, DetokenizeRequest, ProblemDocument),
    )

"""Texts to token ids and back by themselves, in the native protocol's words: nothing here enters the queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from model.presets.preset import Padding, Preset
from model.tokenizer import Piece, Tokens
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
    """Texts to tokenise as `/v1/encode` would."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"texts": "a sentence"}, {"texts": ["one text", ["a question", "its answer"]]}]
        },
    )

    texts: Texts = Field(description="A text, or texts and pairs of texts.")
    truncate: Flag = Field(False, description="Cut what is too long for the model; else it is given whole.")
    padding: PaddingField | None = Field(
        None, description="Pad with `<pad>` to this length. By default as the preset was trained."
    )


class TokenizeResponse(BaseModel):
    """One list a text: ids and segment ids as `/v1/encode` takes them, pieces, and where each is in its text."""

    model: str
    token_ids: list[list[int]]
    segment_ids: list[list[int]]
    pieces: list[list[str]] = Field(description="The vocabulary's pieces; `▁` stands for a space.")
    offsets: list[list[tuple[int, int] | None]] = Field(
        description="Begin and end of each piece in its text, of a pair in the text that it is from, counted in "
        "Unicode code points; null for special tokens."
    )
    usage: Usage


class DetokenizeRequest(BaseModel):
    """Token ids to turn into texts."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"token_ids": [[4, 25, 127, 5]]}]})

    token_ids: Ids = Field(description="One list of token ids a text, or a single list.")
    skip_special_tokens: Flag = Field(True, description="Leave special tokens out; else they stand as their names.")


class DetokenizeResponse(BaseModel):
    """One text a list."""

    model: str
    texts: list[str]


# === Work, off the event loop ===


def _tokenize(body: bytes, loaded: LoadedModel, max_sequences: int, most_tokens: int) -> bytes:
    with exclusive_if_large(body):
        value = read_json(body)
        check_sequence_counts(value, TokenizeRequest, ("texts",), max_sequences)
        wire = validated(TokenizeRequest, value)
    given = wire.texts if isinstance(wire.texts, list) else [wire.texts]
    check_count(len(given), max_sequences, "texts")
    sides = [[each] if isinstance(each, str) else each for each in given]
    tokenizer = tokenizer_of(loaded, "texts")
    padded = _padded(wire.padding, loaded.preset)
    limit = padded or loaded.preset.architecture.max_sequence_length

    def locate(index: int) -> tuple[str | int, ...]:
        return ("texts", index) if isinstance(wire.texts, list) else ("texts",)

    owners = [index for index, side in enumerate(sides) for _ in side]
    pieces = pieces_of([text for side in sides for text in side], tokenizer, most_tokens, lambda n: locate(owners[n]))
    if padded * len(sides) > most_tokens:
        raise field_error("padding", f"{padded * len(sides)} tokens with padding exceed the maximum of {most_tokens}")
    answer: dict[str, list[Any]] = {"token_ids": [], "segment_ids": [], "pieces": [], "offsets": []}
    rest = iter(pieces)
    for index, (text, pair) in enumerate((side[0], side[1] if len(side) > 1 else None) for side in sides):
        if pair is not None and loaded.preset.architecture.num_segments < 2:  # noqa: PLR2004 - a pair has two
            message = f"is a pair, but the preset {loaded.preset.name} supports one segment only; send single texts"
            raise InvalidInputError.of([Problem(locate(index), message)])
        try:
            tokens = tokenizer.encode_truncated(text, pair, limit) if wire.truncate else tokenizer.encode(text, pair)
        except ValueError as error:
            raise InvalidInputError.of([Problem(locate(index), str(error))]) from None
        offsets = _offsets(tokens, next(rest), None if pair is None else next(rest))
        tokens = tokenizer.pad(tokens, padded)
        answer["token_ids"].append(tokens.token_ids)
        answer["segment_ids"].append(tokens.segment_ids)
        answer["pieces"].append([tokenizer.id_to_token(token_id) for token_id in tokens.token_ids])
        answer["offsets"].append(offsets + [None] * (len(tokens.token_ids) - len(offsets)))
    usage = {"sequences": len(sides), "tokens": sum(map(len, answer["token_ids"]))}
    return json_bytes({"model": loaded.preset.name, **answer, "usage": usage})


def _padded(padding: Padding | None, preset: Preset) -> int:
    """Return the length to pad to, 0 for none, as `service.core.inputs.from_texts` has it."""
    max_tokens = preset.architecture.max_sequence_length
    chosen = preset.padding if padding is None else padding
    length = max_tokens if chosen == "max_length" else 0 if chosen == "none" else chosen
    if length > max_tokens:
        raise field_error("padding", f"{length} exceeds the maximum of {max_tokens} tokens")
    return length


def _offsets(tokens: Tokens, first: Sequence[Piece], second: Sequence[Piece] | None) -> list[tuple[int, int] | None]:
    """Return the place of each token before padding: a text's are its first pieces, as many as were not cut."""
    of_second = sum(tokens.segment_ids) - 1 if second is not None else 0
    of_first = len(tokens.token_ids) - of_second - (2 if second is None else 3)
    places: list[tuple[int, int] | None] = [None, *((piece.start, piece.stop) for piece in first[:of_first]), None]
    if second is not None:
        places += [*((piece.start, piece.stop) for piece in second[:of_second]), None]
    return places


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
    """Return the routes for tokens alone.

    Args:
        engine: Whose tokenizer it is.
        max_sequences: Texts or lists of ids that one request may hold.
    """
    routes = APIRouter(route_class=DirectRoute, tags=["native"])
    described = error_responses(400, 401, 413, 422, 500, 503, 504)

    def takes(wire: type[BaseModel]) -> dict[str, Any]:
        schema = {"$ref": f"#/components/schemas/{wire.__name__}"}
        return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}

    @routes.post(
        "/v1/tokenize",
        summary="Tokenise texts",
        response_model=TokenizeResponse,
        responses=described,
        openapi_extra=takes(TokenizeRequest),
    )
    async def tokenize(request: Request) -> Response:
        """Give the tokens that `/v1/encode` would encode, and where in its text each is."""
        engine.require_ready()
        body = await request.body()
        content = await engine.run_in_worker(
            _tokenize, body, engine.require_ready(), max_sequences, engine.options.max_queue_tokens
        )
        return Response(content, media_type="application/json")

    @routes.post(
        "/v1/detokenize",
        summary="Turn token ids into texts",
        response_model=DetokenizeResponse,
        responses=described,
        openapi_extra=takes(DetokenizeRequest),
    )
    async def detokenize(request: Request) -> Response:
        """Give the texts that ids stand for."""
        engine.require_ready()
        body = await request.body()
        content = await engine.run_in_worker(_detokenize, body, engine.require_ready(), max_sequences)
        return Response(content, media_type="application/json")

    return Protocol(
        routes=routes,
        prefixes=("/v1/tokenize", "/v1/detokenize"),
        render_error=render_error,
        wire_types=(TokenizeRequest, DetokenizeRequest, ProblemDocument),
    )

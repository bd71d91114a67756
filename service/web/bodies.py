"""Parsing of JSON bodies into validated wire types, shared by all JSON protocols."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails

from service.core.errors import MAX_PROBLEMS, BadRequestError, InvalidInputError, Problem
from service.core.inputs import check_count

Wire = TypeVar("Wire", bound=BaseModel)

_LARGE_BYTES = 1 << 16
_LARGE_BODY_LOCK = threading.Lock()

# Lists are validated up to the first error, because a million errors take seconds.
Id = Annotated[int, Field(strict=True)]
IdList = Annotated[list[Id], Field(fail_fast=True)]
OneText = Annotated[str, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]

# pydantic's messages contain class names or are less specific.
_MESSAGES = {"extra_forbidden": "unknown field", "model_type": "expected a JSON object"}
_EXCEEDS_64_BITS = "does not fit 64 bits, which is outside of every allowed range"


@contextmanager
def exclusive_if_large(body: bytes) -> Iterator[None]:
    """Serialize the parsing of large bodies; call it off the event loop unless the body is small.

    Parsing holds the interpreter lock; two large bodies in alternation would block all other threads.
    """
    if len(body) <= _LARGE_BYTES:
        yield
        return
    with _LARGE_BODY_LOCK:
        # Parsing creates millions of objects, which the garbage collector would scan repeatedly.
        gc.disable()
        try:
            yield
        finally:
            gc.enable()


def read_json(body: bytes) -> Any:
    """Return the JSON value of a body.

    Raises:
        BadRequestError: The body is not JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"the body is not valid JSON: {error}") from None


def check_sequence_counts(value: Any, wire: type[BaseModel], lists: Iterable[str], max_sequences: int) -> None:
    """Check counts before validation, because validating a million entries takes seconds.

    Args:
        value: JSON value of the body.
        wire: Wire type of the request.
        lists: Fields with one entry per sequence; a list that starts with a number is one sequence.
        max_sequences: Maximum number of sequences per request.

    Raises:
        InvalidInputError: The body has many unknown fields, or a list is empty.
        TooManySequencesError: A list has more than `max_sequences` entries.
    """
    if not isinstance(value, dict):
        return
    unknown = (name for name in value if name not in wire.model_fields)
    problems = [Problem((name,), "unknown field") for name in islice(unknown, MAX_PROBLEMS)]
    if len(problems) == MAX_PROBLEMS:
        raise InvalidInputError.of(problems)
    for field in lists:
        entries = value.get(field)
        if not isinstance(entries, list) or len(entries) <= max_sequences:
            continue
        if not (isinstance(entries[0], int) or exceeds_64_bits(entries[0])):
            check_count(len(entries), max_sequences, field)


def exceeds_64_bits(value: Any) -> bool:
    """Return whether a JSON value is an integer that exceeds 64 bits, which the JSON parser returns as a float.

    A float of that size is indistinguishable.
    """
    return isinstance(value, float) and abs(value) >= 1 << 63


def message_of(item: ErrorDetails) -> str:
    """Return the message of a validation error, without internal names."""
    if item["type"] == "int_type" and exceeds_64_bits(item["input"]):
        return _EXCEEDS_64_BITS
    return _MESSAGES.get(item["type"], item["msg"])


def validated(wire: type[Wire], value: Any) -> Wire:
    """Return the value as a wire type without nested objects.

    Raises:
        InvalidInputError: The value does not match the type; the error lists all locations.
    """
    try:
        return wire.model_validate(value)
    except ValidationError as error:
        messages: dict[tuple[str | int, ...], list[str]] = {}
        for item in error.errors(include_url=False, include_context=False):
            # A string after the field name is a union tag and not part of the location.
            loc = tuple(part for depth, part in enumerate(item["loc"]) if depth == 0 or isinstance(part, int))
            messages.setdefault(loc, []).append(message_of(item))
        problems = [Problem(loc, "; or ".join(texts)) for loc, texts in messages.items()]
        raise InvalidInputError.of(problems) from None


def field_error(field: str, message: str) -> InvalidInputError:
    """Return the error for one invalid field."""
    return InvalidInputError.of([Problem((field,), message)])

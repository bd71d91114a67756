"""Bodies: bytes become a checked wire type, or an error that names the place. The same for every JSON protocol."""

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

# The first wrong entry of a list is told, and the rest not looked at: a million of them would take seconds.
Id = Annotated[int, Field(strict=True)]
IdList = Annotated[list[Id], Field(fail_fast=True)]
OneText = Annotated[str, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]

# pydantic's own would name our classes, or say less.
_OWN_WORDS = {"extra_forbidden": "unknown field", "model_type": "expected a JSON object"}
_HUGE = "does not fit 64 bits, and so is outside of every range"


@contextmanager
def exclusive_if_large(body: bytes) -> Iterator[None]:
    """Let one large body be read and checked at a time; to be called off the event loop, unless the body is small.

    Either holds the interpreter from its begin to its end: two threads that took turns would let nobody between them.
    """
    if len(body) <= _LARGE_BYTES:
        yield
        return
    with _LARGE_BODY_LOCK:
        # A body of millions of lists makes as many objects, and the collector would look through all again and again.
        gc.disable()
        try:
            yield
        finally:
            gc.enable()


def read_json(body: bytes) -> Any:
    """Return the value that a body holds.

    Raises:
        BadRequestError: The body is no JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"the body is not valid JSON: {error}") from None


def check_sequence_counts(value: Any, wire: type[BaseModel], lists: Iterable[str], max_sequences: int) -> None:
    """Count before anything else is looked at: to check a million entries takes seconds.

    Args:
        value: The body's value.
        wire: What it is to become.
        lists: Fields that may hold one entry a sequence; a list that begins with a number is one sequence.
        max_sequences: Sequences that a request may hold.

    Raises:
        InvalidInputError: There are many unknown fields, or a list is empty.
        TooManySequencesError: A list is too long.
    """
    if not isinstance(value, dict):
        return
    unknown = (name for name in value if name not in wire.model_fields)
    problems = [Problem((name,), "unknown field") for name in islice(unknown, MAX_PROBLEMS)]
    if len(problems) == MAX_PROBLEMS:
        raise InvalidInputError.of(problems)
    for field in lists:
        found = value.get(field)
        if not isinstance(found, list) or len(found) <= max_sequences:
            continue
        if not (isinstance(found[0], int) or is_huge(found[0])):
            check_count(len(found), max_sequences, field)


def is_huge(value: Any) -> bool:
    """Whether a value of the body is an integer that does not fit 64 bits, which JSON's reader makes a float of.

    A float as large looks the same.
    """
    return isinstance(value, float) and abs(value) >= 1 << 63


def message_of(item: ErrorDetails) -> str:
    """Return what is wrong, in words that say nothing of this program."""
    if item["type"] == "int_type" and is_huge(item["input"]):
        return _HUGE
    return _OWN_WORDS.get(item["type"], item["msg"])


def validated(wire: type[Wire], value: Any) -> Wire:
    """Return the value as a wire type whose fields nest no objects.

    Raises:
        InvalidInputError: It is none; every place is named.
    """
    try:
        return wire.model_validate(value)
    except ValidationError as error:
        messages: dict[tuple[str | int, ...], list[str]] = {}
        for item in error.errors(include_url=False, include_context=False):
            # A word behind the field's name is the tag of a union, and no part of the place.
            loc = tuple(part for depth, part in enumerate(item["loc"]) if depth == 0 or isinstance(part, int))
            messages.setdefault(loc, []).append(message_of(item))
        problems = [Problem(loc, "; or ".join(found)) for loc, found in messages.items()]
        raise InvalidInputError.of(problems) from None


def field_error(field: str, message: str) -> InvalidInputError:
    """Return the error that refuses one field."""
    return InvalidInputError.of([Problem((field,), message)])

"""Tensors of the Open Inference Protocol: JSON lists or little-endian bytes to arrays and texts, and back.

A tensor is told in errors by its place and name, `inputs[0] token_ids`, and an entry by its row and column behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from service.core.errors import BadRequestError, InvalidInputError, Problem
from service.web.bodies import exceeds_64_bits
from service.web.encoding import Array, json_array

HEADER_LENGTH = "Inference-Header-Content-Length"
FLOAT = "FP32"
TEXT = "BYTES"
INTEGERS: dict[str, np.dtype[Any]] = {"INT32": np.dtype("<i4"), "INT64": np.dtype("<i8")}

Integers = npt.NDArray[np.int64]

# Bytes that tell the length of each text.
_LENGTH = 4
# More digits tell the length of no body.
_MOST_DIGITS = 18


class Binary:
    """The bytes behind a request's JSON, handed out tensor by tensor.

    Args:
        data: The bytes.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._taken = data, 0

    def take(self, size: int, loc: str) -> bytes:
        """Return the next tensor's bytes.

        Raises:
            InvalidInputError: There are not so many left.
        """
        left = len(self._data) - self._taken
        if size > left:
            raise field_error(loc, f"binary_data_size is {size}, but only {left} bytes remain after the JSON")
        begin = self._taken
        self._taken += size
        return self._data[begin : self._taken]

    def check_end(self) -> None:
        """Refuse bytes that belong to no tensor.

        Raises:
            InvalidInputError: There are some.
        """
        if left := len(self._data) - self._taken:
            raise InvalidInputError.of([Problem((), f"the last {left} bytes belong to no input")])


def split(body: bytes, header: str | None) -> tuple[bytes, Binary]:
    """Return a body's JSON, and the bytes of tensors behind it.

    Args:
        body: The body.
        header: The header that tells the JSON's length; without it, or with 0, the whole body is JSON.

    Raises:
        BadRequestError: The header tells no length, or one beyond the body's.
    """
    text = (header or "0").strip()
    if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS):
        raise BadRequestError(f"header {HEADER_LENGTH}: expected an integer number of bytes")
    length = int(text)
    if length > len(body):
        raise BadRequestError(f"header {HEADER_LENGTH}: {length} exceeds the body size of {len(body)} bytes")
    if not length:
        return body, Binary(b"")
    return body[:length], Binary(body[length:])


def field_error(loc: str, message: str, *indices: int) -> InvalidInputError:
    """Return the error that refuses a tensor, or one of its entries."""
    return InvalidInputError.of([Problem((loc, *indices), message)])


# === Integers ===


def integers(data: list[Any] | bytes, datatype: str, shape: Sequence[int], loc: str) -> Integers:
    """Return a tensor of integers.

    Args:
        data: JSON, flat or nested row by row, or little-endian bytes.
        datatype: A key of `INTEGERS`.
        shape: Rows and columns, at least one of each.
        loc: The tensor's name in errors.

    Raises:
        InvalidInputError: Data and shape disagree, or an entry is no such integer.
    """
    dtype = INTEGERS[datatype]
    if isinstance(data, bytes):
        expected = prod(shape) * dtype.itemsize
        if len(data) != expected:
            message = f"has {len(data)} bytes, expected {expected} for shape {list(shape)} of {datatype}"
            raise field_error(loc, message)
        return np.frombuffer(data, dtype).astype(np.int64, copy=False).reshape(shape)
    values = _flat(data, shape, loc)
    if not set(map(type, values)) <= {int}:
        wrong = next(index for index, value in enumerate(values) if type(value) is not int)
        message = f"does not fit {datatype}" if exceeds_64_bits(values[wrong]) else "is not an integer"
        raise field_error(loc, message, *_row_and_column(wrong, shape))
    bounds = np.iinfo(dtype)
    if min(values) < bounds.min or max(values) > bounds.max:
        wrong = next(index for index, value in enumerate(values) if not bounds.min <= value <= bounds.max)
        raise field_error(loc, f"{values[wrong]} does not fit {datatype}", *_row_and_column(wrong, shape))
    return np.array(values, np.int64).reshape(shape)


# === Texts ===


def texts(data: list[Any] | bytes, shape: Sequence[int], loc: str) -> list[str]:
    """Return a tensor of texts, one after the other.

    Args:
        data: JSON strings, flat or nested, or bytes: each text as UTF-8 behind the number of its bytes.
        shape: How many there are, and perhaps a second dimension of 1.
        loc: The tensor's name in errors.

    Raises:
        InvalidInputError: Data and shape disagree, or an entry is no text.
    """
    if isinstance(data, bytes):
        return _texts_of_bytes(data, shape[0], loc)
    values = _flat(data, shape, loc)
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise field_error(loc, "is not a string", index)
    return values


def _texts_of_bytes(data: bytes, count: int, loc: str) -> list[str]:
    found: list[str] = []
    begin = 0
    for index in range(count):
        end = begin + _LENGTH
        if end > len(data):
            raise field_error(loc, f"contains {index} texts, expected {count} for shape [{count}]")
        size = int.from_bytes(data[begin:end], "little")
        begin, end = end, end + size
        if end > len(data):
            raise field_error(loc, f"has {size} bytes, but only {len(data) - begin} remain", index)
        try:
            found.append(data[begin:end].decode())
        except UnicodeDecodeError:
            raise field_error(loc, "is not UTF-8", index) from None
        begin = end
    if begin != len(data):
        raise field_error(loc, f"has {len(data) - begin} bytes after its {count} texts")
    return found


# === Floats ===


def json_values(array: Array) -> bytes:
    """Return an array's values in a row, as JSON without brackets."""
    return json_array(array.ravel())[1:-1]


def float_bytes(array: Array) -> bytes:
    """Return an array as little-endian float32, row-major."""
    return np.ascontiguousarray(array, "<f4").tobytes()


def float_size(shape: Sequence[int]) -> int:
    """Return how many bytes an array of float32 has."""
    return prod(shape) * 4


# === Shapes ===


def _flat(data: list[Any], shape: Sequence[int], loc: str) -> list[Any]:
    """Return entries in a row that came so, or nested as the shape says."""
    if len(shape) > 1 and data and isinstance(data[0], list):
        rows, columns = shape
        if len(data) != rows:
            raise field_error(loc, f"contains {len(data)} rows, expected {rows} for shape {list(shape)}")
        for index, row in enumerate(data):
            if not isinstance(row, list):
                raise field_error(loc, "is not a list, unlike the rows before it", index)
            if len(row) != columns:
                raise field_error(loc, f"contains {len(row)} values, expected {columns} for shape {list(shape)}", index)
        return list(chain.from_iterable(data))
    if len(data) != prod(shape):
        raise field_error(loc, f"contains {len(data)} values, expected {prod(shape)} for shape {list(shape)}")
    return data


def _row_and_column(index: int, shape: Sequence[int]) -> tuple[int, ...]:
    return divmod(index, shape[1])

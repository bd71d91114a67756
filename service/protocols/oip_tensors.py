"""Tensors of the Open Inference Protocol: conversion between JSON lists or little-endian bytes, and arrays or texts.

Errors locate a tensor by its index and name, such as `inputs[0] token_ids`, followed by the row and column of an entry.
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

# Size of the length prefix of a text.
_LENGTH_BYTES = 4
# No body size has more digits.
_MAX_DIGITS = 18


class Binary:
    """The bytes after the JSON of a request, consumed tensor by tensor.

    Args:
        data: All bytes after the JSON.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._offset = data, 0

    def take(self, size: int, loc: str) -> bytes:
        """Return the next tensor's bytes.

        Raises:
            InvalidInputError: Fewer than `size` bytes remain.
        """
        left = len(self._data) - self._offset
        if size > left:
            raise field_error(loc, f"binary_data_size is {size}, but only {left} bytes remain after the JSON")
        begin = self._offset
        self._offset += size
        return self._data[begin : self._offset]

    def check_end(self) -> None:
        """Check that all bytes are consumed.

        Raises:
            InvalidInputError: Bytes remain that belong to no tensor.
        """
        if left := len(self._data) - self._offset:
            raise InvalidInputError.of([Problem((), f"the last {left} bytes belong to no input")])


def split(body: bytes, header: str | None) -> tuple[bytes, Binary]:
    """Return the JSON of a body, and the bytes of tensors after it.

    Args:
        body: Request body.
        header: Header with the size of the JSON in bytes; if None or 0, the complete body is JSON.

    Raises:
        BadRequestError: The header is not a size, or exceeds the size of the body.
    """
    text = (header or "0").strip()
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS):
        raise BadRequestError(f"header {HEADER_LENGTH}: expected an integer number of bytes")
    length = int(text)
    if length > len(body):
        raise BadRequestError(f"header {HEADER_LENGTH}: {length} exceeds the body size of {len(body)} bytes")
    if not length:
        return body, Binary(b"")
    return body[:length], Binary(body[length:])


def field_error(loc: str, message: str, *indices: int) -> InvalidInputError:
    """Return the error for an invalid tensor or entry."""
    return InvalidInputError.of([Problem((loc, *indices), message)])


# === Integers ===


def integers(data: list[Any] | bytes, datatype: str, shape: Sequence[int], loc: str) -> Integers:
    """Return a tensor of integers.

    Args:
        data: JSON list, flat or nested by row, or little-endian bytes.
        datatype: A key of `INTEGERS`.
        shape: Rows and columns, each at least 1.
        loc: Location of the tensor in errors.

    Raises:
        InvalidInputError: The data does not match the shape, or an entry is not such an integer.
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
    """Return the texts of a tensor, flat.

    Args:
        data: JSON strings, flat or nested, or bytes: each text in UTF-8, prefixed by its size in bytes.
        shape: Number of texts, optionally followed by a dimension of 1.
        loc: Location of the tensor in errors.

    Raises:
        InvalidInputError: The data does not match the shape, or an entry is not a text.
    """
    if isinstance(data, bytes):
        return _texts_of_bytes(data, shape[0], loc)
    values = _flat(data, shape, loc)
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise field_error(loc, "is not a string", index)
    return values


def _texts_of_bytes(data: bytes, count: int, loc: str) -> list[str]:
    decoded: list[str] = []
    begin = 0
    for index in range(count):
        end = begin + _LENGTH_BYTES
        if end > len(data):
            raise field_error(loc, f"contains {index} texts, expected {count} for shape [{count}]")
        size = int.from_bytes(data[begin:end], "little")
        begin, end = end, end + size
        if end > len(data):
            raise field_error(loc, f"has {size} bytes, but only {len(data) - begin} remain", index)
        try:
            decoded.append(data[begin:end].decode())
        except UnicodeDecodeError:
            raise field_error(loc, "is not UTF-8", index) from None
        begin = end
    if begin != len(data):
        raise field_error(loc, f"has {len(data) - begin} bytes after its {count} texts")
    return decoded


# === Floats ===


def json_values(array: Array) -> bytes:
    """Return the flat values of an array as JSON without brackets."""
    return json_array(array.ravel())[1:-1]


def float_bytes(array: Array) -> bytes:
    """Return an array as little-endian float32, row-major."""
    return np.ascontiguousarray(array, "<f4").tobytes()


def float_size(shape: Sequence[int]) -> int:
    """Return the size of a float32 array, in bytes."""
    return prod(shape) * 4


# === Shapes ===


def _flat(data: list[Any], shape: Sequence[int], loc: str) -> list[Any]:
    """Return the flat entries of a list that is flat or nested according to its shape."""
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

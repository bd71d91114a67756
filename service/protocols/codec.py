"""Numbers on the wire: NumPy arrays to JSON, base64 and npz, without a Python list in between."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

Array = npt.NDArray[np.float32]


def json_bytes(value: Any) -> bytes:
    """Return JSON in which NumPy arrays may stand for lists."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def json_array(array: Array) -> bytes:
    """Return an array as nested JSON lists."""
    return json_bytes(np.ascontiguousarray(array))


def base64_array(array: Array) -> bytes:
    """Return an array as a JSON string: base64 of little-endian float32, row-major."""
    return b'"' + base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()) + b'"'


def npz(arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    """Return a NumPy archive."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()

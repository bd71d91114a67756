"""Numbers on the wire: NumPy arrays to JSON, base64 and npz, without a Python list in between."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

Array = npt.NDArray[np.float32]


# === JSON ===


def json_bytes(value: Any) -> bytes:
    """Return JSON in which NumPy arrays may stand for lists."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def json_array(array: Array) -> bytes:
    """Return an array as nested JSON lists."""
    return json_bytes(np.ascontiguousarray(array))


def base64_array(array: Array) -> bytes:
    """Return an array as a JSON string: base64 of little-endian float32, row-major."""
    return b'"' + base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()) + b'"'


# === NumPy archives ===

# Beyond this many bytes a zip file has wider fields.
_MAX_SIZED_BYTES = 2_000_000_000
# Of a zip file: what stands before an array, behind it, and in the list at the end, its name aside; the end itself.
_ENTRY, _END = 30 + 16 + 46, 22


@dataclass(frozen=True, slots=True)
class ArrayParts:
    """An array that is never whole.

    Attributes:
        dtype: Its dtype, little-endian.
        shape: Its shape.
        arrays: Arrays that give it end to end along its first axis; taken once.
    """

    dtype: npt.DTypeLike
    shape: tuple[int, ...]
    arrays: Iterable[npt.NDArray[Any]]

    @property
    def header(self) -> bytes:
        """What a `.npy` file begins with."""
        head = io.BytesIO()
        described = {"descr": np.dtype(self.dtype).str, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(head, described)
        return head.getvalue()

    @property
    def size(self) -> int:
        """Bytes of its `.npy` file."""
        return len(self.header) + prod(self.shape) * np.dtype(self.dtype).itemsize


def npz(arrays: Mapping[str, ArrayParts]) -> Iterator[bytes]:
    """Yield a NumPy archive, a piece for each part; the same numbers give the same bytes."""
    written = _WriteBuffer()
    with zipfile.ZipFile(written, "w") as archive:
        for name, parts in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.file_size = parts.size
            with archive.open(entry, "w") as file:
                file.write(parts.header)
                for array in parts.arrays:
                    file.write(np.ascontiguousarray(array, parts.dtype).tobytes())
                    yield written.take()
    yield written.take()


def npz_size(arrays: Mapping[str, ArrayParts]) -> int | None:
    """Return how many bytes `npz` gives, or nothing where it is too many to tell."""
    size = sum(_ENTRY + 2 * len(f"{name}.npy") + parts.size for name, parts in arrays.items()) + _END
    return size if size <= _MAX_SIZED_BYTES else None


class _WriteBuffer(io.RawIOBase):
    """Keeps what is written until it is taken; has no places to go back to, so sums stand behind what they are of."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken

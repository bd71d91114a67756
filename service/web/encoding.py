"""Serialization of NumPy arrays as JSON, base64 and npz, without intermediate Python lists."""

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
    """Serialize a value as JSON; NumPy arrays become lists."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def json_array(array: Array) -> bytes:
    """Return an array as nested JSON lists."""
    return json_bytes(np.ascontiguousarray(array))


def base64_array(array: Array) -> bytes:
    """Return an array as a JSON string: base64 of little-endian float32, row-major."""
    return b'"' + base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()) + b'"'


# === NumPy archives ===

# A larger zip file uses wider fields (ZIP64).
_MAX_SIZED_BYTES = 2_000_000_000
# Sizes in a zip file: local header, data descriptor and directory entry without the name; end of the directory.
_ENTRY_BYTES, _END_BYTES = 30 + 16 + 46, 22


@dataclass(frozen=True, slots=True)
class ArrayParts:
    """An array in parts, which is never held in memory completely.

    Attributes:
        dtype: Little-endian dtype.
        shape: Shape of the complete array.
        arrays: Parts along the first axis, in order; iterated once.
    """

    dtype: npt.DTypeLike
    shape: tuple[int, ...]
    arrays: Iterable[npt.NDArray[Any]]

    @property
    def header(self) -> bytes:
        """Header of the `.npy` file."""
        head = io.BytesIO()
        described = {"descr": np.dtype(self.dtype).str, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(head, described)
        return head.getvalue()

    @property
    def size(self) -> int:
        """Size of the `.npy` file, in bytes."""
        return len(self.header) + prod(self.shape) * np.dtype(self.dtype).itemsize


def npz(arrays: Mapping[str, ArrayParts]) -> Iterator[bytes]:
    """Yield a NumPy archive, one chunk per part; equal arrays give equal bytes."""
    buffer = _WriteBuffer()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, parts in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.file_size = parts.size
            with archive.open(entry, "w") as file:
                file.write(parts.header)
                for array in parts.arrays:
                    file.write(np.ascontiguousarray(array, parts.dtype).tobytes())
                    yield buffer.take()
    yield buffer.take()


def npz_size(arrays: Mapping[str, ArrayParts]) -> int | None:
    """Return the size of the archive in bytes, or None if it needs ZIP64 fields."""
    size = sum(_ENTRY_BYTES + 2 * len(f"{name}.npy") + parts.size for name, parts in arrays.items()) + _END_BYTES
    return size if size <= _MAX_SIZED_BYTES else None


class _WriteBuffer(io.RawIOBase):
    """Unseekable buffer that holds written bytes until `take`, so that checksums follow the data."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._chunks.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        taken = b"".join(self._chunks)
        self._chunks.clear()
        return taken

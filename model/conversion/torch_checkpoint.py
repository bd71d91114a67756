"""Reading of tensors from `torch.save` files, without torch and without unpickling.

Such a file is a zip archive (torch 1.6 and later): `data.pkl` holds names, types and shapes, and each storage is an
entry of raw bytes. A pickle is a program for a stack machine that may call any function. This module interprets its
instructions as data: it builds strings, numbers and containers, and records imports and calls without executing them.
It rejects instructions that a dictionary of tensors does not need.

Sources: Python's `pickletools`, which documents the instructions; the serialization notes of PyTorch.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import ml_dtypes
import numpy as np
import numpy.typing as npt

from model.errors import PresetError

_MAX_PICKLE_BYTES = 64 << 20
_STORAGES: dict[str, npt.DTypeLike] = {
    "torch FloatStorage": np.float32,
    "torch HalfStorage": np.float16,
    "torch BFloat16Storage": ml_dtypes.bfloat16,
    "torch DoubleStorage": np.float64,
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


@dataclass(frozen=True, slots=True)
class _Name:
    """A recorded import: module and name, separated by a space."""

    text: str


@dataclass(frozen=True, slots=True)
class _Call:
    """A recorded call."""

    function: object
    arguments: object


@dataclass(frozen=True, slots=True)
class _StorageReference:
    """A reference to a storage: a tuple of kind, type, key, device and number of values."""

    fields: Any


class TorchFile:
    """A file of named tensors. Use it as a context manager.

    Args:
        path: The file.

    Raises:
        PresetError: The file is damaged, was written before torch 1.6, or is not a dictionary of tensors.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.name
        try:
            self._archive = zipfile.ZipFile(path)
        except Exception as error:  # zipfile raises many types for damaged files
            problem = "damaged, or written before torch 1.6; save it as safetensors"
            raise PresetError(f"{self._file}: not a zip archive: {problem}") from error
        try:
            names = self._archive.namelist()
            (pickled,) = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
            self._root = pickled.removesuffix("data.pkl")
            # Releases before 2.1 do not state the byte order.
            order = self._entry("byteorder", 16) if f"{self._root}byteorder" in names else b"little"
            tensors = _read_pickle(self._entry("data.pkl", _MAX_PICKLE_BYTES))
        except Exception as error:
            # An invalid pickle may raise any error while containers are built; its code never runs.
            self._archive.close()
            raise PresetError(f"{self._file}: damaged or not a dictionary of tensors: {_reason(error)}") from error
        if order != b"little":
            self._archive.close()
            raise PresetError(f"{self._file}: the byte order is not little-endian; save it on a little-endian machine")
        self._tensors: dict[str, object] = {str(name): tensor for name, tensor in tensors.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._archive.close()

    def names(self) -> list[str]:
        """Return the names of all entries of the dictionary."""
        return list(self._tensors)

    def read(self, name: str) -> npt.NDArray[Any]:
        """Return a tensor in its stored dtype.

        Raises:
            PresetError: The entry is not a floating-point tensor, or its bytes are damaged.
        """
        try:
            return self._read(self._tensors[name])
        except PresetError:
            raise
        except Exception as error:
            raise PresetError(f"{self._file}: tensor {name}: {_reason(error)}") from error

    def _read(self, tensor: Any) -> npt.NDArray[Any]:
        if isinstance(tensor, _Call) and tensor.function == _Name("torch._utils _rebuild_parameter"):
            tensor = tensor.arguments[0]  # type: ignore[index]
        if not (isinstance(tensor, _Call) and tensor.function == _Name("torch._utils _rebuild_tensor_v2")):
            raise ValueError("is not a tensor")
        storage, offset, shape, strides = tensor.arguments[:4]  # type: ignore[index]
        _, kind, key, _, count = storage.fields
        if kind.text not in _STORAGES:
            raise ValueError(f"is a {kind.text}, expected floating-point numbers")
        numbers = [count, offset, *shape, *strides]
        if not all(type(number) is int and number >= 0 for number in numbers) or len(shape) != len(strides):
            raise ValueError("has invalid sizes or strides")
        dtype = np.dtype(_STORAGES[kind.text])
        size = count * dtype.itemsize
        raw = self._entry(f"data/{key}", size)
        last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
        # A tensor larger than its storage would repeat values.
        if len(raw) != size or not 0 < math.prod(shape) <= count or last >= count:
            raise ValueError("exceeds the bytes of its storage")
        values = np.frombuffer(raw, dtype)[offset:]
        steps = [stride * dtype.itemsize for stride in strides]
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(values, shape, steps, writeable=False))

    def _entry(self, name: str, max_bytes: int) -> bytes:
        entry = self._archive.getinfo(self._root + name)
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > max_bytes:
            raise ValueError(f"{name} is compressed, or larger than {max_bytes:,} bytes")
        return self._archive.read(entry)


class _RestrictedUnpickler:
    """The stack machine of pickles, which builds containers and calls nothing."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Interpret one instruction.

        Raises:
            ValueError: A dictionary of tensors does not need the instruction.
        """
        pop, push = self.stack.pop, self.stack.append
        match name:
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE":
                push(argument)
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                push(self._memo[argument])
            case "GLOBAL":
                push(_Name(argument))
            case "STACK_GLOBAL":
                attribute = pop()
                push(_Name(f"{pop()} {attribute}"))
            case "REDUCE":
                arguments = pop()
                function = pop()
                # An ordered dictionary is the only call that is replaced by its result.
                push({} if function == _Name("collections OrderedDict") else _Call(function, arguments))
            case "BUILD":
                pop()  # object attributes, which no value has here
            case "BINPERSID":
                push(_StorageReference(pop()))
            case _:
                self._build(name)

    def _build(self, name: str) -> None:
        """Interpret an instruction for a container or a constant."""
        push = self.stack.append
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                push(_CONSTANTS[name])
            case "MARK":
                self._marks.append(len(self.stack))
            case "EMPTY_DICT":
                push({})
            case "EMPTY_LIST":
                push([])
            case "TUPLE":
                push(tuple(self._pop_from(self._marks.pop())))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple(self._pop_from(len(self.stack) - int(name[-1]))))
            case "SETITEM" | "SETITEMS":
                items = self._pop_from(self._marks.pop() if name == "SETITEMS" else len(self.stack) - 2)
                self.stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "APPEND" | "APPENDS":
                items = self._pop_from(self._marks.pop() if name == "APPENDS" else len(self.stack) - 1)
                self.stack[-1].extend(items)
            case _:
                raise ValueError(f"the pickle has the unsupported instruction {name}")

    def _pop_from(self, start: int) -> list[Any]:
        items = self.stack[start:]
        del self.stack[start:]
        return items


def _read_pickle(pickled: bytes) -> dict[Any, Any]:
    """Return the dictionary of a pickle, with recorded calls as values."""
    unpickler = _RestrictedUnpickler()
    for instruction, argument, _ in pickletools.genops(pickled):
        unpickler.step(instruction.name, argument)
    (root,) = unpickler.stack
    if not isinstance(root, dict):
        raise TypeError("the pickle does not hold a dictionary")
    return root


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]

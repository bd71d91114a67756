"""Tensors of a file that `torch.save` wrote, read without torch and without unpickling.

Such a file is a zip archive (torch 1.6 and later): `data.pkl` tells names, types and shapes, and each storage is an
entry of raw bytes. The pickle is a program for a small stack machine that may call anything. Here its instructions are
read as data: strings, numbers and containers are built, a name stays a name, and a call is noted down instead of made.
What a list of tensors does not need is refused.

Sources: Python's `pickletools`, which documents every instruction; the serialization notes of PyTorch.
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

_MOST_PICKLED_BYTES = 64 << 20
_STORAGES: dict[str, npt.DTypeLike] = {
    "torch FloatStorage": np.float32,
    "torch HalfStorage": np.float16,
    "torch BFloat16Storage": ml_dtypes.bfloat16,
    "torch DoubleStorage": np.float64,
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


@dataclass(frozen=True, slots=True)
class _Name:
    """What a pickle would import: a module and a name in it, with a space between."""

    text: str


@dataclass(frozen=True, slots=True)
class _Call:
    """What a pickle would call, and with what."""

    function: object
    arguments: object


@dataclass(frozen=True, slots=True)
class _Stored:
    """What a pickle says of bytes that lie beside it: a tuple of its kind, type, key, device and number of values."""

    described: Any


class TorchFile:
    """A file of tensors. Use it as a context manager.

    Args:
        path: The file.

    Raises:
        PresetError: It is damaged, of the form before torch 1.6, or holds something else than named tensors.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.name
        try:
            self._archive = zipfile.ZipFile(path)
        except Exception as error:  # of damage, zipfile raises a dozen types
            problem = "damaged, or written before torch 1.6; save it anew as safetensors"
            raise PresetError(f"{self._file}: not a zip archive: {problem}") from error
        try:
            names = self._archive.namelist()
            (pickled,) = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
            self._root = pickled.removesuffix("data.pkl")
            # Releases before 2.1 do not tell.
            order = self._entry("byteorder", 16) if f"{self._root}byteorder" in names else b"little"
            described = _described(self._entry("data.pkl", _MOST_PICKLED_BYTES))
        except Exception as error:
            # A pickle that lies makes containers and stack behave in any way; no code of its own ever runs.
            self._archive.close()
            raise PresetError(f"{self._file}: damaged or no list of tensors: {_reason(error)}") from error
        if order != b"little":
            self._archive.close()
            raise PresetError(f"{self._file}: its byte order is not little-endian")
        self._tensors: dict[str, object] = {str(name): tensor for name, tensor in described.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._archive.close()

    def names(self) -> list[str]:
        """Return the names of everything in the file."""
        return list(self._tensors)

    def read(self, name: str) -> npt.NDArray[Any]:
        """Return a tensor, in the type that it is kept in.

        Raises:
            PresetError: It is none, of another type than floating-point numbers, or its bytes are damaged.
        """
        try:
            return self._read(self._tensors[name])
        except PresetError:
            raise
        except Exception as error:
            raise PresetError(f"{self._file}: tensor {name}: {_reason(error)}") from error

    def _read(self, described: Any) -> npt.NDArray[Any]:
        if isinstance(described, _Call) and described.function == _Name("torch._utils _rebuild_parameter"):
            described = described.arguments[0]  # type: ignore[index]
        if not (isinstance(described, _Call) and described.function == _Name("torch._utils _rebuild_tensor_v2")):
            raise ValueError("is no tensor")
        stored, offset, shape, strides = described.arguments[:4]  # type: ignore[index]
        _, kind, key, _, count = stored.described
        if kind.text not in _STORAGES:
            raise ValueError(f"is a {kind.text}, expected floating-point numbers")
        numbers = [count, offset, *shape, *strides]
        if not all(type(number) is int and number >= 0 for number in numbers) or len(shape) != len(strides):
            raise ValueError("has sizes that are no sizes")
        dtype = np.dtype(_STORAGES[kind.text])
        size = count * dtype.itemsize
        raw = self._entry(f"data/{key}", size)
        last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
        # A tensor larger than its storage would repeat values without end.
        if len(raw) != size or not 0 < math.prod(shape) <= count or last >= count:
            raise ValueError("does not lie within its bytes")
        values = np.frombuffer(raw, dtype)[offset:]
        steps = [stride * dtype.itemsize for stride in strides]
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(values, shape, steps, writeable=False))

    def _entry(self, name: str, most: int) -> bytes:
        entry = self._archive.getinfo(self._root + name)
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > most:
            raise ValueError(f"{name} is compressed, or larger than {most:,} bytes")
        return self._archive.read(entry)


class _RestrictedUnpickler:
    """The stack machine that a pickle is written for, building containers and calling nothing."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Do what one instruction says.

        Raises:
            ValueError: A list of tensors does not need it.
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
                named = pop()
                push(_Name(f"{pop()} {named}"))
            case "REDUCE":
                arguments = pop()
                function = pop()
                # The one thing that is made rather than noted down: a dictionary.
                push({} if function == _Name("collections OrderedDict") else _Call(function, arguments))
            case "BUILD":
                pop()  # attributes of an object, which nothing here has
            case "BINPERSID":
                push(_Stored(pop()))
            case _:
                self._build(name)

    def _build(self, name: str) -> None:
        """Do what an instruction says that makes or fills a container, or a constant."""
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
                push(tuple(self._taken(self._marks.pop())))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple(self._taken(len(self.stack) - int(name[-1]))))
            case "SETITEM" | "SETITEMS":
                items = self._taken(self._marks.pop() if name == "SETITEMS" else len(self.stack) - 2)
                self.stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "APPEND" | "APPENDS":
                items = self._taken(self._marks.pop() if name == "APPENDS" else len(self.stack) - 1)
                self.stack[-1].extend(items)
            case _:
                raise ValueError(f"its pickle has the instruction {name}, which a list of tensors does not need")

    def _taken(self, start: int) -> list[Any]:
        taken = self.stack[start:]
        del self.stack[start:]
        return taken


def _described(pickled: bytes) -> dict[Any, Any]:
    """Return what a pickle would make of a dictionary of tensors, its calls noted down."""
    machine = _RestrictedUnpickler()
    for instruction, argument, _ in pickletools.genops(pickled):
        machine.step(instruction.name, argument)
    (described,) = machine.stack
    if not isinstance(described, dict):
        raise TypeError("its pickle holds no dictionary")
    return described


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]

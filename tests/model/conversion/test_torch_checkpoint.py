"""Files of `torch.save` are read as numbers, and their pickles are never executed.

`tests/golden/make_hugging_face.py` writes the file with torch.
"""

from __future__ import annotations

import pickle
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from model.conversion.torch_checkpoint import TorchFile
from model.errors import PresetError

CHECKPOINT = Path(__file__).parents[2] / "golden" / "hugging_face" / "checkpoint"
FILE = "pytorch_model.bin"


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A copy of the file that torch wrote."""
    return Path(shutil.copy(CHECKPOINT / FILE, tmp_path / FILE))


def refusal(path: Path, name: str | None = None) -> str:
    """Return the one-line message of the PresetError for a file, or for one of its tensors."""

    def read() -> None:
        with TorchFile(path) as file:
            if name is not None:
                file.read(name)

    with pytest.raises(PresetError) as caught:
        read()
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith(f"{path.name}: ")
    return str(caught.value)


def repack(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Rewrite the archive, with each entry changed by its name below the root."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, change(name.partition("/")[2], data))


def write(path: Path, pickled: bytes, **data: bytes) -> Path:
    """Write an archive in the format of torch, with a given pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, raw in data.items():
            archive.writestr(f"archive/data/{key}", raw)
    return path


def test_tensors_equal_those_of_torch(stored: Path) -> None:
    """Values equal those of safetensors, also for a parameter and a transposed view."""
    expected = load_file(CHECKPOINT / "model.safetensors")
    with TorchFile(stored) as file:
        assert set(expected) <= set(file.names())
        for name, array in expected.items():
            assert np.array_equal(file.read(name), array), name


def test_integer_tensors_are_rejected_on_access(stored: Path) -> None:
    """A file may contain integer tensors, which raise an error only when they are read."""
    assert "LongStorage" in refusal(stored, "fnet.embeddings.position_ids")


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Return the call of unpickling."""
        return Path.touch, (self.target,)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_is_never_executed(tmp_path: Path, protocol: int) -> None:
    """No pickle is executed, alone or among the tensors."""
    target = tmp_path / "executed"
    for document in (Trap(target), OrderedDict(a=Trap(target)), {"weight": [Trap(target)]}):
        path = write(tmp_path / FILE, pickle.dumps(document, protocol))
        try:
            with TorchFile(path) as file:
                for name in file.names():
                    with pytest.raises(PresetError):
                        file.read(name)
        except PresetError:
            pass
        assert not target.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", pickle.dumps({"weight": 1}), b"PK\x03\x04" + bytes(100)],
    ids=["empty", "text", "pickle", "signature"],
)
def test_another_form_is_rejected(tmp_path: Path, content: bytes) -> None:
    """A bare pickle is the format before torch 1.6; the message contains the remedy."""
    (tmp_path / FILE).write_bytes(content)
    assert "safetensors" in refusal(tmp_path / FILE)


@pytest.mark.parametrize(
    "document",
    [[1, 2], 7, None, "text", (), {1, 2}, {"a": b"bytes"}, {"a": 1 << 5000}],
    ids=lambda value: repr(value)[:9],
)
def test_pickle_of_something_else_is_rejected(tmp_path: Path, document: object) -> None:
    """A pickle has to be a dictionary of tensors."""
    assert "not a dictionary of tensors" in refusal(write(tmp_path / FILE, pickle.dumps(document, 4)))


@pytest.mark.parametrize("pickled", [b"", b".", b"\x80\x02", b"a.", b"\x85.", b"h\x07.", b"(.", b"N" * 100 + b"."])
def test_damaged_pickle_is_rejected(tmp_path: Path, pickled: bytes) -> None:
    """Instructions may read an empty stack or memo."""
    assert "not a dictionary of tensors" in refusal(write(tmp_path / FILE, pickled))


def test_missing_bytes_are_reported(stored: Path) -> None:
    """A storage that is shorter than its tensors is reported as damaged."""
    repack(stored, lambda name, data: data[:-4] if name.startswith("data/") else data)
    assert "exceeds the bytes of its storage" in refusal(stored, "fnet.pooler.dense.weight")


def test_changed_byte_is_reported(stored: Path) -> None:
    """The archive has a checksum for every entry."""
    data = bytearray(stored.read_bytes())
    with TorchFile(stored) as file:
        weight = file.read("fnet.embeddings.word_embeddings.weight")
    data[data.index(weight.tobytes()) + 5] ^= 1
    stored.write_bytes(data)
    assert "CRC" in refusal(stored, "fnet.embeddings.word_embeddings.weight")


def test_compressed_entry_is_not_inflated(stored: Path) -> None:
    """Torch stores entries uncompressed, and a compressed archive may be a zip bomb."""
    repack(stored, lambda _, data: data, zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(stored)


def test_another_byte_order_is_rejected(stored: Path) -> None:
    """Other byte orders would give wrong numbers."""
    repack(stored, lambda name, data: b"big" if name == "byteorder" else data)
    assert "byte order" in refusal(stored)


def test_damage_anywhere_raises_nothing_else(stored: Path) -> None:
    """Randomly changed bytes raise no error except PresetError."""
    data = stored.read_bytes()
    random = np.random.default_rng(3)
    refusals: list[str] = []
    for _ in range(150):
        damaged = bytearray(data)
        # The pickle is at the start, and the directory of the archive at the end.
        for offset in [*random.integers(0, 4000, 4), *random.integers(len(data) - 4000, len(data), 1)]:
            damaged[offset] = random.integers(256)
        stored.write_bytes(damaged)
        try:
            with TorchFile(stored) as file:
                for name in file.names():
                    file.read(name)
        except PresetError as error:
            refusals.append(str(error))
    assert len(refusals) > 50
    assert all(len(message.splitlines()) == 1 for message in refusals)

"""What `torch.save` wrote is read as numbers; what a pickle in it would call is never called.

`tests/golden/make_hugging_face.py` wrote the file that torch itself made.
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
    """A copy of torch's own file."""
    return Path(shutil.copy(CHECKPOINT / FILE, tmp_path / FILE))


def refusal(path: Path, name: str | None = None) -> str:
    """Return the one line with which a file, or one of its tensors, is refused."""

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
    """Write the archive anew, each entry changed by its name below the root."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, change(name.partition("/")[2], data))


def write(path: Path, pickled: bytes, **data: bytes) -> Path:
    """Write an archive as torch does, with a pickle of the test's own."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, raw in data.items():
            archive.writestr(f"archive/data/{key}", raw)
    return path


def test_every_tensor_is_what_torch_saved(stored: Path) -> None:
    """A parameter and a turned view among them: the same numbers as in safetensors."""
    expected = load_file(CHECKPOINT / "model.safetensors")
    with TorchFile(stored) as file:
        assert set(expected) <= set(file.names())
        for name, array in expected.items():
            assert np.array_equal(file.read(name), array), name


def test_integers_are_no_weights(stored: Path) -> None:
    """They may be there, and are refused only where they are asked for."""
    assert "LongStorage" in refusal(stored, "fnet.embeddings.position_ids")


class Trap:
    """Would make a file when it is unpickled."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Return what unpickling calls."""
        return Path.touch, (self.made,)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_is_never_executed(tmp_path: Path, protocol: int) -> None:
    """Whatever is in it, alone or among the tensors."""
    made = tmp_path / "executed"
    for document in (Trap(made), OrderedDict(a=Trap(made)), {"weight": [Trap(made)]}):
        path = write(tmp_path / FILE, pickle.dumps(document, protocol))
        try:
            with TorchFile(path) as file:
                for name in file.names():
                    with pytest.raises(PresetError):
                        file.read(name)
        except PresetError:
            pass
        assert not made.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", pickle.dumps({"weight": 1}), b"PK\x03\x04" + bytes(100)],
    ids=["empty", "text", "pickle", "signature"],
)
def test_another_form_is_refused(tmp_path: Path, content: bytes) -> None:
    """A bare pickle is how torch wrote before 1.6: the message says what to do."""
    (tmp_path / FILE).write_bytes(content)
    assert "safetensors" in refusal(tmp_path / FILE)


@pytest.mark.parametrize(
    "document",
    [[1, 2], 7, None, "text", (), {1, 2}, {"a": b"bytes"}, {"a": 1 << 5000}],
    ids=lambda value: repr(value)[:9],
)
def test_pickle_of_something_else_is_refused(tmp_path: Path, document: object) -> None:
    """It has to be a dictionary of tensors."""
    assert "not a dictionary of tensors" in refusal(write(tmp_path / FILE, pickle.dumps(document, 4)))


@pytest.mark.parametrize("pickled", [b"", b".", b"\x80\x02", b"a.", b"\x85.", b"h\x07.", b"(.", b"N" * 100 + b"."])
def test_damaged_pickle_is_refused(tmp_path: Path, pickled: bytes) -> None:
    """Stack and memo may be empty where the pickle wants something of them."""
    assert "not a dictionary of tensors" in refusal(write(tmp_path / FILE, pickled))


def test_bytes_that_are_missing_are_told(stored: Path) -> None:
    """A storage that is shorter than its tensors is damage."""
    repack(stored, lambda name, data: data[:-4] if name.startswith("data/") else data)
    assert "exceeds the bytes of its storage" in refusal(stored, "fnet.pooler.dense.weight")


def test_changed_byte_is_told(stored: Path) -> None:
    """The archive keeps a checksum of every entry."""
    data = bytearray(stored.read_bytes())
    with TorchFile(stored) as file:
        weight = file.read("fnet.embeddings.word_embeddings.weight")
    data[data.index(weight.tobytes()) + 5] ^= 1
    stored.write_bytes(data)
    assert "CRC" in refusal(stored, "fnet.embeddings.word_embeddings.weight")


def test_compressed_entry_is_not_inflated(stored: Path) -> None:
    """Torch stores entries as they are: another archive may be a bomb."""
    repack(stored, lambda _, data: data, zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(stored)


def test_another_byte_order_is_refused(stored: Path) -> None:
    """Numbers would be others."""
    repack(stored, lambda name, data: b"big" if name == "byteorder" else data)
    assert "byte order" in refusal(stored)


def test_damage_anywhere_raises_nothing_else(stored: Path) -> None:
    """With bytes changed at random the file is read or refused, and nothing but PresetError is raised."""
    data = stored.read_bytes()
    random = np.random.default_rng(3)
    refusals: list[str] = []
    for _ in range(150):
        damaged = bytearray(data)
        # The pickle lies at the beginning, the archive's directory at the end.
        for place in [*random.integers(0, 4000, 4), *random.integers(len(data) - 4000, len(data), 1)]:
            damaged[place] = random.integers(256)
        stored.write_bytes(damaged)
        try:
            with TorchFile(stored) as file:
                for name in file.names():
                    file.read(name)
        except PresetError as error:
            refusals.append(str(error))
    assert len(refusals) > 50
    assert all(len(message.splitlines()) == 1 for message in refusals)

"""Outputs, put together from parts a part at a time: a file may be larger than memory.

A file appears whole or not at all, and is the same to the byte for the same rows, however often the job was stopped.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
import numpy.typing as npt
import orjson

from model.encoder import Output
from service.bulk.chunks import ChunkResult

Format = Literal["npy", "npz", "jsonl", "parquet"]
FORMATS = get_args(Format)

# Reads parts again from the first each time: a format may need to know their sizes before it begins.
ChunkStore = Callable[[], Iterable[ChunkResult]]
# The one that ZIP archives count from, so that no clock is in the file.
_NO_DATE = (1980, 1, 1, 0, 0, 0)


def format_of(name: str) -> Format | None:
    """Return the format that a file's name stands for, if it stands for one."""
    found = Path(name).suffix.removeprefix(".").lower()
    return next((each for each in FORMATS if each == found), None)


def write(file: Path, format_: Format, parts: ChunkStore, outputs: Sequence[Output], hidden: int) -> None:
    """Write a file.

    Args:
        file: Where to; what is there is replaced when the new one is whole.
        format_: How.
        parts: All parts of the job.
        outputs: What each part has; for `npy` exactly one, with a vector a row.
        hidden: The length of a vector.

    Raises:
        OSError: It cannot be written.
    """
    new = file.with_name(f".{file.name}.new")
    try:
        with new.open("wb") as stream:
            _WRITERS[format_](stream, parts, outputs, hidden)
            stream.flush()
            os.fsync(stream.fileno())
        new.rename(file)
    finally:
        new.unlink(missing_ok=True)


def lines(part: ChunkResult, outputs: Sequence[Output]) -> Iterator[bytes]:
    """Yield a line of JSON for each row of a part: its number, and its outputs, or the error that it met."""
    ends = np.cumsum(part.lengths)
    for locate, number in enumerate(part.rows.tolist()):
        row: dict[str, Any] = {"row": number}
        if number in part.faults:
            row["error"] = part.faults[number][1]
        else:
            for name in outputs:
                whole = part.outputs[name]
                end = int(ends[locate])
                begin = end - int(part.lengths[locate])
                row[name] = whole[begin:end] if name == "sequence_output" else whole[locate]
        yield orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def _write_lines(stream: BinaryIO, parts: ChunkStore, outputs: Sequence[Output], _hidden: int) -> None:
    for part in parts():
        stream.writelines(lines(part, outputs))


def _write_array(stream: Any, arrays: Callable[[], Iterable[npt.NDArray[Any]]], like: npt.NDArray[Any]) -> None:
    """Write one array in NumPy's own format, piece by piece."""
    count = sum(len(array) for array in arrays())
    described = np.lib.format.header_data_from_array_1_0(like)
    np.lib.format.write_array_header_1_0(stream, {**described, "shape": (count, *like.shape[1:])})
    for array in arrays():
        stream.write(np.ascontiguousarray(array, like.dtype).tobytes())


def _write_npy(stream: BinaryIO, parts: ChunkStore, outputs: Sequence[Output], hidden: int) -> None:
    (name,) = outputs
    _write_array(stream, lambda: (part.outputs[name] for part in parts()), np.empty((0, hidden), "<f4"))


def _write_npz(stream: BinaryIO, parts: ChunkStore, outputs: Sequence[Output], hidden: int) -> None:
    with zipfile.ZipFile(stream, "w") as archive:
        for name in (*outputs, "lengths", "rows"):

            def arrays(name: str = name) -> Iterator[npt.NDArray[Any]]:
                return (_named(part, name) for part in parts())

            like = {"lengths": np.empty(0, "<i4"), "rows": np.empty(0, "<i8")}.get(name, np.empty((0, hidden), "<f4"))
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _NO_DATE), "w", force_zip64=True) as member:
                _write_array(member, arrays, like)


def _named(part: ChunkResult, name: str) -> npt.NDArray[Any]:
    arrays: dict[str, npt.NDArray[Any]] = {**part.outputs, "lengths": part.lengths, "rows": part.rows}
    return arrays[name]


def _write_parquet(stream: BinaryIO, parts: ChunkStore, outputs: Sequence[Output], hidden: int) -> None:
    import pyarrow as arrow  # noqa: PLC0415 - large, and for this format alone
    from pyarrow import parquet  # noqa: PLC0415

    vector = arrow.list_(arrow.float32(), hidden)
    types = {name: arrow.list_(vector) if name == "sequence_output" else vector for name in outputs}
    schema = arrow.schema([("row", arrow.int64()), *types.items()])
    with parquet.ParquetWriter(stream, schema, compression="none") as writer:
        for part in parts():
            missing = np.isin(part.rows, list(part.faults))
            columns = [arrow.array(part.rows)]
            for name in outputs:
                values = arrow.FixedSizeListArray.from_arrays(arrow.array(part.outputs[name].reshape(-1)), hidden)
                if name == "sequence_output":
                    ends = np.concatenate([[0], np.cumsum(part.lengths)]).astype(np.int32)
                    places = arrow.array(ends, mask=np.append(missing, False))
                    columns.append(arrow.ListArray.from_arrays(places, values))
                else:
                    rows = arrow.array(np.arange(len(part.rows)), mask=missing)
                    columns.append(values.take(rows))
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema))


_WRITERS: dict[Format, Callable[[BinaryIO, ChunkStore, Sequence[Output], int], None]] = {
    "npy": _write_npy,
    "npz": _write_npz,
    "jsonl": _write_lines,
    "parquet": _write_parquet,
}

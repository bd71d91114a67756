"""Output files, written chunk by chunk, so that a file may be larger than memory.

A file is renamed into place when complete. Its bytes depend only on the rows, not on interruptions of the job.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import orjson

from model.encoder import Output
from service.bulk.chunks import ChunkResult

Format = Literal["npy", "npz", "jsonl", "parquet"]

# Each call reads all chunks from the first on, because some formats need their sizes before the data.
Results = Callable[[], Iterable[ChunkResult]]
# The earliest date of a ZIP archive, so that the file does not depend on the clock.
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


def write(file: Path, format_: Format, chunks: Results, outputs: Sequence[Output], hidden: int) -> None:
    """Write a file.

    Args:
        file: The file; an existing one is replaced when the new one is complete.
        format_: Format of the file.
        chunks: Returns the results of all chunks of the job.
        outputs: Names of the outputs; exactly one for `npy`, with one vector per row.
        hidden: Length of a vector.

    Raises:
        OSError: The file cannot be written.
    """
    new = file.with_name(f".{file.name}.new")
    try:
        with new.open("wb") as stream:
            _WRITERS[format_](stream, chunks, outputs, hidden)
            stream.flush()
            os.fsync(stream.fileno())
        new.rename(file)
    finally:
        new.unlink(missing_ok=True)


def json_lines(result: ChunkResult, outputs: Sequence[Output]) -> Iterator[bytes]:
    """Yield one line of JSON per row of a chunk: the row number, and its outputs or its error."""
    ends = np.cumsum(result.lengths)
    for index, number in enumerate(result.rows.tolist()):
        row: dict[str, Any] = {"row": number}
        if number in result.errors:
            row["error"] = result.errors[number][1]
        else:
            for name in outputs:
                array = result.outputs[name]
                end = int(ends[index])
                start = end - int(result.lengths[index])
                row[name] = array[start:end] if name == "sequence_output" else array[index]
        yield orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def _write_lines(stream: BinaryIO, chunks: Results, outputs: Sequence[Output], _hidden: int) -> None:
    for chunk in chunks():
        stream.writelines(json_lines(chunk, outputs))


def _write_array(stream: Any, arrays: Callable[[], Iterable[npt.NDArray[Any]]], like: npt.NDArray[Any]) -> None:
    """Write one array in NumPy's format, chunk by chunk."""
    count = sum(len(array) for array in arrays())
    header = np.lib.format.header_data_from_array_1_0(like)
    np.lib.format.write_array_header_1_0(stream, {**header, "shape": (count, *like.shape[1:])})
    for array in arrays():
        stream.write(np.ascontiguousarray(array, like.dtype).tobytes())


def _write_npy(stream: BinaryIO, chunks: Results, outputs: Sequence[Output], hidden: int) -> None:
    (name,) = outputs
    _write_array(stream, lambda: (chunk.outputs[name] for chunk in chunks()), np.empty((0, hidden), "<f4"))


def _write_npz(stream: BinaryIO, chunks: Results, outputs: Sequence[Output], hidden: int) -> None:
    with zipfile.ZipFile(stream, "w") as archive:
        for name in (*outputs, "lengths", "rows"):

            def arrays(name: str = name) -> Iterator[npt.NDArray[Any]]:
                return (_array(chunk, name) for chunk in chunks())

            like = {"lengths": np.empty(0, "<i4"), "rows": np.empty(0, "<i8")}.get(name, np.empty((0, hidden), "<f4"))
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _ZIP_EPOCH), "w", force_zip64=True) as member:
                _write_array(member, arrays, like)


def _array(chunk: ChunkResult, name: str) -> npt.NDArray[Any]:
    arrays: dict[str, npt.NDArray[Any]] = {**chunk.outputs, "lengths": chunk.lengths, "rows": chunk.rows}
    return arrays[name]


def _write_parquet(stream: BinaryIO, chunks: Results, outputs: Sequence[Output], hidden: int) -> None:
    import pyarrow as arrow  # noqa: PLC0415 - large, and used only for this format
    from pyarrow import parquet  # noqa: PLC0415

    vector = arrow.list_(arrow.float32(), hidden)
    types = {name: arrow.list_(vector) if name == "sequence_output" else vector for name in outputs}
    schema = arrow.schema([("row", arrow.int64()), *types.items()])
    with parquet.ParquetWriter(stream, schema, compression="none") as writer:
        for chunk in chunks():
            missing = np.isin(chunk.rows, list(chunk.errors))
            columns = [arrow.array(chunk.rows)]
            for name in outputs:
                values = arrow.FixedSizeListArray.from_arrays(arrow.array(chunk.outputs[name].reshape(-1)), hidden)
                if name == "sequence_output":
                    ends = np.concatenate([[0], np.cumsum(chunk.lengths)]).astype(np.int32)
                    offsets = arrow.array(ends, mask=np.append(missing, False))
                    columns.append(arrow.ListArray.from_arrays(offsets, values))
                else:
                    rows = arrow.array(np.arange(len(chunk.rows)), mask=missing)
                    columns.append(values.take(rows))
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema))


_WRITERS: dict[Format, Callable[[BinaryIO, Results, Sequence[Output], int], None]] = {
    "npy": _write_npy,
    "npz": _write_npz,
    "jsonl": _write_lines,
    "parquet": _write_parquet,
}

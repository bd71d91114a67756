"""Chunks of a bulk job: consecutive rows whose results are stored until the output file is written.

The file of a chunk is renamed into place when complete, so a killed job resumes after its last stored chunk.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from model.encoder import Output
from service.bulk.encoders import Array, RowEmbeddings
from service.bulk.rows import Row

_MAX_CHUNK_ROWS = 4096
# Bytes of text. The size of an embedding is fixed; a sequence output has 400 times the size of its text.
_MAX_CHUNK_BYTES, _MAX_SEQUENCE_CHUNK_BYTES = 1 << 20, 1 << 15
_JOB_FILE, _LOCK_FILE = "job.json", "lock"


class JobError(Exception):
    """A job cannot resume. The message is one line with the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows of an input.

    Attributes:
        number: Index of the chunk, from 0.
        rows: The rows.
    """

    number: int
    rows: list[Row] = field(repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 digest of the rows."""
        return hashlib.sha256(b"".join(row.digest for row in self.rows)).hexdigest()


def split_rows(rows: Iterable[Row], *, sequences: bool, max_rows: int = _MAX_CHUNK_ROWS) -> Iterator[Chunk]:
    """Split rows into chunks; equal rows give equal chunks.

    Args:
        rows: The rows of an input, in order.
        sequences: Whether sequence outputs are stored.
        max_rows: Maximum rows of a chunk.
    """
    max_bytes = _MAX_SEQUENCE_CHUNK_BYTES if sequences else _MAX_CHUNK_BYTES
    number, size = 0, 0
    chunk_rows: list[Row] = []
    for row in rows:
        chunk_rows.append(row)
        size += row.size
        if len(chunk_rows) == max_rows or size >= max_bytes:
            yield Chunk(number, chunk_rows)
            number, size, chunk_rows = number + 1, 0, []
    if chunk_rows:
        yield Chunk(number, chunk_rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkResult:
    """Results of a chunk.

    Attributes:
        digest: Digest of the rows.
        rows: `[R]` int64, the row numbers.
        lengths: `[R]` int32, tokens of each row; 0 for an invalid row.
        outputs: `[R, hidden]` float32 by name, NaN for an invalid row; the sequence output is
            `[sum of lengths, hidden]`.
        errors: Line and reason of each invalid row, by row number.
    """

    digest: str
    rows: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int32]
    outputs: Mapping[str, Array]
    errors: Mapping[int, tuple[int, str]]


def chunk_result(
    chunk: Chunk, results: Sequence[RowEmbeddings | str], outputs: Sequence[Output], hidden: int
) -> ChunkResult:
    """Gather the results of a chunk's rows.

    Args:
        chunk: The chunk.
        results: Embeddings of each row, or the reason why it is invalid.
        outputs: Names of the outputs.
        hidden: Length of a vector.
    """
    valid = [result for result in results if isinstance(result, RowEmbeddings)]

    def gather(name: Output) -> Array:
        if name == "sequence_output":
            return np.concatenate([np.empty((0, hidden), np.float32), *(result.outputs[name] for result in valid)])
        missing = np.full(hidden, np.nan, np.float32)
        rows = [result.outputs[name] if isinstance(result, RowEmbeddings) else missing for result in results]
        return np.stack(rows).astype(np.float32, copy=False)

    return ChunkResult(
        digest=chunk.digest,
        rows=np.array([row.number for row in chunk.rows], np.int64),
        lengths=np.array([result.tokens if isinstance(result, RowEmbeddings) else 0 for result in results], np.int32),
        outputs={name: gather(name) for name in outputs},
        errors={
            row.number: (row.line, result)
            for row, result in zip(chunk.rows, results, strict=True)
            if not isinstance(result, RowEmbeddings)
        },
    )


class ChunkStore:
    """The stored chunks of one job, in a directory next to its output.

    Args:
        directory: The directory of the chunks.

    Attributes:
        directory: The directory of the chunks.
        count: Number of stored chunks.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.count = 0
        self._lock: BinaryIO | None = None

    def open(self, job: Mapping[str, Any], *, restart: bool) -> None:
        """Create and lock the directory, or resume the job in it.

        Args:
            job: Everything besides the rows that affects the outputs.
            restart: Whether to discard stored chunks.

        Raises:
            JobError: The stored chunks belong to another job, or another process has locked them.
            OSError: The directory cannot be created or read.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self._acquire_lock()
        try:
            self._check_job(json.loads(json.dumps(job)), restart=restart)
        except BaseException:
            self.release()
            raise
        self.count = 0
        while self._file(self.count).is_file():
            self.count += 1

    def _check_job(self, job: dict[str, Any], *, restart: bool) -> None:
        """Check that the stored chunks belong to a job."""
        job_file = self.directory / _JOB_FILE
        # A job without chunks has no work to lose. An interrupted removal leaves chunks without a job, whose origin is
        # unknown.
        if restart or not (job_file.is_file() and any(self.directory.glob(f"*{self._file(0).suffix}"))):
            for file in self.directory.iterdir():
                if file.name != _LOCK_FILE:
                    file.unlink()
            _write(job_file, json.dumps(job, indent=1, sort_keys=True).encode())
        try:
            stored: dict[str, Any] = dict(json.loads(job_file.read_bytes()))
        except (ValueError, TypeError) as error:
            raise JobError(f"{job_file} is damaged; use --restart to discard it") from error
        if stored != job:
            differing = ", ".join(sorted(name for name in {*stored, *job} if stored.get(name) != job.get(name)))
            raise JobError(f"{self.directory} was created with a different {differing}; use --restart to discard it")

    def _acquire_lock(self) -> None:
        """Lock the directory for the life of this process, because concurrent writers would corrupt the chunks."""
        self._lock = (self.directory / _LOCK_FILE).open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            raise JobError(f"{self.directory} is locked by another process") from error

    def release(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def add(self, result: ChunkResult) -> None:
        """Store the results of the next chunk.

        Raises:
            OSError: The file cannot be written.
        """
        file = self._file(self.count)
        new = file.with_suffix(".new")
        arrays: dict[str, Any] = {
            "digest": np.array(result.digest),
            "rows": result.rows,
            "lengths": result.lengths,
            "errors": np.frombuffer(json.dumps(list(result.errors.items())).encode(), np.uint8),
            **result.outputs,
        }
        with new.open("wb") as stream:
            np.savez(stream, **arrays)
            stream.flush()
            os.fsync(stream.fileno())
        new.rename(file)
        self.count += 1

    def read(self, number: int) -> ChunkResult:
        """Return the results of a stored chunk.

        Raises:
            JobError: The file is damaged.
        """
        try:
            with self._file(number).open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                arrays: dict[Any, Any] = dict(archive)
            errors = json.loads(arrays.pop("errors").tobytes())
            return ChunkResult(
                digest=str(arrays.pop("digest")),
                rows=arrays.pop("rows"),
                lengths=arrays.pop("lengths"),
                outputs=arrays,
                errors={number: (line, reason) for number, (line, reason) in errors},
            )
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise JobError(f"{self._file(number)} is damaged; use --restart to discard it") from error

    def __iter__(self) -> Iterator[ChunkResult]:
        """Yield the results of all stored chunks, in order."""
        return (self.read(number) for number in range(self.count))

    def remove(self) -> None:
        """Remove the directory and release the lock."""
        shutil.rmtree(self.directory)
        self.release()

    def _file(self, number: int) -> Path:
        return self.directory / f"{number:08}.npz"


def _write(file: Path, content: bytes) -> None:
    new = file.with_suffix(".new")
    with new.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    new.rename(file)

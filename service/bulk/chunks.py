"""A long job in parts: rows are cut into shards by what they are, and what a shard gave is kept until all are there.

A shard's file appears whole or not at all, so a job that is killed at any moment goes on behind its last one.
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
# Of text. An embedding is as large whatever its text; outputs of every token are 400 times their text.
_MAX_CHUNK_BYTES, _MAX_SEQUENCE_CHUNK_BYTES = 1 << 20, 1 << 15
_JOB_FILE, _LOCK_FILE = "job.json", "lock"


class JobError(Exception):
    """A job cannot go on where it stopped. The message is one line that says why, and what would help."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows that follow each other.

    Attributes:
        number: Which one it is, from 0.
        rows: Its rows.
    """

    number: int
    rows: list[Row] = field(repr=False)

    @property
    def digest(self) -> str:
        """What tells its rows from any others."""
        return hashlib.sha256(b"".join(row.digest for row in self.rows)).hexdigest()


def split_rows(rows: Iterable[Row], *, sequences: bool, max_rows: int = _MAX_CHUNK_ROWS) -> Iterator[Chunk]:
    """Cut rows into shards, the same ones whenever the rows are the same.

    Args:
        rows: Of an input, in order.
        sequences: Whether outputs of every token are kept.
        max_rows: Of a chunk.
    """
    most = _MAX_SEQUENCE_CHUNK_BYTES if sequences else _MAX_CHUNK_BYTES
    number, size = 0, 0
    taken: list[Row] = []
    for row in rows:
        taken.append(row)
        size += row.size
        if len(taken) == max_rows or size >= most:
            yield Chunk(number, taken)
            number, size, taken = number + 1, 0, []
    if taken:
        yield Chunk(number, taken)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkResult:
    """What a shard gave.

    Attributes:
        digest: Of its rows.
        rows: `[R]` int64, their numbers.
        lengths: `[R]` int32, the tokens of each; 0 where it was at fault.
        outputs: `[R, hidden]` float32 each, NaN where a row was at fault; the sequence output is
            `[sum of lengths, hidden]`.
        faults: What was wrong with a row, by its number: its line, and the reason.
    """

    digest: str
    rows: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int32]
    outputs: Mapping[str, Array]
    faults: Mapping[int, tuple[int, str]]


def part_of(chunk: Chunk, found: Sequence[RowEmbeddings | str], outputs: Sequence[Output], hidden: int) -> ChunkResult:
    """Gather what the rows of a shard gave."""
    good = [each for each in found if isinstance(each, RowEmbeddings)]

    def gather(name: Output) -> Array:
        if name == "sequence_output":
            return np.concatenate([np.empty((0, hidden), np.float32), *(each.outputs[name] for each in good)])
        missing = np.full(hidden, np.nan, np.float32)
        rows = [each.outputs[name] if isinstance(each, RowEmbeddings) else missing for each in found]
        return np.stack(rows).astype(np.float32, copy=False)

    return ChunkResult(
        digest=chunk.digest,
        rows=np.array([row.number for row in chunk.rows], np.int64),
        lengths=np.array([each.tokens if isinstance(each, RowEmbeddings) else 0 for each in found], np.int32),
        outputs={name: gather(name) for name in outputs},
        faults={
            row.number: (row.line, each)
            for row, each in zip(chunk.rows, found, strict=True)
            if not isinstance(each, RowEmbeddings)
        },
    )


class ChunkStore:
    """The parts of one job, in a directory beside its output.

    Args:
        directory: Where they are.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.count = 0
        self._lock: BinaryIO | None = None

    def begin(self, job: Mapping[str, Any], *, restart: bool) -> None:
        """Make the directory, or go on with what is there.

        Args:
            job: Everything that the outputs depend on beside the rows.
            restart: Whether to throw away what is there.

        Raises:
            JobError: What is there belongs to another job, or to a run that is at it.
            OSError: The directory cannot be made or read.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self._take()
        try:
            self._check(json.loads(json.dumps(job)), restart=restart)
        except BaseException:
            self.release()
            raise
        self.count = 0
        while self._file(self.count).is_file():
            self.count += 1

    def _check(self, job: dict[str, Any], *, restart: bool) -> None:
        """Make sure that what is there belongs to a job."""
        known = self.directory / _JOB_FILE
        # A run that failed at once has left a job without parts, of which nothing is lost; a removal that was cut short
        # leaves parts without a job, and whose they are cannot be told.
        if restart or not (known.is_file() and any(self.directory.glob(f"*{self._file(0).suffix}"))):
            for file in self.directory.iterdir():
                if file.name != _LOCK_FILE:
                    file.unlink()
            _write(known, json.dumps(job, indent=1, sort_keys=True).encode())
        try:
            there: dict[str, Any] = dict(json.loads(known.read_bytes()))
        except (ValueError, TypeError) as error:
            raise JobError(f"{known} is damaged; --restart begins anew") from error
        if there != job:
            differ = ", ".join(sorted(name for name in {*there, *job} if there.get(name) != job.get(name)))
            raise JobError(f"{self.directory} was begun with another {differ}; --restart throws it away")

    def _take(self) -> None:
        """Keep others out for as long as this process lives: two that wrote the same parts would spoil them."""
        self._lock = (self.directory / _LOCK_FILE).open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            raise JobError(f"{self.directory}: another run is at it") from error

    def release(self) -> None:
        """Let others go on with what is there."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def add(self, part: ChunkResult) -> None:
        """Keep the next part.

        Raises:
            OSError: It cannot be written.
        """
        file = self._file(self.count)
        new = file.with_suffix(".new")
        arrays: dict[str, Any] = {
            "digest": np.array(part.digest),
            "rows": part.rows,
            "lengths": part.lengths,
            "faults": np.frombuffer(json.dumps(list(part.faults.items())).encode(), np.uint8),
            **part.outputs,
        }
        with new.open("wb") as stream:
            np.savez(stream, **arrays)
            stream.flush()
            os.fsync(stream.fileno())
        new.rename(file)
        self.count += 1

    def read(self, number: int) -> ChunkResult:
        """Return a part.

        Raises:
            JobError: Its file is damaged.
        """
        try:
            with self._file(number).open("rb") as stream, np.load(stream, allow_pickle=False) as found:
                arrays: dict[Any, Any] = dict(found)
            faults = json.loads(arrays.pop("faults").tobytes())
            return ChunkResult(
                digest=str(arrays.pop("digest")),
                rows=arrays.pop("rows"),
                lengths=arrays.pop("lengths"),
                outputs=arrays,
                faults={number: (line, reason) for number, (line, reason) in faults},
            )
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise JobError(f"{self._file(number)} is damaged; --restart begins anew") from error

    def __iter__(self) -> Iterator[ChunkResult]:
        """Yield all parts, in order."""
        return (self.read(number) for number in range(self.count))

    def remove(self) -> None:
        """Remove everything: the output is there."""
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

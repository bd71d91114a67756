"""Input files, read row by row, so that a file may be larger than memory."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self, cast, get_args

import orjson

from service.bulk.rows import Row, row_of
from service.core.inputs import Text

Format = Literal["text", "jsonl", "csv", "tsv", "parquet"]
FORMATS = get_args(Format)
STDIN = "-"

_SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
# Magic number of gzip; UTF-8 text cannot start with it.
_GZIP_MAGIC = b"\x1f\x8b"
# Longer than any sequence that a network accepts, and far smaller than memory.
_MAX_LINE_BYTES = 8 << 20
_PARQUET_BATCH_ROWS = 1024


class InputError(Exception):
    """An input cannot be read. The message is one line with its name."""


def format_of(name: str) -> Format:
    """Return the format for the suffix of a file's name; text if the suffix is unknown."""
    path = Path(name.removesuffix(".gz"))
    return _SUFFIXES.get(path.suffix.lower(), "text")


@dataclass(slots=True)
class Reader:
    """An open input. Use it as a context manager, and iterate it once.

    Attributes:
        name: Path of the file, or `-` for standard input.
        format: Format of the file.
        field: Field or column that contains the text of a row.
    """

    name: str
    format: Format
    field: str
    _open: ExitStack
    _raw: BinaryIO
    _bytes: int | None

    @classmethod
    def open(cls, name: str, format_: Format | None, field: str) -> Self:
        """Open an input.

        Raises:
            InputError: The file does not exist, or cannot be read in the format.
        """
        format_ = format_ or format_of(name)
        if name == STDIN:
            if format_ == "parquet":
                raise InputError("standard input: Parquet cannot be read from a stream; name a file")
            return cls(name, format_, field, ExitStack(), sys.stdin.buffer, None)
        try:
            raw = Path(name).open("rb")  # noqa: SIM115 - closed with the reader
        except OSError as error:
            raise InputError(f"{name}: {error.strerror}") from error
        return cls(name, format_, field, ExitStack(), raw, Path(name).stat().st_size or None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        if self.name != STDIN:
            self._raw.close()

    @property
    def share(self) -> float | None:
        """The share of the input that has been read, from 0 to 1; None if it is unknown."""
        if self._bytes is None or self._raw.closed or self.format == "parquet":
            return None
        return min(1.0, self._raw.tell() / self._bytes)

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows; an invalid row has an error.

        Raises:
            InputError: The file cannot be read in its format.
        """
        try:
            yield from self._rows()
        except (OSError, EOFError, csv.Error, zlib.error) as error:
            reason = str(getattr(error, "strerror", None) or error).splitlines()[0]
            raise InputError(f"{self.name}: {reason}") from error

    def _rows(self) -> Iterator[Row]:
        if self.format == "parquet":
            yield from self._parquet()
            return
        source = self._raw
        if self.name.endswith(".gz") or _is_gzip(source):
            source = cast("BinaryIO", self._open.enter_context(gzip.GzipFile(fileobj=self._raw)))
        if self.format in ("csv", "tsv"):
            yield from self._table(source)
        elif self.format == "jsonl":
            yield from self._objects(source)
        else:
            yield from (
                Row(line - 1, line, error=text) if invalid else Row(line - 1, line, text=Text(text))
                for line, (text, invalid) in enumerate(_lines(source), 1)
            )

    def _objects(self, source: BinaryIO) -> Iterator[Row]:
        number = 0
        for line, (text, invalid) in enumerate(_lines(source), 1):
            if not invalid and not text.strip():
                continue  # a blank line is not a row
            yield Row(number, line, error=text) if invalid else _row_of_json(number, line, text, self.field)
            number += 1

    def _table(self, source: BinaryIO) -> Iterator[Row]:
        # Bytes that are not UTF-8 become surrogates, which valid text does not contain, so only their row is invalid.
        text = self._open.enter_context(io.TextIOWrapper(source, "utf-8-sig", "surrogateescape", newline=""))
        rows = csv.DictReader(text, delimiter="," if self.format == "csv" else "\t", strict=True)
        if self.field not in (rows.fieldnames or ()):
            columns = ", ".join(map(repr, rows.fieldnames or ())) or "none"
            raise InputError(f"{self.name}: no column {self.field!r}; use --field with one of: {columns}")
        csv.field_size_limit(_MAX_LINE_BYTES)
        for number in itertools.count():
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield Row(number, rows.line_num + 1, error=f"not {self.format.upper()}: {error}")
                continue
            value = row[self.field]
            if value is None:
                yield Row(number, rows.line_num, error=f"{self.field}: missing value")
            elif any("\udc80" <= character <= "\udcff" for character in value):
                yield Row(number, rows.line_num, error="not UTF-8")
            else:
                yield Row(number, rows.line_num, text=Text(value))

    def _parquet(self) -> Iterator[Row]:
        import pyarrow as arrow  # noqa: PLC0415 - large, and used only for this format
        from pyarrow import parquet  # noqa: PLC0415

        try:
            file = parquet.ParquetFile(self._raw)
            columns = file.schema_arrow.names
            selected = [name for name in (self.field, "token_ids", "segment_ids") if name in columns]
            if not set(selected) & {self.field, "token_ids"}:
                raise InputError(
                    f"{self.name}: no column {self.field!r}; use --field with one of: {', '.join(map(repr, columns))}"
                )
            number = 0
            for batch in file.iter_batches(_PARQUET_BATCH_ROWS, columns=selected):
                for value in batch.to_pylist():
                    yield row_of(number, number + 1, value, self.field)
                    number += 1
        except arrow.ArrowException as error:
            raise InputError(f"{self.name}: not readable as Parquet: {str(error).splitlines()[0]}") from error


def _is_gzip(source: BinaryIO) -> bool:
    """Return whether a stream is gzipped, without consuming bytes."""
    return cast("io.BufferedReader", source).peek(len(_GZIP_MAGIC))[: len(_GZIP_MAGIC)] == _GZIP_MAGIC


def _row_of_json(number: int, line: int, text: str, field: str) -> Row:
    try:
        value: Any = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return Row(number, line, error=f"not JSON: {error}")
    return row_of(number, line, value, field)


def _lines(source: BinaryIO) -> Iterator[tuple[str, bool]]:
    """Yield `(line, False)` for each line without its line break, or `(reason, True)` for an invalid line."""
    first = True
    while line := source.readline(_MAX_LINE_BYTES + 1):
        if len(line) > _MAX_LINE_BYTES and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = source.readline(_MAX_LINE_BYTES)
            yield f"line exceeds {_MAX_LINE_BYTES} bytes", True
            first = False
            continue
        if first:
            line = line.removeprefix(b"\xef\xbb\xbf")
            first = False
        try:
            yield line.removesuffix(b"\n").removesuffix(b"\r").decode(), False
        except UnicodeDecodeError:
            yield "not UTF-8", True

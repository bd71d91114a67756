"""Encoding of one input to one output: the work of `fnet-service encode` for each file."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from service.bulk import outputs
from service.bulk.chunks import ChunkStore
from service.bulk.encoders import EncodeOptions, Encoder, EncoderFingerprint
from service.bulk.job import Progress, run, select_rows
from service.bulk.readers import Reader

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileJob:
    """Options of the encoding of a file.

    Attributes:
        encode_options: Options of each row.
        shard: `(i, n)` selects every n-th row from the i-th on.
        skip: Whether to skip invalid rows instead of failing.
        restart: Whether to discard the chunks of an earlier run.
    """

    encode_options: EncodeOptions
    shard: tuple[int, int]
    skip: bool
    restart: bool


def chunk_directory(out: Path) -> Path:
    """Return the directory that stores the chunks of an output until it is written."""
    return out.with_name(f"{out.name}.part")


async def to_stream(
    reader: Reader, stream: BinaryIO, job: FileJob, encoder: Encoder, fingerprint: EncoderFingerprint, report: Report
) -> Progress:
    """Write one line of JSON per row as soon as its request is done; no chunks are stored.

    Args:
        reader: The input.
        stream: Receives the lines.
        job: Options of the encoding.
        encoder: The encoder.
        fingerprint: Fingerprint of the encoder.
        report: Receives progress lines.

    Returns:
        The final progress.

    Raises:
        RowError: A row is invalid and must not be skipped.
        EncoderError: The encoder cannot encode any row.
    """
    reporter = _ProgressReporter(reader, report)
    rows = select_rows(reader, job.shard)
    async with aclosing(
        run(rows, encoder, job.encode_options, fingerprint.hidden_dim, skip=job.skip, report=reporter)
    ) as results:
        async for result in results:
            # The reader may stop reading; a write in a thread does not block signals.
            await asyncio.to_thread(_write_and_flush, stream, outputs.json_lines(result, job.encode_options.outputs))
    report("")
    return reporter.progress


def _write_and_flush(stream: BinaryIO, lines: Iterable[bytes]) -> None:
    stream.writelines(lines)
    stream.flush()


async def to_file(
    reader: Reader,
    out: Path,
    format_: outputs.Format,
    job: FileJob,
    encoder: Encoder,
    fingerprint: EncoderFingerprint,
    report: Report,
) -> Progress:
    """Write a file, and resume an earlier run.

    Args:
        reader: The input.
        out: The output file.
        format_: Format of the output file.
        job: Options of the encoding.
        encoder: The encoder.
        fingerprint: Fingerprint of the encoder.
        report: Receives progress lines.

    Returns:
        The final progress.

    Raises:
        RowError: A row is invalid and must not be skipped.
        JobError: The stored chunks belong to another job, or another process has locked them.
        EncoderError: The encoder cannot encode any row.
        OSError: The output or a chunk cannot be written.
    """
    reporter = _ProgressReporter(reader, report)
    out.parent.mkdir(parents=True, exist_ok=True)
    store = ChunkStore(chunk_directory(out))
    store.open(
        {
            **dataclasses.asdict(fingerprint),
            **dataclasses.asdict(job.encode_options),
            # The effective padding.
            "padding": fingerprint.padding if job.encode_options.padding is None else job.encode_options.padding,
            "field": reader.field,
            "shard": job.shard,
        },
        restart=job.restart,
    )
    rows = select_rows(reader, job.shard)
    try:
        async with aclosing(
            run(rows, encoder, job.encode_options, fingerprint.hidden_dim, store, skip=job.skip, report=reporter)
        ) as results:
            async for _ in results:
                pass
        report(f"writing {out} …")
        await asyncio.to_thread(_write_output, out, format_, store, job, fingerprint)
    finally:
        store.release()
    report("")
    return reporter.progress


def _write_output(
    out: Path, format_: outputs.Format, store: ChunkStore, job: FileJob, fingerprint: EncoderFingerprint
) -> None:
    errors = [error for result in store for error in result.errors.items()]
    skipped = out.with_name(f"{out.name}.skipped.jsonl")
    skipped.unlink(missing_ok=True)
    if errors:
        records = ({"row": row, "line": line, "reason": reason} for row, (line, reason) in errors)
        skipped.write_text("".join(f"{json.dumps(record)}\n" for record in records), "utf-8")
    outputs.write(out, format_, store.__iter__, job.encode_options.outputs, fingerprint.hidden_dim)
    store.remove()


class _ProgressReporter:
    """Formats progress as a line."""

    def __init__(self, reader: Reader, report: Report) -> None:
        self.progress = Progress()
        self._reader, self._report = reader, report
        self._started = time.monotonic()
        self._first_share: float | None = None

    def __call__(self, progress: Progress) -> None:
        self.progress = progress
        seconds = max(time.monotonic() - self._started, 1e-9)
        fields = [f"{self._reader.name}: {progress.resumed + progress.rows:,} rows"]
        share = self._reader.share
        if share is not None:
            fields.append(f"{share:.0%}")
        if progress.rows:
            fields.append(f"{progress.rows / seconds:,.0f} rows/s, {progress.tokens / seconds:,.0f} tokens/s")
            self._first_share = share if self._first_share is None else self._first_share
            if share is not None and self._first_share is not None and 0 < self._first_share < share:
                left = (
                    (1 - share) * seconds / share
                    if not progress.resumed
                    else (1 - share) * seconds / (share - self._first_share)
                )
                fields.append(f"{time.strftime('%H:%M:%S', time.gmtime(left))} left")
        self._report(", ".join(fields))

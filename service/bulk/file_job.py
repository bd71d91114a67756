"""One input, one output: what `fnet-service encode` does for each file."""

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
from service.bulk.job import Progress, chosen, run
from service.bulk.readers import Reader

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileJob:
    """What is to be done with a file.

    Attributes:
        encode_options: What is computed for each row.
        shard: Which rows: every n-th from the i-th on.
        skip: Whether to go on without rows that are at fault.
        restart: Whether to throw away what a stopped run has done.
    """

    encode_options: EncodeOptions
    shard: tuple[int, int]
    skip: bool
    restart: bool


def parts_beside(out: Path) -> Path:
    """Return where the parts of an output are kept until it is whole."""
    return out.with_name(f"{out.name}.part")


async def to_stream(
    reader: Reader, stream: BinaryIO, job: FileJob, encoder: Encoder, about: EncoderFingerprint, report: Report
) -> Progress:
    """Write a line of JSON a row, a request's rows at a time; nothing is kept.

    Raises:
        As `service.bulk.job.run`.
    """
    reporter = _ProgressReporter(reader, report)
    rows = chosen(reader, job.shard)
    async with aclosing(
        run(rows, encoder, job.encode_options, about.hidden_dim, skip=job.skip, report=reporter)
    ) as parts:
        async for part in parts:
            # Whoever reads may stop reading; a signal is heard all the same.
            await asyncio.to_thread(_write_now, stream, outputs.lines(part, job.encode_options.outputs))
    report("")
    return reporter.progress


def _write_now(stream: BinaryIO, lines: Iterable[bytes]) -> None:
    stream.writelines(lines)
    stream.flush()


async def to_file(
    reader: Reader,
    out: Path,
    format_: outputs.Format,
    job: FileJob,
    encoder: Encoder,
    about: EncoderFingerprint,
    report: Report,
) -> Progress:
    """Write a file, going on with what a stopped run has done.

    Raises:
        OSError: The output or a part of it cannot be written.
        And as `service.bulk.job.run`.
    """
    reporter = _ProgressReporter(reader, report)
    out.parent.mkdir(parents=True, exist_ok=True)
    kept = ChunkStore(parts_beside(out))
    kept.begin(
        {
            **dataclasses.asdict(about),
            **dataclasses.asdict(job.encode_options),
            # The preset's, where none is wanted.
            "padding": about.padding if job.encode_options.padding is None else job.encode_options.padding,
            "field": reader.field,
            "shard": job.shard,
        },
        restart=job.restart,
    )
    rows = chosen(reader, job.shard)
    try:
        async with aclosing(
            run(rows, encoder, job.encode_options, about.hidden_dim, kept, skip=job.skip, report=reporter)
        ) as parts:
            async for _ in parts:
                pass
        report(f"{out}: putting it together …")
        await asyncio.to_thread(_put_together, out, format_, kept, job, about)
    finally:
        kept.release()
    report("")
    return reporter.progress


def _put_together(
    out: Path, format_: outputs.Format, kept: ChunkStore, job: FileJob, about: EncoderFingerprint
) -> None:
    faults = [fault for part in kept for fault in part.faults.items()]
    skipped = out.with_name(f"{out.name}.skipped.jsonl")
    skipped.unlink(missing_ok=True)
    if faults:
        records = ({"row": row, "line": line, "reason": reason} for row, (line, reason) in faults)
        skipped.write_text("".join(f"{json.dumps(each)}\n" for each in records), "utf-8")
    outputs.write(out, format_, kept.__iter__, job.encode_options.outputs, about.hidden_dim)
    kept.remove()


class _ProgressReporter:
    """Turns progress into a line for whoever watches."""

    def __init__(self, reader: Reader, report: Report) -> None:
        self.progress = Progress()
        self._reader, self._report = reader, report
        self._began = time.monotonic()
        self._first: float | None = None

    def __call__(self, progress: Progress) -> None:
        self.progress = progress
        seconds = max(time.monotonic() - self._began, 1e-9)
        fields = [f"{self._reader.name}: {progress.kept + progress.rows:,} rows"]
        share = self._reader.share
        if share is not None:
            fields.append(f"{share:.0%}")
        if progress.rows:
            fields.append(f"{progress.rows / seconds:,.0f} rows/s, {progress.tokens / seconds:,.0f} tokens/s")
            self._first = share if self._first is None else self._first
            if share is not None and self._first is not None and 0 < self._first < share:
                left = (
                    (1 - share) * seconds / share
                    if not progress.kept
                    else (1 - share) * seconds / (share - self._first)
                )
                fields.append(f"{time.strftime('%H:%M:%S', time.gmtime(left))} left")
        self._report(", ".join(fields))

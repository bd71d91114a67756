"""A job: rows are read, encoded with several requests under way, and kept shard by shard until all are there."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass

from service.bulk.chunks import Chunk, ChunkResult, ChunkStore, JobError, part_of, split_rows
from service.bulk.encoders import EncodeOptions, Encoder, RowEmbeddings, encode
from service.bulk.rows import Row

# Rows of a request.
_REQUEST = 64
# Shards under way: the next begins before the last request of one is answered.
_SHARDS = 2


class RowError(Exception):
    """A row cannot be encoded, and the job is not to go on without it. The message names its line and the reason."""


@dataclass(slots=True)
class Progress:
    """How far a job is.

    Attributes:
        rows: Rows done in this run.
        tokens: Tokens encoded in this run.
        kept: Rows that an earlier run had done.
        faults: Rows at fault, in this run and before.
    """

    rows: int = 0
    tokens: int = 0
    kept: int = 0
    faults: int = 0


def chosen(rows: Iterable[Row], chunk: tuple[int, int]) -> Iterator[Row]:
    """Yield every n-th row from the i-th on; all of them for `(0, 1)`."""
    first, of = chunk
    return (row for row in rows if row.number % of == first)


async def run(
    rows: Iterable[Row],
    encoder: Encoder,
    encode_options: EncodeOptions,
    hidden: int,
    kept: ChunkStore | None = None,
    *,
    skip: bool = False,
    report: Callable[[Progress], None] = lambda _progress: None,
) -> AsyncGenerator[ChunkResult]:
    """Encode rows; yields what each shard gave, in order, when it is kept.

    Args:
        rows: Of an input.
        encoder: Which encodes them.
        encode_options: What is computed for each.
        hidden: The length of a vector.
        kept: Keeps the parts; those of an earlier run are not done again.
        skip: Whether to go on without rows that are at fault.
        report: Called with the progress after each chunk.

    Raises:
        RowError: A row is at fault, and is not to be skipped; what came before its shard is kept.
        JobError: The kept parts are of other rows.
        EncoderError: Nothing more can be encoded.
        OSError: A part cannot be kept.
    """
    progress = Progress()
    earlier = 0 if kept is None else kept.count
    async with aclosing(_parts_of(rows, encoder, encode_options, hidden, kept)) as found:
        async for number, part in found:
            if part.faults and not skip:
                line, reason = next(iter(part.faults.values()))
                raise RowError(f"line {line}: {reason}")
            progress.faults += len(part.faults)
            if number < earlier:
                progress.kept += len(part.rows)
            else:
                if kept is not None:
                    await asyncio.to_thread(kept.add, part)
                progress.rows += len(part.rows)
                progress.tokens += int(part.lengths.sum())
            report(progress)
            yield part


async def _parts_of(
    rows: Iterable[Row], encoder: Encoder, encode_options: EncodeOptions, hidden: int, kept: ChunkStore | None
) -> AsyncGenerator[tuple[int, ChunkResult]]:
    requests = asyncio.Semaphore(encoder.max_concurrency)
    sequences = "sequence_output" in encode_options.outputs
    if kept is None:
        # Whoever reads what is written waits for it: a shard is a request, and as many are under way.
        chunks, most = split_rows(rows, sequences=sequences, max_rows=_REQUEST), encoder.max_concurrency + 1
    else:
        chunks, most = split_rows(rows, sequences=sequences), _SHARDS
    earlier = 0 if kept is None else kept.count
    under_way: deque[tuple[int, asyncio.Task[ChunkResult]]] = deque()
    seen = 0
    try:
        # Reading may wait for a disk or a pipe.
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            seen += 1
            if kept is not None and chunk.number < earlier:
                yield chunk.number, await asyncio.to_thread(_kept, kept, chunk)
                continue
            work = _encoded(chunk, encoder, requests, encode_options, hidden)
            under_way.append((chunk.number, asyncio.create_task(work)))
            while under_way and (len(under_way) == most or under_way[0][1].done()):
                number, task = under_way.popleft()
                yield number, await task
        if seen < earlier:
            raise JobError("the input has fewer rows than were begun with; --restart begins anew")
        while under_way:
            number, task = under_way.popleft()
            yield number, await task
    finally:
        for _, task in under_way:
            task.cancel()
        await asyncio.gather(*(task for _, task in under_way), return_exceptions=True)


def _kept(kept: ChunkStore, chunk: Chunk) -> ChunkResult:
    part = kept.read(chunk.number)
    if part.digest != chunk.digest:
        loc = f"at line {chunk.rows[0].line} or behind it"
        raise JobError(f"the input is not what was begun with, {loc}; --restart begins anew")
    return part


async def _encoded(
    chunk: Chunk, encoder: Encoder, requests: asyncio.Semaphore, encode_options: EncodeOptions, hidden: int
) -> ChunkResult:
    async def one(rows: list[Row]) -> list[RowEmbeddings | str]:
        async with requests:
            return await encode(encoder, rows, encode_options)

    pieces = [chunk.rows[first : first + _REQUEST] for first in range(0, len(chunk.rows), _REQUEST)]
    tasks = [asyncio.create_task(one(piece)) for piece in pieces]
    try:
        found = [each for piece in await asyncio.gather(*tasks) for each in piece]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return await asyncio.to_thread(part_of, chunk, found, encode_options.outputs, hidden)

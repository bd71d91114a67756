"""A bulk job: read rows, encode them with concurrent requests, and store the results of each chunk."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass

from service.bulk.chunks import Chunk, ChunkResult, ChunkStore, JobError, chunk_result, split_rows
from service.bulk.encoders import EncodeOptions, Encoder, RowEmbeddings, encode
from service.bulk.rows import Row

_REQUEST_ROWS = 64
# The next chunk starts before the last request of the previous one completes.
_CONCURRENT_CHUNKS = 2


class RowError(Exception):
    """A row cannot be encoded and must not be skipped. The message is its line and the reason."""


@dataclass(slots=True)
class Progress:
    """Progress of a job.

    Attributes:
        rows: Rows encoded in this run.
        tokens: Tokens encoded in this run.
        resumed: Rows encoded by an earlier run.
        errors: Invalid rows of this run and earlier ones.
    """

    rows: int = 0
    tokens: int = 0
    resumed: int = 0
    errors: int = 0


def select_rows(rows: Iterable[Row], shard: tuple[int, int]) -> Iterator[Row]:
    """Return every n-th row from the i-th on, for a shard `(i, n)`."""
    index, count = shard
    return (row for row in rows if row.number % count == index)


async def run(
    rows: Iterable[Row],
    encoder: Encoder,
    encode_options: EncodeOptions,
    hidden: int,
    store: ChunkStore | None = None,
    *,
    skip: bool = False,
    report: Callable[[Progress], None] = lambda _progress: None,
) -> AsyncGenerator[ChunkResult]:
    """Encode rows, and yield the results of each chunk in order after it is stored.

    Args:
        rows: The rows of an input.
        encoder: The encoder.
        encode_options: Options of each row.
        hidden: Length of a vector.
        store: Stores the results; chunks of an earlier run are not encoded again.
        skip: Whether to skip invalid rows instead of failing.
        report: Receives the progress after each chunk.

    Raises:
        RowError: A row is invalid and must not be skipped; earlier chunks are stored.
        JobError: The stored chunks belong to other rows.
        EncoderError: The encoder cannot encode any row.
        OSError: A chunk cannot be stored.
    """
    progress = Progress()
    stored = 0 if store is None else store.count
    async with aclosing(_chunk_results(rows, encoder, encode_options, hidden, store)) as results:
        async for number, result in results:
            if result.errors and not skip:
                line, reason = next(iter(result.errors.values()))
                raise RowError(f"line {line}: {reason}")
            progress.errors += len(result.errors)
            if number < stored:
                progress.resumed += len(result.rows)
            else:
                if store is not None:
                    await asyncio.to_thread(store.add, result)
                progress.rows += len(result.rows)
                progress.tokens += int(result.lengths.sum())
            report(progress)
            yield result


async def _chunk_results(
    rows: Iterable[Row], encoder: Encoder, encode_options: EncodeOptions, hidden: int, store: ChunkStore | None
) -> AsyncGenerator[tuple[int, ChunkResult]]:
    slots = asyncio.Semaphore(encoder.max_concurrency)
    sequences = "sequence_output" in encode_options.outputs
    if store is None:
        # A reader waits for the lines, so each chunk is one request.
        chunks = split_rows(rows, sequences=sequences, max_rows=_REQUEST_ROWS)
        max_chunks = encoder.max_concurrency + 1
    else:
        chunks, max_chunks = split_rows(rows, sequences=sequences), _CONCURRENT_CHUNKS
    stored = 0 if store is None else store.count
    running: deque[tuple[int, asyncio.Task[ChunkResult]]] = deque()
    chunk_count = 0
    try:
        # Reading may block on a disk or a pipe.
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            chunk_count += 1
            if store is not None and chunk.number < stored:
                yield chunk.number, await asyncio.to_thread(_stored_result, store, chunk)
                continue
            work = _encode_chunk(chunk, encoder, slots, encode_options, hidden)
            running.append((chunk.number, asyncio.create_task(work)))
            while running and (len(running) == max_chunks or running[0][1].done()):
                number, task = running.popleft()
                yield number, await task
        if chunk_count < stored:
            raise JobError("the input has fewer rows than the stored chunks; use --restart to discard them")
        while running:
            number, task = running.popleft()
            yield number, await task
    finally:
        for _, task in running:
            task.cancel()
        await asyncio.gather(*(task for _, task in running), return_exceptions=True)


def _stored_result(store: ChunkStore, chunk: Chunk) -> ChunkResult:
    result = store.read(chunk.number)
    if result.digest != chunk.digest:
        loc = f"from line {chunk.rows[0].line} on"
        raise JobError(f"the input differs from the stored chunks {loc}; use --restart to discard them")
    return result


async def _encode_chunk(
    chunk: Chunk, encoder: Encoder, slots: asyncio.Semaphore, encode_options: EncodeOptions, hidden: int
) -> ChunkResult:
    async def encode_request(rows: list[Row]) -> list[RowEmbeddings | str]:
        async with slots:
            return await encode(encoder, rows, encode_options)

    requests = [chunk.rows[first : first + _REQUEST_ROWS] for first in range(0, len(chunk.rows), _REQUEST_ROWS)]
    tasks = [asyncio.create_task(encode_request(request)) for request in requests]
    try:
        results = [result for batch in await asyncio.gather(*tasks) for result in batch]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return await asyncio.to_thread(chunk_result, chunk, results, encode_options.outputs, hidden)

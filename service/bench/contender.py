"""One engine in one dtype, loaded as the service loads it, and what can be timed of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from model.architecture import Architecture
from model.encoder import Tokens
from service.bench.results import BenchError
from service.bench.timing import clocked
from service.bench.workloads import filling, sequences
from service.engine import Engine, EngineOptions
from service.records import BatchRan, Record

# Nothing measured waits so long.
_TIMEOUT = 3600.0
_POLL = 0.005


class Contender:
    """An engine that is ready.

    Args:
        engine: The engine.
        batches: Where its runs are noted as it tells of them.
        loop: What its requests run on.

    Attributes:
        name: Engine and dtype.
        dtype: The dtype.
        architecture: The network.
        rows: Row lengths in use, ascending.
        room: Tokens of the longest rows that run together.
    """

    def __init__(self, engine: Engine, batches: list[BatchRan], loop: asyncio.AbstractEventLoop) -> None:
        self.engine = engine
        self.loaded = engine.ready()
        self.dtype = engine.options.dtype
        self.name = f"{engine.options.backend} {self.dtype}"
        self.architecture: Architecture = self.loaded.preset.architecture
        encoder = self.loaded.encoder
        self.rows = encoder.rows
        self.room = encoder.rows[-1] * encoder.rows_at_once
        self._batches = batches
        self._loop = loop

    def row(self, length: int) -> Callable[[], float]:
        """Return what times a full row, on the calling thread; no request may be under way."""
        encoder = self.loaded.encoder
        lengths = filling(length, self.architecture.max_sequence_length, encoder.spacing)
        members = sequences(lengths, self.architecture)
        row = encoder.lay(members, length)
        return clocked(lambda: encoder.run(row, members))

    def requests(self, requests: Sequence[Sequence[Tokens]]) -> Callable[[], float]:
        """Return what times requests that are sent at once, until the last has its answer."""

        async def timed() -> float:
            started = time.perf_counter()
            if len(requests) == 1:
                await self.engine.encode(requests[0], _TIMEOUT)
            else:
                await asyncio.gather(*(self.engine.encode(request, _TIMEOUT) for request in requests))
            return time.perf_counter() - started

        return lambda: self._loop.run_until_complete(timed())

    def fill(self, lengths: Sequence[int]) -> float:
        """Return how much of the rows that they run in sequences fill, each a request, all sent at once."""
        self._batches.clear()
        self.requests([[each] for each in sequences(lengths, self.architecture)])()
        return sum(each.tokens for each in self._batches) / sum(each.row_tokens for each in self._batches)


@contextmanager
def contender(options: EngineOptions, loop: asyncio.AbstractEventLoop) -> Iterator[Contender]:
    """Load one, and stop it in the end.

    Raises:
        BenchError: It cannot be loaded.
    """
    batches: list[BatchRan] = []
    failures: list[BaseException] = []

    def observe(record: Record) -> None:
        if isinstance(record, BatchRan):
            batches.append(record)

    engine = Engine(options, observe, failures.append)
    engine.start()
    try:
        while engine.state != "ready" and not failures:
            time.sleep(_POLL)
        if failures:
            raise BenchError(" ".join(str(failures[0]).split())) from failures[0]
        yield Contender(engine, batches, loop)
    finally:
        engine.close()

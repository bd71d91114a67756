"""A candidate: one backend with one dtype, loaded as in the service, and the calls that are timed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from model.architecture import Architecture
from model.backends.base import feed_forward_dtype
from model.encoder import EncoderInput, Encoding, PackedEncoder, TokenSequence
from model.packing import BatchBuilder
from service.bench.results import BenchError
from service.bench.timing import timed
from service.bench.workloads import filling_lengths, sequences
from service.core.engine import Engine
from service.core.events import BatchRan, Event
from service.core.options import EngineOptions

# Longer than any request of a measurement.
_TIMEOUT_SECONDS = 3600.0
_POLL_SECONDS = 0.005


class Candidate:
    """An engine that is ready.

    Args:
        engine: The engine.
        batches: The list to which the engine's observer appends every run.
        loop: Event loop of the requests.

    Attributes:
        engine: The engine.
        loaded: The loaded model.
        dtype: Operands of the matrix products, as set.
        compute_dtype: Operands of the feed-forward products, as computed.
        name: Backend and dtype.
        architecture: Sizes of the network.
        row_lengths: Timed row lengths, ascending: powers of two, and the longest.
    """

    def __init__(self, engine: Engine, batches: list[BatchRan], loop: asyncio.AbstractEventLoop) -> None:
        self.engine = engine
        self.loaded = engine.require_ready()
        self.dtype = engine.options.dtype
        self.name = f"{engine.options.backend} {self.dtype}"
        self.architecture: Architecture = self.loaded.preset.architecture
        self.compute_dtype = feed_forward_dtype(self.architecture, self.dtype)
        lengths = self.loaded.encoder.row_lengths
        self.row_lengths = [length for length in lengths if length.bit_count() == 1 or length == lengths[-1]]
        self._batches = batches
        self._loop = loop

    def time_row(self, length: int) -> Callable[[], float]:
        """Return a timer of one full row, on the calling thread; no request may be running."""
        return timed(full_row(self.loaded.encoder, length))

    def time_requests(self, requests: Sequence[Sequence[TokenSequence]]) -> Callable[[], float]:
        """Return a timer of concurrent requests, from sending until the last result."""

        async def send() -> float:
            started = time.perf_counter()
            if len(requests) == 1:
                await self.engine.encode(requests[0], _TIMEOUT_SECONDS)
            else:
                await asyncio.gather(*(self.engine.encode(request, _TIMEOUT_SECONDS) for request in requests))
            return time.perf_counter() - started

        return lambda: self._loop.run_until_complete(send())

    def encode(self, tokens: Sequence[TokenSequence]) -> list[Encoding]:
        """Return all outputs of sequences."""
        encodings, _ = self._loop.run_until_complete(self.engine.encode(tokens, _TIMEOUT_SECONDS))
        return encodings

    def fill(self, lengths: Sequence[int]) -> float:
        """Return the share of row tokens that belong to sequences, with one concurrent request per sequence."""
        self._batches.clear()
        self.time_requests([[tokens] for tokens in sequences(lengths, self.architecture)])()
        return sum(batch.tokens for batch in self._batches) / sum(batch.row_tokens for batch in self._batches)


@contextmanager
def load_candidate(options: EngineOptions, loop: asyncio.AbstractEventLoop) -> Iterator[Candidate]:
    """Load a candidate, and stop its engine when the context ends.

    Args:
        options: The engine's options.
        loop: Event loop of the requests.

    Raises:
        BenchError: The engine does not become ready.
    """
    batches: list[BatchRan] = []
    failures: list[BaseException] = []

    def observe(event: Event) -> None:
        if isinstance(event, BatchRan):
            batches.append(event)

    engine = Engine(options, observe, failures.append)
    engine.start()
    try:
        while engine.state != "ready" and not failures:
            time.sleep(_POLL_SECONDS)
        if failures:
            raise BenchError(one_line(failures[0])) from failures[0]
        yield Candidate(engine, batches, loop)
    finally:
        engine.close()


def full_row(encoder: PackedEncoder, length: int) -> Callable[[], object]:
    """Return a call that runs one row of a given length, filled with random sequences, on one device."""
    lengths = filling_lengths(length, encoder.architecture.max_sequence_length)
    builder = BatchBuilder(1, length)
    for size in lengths:
        builder.add(size)
    plan = builder.build()
    inputs = [
        EncoderInput(tokens, frozenset(("pooled_output",))) for tokens in sequences(lengths, encoder.architecture)
    ]
    return lambda: encoder.run(plan, inputs, (length,))


def one_line(error: BaseException) -> str:
    """Return the message of an error in one line."""
    return " ".join(str(error).split())

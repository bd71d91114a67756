"""The whole measurement: every engine and dtype through the service's own engine, all taking turns."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from model.programs import Dtype

from model.architecture import Architecture
from model.encoder import Tokens
from model.errors import PresetError
from model.packing import OpenBatch, Spacing
from model.presets import load_preset
from service.batcher import Batcher
from service.bench.contender import Contender, contender
from service.bench.limit import product_flops, products
from service.bench.machine import this_machine
from service.bench.results import (
    BatcherSpeed,
    BenchError,
    Cost,
    Failure,
    Latency,
    Measured,
    Product,
    Result,
    RowSpeed,
    Start,
    Throughput,
    best,
)
from service.bench.start import Fresh, start_once
from service.bench.timing import Cell, Key, Pace, Tell, Times, alternate, clocked, spread, straight_line
from service.bench.workloads import LENGTHS, QUEUES, SENTENCE, Workload, flops, sequences, workloads
from service.engine import EngineOptions
from service.engine_options import engine_options
from service.settings import Settings

# More than any queue that is measured.
_QUEUE_TOKENS = 1 << 30
# Sequences in a request, where the batcher is alone; its room is that of a row of 512 tokens.
_REQUESTS = (1, 16)
_ROOM, _SPACING = 512, Spacing(2, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        pace: Of everything that is timed within this process.
        starts: How often a fresh process becomes ready, without and with compiled programs.
        queues: Sequences in each queue.
        sweep_tokens: Tokens of all sequences together, where what changes is their length.
        batched: Sequences that pass the batcher in a call.
    """

    pace: Pace
    starts: int
    queues: tuple[int, ...]
    sweep_tokens: int
    batched: int


def full_plan(rounds: int | None = None) -> Plan:
    """Return the plan for figures to show."""
    pace = Pace(rounds or 5, turn=0.1, budget=60)
    return Plan(pace=pace, starts=3, queues=QUEUES, sweep_tokens=4096, batched=16_384)


def quick_plan(rounds: int | None = None) -> Plan:
    """Return the plan for a first look."""
    pace = Pace(rounds or 2, turn=0.02, budget=10)
    return Plan(pace=pace, starts=1, queues=QUEUES[:-1], sweep_tokens=1024, batched=4096)


def measured_options(settings: Settings) -> EngineOptions:
    """Return the options of an engine of which every answer is computed, and no queue of its is full."""
    return engine_options(settings, max_queue_tokens=_QUEUE_TOKENS, result_cache_bytes=0)


def measure(options: Sequence[EngineOptions], plan: Plan, tell: Tell = lambda _text: None) -> Result:
    """Measure one preset in all given engines and dtypes.

    Args:
        options: One for each, all of the same preset; see `measured_options`.
        plan: How much is measured.
        tell: Told of the progress.

    Raises:
        BenchError: The preset cannot be loaded, or none of them can run it.
    """
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    machine = this_machine()
    try:
        preset = load_preset(options[0].preset, options[0].cache_dir)
    except PresetError as error:
        raise BenchError(str(error)) from error
    with ExitStack() as stack:
        loop = stack.enter_context(asyncio.Runner()).get_loop()
        contenders: list[Contender] = []
        failures: list[Failure] = []
        for each in options:
            tell(f"loading  {each.backend} {each.dtype}")
            # The directory, so that a fresh process with an empty cache does not download.
            local = dataclasses.replace(each, preset=str(preset.directory))
            try:
                contenders.append(stack.enter_context(contender(local, loop)))
            except BenchError as error:
                failures.append(Failure(backend=each.backend, dtype=each.dtype, reason=str(error)))
        if not contenders:
            raise BenchError(failures[0].reason)
        starts = _starts([each.engine.options for each in contenders], plan.starts, tell)
        work = _work(preset.architecture, plan)
        multiplied = _product_cells(preset.architecture, sorted({each.dtype for each in contenders}))
        cells = [
            *_row_cells(contenders, list(multiplied.values())),
            *_request_cells(contenders, work),
            *_batcher_cells(plan.batched, preset.architecture),
        ]
        times = alternate(cells, plan.pace, tell)
        fills = {
            (each.name, workload.name): each.fill(workload.lengths) for each in contenders for workload in work.sent
        }
    speeds = tuple(
        Product(library=library, dtype=dtype, tflops=cell.amount / times[cell.key].median / 1e3)
        for (library, dtype), cell in multiplied.items()
    )
    return Result(
        date=date,
        preset=preset.name,
        parameters=preset.architecture.parameter_count,
        architecture=dataclasses.asdict(preset.architecture),
        machine=machine,
        rounds=plan.pace.rounds,
        products=speeds,
        batcher=tuple(
            BatcherSpeed(request=request, sequences_per_second=plan.batched / times["batcher", request].median)
            for request in _REQUESTS
        ),
        measured=tuple(
            _measured(each, start, work, times, fills, best(speeds, each.dtype).tflops)
            for each, start in zip(contenders, starts, strict=True)
        ),
        failures=tuple(failures),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What every contender is given.

    Attributes:
        sizes: Lengths of sequences that the network takes.
        sent: Requests sent at once.
        queues: Sequences, and tokens of each.
        sweep: The same, about as many tokens together at every length.
    """

    sizes: tuple[int, ...]
    sent: tuple[Workload, ...]
    queues: tuple[tuple[int, int], ...]
    sweep: tuple[tuple[int, int], ...]


def _work(architecture: Architecture, plan: Plan) -> _Work:
    longest = architecture.max_sequence_length
    sizes = tuple(length for length in LENGTHS if length <= longest) or (longest,)
    return _Work(
        sizes=sizes,
        sent=workloads(longest),
        queues=tuple((count, min(SENTENCE, longest)) for count in plan.queues),
        sweep=tuple((max(1, plan.sweep_tokens // length), length) for length in sizes),
    )


def _starts(options: Sequence[EngineOptions], times: int, tell: Tell) -> list[Start]:
    """Measure fresh processes, without and with compiled programs, in turn."""
    first: list[list[Fresh]] = [[] for _ in options]
    again: list[list[Fresh]] = [[] for _ in options]
    for number in range(1, times + 1):
        for each, fresh, warm in zip(options, first, again, strict=True):
            label = f"time to ready {number}/{times}  {each.backend} {each.dtype}"
            with tempfile.TemporaryDirectory(prefix="fnet-bench-") as directory:
                fields = dataclasses.asdict(dataclasses.replace(each, cache_dir=Path(directory)))
                for name, into in (("first", fresh), ("again", warm)):
                    into.append(start_once(fields))
                    tell(f"{label}  {name} {into[-1].seconds:.1f} s")
    return [
        Start(
            first_seconds=statistics.median(each.seconds for each in fresh),
            again_seconds=statistics.median(each.seconds for each in warm),
            import_seconds=statistics.median(each.import_seconds for each in warm),
            ready_bytes=statistics.median_low(each.ready_bytes for each in warm),
            peak_bytes=statistics.median_low(each.peak_bytes for each in warm),
        )
        for fresh, warm in zip(first, again, strict=True)
    ]


def _product_cells(architecture: Architecture, dtypes: Sequence[Dtype]) -> dict[tuple[str, str], Cell]:
    """Return the libraries' matrix products, by library and dtype."""
    hidden, inner = architecture.hidden_dim, architecture.intermediate_dim
    operations = product_flops(hidden, inner) / 1e9
    return {
        (library, dtype): Cell(
            ("product", library, dtype), f"products by {library} {dtype}", operations, "GFLOP", clocked(call)
        )
        for dtype in dtypes
        for library, call in products(hidden, inner, dtype).items()
    }


def _row_cells(contenders: Sequence[Contender], beside: Sequence[Cell]) -> Iterator[Cell]:
    """Yield a full row of every length for every contender, and `beside` each length what that is held against.

    So the limit is measured all the time that rows are, and a slow spell of the machine meets both.
    """
    for length in sorted({length for each in contenders for length in each.rows}):
        yield from beside
        for each in contenders:
            if length in each.rows:  # another's self-test may have dropped it
                label = f"row of {length}  {each.name}"
                yield Cell((each.name, "row", length), label, length, "tokens", each.row(length))


def _request_cells(contenders: Sequence[Contender], work: _Work) -> Iterator[Cell]:
    """Yield all that is sent to every contender, neighbours doing the same work."""
    for what, label, lengths, apart in _requests(work):
        members = sequences(lengths, contenders[0].architecture)
        requests = [[one] for one in members] if apart else [members]
        for each in contenders:
            key = (each.name, *what)
            yield Cell(key, f"{label}  {each.name}", sum(lengths), "tokens", each.requests(requests))


def _requests(work: _Work) -> Iterator[tuple[Key, str, Sequence[int], bool]]:
    """Yield key, label and lengths of what is sent, and whether each sequence is a request of its own."""
    for length in work.sizes:
        yield ("alone", length), f"1 x {length}", [length], False
    for workload in work.sent:
        yield ("sent", workload.name), workload.name, workload.lengths, True
    for count, length in dict.fromkeys(work.queues + work.sweep):
        yield ("queue", count, length), f"queue of {count} x {length}", [length] * count, False


def _batcher_cells(count: int, architecture: Architecture) -> Iterator[Cell]:
    """Yield the batcher's own test: a network that takes no time, and sequences of mixed lengths."""
    lengths = workloads(architecture.max_sequence_length, count)[0].lengths
    items = sequences(lengths, architecture)
    for size in _REQUESTS:
        requests = [items[start : start + size] for start in range(0, count, size)]
        label = f"batcher alone, requests of {size}"
        yield Cell(("batcher", size), label, count, "sequences", clocked(partial(_batch, requests)))


def _batch(requests: Sequence[Sequence[Tokens]]) -> None:
    """Send requests through a batcher of their own."""
    batcher: Batcher[Tokens, Tokens] = Batcher(
        lambda batch: batch,
        room=lambda: OpenBatch(1, _ROOM, _SPACING),
        key=lambda tokens: tokens.key,
        max_queue_tokens=_QUEUE_TOKENS,
    )
    batcher.start()
    jobs = [batcher.submit(request, [len(tokens.token_ids) for tokens in request]) for request in requests]
    for job in jobs:
        job.future.result()
    batcher.close()


def _measured(
    each: Contender,
    start: Start,
    work: _Work,
    times: Mapping[Key, Times],
    fills: Mapping[tuple[str, str], float],
    limit: float,
) -> Measured:
    """Sum up one contender.

    Args:
        each: The contender.
        start: Its fresh processes.
        work: What it was given.
        times: Of all cells.
        fills: How full its rows were, by its name and the workload's.
        limit: TFLOP/s of the best library's products.
    """

    def row(length: int) -> RowSpeed:
        seconds = times[each.name, "row", length].median
        tflops = flops(each.architecture, length, each.loaded.encoder.transform) / seconds / 1e12
        return RowSpeed(
            tokens=length,
            seconds=seconds,
            tokens_per_second=length / seconds,
            tflops=tflops,
            share=tflops / limit,
        )

    def latency(length: int) -> Latency:
        taken = times[each.name, "alone", length]
        return Latency(tokens=length, median_seconds=taken.median, p95_seconds=taken.p95)

    def throughput(workload: Workload) -> Throughput:
        tokens, seconds = sum(workload.lengths), times[each.name, "sent", workload.name].median
        return Throughput(
            workload=workload.name,
            sequences=len(workload.lengths),
            tokens=tokens,
            seconds=seconds,
            tokens_per_second=tokens / seconds,
            fill=fills[each.name, workload.name],
        )

    def cost(count: int, length: int) -> Cost:
        tokens, seconds = count * length, times[each.name, "queue", count, length].median
        return Cost(
            sequences=count,
            length=length,
            tokens=tokens,
            seconds=seconds,
            seconds_per_token=seconds / tokens,
            full=tokens >= each.room,
        )

    queue, lengths = (tuple(cost(*pair) for pair in pairs) for pairs in (work.queues, work.sweep))
    full = [point for point in queue if point.full]
    encoder, test = each.loaded.encoder, each.loaded.test
    return Measured(
        backend=encoder.backend,
        dtype=each.dtype,
        devices=tuple(encoder.devices),
        dropped=test.dropped,
        spacing=(encoder.spacing.alignment, encoder.spacing.tile),
        batch_invariant=test.batch_invariant,
        start=start,
        rows=tuple(row(length) for length in each.rows),
        latencies=tuple(latency(length) for length in work.sizes),
        throughputs=tuple(throughput(workload) for workload in work.sent),
        queue=queue,
        lengths=lengths,
        line=straight_line([point.tokens for point in full], [point.seconds for point in full]),
        length_deviation=spread([point.seconds_per_token for point in lengths]),
    )

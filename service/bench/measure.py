"""The measurement: every backend and dtype with the engine of the service, alternating."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from model.architecture import Architecture
from model.dtypes import Dtype
from model.errors import PresetError
from model.presets.hub import load_preset
from model.presets.preset import Preset
from service.bench.accuracy import accuracy_sequences, compare, reference_outputs
from service.bench.candidate import Candidate, load_candidate
from service.bench.machine import this_machine
from service.bench.recommend import recommend
from service.bench.results import (
    DEFAULT_CANDIDATE,
    Accuracy,
    BenchError,
    BenchResult,
    CandidateResult,
    Failure,
    Latency,
    Product,
    RowSpeed,
    Start,
    Throughput,
    roofline,
)
from service.bench.roofline import product_flops, products
from service.bench.start import ProcessStart, start_process
from service.bench.timing import Budget, Case, Key, Progress, Times, alternate, speedup, timed
from service.bench.workloads import Workload, dense_flops, filling_lengths, sequences, single_lengths, workloads
from service.core.options import EngineOptions
from service.settings import Settings, engine_options

# Above the tokens of any workload.
_MAX_QUEUE_TOKENS = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Extent of a measurement.

    Attributes:
        budget: Budget of the cases that are timed in this process.
        starts: Number of cold and of warm starts of each candidate.
    """

    budget: Budget
    starts: int


def full_plan(rounds: int | None = None) -> Plan:
    """Return the plan for published figures."""
    return Plan(budget=Budget(rounds or 5, turn_seconds=0.1, case_seconds=60), starts=3)


def quick_plan(rounds: int | None = None) -> Plan:
    """Return the plan for a first look."""
    return Plan(budget=Budget(rounds or 2, turn_seconds=0.02, case_seconds=10), starts=1)


def measured_options(settings: Settings) -> EngineOptions:
    """Return engine options without a result cache and with a queue that is never full."""
    return engine_options(settings, max_queue_tokens=_MAX_QUEUE_TOKENS, result_cache_bytes=0)


def measure(options: Sequence[EngineOptions], plan: Plan, progress: Progress = lambda _text: None) -> BenchResult:
    """Measure one preset with several backends and dtypes.

    Args:
        options: Engine options of each candidate, all of the same preset; see `measured_options`.
        plan: Extent of the measurement.
        progress: Receives progress lines.

    Raises:
        BenchError: The preset cannot be loaded, or no candidate can run it.
    """
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    machine = this_machine()
    try:
        preset = load_preset(options[0].preset, options[0].cache_dir)
    except PresetError as error:
        raise BenchError(str(error)) from error
    with ExitStack() as stack:
        loop = stack.enter_context(asyncio.Runner()).get_loop()
        candidates: list[Candidate] = []
        failures: list[Failure] = []
        for candidate_options in options:
            progress(f"loading  {candidate_options.backend} {candidate_options.dtype}")
            # A directory, so that a new process with an empty cache does not download the preset.
            local = dataclasses.replace(candidate_options, preset=str(preset.directory))
            try:
                candidates.append(stack.enter_context(load_candidate(local, loop)))
            except BenchError as error:
                failures.append(
                    Failure(backend=candidate_options.backend, dtype=candidate_options.dtype, reason=str(error))
                )
        if not candidates:
            raise BenchError(failures[0].reason)
        accuracies = _accuracies(candidates, preset, progress)
        starts = _starts([candidate.engine.options for candidate in candidates], plan.starts, progress)
        work = _Work.of(preset.architecture)
        product_cases = _product_cases(
            preset.architecture, sorted({candidate.compute_dtype for candidate in candidates})
        )
        cases = [*_row_cases(candidates, list(product_cases.values())), *_request_cases(candidates, work)]
        times = alternate(cases, plan.budget, progress)
        fills = {
            (candidate.name, workload.name): candidate.fill(workload.lengths)
            for candidate in candidates
            for workload in work.concurrent
        }
    speeds = tuple(
        Product(library=library, dtype=dtype, tera_ops_per_second=case.amount / times[case.key].median / 1e3)
        for (library, dtype), case in product_cases.items()
    )
    results = tuple(
        _result(candidate, start, accuracy, work, times, fills, roofline(speeds, candidate.compute_dtype))
        for candidate, start, accuracy in zip(candidates, starts, accuracies, strict=True)
    )
    return BenchResult(
        date=date,
        preset=preset.name,
        parameters=preset.architecture.parameter_count,
        architecture=dataclasses.asdict(preset.architecture),
        machine=machine,
        rounds=plan.budget.rounds,
        products=speeds,
        candidates=results,
        failures=tuple(failures),
        recommendation=recommend(results),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """Sequences that every candidate encodes.

    Attributes:
        single: Lengths of sequences that are encoded one at a time.
        concurrent: Workloads of concurrent requests.
    """

    single: tuple[int, ...]
    concurrent: tuple[Workload, ...]

    @classmethod
    def of(cls, architecture: Architecture) -> _Work:
        """Return the work for a network."""
        max_tokens = architecture.max_sequence_length
        return cls(single=single_lengths(max_tokens), concurrent=workloads(max_tokens))


def _accuracies(candidates: Sequence[Candidate], preset: Preset, progress: Progress) -> list[Accuracy]:
    """Compare every candidate with the reference."""
    progress("computing the float32 reference")
    tokens = accuracy_sequences(preset, candidates[0].loaded.tokenizer)
    expected = reference_outputs(preset, tokens, load_weights=candidates[0].engine.options.load_weights)
    return [compare(candidate.encode(tokens), expected, candidate.dtype) for candidate in candidates]


def _starts(options: Sequence[EngineOptions], count: int, progress: Progress) -> list[Start]:
    """Measure new processes without and with compiled programs, alternating."""
    cold: list[list[ProcessStart]] = [[] for _ in options]
    warm: list[list[ProcessStart]] = [[] for _ in options]
    for number in range(1, count + 1):
        for candidate_options, colds, warms in zip(options, cold, warm, strict=True):
            label = f"time to ready {number}/{count}  {candidate_options.backend} {candidate_options.dtype}"
            with tempfile.TemporaryDirectory(prefix="fnet-bench-") as directory:
                fields = dataclasses.asdict(dataclasses.replace(candidate_options, cache_dir=Path(directory)))
                for name, starts in (("cold", colds), ("warm", warms)):
                    starts.append(start_process(fields))
                    progress(f"{label}  {name} {starts[-1].seconds:.1f} s")
    return [
        Start(
            cold_seconds=statistics.median(start.seconds for start in colds),
            warm_seconds=statistics.median(start.seconds for start in warms),
            import_seconds=statistics.median(start.import_seconds for start in warms),
            ready_bytes=statistics.median_low(start.ready_bytes for start in warms),
            peak_bytes=statistics.median_low(start.peak_bytes for start in warms),
        )
        for colds, warms in zip(cold, warm, strict=True)
    ]


def _product_cases(architecture: Architecture, dtypes: Sequence[Dtype]) -> dict[tuple[str, str], Case]:
    """Return the matrix products of the libraries, by library and dtype."""
    hidden, inner = architecture.hidden_dim, architecture.intermediate_dim
    operations = product_flops(hidden, inner) / 1e9
    return {
        (library, dtype): Case(
            ("product", library, dtype), f"products by {library} {dtype}", operations, "GOP", timed(call)
        )
        for dtype in dtypes
        for library, call in products(hidden, inner, dtype).items()
    }


def _row_cases(candidates: Sequence[Candidate], product_cases: Sequence[Case]) -> Iterator[Case]:
    """Yield full rows of every timed length for every candidate, and before each length the matrix products.

    The order makes a slow spell of the machine affect rows and roofline alike.
    """
    for length in sorted({length for candidate in candidates for length in candidate.row_lengths}):
        yield from product_cases
        for candidate in candidates:
            if length in candidate.row_lengths:  # the self-test may have disabled it
                label = f"row of {length}  {candidate.name}"
                key = candidate.name, "row", length
                yield Case(key, label, length, "tokens", candidate.time_row(length))


def _request_cases(candidates: Sequence[Candidate], work: _Work) -> Iterator[Case]:
    """Yield all requests for every candidate; consecutive cases do the same work."""
    workloads_by_key: dict[Key, Workload] = {
        ("single", length): Workload(f"1 x {length}", (length,)) for length in work.single
    }
    workloads_by_key |= {("concurrent", workload.name): workload for workload in work.concurrent}
    for key, workload in workloads_by_key.items():
        requests = [[tokens] for tokens in sequences(workload.lengths, candidates[0].architecture)]
        for candidate in candidates:
            label = f"{workload.name}  {candidate.name}"
            timer = candidate.time_requests(requests)
            yield Case((candidate.name, *key), label, workload.tokens, "tokens", timer)


def _result(
    candidate: Candidate,
    start: Start,
    accuracy: Accuracy,
    work: _Work,
    times: Mapping[Key, Times],
    fills: Mapping[tuple[str, str], float],
    limit: Product,
) -> CandidateResult:
    """Summarize one candidate.

    Args:
        candidate: The candidate.
        start: Time to ready and memory.
        accuracy: Cosines to the reference.
        work: The timed sequences.
        times: Times of all cases.
        fills: Fill of the rows, by candidate and workload.
        limit: Matrix product of the fastest library.
    """
    architecture = candidate.architecture

    def row(length: int) -> RowSpeed:
        seconds = times[candidate.name, "row", length].median
        count = len(filling_lengths(length, architecture.max_sequence_length))
        speed = dense_flops(architecture, length, count) / seconds / 1e12
        return RowSpeed(
            tokens=length,
            seconds=seconds,
            tokens_per_second=length / seconds,
            tera_ops_per_second=speed,
            roofline_share=speed / limit.tera_ops_per_second,
        )

    def latency(length: int) -> Latency:
        measured = times[candidate.name, "single", length]
        return Latency(tokens=length, median_seconds=measured.median, p95_seconds=measured.p95)

    def throughput(workload: Workload) -> Throughput:
        measured = times[candidate.name, "concurrent", workload.name]
        default = times.get((DEFAULT_CANDIDATE, "concurrent", workload.name))
        return Throughput(
            workload=workload.name,
            sequences=len(workload.lengths),
            tokens=workload.tokens,
            seconds=measured.median,
            tokens_per_second=workload.tokens / measured.median,
            speedup=None if default is None else speedup(measured, default),
            fill=fills[candidate.name, workload.name],
        )

    encoder, test = candidate.loaded.encoder, candidate.loaded.test
    return CandidateResult(
        backend=encoder.backend,
        dtype=candidate.dtype,
        compute_dtype=candidate.compute_dtype,
        devices=tuple(encoder.devices),
        disabled=test.disabled,
        batch_invariant=test.batch_invariant,
        numerics=test.numerics,
        start=start,
        rows=tuple(row(length) for length in candidate.row_lengths),
        latencies=tuple(latency(length) for length in work.single),
        throughputs=tuple(throughput(workload) for workload in work.concurrent),
        accuracy=accuracy,
    )

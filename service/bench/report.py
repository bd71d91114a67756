"""Reports: a table with a recommendation as text, and all results as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from service.bench.results import (
    DEFAULT_CANDIDATE,
    Accuracy,
    BenchResult,
    CandidateResult,
    Choice,
    Machine,
    Product,
    Recommendation,
    roofline,
)

_MIB = 1 << 20
_ABSENT = "-"
_NUMERICS_DIGITS = 12
# Load per core above which other processes affect the measurement.
_MAX_LOAD = 0.25


def as_json(result: BenchResult) -> str:
    """Return all results as JSON, in seconds, bytes and tokens."""
    return json.dumps(dataclasses.asdict(result), indent=1, ensure_ascii=False) + "\n"


def text(result: BenchResult) -> str:
    """Return the machine, a Markdown table with a column for each backend and dtype, and the recommendation."""
    machine = result.machine
    instructions = f" ({', '.join(machine.instructions)})" if machine.instructions else ""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    products = ", ".join(f"{product.library} {product.dtype} {_tera_ops(product)}" for product in result.products)
    lines = [
        f"{result.preset}, {result.parameters / 1e6:.1f} million parameters, {result.date}",
        f"{machine.cpu}{instructions}, {machine.cores} cores, load {machine.load:.1f} before, {machine.system}",
        f"{versions}; medians of {result.rounds} rounds",
        *_warnings(machine),
        "",
        *_table([["", *(candidate.name for candidate in result.candidates)], *_rows(result)]),
        "",
        f"Matrix products alone: {products}",
        *(
            f"{failure.backend} {failure.dtype} does not run on this machine: {failure.reason}"
            for failure in result.failures
        ),
        *(
            f"{candidate.name} is not recommended: its outputs are outside the accuracy bounds"
            for candidate in result.candidates
            if not candidate.accuracy.within_bounds
        ),
        "",
        *_recommendation(result.recommendation),
    ]
    return "\n".join(lines) + "\n"


def _warnings(machine: Machine) -> Iterator[str]:
    if machine.load > _MAX_LOAD * machine.cores:
        yield "WARNING: the machine was busy before the measurement; its speeds and latencies are not reliable"


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table; the first row is the header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        first, *others = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield f"| {' | '.join([first, *others])} |"
        if not number:
            rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
            yield f"| {' | '.join(rules)} |"


def _rows(result: BenchResult) -> Iterator[list[str]]:
    def row(label: str, cell: Callable[[CandidateResult], str]) -> list[str]:
        return [label, *(cell(candidate) for candidate in result.candidates)]

    yield row("ready, cold start (s)", lambda candidate: f"{candidate.start.cold_seconds:.2f}")
    yield row("ready, warm start (s)", lambda candidate: f"{candidate.start.warm_seconds:.2f}")
    yield row("imports (s)", lambda candidate: f"{candidate.start.import_seconds:.2f}")
    yield row("memory when ready (MiB)", lambda candidate: f"{candidate.start.ready_bytes / _MIB:,.0f}")
    yield row("peak memory (MiB)", lambda candidate: f"{candidate.start.peak_bytes / _MIB:,.0f}")
    for length in sorted({speed.tokens for candidate in result.candidates for speed in candidate.rows}):
        yield row(f"row of {length}: ms, tokens/s, of roofline", partial(_speed, length))
    if any(candidate.disabled for candidate in result.candidates):
        yield row("disabled row lengths", lambda candidate: " ".join(map(str, candidate.disabled)) or _ABSENT)
    limits = {candidate.name: roofline(result.products, candidate.compute_dtype) for candidate in result.candidates}
    yield row("roofline", lambda candidate: f"{_tera_ops(limits[candidate.name])} {limits[candidate.name].library}")
    for index, latency in enumerate(result.candidates[0].latencies):
        yield row(f"1 x {latency.tokens}: ms median, p95", partial(_latency, index))
    for index, workload in enumerate(result.candidates[0].throughputs):
        yield row(f"{workload.workload}: tokens/s, x default, fill", partial(_throughput, index))
    yield row(
        "token cosine: median, lowest",
        lambda candidate: _pair(candidate.accuracy.token_median, candidate.accuracy.token_min),
    )
    yield row(
        "pooled cosine: median, lowest",
        lambda candidate: _pair(candidate.accuracy.pooled_median, candidate.accuracy.pooled_min),
    )
    yield row("within accuracy bounds", lambda candidate: "yes" if candidate.accuracy.within_bounds else "NO")
    yield row("batch-invariant", lambda candidate: "yes" if candidate.batch_invariant else "no")
    yield row("numerics", lambda candidate: candidate.numerics[:_NUMERICS_DIGITS])


def _speed(length: int, candidate: CandidateResult) -> str:
    for row in candidate.rows:
        if row.tokens == length:
            return f"{row.seconds * 1e3:.2f} {row.tokens_per_second:8,.0f} {row.roofline_share:4.0%}"
    return _ABSENT


def _latency(index: int, candidate: CandidateResult) -> str:
    latency = candidate.latencies[index]
    return f"{latency.median_seconds * 1e3:.2f} {latency.p95_seconds * 1e3:8.2f}"


def _throughput(index: int, candidate: CandidateResult) -> str:
    throughput = candidate.throughputs[index]
    speedup = _ABSENT if throughput.speedup is None else f"{throughput.speedup:.2f}"
    return f"{throughput.tokens_per_second:,.0f} {speedup:>5} {throughput.fill:4.0%}"


def _tera_ops(product: Product) -> str:
    unit = "TOP/s" if product.dtype == "int8" else "TFLOP/s"
    return f"{product.tera_ops_per_second:.2f} {unit}"


def _pair(median: float, lowest: float) -> str:
    return f"{_cosine(median)} {_cosine(lowest)}"


def _cosine(value: float) -> str:
    """Return five digits, rounded down; rounding errors of float32 do not show."""
    return f"{math.floor(value * 1e5 + 0.01) / 1e5:.5f}"


def _recommendation(recommendation: Recommendation | None) -> Iterator[str]:
    if recommendation is None:
        yield "No recommendation: no candidate is within the accuracy bounds."
        return
    fastest = recommendation.fastest
    default = " (the default)" if fastest.name == DEFAULT_CANDIDATE else ""
    yield f"Recommended for this machine and preset: {fastest.settings}{default}"
    yield f"  {_choice(fastest)}"
    for purpose, choice in (
        ("Closest to float32", recommendation.closest_to_float32),
        ("Lowest memory", recommendation.min_memory),
    ):
        if choice is not None:
            yield f"{purpose}: {choice.settings}"
            yield f"  {_choice(choice)}"


def _choice(choice: Choice) -> str:
    relative = ""
    if choice.speedup is not None and choice.name != DEFAULT_CANDIDATE:
        relative = f" ({choice.speedup:.2f} x {DEFAULT_CANDIDATE})"
    return (
        f"{choice.tokens_per_second:,.0f} tokens/s of mixed texts{relative}, {choice.latency_seconds * 1e3:.1f} ms for "
        f"one text of {choice.latency_tokens} tokens, {choice.peak_bytes / _MIB:,.0f} MiB, {_cosines(choice.accuracy)}"
    )


def _cosines(accuracy: Accuracy) -> str:
    return (
        f"cosine to float32: tokens {_cosine(accuracy.token_median)} (lowest {_cosine(accuracy.token_min)}), "
        f"pooled {_cosine(accuracy.pooled_median)} (lowest {_cosine(accuracy.pooled_min)})"
    )

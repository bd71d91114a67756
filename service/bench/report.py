"""What was measured, as a table for people and as JSON for programs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from functools import partial

from service.bench.results import Measured, Result, best

_MIB = 1 << 20
_NOTHING = "-"


def as_json(result: Result) -> str:
    """Return everything, in seconds, bytes and tokens."""
    return json.dumps(dataclasses.asdict(result), indent=1, ensure_ascii=False) + "\n"


def table(result: Result) -> str:
    """Return a Markdown table with a column for every engine and dtype, and what belongs to none of them around it."""
    machine = result.machine
    instructions = f" ({', '.join(machine.instructions)})" if machine.instructions else ""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    lines = [
        f"{result.preset}, {result.parameters / 1e6:.1f} million parameters, {result.date}",
        f"{machine.cpu}{instructions}, {machine.cores} cores, load {machine.load:.1f} before, {machine.system}",
        f"{versions}; medians of {result.rounds} rounds",
        "",
    ]
    rows = [["", *(each.name for each in result.measured)], *_rows(result)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        first, *others = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append(f"| {' | '.join([first, *others])} |")
        if not number:
            rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
            lines.append(f"| {' | '.join(rules)} |")
    products = ", ".join(f"{each.library} {each.dtype} {each.tflops:.2f}" for each in result.products)
    lines += ["", f"Matrix products alone, TFLOP/s: {products}"]
    batcher = ", ".join(f"{each.sequences_per_second:,.0f} in requests of {each.request}" for each in result.batcher)
    lines += [f"The batcher alone, sequences/s: {batcher}"]
    lines += [f"{each.backend} {each.dtype} does not run here: {each.reason}" for each in result.failures]
    return "\n".join(lines) + "\n"


def _rows(result: Result) -> Iterator[list[str]]:
    def row(label: str, tell: Callable[[Measured], str]) -> list[str]:
        return [label, *(tell(each) for each in result.measured)]

    yield row("ready, first start, s", lambda each: f"{each.start.first_seconds:.2f}")
    yield row("ready, next start, s", lambda each: f"{each.start.again_seconds:.2f}")
    yield row("of it imports, s", lambda each: f"{each.start.import_seconds:.2f}")
    yield row("memory when ready, MiB", lambda each: f"{each.start.ready_bytes / _MIB:,.0f}")
    yield row("most memory, MiB", lambda each: f"{each.start.peak_bytes / _MIB:,.0f}")
    for length in sorted({speed.tokens for each in result.measured for speed in each.rows}):
        yield row(f"row of {length}: ms, tokens/s, of limit", partial(_speed, length))
    limits = {each.dtype: best(result.products, each.dtype) for each in result.measured}
    yield row("limit, TFLOP/s", lambda each: f"{limits[each.dtype].tflops:.2f} by {limits[each.dtype].library}")
    for place, latency in enumerate(result.measured[0].latencies):
        yield row(f"1 x {latency.tokens}: ms, 95th percentile", partial(_latency, place))
    for place, workload in enumerate(result.measured[0].throughputs):
        yield row(f"{workload.workload}: tokens/s, rows filled", partial(_throughput, place))
    counts = [point.sequences for point in result.measured[0].queue if point.full]
    if counts:
        label = f"queues of {counts[0]} to {counts[-1]}: off the line"
        yield row(label, lambda each: f"{each.line.deviation:.1%}" if each.line else _NOTHING)
    shortest, longest = result.measured[0].lengths[0].length, result.measured[0].lengths[-1].length
    label = f"lengths {shortest} to {longest}: off the median a token"
    yield row(label, lambda each: f"{each.length_deviation:.1%}")


def _speed(length: int, each: Measured) -> str:
    for row in each.rows:
        if row.tokens == length:
            return f"{row.seconds * 1e3:.2f} {row.tokens_per_second:8,.0f} {row.share:4.0%}"
    return _NOTHING


def _latency(place: int, each: Measured) -> str:
    latency = each.latencies[place]
    return f"{latency.median_seconds * 1e3:.2f} {latency.p95_seconds * 1e3:8.2f}"


def _throughput(place: int, each: Measured) -> str:
    found = each.throughputs[place]
    return f"{found.tokens_per_second:,.0f} {found.fill:4.0%}"

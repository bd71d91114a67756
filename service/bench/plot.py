"""What was measured, as a plot. matplotlib is an extra, `bench`, and imported here alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from service.bench.results import Measured, Result

_SIZE = (13.0, 10.0)
_MIB = 1 << 20
# An engine has a colour, a dtype a stroke.
_COLOURS = {"jax": "tab:blue", "openvino": "tab:orange"}
_STROKES = {"float32": "--", "bfloat16": "-"}


def plot(result: Result, file: Path) -> None:
    """Draw four panels into a file, whose suffix says its format.

    Raises:
        OSError: The file cannot be written.
    """
    figure = Figure(figsize=_SIZE, layout="constrained")
    machine = result.machine
    figure.suptitle(f"{result.preset} on {machine.cpu}, {machine.cores} cores, {result.date[:10]}")
    panels = figure.subplots(2, 2)
    _speeds(panels[0, 0], result)
    _latencies(panels[0, 1], result)
    _costs(panels[1, 0], result)
    _starts(panels[1, 1], result)
    figure.savefig(file, dpi=110)


def _style(each: Measured) -> dict[str, Any]:
    return {"color": _COLOURS.get(each.backend), "linestyle": _STROKES.get(each.dtype), "label": each.name}


def _speeds(axes: Any, result: Result) -> None:
    bounds: dict[str, Measured] = {}
    for each in result.measured:
        axes.plot([row.tokens for row in each.rows], _rates(each), marker=".", **_style(each))
        bounds.setdefault(each.dtype, each)
    for dtype, each in bounds.items():
        # At the limit a row would be faster by as much as it has no share of it.
        limit = [row.tokens_per_second / row.share for row in each.rows]
        stroke = _STROKES.get(dtype)
        axes.plot([row.tokens for row in each.rows], limit, color="0.6", linestyle=stroke, label=f"limit {dtype}")
    axes.set(title="Full rows", xlabel="tokens in the row", ylabel="tokens/s", yscale="log")
    _lengths(axes, sorted({row.tokens for each in result.measured for row in each.rows}))
    axes.legend(fontsize="small")


def _latencies(axes: Any, result: Result) -> None:
    for each in result.measured:
        lengths = [latency.tokens for latency in each.latencies]
        axes.plot(lengths, [latency.median_seconds * 1e3 for latency in each.latencies], marker=".", **_style(each))
        low = [latency.median_seconds * 1e3 for latency in each.latencies]
        high = [latency.p95_seconds * 1e3 for latency in each.latencies]
        axes.fill_between(lengths, low, high, color=_COLOURS.get(each.backend), alpha=0.12, linewidth=0)
    axes.set(
        title="One sequence alone: median, and up to the 95th percentile",
        xlabel="tokens in the sequence",
        ylabel="milliseconds",
        yscale="log",
    )
    _lengths(axes, [latency.tokens for latency in result.measured[0].latencies])


def _costs(axes: Any, result: Result) -> None:
    for each in result.measured:
        style = _style(each)
        points = [(cost.tokens, cost.seconds) for cost in each.queue]
        axes.plot(*zip(*points, strict=True), color=style["color"], marker="o", linestyle="none", markersize=4)
        sweep = [(cost.tokens, cost.seconds) for cost in each.lengths]
        axes.plot(*zip(*sweep, strict=True), color=style["color"], marker="x", linestyle="none", markersize=4)
        label, tokens, seconds = each.name, np.array([]), np.array([])
        if each.line is not None:
            label += f": {each.line.slope * 1e6:.2f} µs a token, off by {each.line.deviation:.1%} at most"
            tokens = np.geomspace(min(cost.tokens for cost in each.queue if cost.full), points[-1][0])
            seconds = each.line.intercept + each.line.slope * tokens
        axes.plot(tokens, seconds, **{**style, "label": label})
    axes.set(
        title="Queues: dots by number, with their line; crosses by length",
        xlabel="tokens in the queue",
        ylabel="seconds",
        xscale="log",
        yscale="log",
    )
    axes.legend(fontsize="small")


def _starts(axes: Any, result: Result) -> None:
    names = [each.name.replace(" ", "\n") for each in result.measured]
    places = np.arange(len(names))
    bars = [
        ("first start, s", "tab:blue", [each.start.first_seconds for each in result.measured]),
        ("next start, s", "tab:cyan", [each.start.again_seconds for each in result.measured]),
    ]
    sizes = [
        ("when ready, MiB", "tab:olive", [each.start.ready_bytes / _MIB for each in result.measured]),
        ("at most, MiB", "tab:brown", [each.start.peak_bytes / _MIB for each in result.measured]),
    ]
    memory = axes.twinx()
    for number, (label, colour, heights) in enumerate(bars + sizes):
        onto = axes if number < len(bars) else memory
        drawn = onto.bar(places + (number - 1.5) * 0.2, heights, 0.18, color=colour, label=label)
        onto.bar_label(drawn, fmt="{:.1f}" if onto is axes else "{:.0f}", fontsize="x-small")
    axes.set_xticks(places, names)
    axes.set(title="Time to ready, and memory", ylabel="seconds")
    memory.set(ylabel="MiB")
    # Room for the legend above the bars.
    for each in (axes, memory):
        each.set_ylim(top=each.get_ylim()[1] * 1.25)
    axes.legend(handles=[*axes.containers, *memory.containers], fontsize="small", ncols=2, loc="upper left")


def _rates(each: Measured) -> list[float]:
    return [row.tokens_per_second for row in each.rows]


def _lengths(axes: Any, lengths: list[int]) -> None:
    """Have a logarithmic axis of lengths, which are told as they are."""
    axes.set_xscale("log", base=2)
    axes.set_xticks([length for length in lengths if length.bit_count() == 1] or lengths)
    axes.xaxis.set_major_formatter(ticker.ScalarFormatter())
    axes.grid(visible=True, alpha=0.2)

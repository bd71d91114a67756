"""Results as a plot. matplotlib is an extra, `bench`, and imported only here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from service.bench.results import BenchResult, CandidateResult

_SIZE_INCHES = (13.0, 10.0)
_MIB = 1 << 20
# Color stands for the backend, line style for the dtype.
_COLORS = {"jax": "tab:blue", "openvino": "tab:orange"}
_LINE_STYLES = {"float32": "--", "bfloat16": "-", "int8": ":"}
# A smaller distance is a rounding error of float32.
_MIN_DISTANCE = 1e-8


def plot(result: BenchResult, file: Path) -> None:
    """Draw four panels into a file; its suffix selects the format.

    Raises:
        OSError: The file cannot be written.
    """
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    machine = result.machine
    figure.suptitle(f"{result.preset} on {machine.cpu}, {machine.cores} cores, {result.date[:10]}")
    panels = figure.subplots(2, 2)
    _speeds(panels[0, 0], result)
    _latencies(panels[0, 1], result)
    _accuracies(panels[1, 0], result)
    _starts(panels[1, 1], result)
    figure.savefig(file, dpi=110)


def _style(candidate: CandidateResult) -> dict[str, Any]:
    return {
        "color": _COLORS.get(candidate.backend),
        "linestyle": _LINE_STYLES.get(candidate.dtype),
        "label": candidate.name,
    }


def _speeds(axes: Any, result: BenchResult) -> None:
    by_dtype: dict[str, CandidateResult] = {}
    for candidate in result.candidates:
        speeds = [row.tokens_per_second for row in candidate.rows]
        axes.plot([row.tokens for row in candidate.rows], speeds, marker=".", **_style(candidate))
        by_dtype.setdefault(candidate.compute_dtype, candidate)
    for dtype, candidate in by_dtype.items():
        limits = [row.tokens_per_second / row.roofline_share for row in candidate.rows]
        style = {"color": "0.6", "linestyle": _LINE_STYLES.get(dtype), "label": f"roofline {dtype}"}
        axes.plot([row.tokens for row in candidate.rows], limits, **style)
    axes.set(title="Full rows", xlabel="tokens in the row", ylabel="tokens/s", yscale="log")
    _length_axis(axes, sorted({row.tokens for candidate in result.candidates for row in candidate.rows}))
    axes.legend(fontsize="small")


def _latencies(axes: Any, result: BenchResult) -> None:
    for candidate in result.candidates:
        lengths = [latency.tokens for latency in candidate.latencies]
        medians = [latency.median_seconds * 1e3 for latency in candidate.latencies]
        p95s = [latency.p95_seconds * 1e3 for latency in candidate.latencies]
        style = _style(candidate)
        axes.plot(lengths, medians, marker=".", **style)
        axes.fill_between(lengths, medians, p95s, color=style["color"], alpha=0.12, linewidth=0)
    axes.set(
        title="One sequence alone: median to 95th percentile",
        xlabel="tokens in the sequence",
        ylabel="milliseconds",
        yscale="log",
    )
    _length_axis(axes, [latency.tokens for latency in result.candidates[0].latencies])


def _accuracies(axes: Any, result: BenchResult) -> None:
    for candidate in result.candidates:
        accuracy = candidate.accuracy
        distances = [max(1 - cosine, _MIN_DISTANCE) for cosine in (accuracy.pooled_median, accuracy.pooled_min)]
        speed = candidate.throughputs[0].tokens_per_second
        axes.plot([speed, speed], distances, marker="_", color=_COLORS.get(candidate.backend))
        axes.annotate(
            candidate.name,
            (speed, distances[1]),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize="small",
        )
    axes.set(
        title="Pooled outputs: distance to float32, median to highest",
        xlabel=f"tokens/s, {result.candidates[0].throughputs[0].workload} texts",
        ylabel="1 - cosine",
        yscale="log",
    )
    axes.margins(0.15)
    axes.grid(visible=True, alpha=0.2)


def _starts(axes: Any, result: BenchResult) -> None:
    starts = [candidate.start for candidate in result.candidates]
    centers = np.arange(len(starts))
    times = [
        ("cold start, s", "tab:blue", [start.cold_seconds for start in starts]),
        ("warm start, s", "tab:cyan", [start.warm_seconds for start in starts]),
    ]
    sizes = [
        ("when ready, MiB", "tab:olive", [start.ready_bytes / _MIB for start in starts]),
        ("peak, MiB", "tab:brown", [start.peak_bytes / _MIB for start in starts]),
    ]
    memory = axes.twinx()
    for number, (label, color, heights) in enumerate(times + sizes):
        side = axes if number < len(times) else memory
        bars = side.bar(centers + (number - 1.5) * 0.2, heights, 0.18, color=color, label=label)
        side.bar_label(bars, fmt="{:.1f}" if side is axes else "{:.0f}", fontsize="x-small")
    axes.set_xticks(centers, [candidate.name.replace(" ", "\n") for candidate in result.candidates])
    axes.set(title="Time to ready, and memory", ylabel="seconds")
    memory.set(ylabel="MiB")
    # Space for the legend above the bars.
    for side in (axes, memory):
        side.set_ylim(top=side.get_ylim()[1] * 1.25)
    axes.legend(handles=[*axes.containers, *memory.containers], fontsize="small", ncols=2, loc="upper left")


def _length_axis(axes: Any, lengths: Sequence[int]) -> None:
    """Make the x axis logarithmic, with lengths as its labels."""
    axes.set_xscale("log", base=2)
    axes.set_xticks([length for length in lengths if length.bit_count() == 1] or list(lengths))
    axes.xaxis.set_major_formatter(ticker.ScalarFormatter())
    axes.grid(visible=True, alpha=0.2)

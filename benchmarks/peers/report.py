"""The report as Markdown, JSON and a plot."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from textwrap import wrap
from typing import Any

from benchmarks.peers.products import limits

LIBRARIES = ("jax", "keras", "keras-hub", "torch", "transformers", "openvino", "numpy", "scipy", "aiohttp")
_INSTRUCTIONS = {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8"}
_PART = "†"
_TITLE_CHARACTERS = 120
_SERVERS = (
    "All answer OpenAI's `/v1/embeddings` with 384 floats as JSON. The networks differ: ours is the bundled preset, an "
    "FNet distilled from the all-MiniLM-L6-v2 that infinity-emb serves. The lowest cosine compares a server's vectors "
    "of the same texts with those of the first server of its network in the table. The clients run on the same cores."
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One candidate on one workload.

    Attributes:
        group: Group of the workload.
        workload: Name of the workload.
        candidate: Label and variant of the candidate.
        weights: Preset, or kind of weights.
        backend: The library that computes.
        dtype: Operands of its dense products.
        seconds: Median time of the whole workload.
        tokens: Tokens of the workload, without padding.
        ratio: Median over the rounds of its time divided by the reference's.
        rounds: Number of rounds it took part in.
        flops: Floating-point operations of the workload, counted from the architecture.
        cosine: Lowest cosine similarity of its vectors to those of the reference of its network.
        part: Number of texts that it encoded, its time being scaled up; None if all.
    """

    group: str
    workload: str
    candidate: str
    weights: str
    backend: str
    dtype: str
    seconds: float
    tokens: int
    ratio: float
    rounds: int
    flops: float
    cosine: float
    part: int | None = None


@dataclass(slots=True)
class Report:
    """Results of one run.

    Attributes:
        title: Title, one line.
        rounds: Requested number of rounds.
        machine: Facts about the machine.
        versions: Versions of libraries.
        references: By group, the candidate that ratios refer to.
        products: TFLOP/s of matrix products, by library and dtype.
        skipped: Candidates that did not run, with the reason.
        measured: Every candidate on every workload.
        served: Every server: requests per second, their ratio, latencies in seconds.
    """

    title: str
    rounds: int = 0
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)
    products: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    measured: list[Measured] = field(default_factory=list)
    served: list[dict[str, Any]] = field(default_factory=list)


def machine() -> dict[str, Any]:
    """Return the processor, its cores and its matrix instructions."""
    lines = _lines(Path("/proc/cpuinfo"))
    flags = set(next((line for line in lines if line.startswith("flags")), "").split())
    return {
        "cpu": next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor()),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "instructions": sorted(flags & _INSTRUCTIONS),
        "python": platform.python_version(),
    }


def versions(infinity: Path) -> dict[str, str]:
    """Return versions of the libraries here, and of infinity-emb and its libraries in the environment `infinity`."""
    installed_versions = {}
    for name in LIBRARIES:
        try:
            installed_versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    for packages in infinity.glob("lib/python*/site-packages"):
        installed = {
            package.name.lower().replace("_", "-"): package.version
            for package in metadata.distributions(path=[str(packages)])
        }
        if "infinity-emb" in installed:
            libraries = ", ".join(f"{name} {installed.get(name, '-')}" for name in ("torch", "onnxruntime"))
            installed_versions["infinity-emb"] = f"{installed['infinity-emb']} ({libraries})"
    return installed_versions


def markdown(report: Report) -> str:
    """Return the report as Markdown: one table per workload, and how to read them."""
    facts = report.machine
    instructions = ", ".join(facts["instructions"]) or "no matrix instructions known"
    libraries = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    parts = [
        f"## {report.title}",
        f"{facts['cpu']}, {facts['cores']} cores ({instructions}), Python {facts['python']}. {libraries}.",
    ]
    if report.products:
        rows = [[name, f"{speed:.3f}"] for name, speed in report.products.items()]
        parts += ["### Matrix products, the limit", table(("library and dtype", "TFLOP/s"), rows, texts=1)]
    for group, workload in dict.fromkeys((measured.group, measured.workload) for measured in report.measured):
        members = [measured for measured in report.measured if (measured.group, measured.workload) == (group, workload)]
        header = (
            "candidate",
            "weights",
            "backend",
            "dtype",
            "time",
            "tokens/s",
            "time / reference",
            "of the limit",
            "lowest cosine",
        )
        parts += [
            f"### {group}: {workload}, {members[0].tokens:,} tokens",
            table(header, [_row(measured, report) for measured in members], texts=4),
        ]
    if report.measured:
        parts.append(_explanation(report))
    if report.served:
        rows = [
            [
                *(server[name] for name in ("server", "weights", "backend", "dtype")),
                f"{server['requests']:,.0f}",
                _number(server["ratio"]),
                f"{server['median'] * 1e3:.0f} ms",
                f"{server['slowest'] * 1e3:.0f} ms",
                _cosine(server["cosine"]),
            ]
            for server in report.served
        ]
        header = (
            "server",
            "weights",
            "backend",
            "dtype",
            "requests/s",
            "x reference",
            "median",
            "99th percentile",
            "lowest cosine",
        )
        parts += ["### http: one short text per request", table(header, rows, texts=4), _SERVERS]
    if report.skipped:
        parts.append("Not run:\n\n" + "\n".join(f"* {name}: {reason}" for name, reason in report.skipped.items()))
    return "\n\n".join(parts) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], texts: int) -> str:
    """Return a Markdown table; the first columns are texts, the others are aligned to the right."""
    rule = ["---"] * texts + ["---:"] * (len(header) - texts)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def _row(measured: Measured, report: Report) -> list[str]:
    name = measured.candidate
    if measured.part is not None:
        name += f" {_PART} {measured.part} texts"
    if measured.rounds < report.rounds:
        name += f" ({measured.rounds} of {report.rounds} rounds)"
    limit = limits(report.products).get(measured.dtype)
    return [
        name,
        measured.weights,
        measured.backend,
        measured.dtype,
        f"{measured.seconds * 1e3:,.1f} ms",
        f"{measured.tokens / measured.seconds:,.0f}",
        _number(measured.ratio),
        f"{measured.flops / measured.seconds / 1e12 / limit:.0%}" if limit else "",
        _cosine(measured.cosine),
    ]


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def _cosine(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.5f}"


def _explanation(report: Report) -> str:
    references = ", ".join(f"{name} ({group})" for group, name in report.references.items())
    return (
        f"Medians of {report.rounds} rounds in which candidates alternate; the ratio is the median of the rounds' "
        f"ratios to {references}. {_PART}: the candidate encoded that many of the texts and its time is scaled up by "
        "their number, because every text takes the same time. *Of the limit*: floating-point operations of the dense "
        "layers, counted from the architecture without padding and Fourier transforms, over the highest product speed "
        "of that dtype above, measured before, between and after the workloads.\n\n"
        "Before timing, the mean and pooled vectors of all texts were compared with those of a float32 reference of "
        "the same network: lowest cosine. Padding changes an FNet's vectors. A candidate of ours or in float32 whose "
        "vectors differ is not timed."
    )


def as_json(report: Report) -> str:
    """Return the report as JSON, with null for numbers that are not finite."""
    return json.dumps(_finite(asdict(report)), indent=2) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plot(report: Report, file: Path) -> None:
    """Draw tokens/s of every workload, and requests/s, as bars; the suffix of the file determines the format."""
    import matplotlib as mpl  # noqa: PLC0415 - needed only here

    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    panels: dict[str, dict[str, float]] = {}
    for measured in report.measured:
        bar = f"{measured.candidate}, {measured.backend} {measured.dtype}"
        panels.setdefault(f"{measured.group}, {measured.workload}: tokens/s", {})[bar] = (
            measured.tokens / measured.seconds
        )
    if report.served:
        panels["over HTTP: requests/s"] = {
            f"{server['server']}, {server['backend']} {server['dtype']}": server["requests"] for server in report.served
        }
    if not panels:
        return
    heights = [len(bars) + 1.5 for bars in panels.values()]
    figure, axes = pyplot.subplots(
        len(panels), figsize=(9, 0.27 * sum(heights) + 1), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for axis, (title, bars) in zip(axes[:, 0], panels.items(), strict=True):
        colors = ["tab:orange" if name.startswith("ours") else "tab:blue" for name in bars]
        drawn = axis.barh(list(bars), list(bars.values()), color=colors)
        axis.bar_label(drawn, fmt="{:,.0f}", padding=3, fontsize=7)
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set_title(title, loc="left", fontsize=9)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    libraries = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    cpu = f"{report.machine['cpu']}, {report.machine['cores']} cores"
    figure.suptitle("\n".join([report.title, cpu, *wrap(libraries, _TITLE_CHARACTERS)]), fontsize=7)
    figure.savefig(file, dpi=150)
    pyplot.close(figure)


def _lines(file: Path) -> list[str]:
    return file.read_text("utf-8").splitlines() if file.exists() else []

"""What was measured, for people, programs and eyes: Markdown, JSON and a plot."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.peers.products import limits

LIBRARIES = ("jax", "keras", "keras-hub", "torch", "transformers", "openvino", "numpy", "aiohttp")
_PART = "†"
_SERVERS = (
    "Both answer OpenAI's `/v1/embeddings` with 384 floats as JSON. The networks differ: ours is the bundled preset, "
    "an FNet distilled from the all-MiniLM-L6-v2 that infinity-emb serves. The clients run on the same cores."
)


@dataclass(frozen=True, slots=True)
class Measured:
    """One contender on one workload.

    Attributes:
        workload: Name of the workload.
        contender: Name of the contender.
        seconds: Median time of the whole workload.
        tokens: Tokens of the workload, padding not counted.
        ratio: Median over the rounds of its time as a multiple of the reference's.
        rounds: How many rounds it took part in.
        flops: Floating-point operations of the workload, counted from the architecture.
        dtype: Of its matrix products.
        part: Texts that it encoded, its time scaled up to all; nothing where it encoded all.
    """

    workload: str
    contender: str
    seconds: float
    tokens: int
    ratio: float
    rounds: int
    flops: float
    dtype: str
    part: int | None = None


@dataclass(slots=True)
class Report:
    """Everything of one run.

    Attributes:
        title: What was run, in a line.
        reference: The contender that ratios are of.
        rounds: Rounds asked for.
        machine: Facts of the machine.
        versions: Versions of libraries.
        products: TFLOP/s of matrix products, by library and dtype.
        agreement: Least cosine of each contender's vectors with those of the reference of its network.
        skipped: Contenders that did not run, with the reason.
        measured: Every contender on every workload.
        served: Every server: answers a second, their ratio, median and 99th percentile of the latency in seconds.
    """

    title: str
    reference: str = ""
    rounds: int = 0
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    products: dict[str, float] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    measured: list[Measured] = field(default_factory=list)
    served: list[dict[str, Any]] = field(default_factory=list)


def machine() -> dict[str, Any]:
    """Return the processor, its cores, and the matrix instructions that it has."""
    lines = _lines(Path("/proc/cpuinfo"))
    flags = set(next((line for line in lines if line.startswith("flags")), "").split())
    return {
        "cpu": next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor()),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "instructions": sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}),
        "python": platform.python_version(),
    }


def versions(other: Path) -> dict[str, str]:
    """Return versions of the libraries here, and of infinity-emb's in the environment `other`."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    for packages in other.glob("lib/python*/site-packages"):
        installed = {
            each.name.lower().replace("_", "-"): each.version for each in metadata.distributions(path=[str(packages)])
        }
        if "infinity-emb" in installed:
            found["infinity-emb"] = f"{installed['infinity-emb']} (torch {installed.get('torch', '-')})"
    return found


def markdown(report: Report) -> str:
    """Return the report as Markdown: a table for each workload, and how to read them."""
    facts = report.machine
    instructions = ", ".join(facts["instructions"]) or "no matrix instructions known"
    libraries = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    parts = [
        f"## {report.title}",
        f"{facts['cpu']}, {facts['cores']} cores ({instructions}), Python {facts['python']}. {libraries}.",
    ]
    if report.products:
        rows = [[name, f"{speed:.3f}"] for name, speed in report.products.items()]
        parts += ["### Matrix products, the limit", table(("through", "TFLOP/s"), rows)]
    for workload in dict.fromkeys(each.workload for each in report.measured):
        members = [each for each in report.measured if each.workload == workload]
        parts += [
            f"### {workload} tokens" if " x " in workload else f"### {workload}, {members[0].tokens} tokens",
            table(
                ("contender", "time", "tokens/s", "time / reference's", "of the limit"),
                [_row(each, report) for each in members],
            ),
        ]
    if report.measured:
        parts.append(_explained(report))
    if report.served:
        rows = [
            [
                each["name"],
                f"{each['requests']:,.0f}",
                _number(each["ratio"]),
                f"{each['median'] * 1e3:.0f} ms",
                f"{each['slowest'] * 1e3:.0f} ms",
            ]
            for each in report.served
        ]
        parts += [
            "### Over HTTP, one short text a request",
            table(("server", "requests/s", "x reference", "median", "99th percentile"), rows),
            _SERVERS,
        ]
    if report.skipped:
        parts.append("Not run:\n\n" + "\n".join(f"* {name}: {reason}" for name, reason in report.skipped.items()))
    return "\n\n".join(parts) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, its columns after the first aligned to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def _row(each: Measured, report: Report) -> list[str]:
    name = each.contender
    if each.part is not None:
        name += f" {_PART} {each.part} texts"
    if each.rounds < report.rounds:
        name += f" ({each.rounds} rounds)"
    speed = each.tokens / each.seconds
    limit = limits(report.products).get(each.dtype)
    share = f"{each.flops / each.seconds / 1e12 / limit:.0%}" if limit else ""
    return [name, f"{each.seconds * 1e3:,.1f} ms", f"{speed:,.0f}", _number(each.ratio), share]


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def _explained(report: Report) -> str:
    agreement = ", ".join(f"{name} {cosine:.6f}" for name, cosine in report.agreement.items())
    return (
        f"Medians of {report.rounds} rounds in which contenders took turns; the ratio is the median of the rounds' "
        f"ratios to {report.reference}. {_PART}: ran that many of the texts, its time scaled up by their number, for "
        "each takes equally long. *Of the limit*: floating-point operations counted from the architecture, padding and "
        "FFTs left out, over the best product speed of that dtype above, measured before, between and after.\n\n"
        "Before timing, mean and pooled vectors of all texts were compared with those of each network's float32 "
        f"reference. Least cosines: {agreement}. Padding changes an FNet's vectors, which is why that contender's "
        "cosine is what it is; all others had to agree."
    )


def as_json(report: Report) -> str:
    """Return the report as JSON, what is not a number being null."""
    return json.dumps(_finite(asdict(report)), indent=2) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plot(report: Report, file: Path) -> None:
    """Draw tokens/s of every workload, and requests/s, as bars; the suffix of the file chooses the format."""
    import matplotlib as mpl  # noqa: PLC0415 - for this alone

    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    panels: dict[str, dict[str, float]] = {}
    for each in report.measured:
        panels.setdefault(f"{each.workload}: tokens/s", {})[each.contender] = each.tokens / each.seconds
    if report.served:
        panels["over HTTP: requests/s"] = {each["name"]: each["requests"] for each in report.served}
    if not panels:
        return
    heights = [len(bars) + 1.5 for bars in panels.values()]
    figure, axes = pyplot.subplots(
        len(panels), figsize=(9, 0.27 * sum(heights) + 1), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for axis, (title, bars) in zip(axes[:, 0], panels.items(), strict=True):
        colours = ["tab:orange" if name.startswith("ours") else "tab:blue" for name in bars]
        drawn = axis.barh(list(bars), list(bars.values()), color=colours)
        axis.bar_label(drawn, fmt="{:,.0f}", padding=3, fontsize=7)
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set_title(title, loc="left", fontsize=9)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    libraries = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    cpu = f"{report.machine['cpu']}, {report.machine['cores']} cores"
    figure.suptitle(f"{report.title}\n{cpu}\n{libraries}", fontsize=7)
    figure.savefig(file, dpi=150)
    pyplot.close(figure)


def _lines(file: Path) -> list[str]:
    return file.read_text("utf-8").splitlines() if file.exists() else []

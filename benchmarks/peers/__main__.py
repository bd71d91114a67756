"""Compare with other libraries, in one run, contenders taking turns, by medians.

    make bench-peers [BENCH_ARGS="--only ours 512 --json FILE --plot FILE"]

Networks are of base size with random weights, which change no time; all FNets have the same ones.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.update(KERAS_BACKEND="jax", HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TQDM_DISABLE="1")

from benchmarks.peers import serving
from benchmarks.peers.contenders import Contender, Encode, contenders, least_cosine, write_weights
from benchmarks.peers.products import product_speeds
from benchmarks.peers.report import Measured, Report, as_json, machine, markdown, plot, versions
from benchmarks.peers.timing import chosen, measure, summarize
from benchmarks.peers.workloads import Workload, bert_flops, fnet_flops, token_ids, workloads
from model.architecture import Architecture
from model.arrays import Float32s

# Least cosines at which contenders count as one network.
AGREEMENT = {"float32": 0.99999, "bfloat16": 0.99}
PRODUCTS, HTTP = "products", "http"
_STARTED = time.perf_counter()


def main() -> None:
    """Run what was asked for, and print or write the report."""
    options = _options()
    architecture = Architecture(
        vocabulary_size=options.vocabulary,
        num_layers=options.layers,
        hidden_dim=options.hidden,
        intermediate_dim=options.intermediate,
    )
    size = f"{options.layers} x {options.hidden} x {options.intermediate}"
    report = Report(f"FNet Encode beside its peers, {size}", rounds=options.rounds)
    report.machine, report.versions = machine(), versions(serving.INFINITY)
    jobs = {each.name: each for each in workloads(options.texts)}
    asked = chosen([PRODUCTS, *jobs, HTTP], options.only)
    if PRODUCTS in asked:
        _multiply(report, options)
    wanted = [jobs[name] for name in asked if name in jobs]
    if wanted:
        with TemporaryDirectory() as home:
            _encode(report, architecture, wanted, options, Path(home))
        gc.collect()
    if HTTP in asked:
        _serve(report, options)
    _save(report, options)
    sys.stdout.write(markdown(report))
    if options.plot:
        plot(report, options.plot)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default, meaning in (
        ("layers", 12, "layers of every network"),
        ("hidden", 768, "hidden size"),
        ("intermediate", 3072, "inner size of the feed-forward layers"),
        ("vocabulary", 32000, "token ids"),
        ("texts", 256, "texts of mixed lengths"),
        ("rounds", 7, "rounds, and windows of each server"),
        ("clients", 64, "clients over HTTP"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{meaning}; {default} by default")
    parser.add_argument("--seconds", type=float, default=60, help="of one contender on one workload, then it rests; 60")
    parser.add_argument("--window", type=float, default=5, help="seconds of one server at a time; 5 by default")
    parser.add_argument("--reference", default="", help="whom ratios are of; our last engine by default")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="WORD",
        help=f"run contenders and workloads with any of these in their names; {PRODUCTS} and {HTTP} are workloads. "
        "Where no word means any contender, all run, and likewise with workloads",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them there, .svg or .png")
    return parser.parse_args()


def _encode(
    report: Report, architecture: Architecture, wanted: list[Workload], options: argparse.Namespace, home: Path
) -> None:
    """Time every contender on every workload."""
    _tell("making weights")
    preset, hugging_face = home / "preset", home / "hugging_face"
    write_weights(architecture, preset, hugging_face)
    known = {each.name: each for each in contenders(architecture, preset, hugging_face)}
    built: dict[str, Encode] = {}
    for name in chosen(list(known), options.only):
        _tell(f"building {name}")
        try:
            built[name] = known[name].make()
        except Exception as error:  # noqa: BLE001 - whatever keeps one out, the others run
            report.skipped[name] = _reason(error)
    if not built:
        return
    ours = [name for name in built if name.startswith("ours")]
    report.reference = options.reference or (ours or list(built))[-1]
    for workload in wanted:
        running = {
            name: encode for name, encode in built.items() if not _redundant(known[name], workload, architecture)
        }
        calls, parts = _warmed_up(report, architecture, workload, running, known)
        _tell(f"timing {workload.name}")
        seconds = measure(calls, options.rounds, options.seconds)
        scale = {name: len(workload.lengths) / count for name, count in parts.items()}
        for name, summary in summarize(seconds, report.reference, scale).items():
            contender = known[name]
            flops = (
                bert_flops(architecture, workload.lengths)
                if contender.network == "BERT"
                else fnet_flops(architecture, workload.lengths, contender.products)
            )
            report.measured.append(
                Measured(
                    workload.name,
                    name,
                    summary.seconds,
                    workload.tokens,
                    summary.ratio,
                    summary.rounds,
                    flops,
                    contender.dtype,
                    parts.get(name),
                )
            )
        if report.products:
            _multiply(report, options)
        _save(report, options)


def _multiply(report: Report, options: argparse.Namespace) -> None:
    """Measure matrix products, and keep the best so far: a limit is what the machine does when nothing disturbs it."""
    _tell("measuring matrix products")
    for name, speed in product_speeds(options.hidden, options.intermediate).items():
        report.products[name] = max(speed, report.products.get(name, 0.0))


def _redundant(contender: Contender, workload: Workload, architecture: Architecture) -> bool:
    """Tell whether another contender does the very same on this workload."""
    if len(set(workload.lengths)) > 1:
        return False
    full = workload.lengths[0] == architecture.max_sequence_length
    return full if not contender.exact else contender.network == "BERT" and contender.name.endswith("equal lengths")


def _warmed_up(
    report: Report,
    architecture: Architecture,
    workload: Workload,
    running: dict[str, Encode],
    known: dict[str, Contender],
) -> tuple[dict[str, Callable[[], object]], dict[str, int]]:
    """Return calls of the contenders that agree with their network's reference, and how many texts some take."""
    texts = token_ids(workload.lengths, architecture.vocabulary_size)
    calls: dict[str, Callable[[], object]] = {}
    parts: dict[str, int] = {}
    references: dict[str, Float32s] = {}
    for name in sorted(running, key=lambda each: _authority(known[each])):
        contender = known[name]
        taken = texts[: contender.part]
        _tell(f"{workload.name}: first run of {name}")
        try:
            found = running[name](taken)
        except Exception as error:  # noqa: BLE001 - as above
            report.skipped[f"{name}, {workload.name}"] = _reason(error)
            continue
        wanted = references.setdefault(contender.network, found)
        cosine = least_cosine(found, wanted[: len(taken)])
        report.agreement[name] = min(cosine, report.agreement.get(name, 1.0))
        if contender.exact and not cosine >= AGREEMENT[contender.dtype]:
            report.skipped[f"{name}, {workload.name}"] = f"its vectors differ, least cosine {cosine:.5f}"
            continue
        calls[name] = partial(running[name], taken)
        if len(taken) < len(texts):
            parts[name] = len(taken)
    return {name: calls[name] for name in running if name in calls}, parts


def _authority(contender: Contender) -> tuple[bool, ...]:
    """Return a sort key by which comes first who judges the others: exact float32, and not our own."""
    return (contender.dtype != "float32", not contender.exact, contender.name.startswith("ours"))


def _serve(report: Report, options: argparse.Namespace) -> None:
    """Compare servers."""
    known = {each.name: each for each in serving.servers()}
    wanted = [known[name] for name in chosen(list(known), options.only)]
    if not any(each.name.startswith("infinity") for each in known.values()):
        report.skipped["infinity-emb"] = f"not installed in {serving.INFINITY.name}"
    windows, failed = serving.compare(
        wanted, clients=options.clients, rounds=options.rounds, seconds=options.window, tell=_tell
    )
    report.skipped |= {f"{name} over HTTP": reason for name, reason in failed.items()}
    ours = [name for name in windows if name.startswith("ours")]
    reference = (ours or list(windows) or [""])[-1]
    report.served = [asdict(each) for each in serving.summarize(windows, reference)]


def _save(report: Report, options: argparse.Namespace) -> None:
    """Write what there is so far: a run takes long, and may be ended before its end."""
    if options.json:
        options.json.write_text(as_json(report), "utf-8")


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _tell(line: str) -> None:
    sys.stderr.write(f"{time.perf_counter() - _STARTED:5.0f} s: {line} …\n")


if __name__ == "__main__":
    main()

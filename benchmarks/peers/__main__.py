"""Compare with other libraries and servers in one run, candidates alternating, by medians.

    make bench-peers BENCH_ARGS="--groups base --only ours 512 --before DIR --json FILE --plot FILE"

Groups:
    products: speed of matrix products, the limit of all candidates.
    base: networks of base size on texts of up to 512 tokens, ours and those of other libraries.
    long: single sequences of 2,048 to 8,192 tokens, ours and keras-hub's, float32.
    bundled: the bundled preset on texts of mixed lengths, ours only.
    http: complete servers.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.update(KERAS_BACKEND="jax", HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TQDM_DISABLE="1")

from benchmarks.peers import serving
from benchmarks.peers.candidates import (
    MIN_COSINE,
    STREAMS,
    Candidate,
    Encode,
    keras_hub_candidate,
    min_cosine,
    own_candidates,
    peer_candidates,
    previous_candidates,
)
from benchmarks.peers.products import product_speeds
from benchmarks.peers.report import Measured, Report, as_json, machine, markdown, plot, versions
from benchmarks.peers.timing import matching, measure, summarize
from benchmarks.peers.weights import random_weights, trained_like_weights, write_hugging_face
from benchmarks.peers.workloads import (
    Workload,
    base_workloads,
    bert_flops,
    fnet_flops,
    long_workloads,
    mixed_workload,
    token_ids,
)
from model.architecture import Architecture
from model.arrays import Float32s, Int32s
from model.presets.hub import DEFAULT_PRESET, load_preset

GROUPS = ("products", "base", "long", "bundled", "http")
WEIGHTS = {"trained-like": trained_like_weights, "random": random_weights}
_LONG_TOKENS = 8192
_STARTED = time.perf_counter()


@dataclass(frozen=True, slots=True)
class Group:
    """Candidates with equal FNet weights, and their workloads.

    Attributes:
        name: Its name.
        weights: Preset, or kind of weights.
        architecture: Architecture of all networks.
        candidates: Candidates, not built yet.
        workloads: Workloads.
    """

    name: str
    weights: str
    architecture: Architecture
    candidates: list[Candidate]
    workloads: list[Workload]


def main() -> None:
    """Run the selected groups, and print or write the report."""
    options = _options()
    size = f"{options.layers} x {options.hidden} x {options.intermediate}"
    report = Report(f"FNet Encode and its peers, {size}", rounds=options.rounds)
    report.machine, report.versions = machine(), versions(serving.INFINITY)
    for name in options.groups:
        if name == "products":
            _measure_products(report, options)
        elif name == "http":
            _serve(report, options)
        else:
            with TemporaryDirectory() as home:
                _encode(report, _group(name, options, Path(home)), options)
            gc.collect()
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
        ("rounds", 7, "rounds, and windows per server"),
        ("clients", 64, "HTTP clients"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{meaning}; default {default}")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS), help="what to run; default all")
    parser.add_argument(
        "--weights", choices=WEIGHTS, default="trained-like", help="FNet weights of base and long; default trained-like"
    )
    parser.add_argument(
        "--before", type=Path, metavar="DIR", help="another checkout of this project whose encoder and server run too"
    )
    parser.add_argument("--seconds", type=float, default=60, help="limit per candidate and workload; default 60")
    parser.add_argument("--window", type=float, default=5, help="seconds of one server at a time; default 5")
    parser.add_argument("--reference", default="", help="candidate that ratios refer to; default the last of ours")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="WORD",
        help="run candidates, servers and workloads whose names contain any of these words. If no candidate's name "
        "contains one, all candidates run; the same holds for servers and workloads",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them to this file, .svg or .png")
    return parser.parse_args()


def _group(name: str, options: argparse.Namespace, home: Path) -> Group:
    """Return a group, its weights being written below `home`."""
    if name == "bundled":
        preset = load_preset(DEFAULT_PRESET)
        candidates = own_candidates(preset.directory) + _previous(preset.directory, options)
        return Group(name, DEFAULT_PRESET, preset.architecture, candidates, [mixed_workload(options.texts)])
    architecture = Architecture(
        vocabulary_size=options.vocabulary,
        num_layers=options.layers,
        hidden_dim=options.hidden,
        intermediate_dim=options.intermediate,
    )
    if name == "long":
        architecture = dataclasses.replace(architecture, max_sequence_length=_LONG_TOKENS)
    _progress(f"{name}: writing {options.weights} weights")
    preset_directory, hugging_face = home / "preset", home / "hugging_face"
    write_weights(options.weights, architecture, preset_directory, hugging_face)
    candidates = own_candidates(preset_directory)
    if name == "long":
        candidates = [*candidates, keras_hub_candidate(preset_directory)]
        candidates = [candidate for candidate in candidates if candidate.dtype == "float32"]
        return Group(name, options.weights, architecture, candidates, long_workloads())
    candidates += _previous(preset_directory, options) + peer_candidates(architecture, preset_directory, hugging_face)
    return Group(name, options.weights, architecture, candidates, base_workloads(options.texts))


def write_weights(kind: str, architecture: Architecture, preset: Path, hugging_face: Path) -> None:
    """Write the same weights as a keras-hub preset and as a checkpoint of transformers.

    Args:
        kind: One of `WEIGHTS`.
        architecture: The network.
        preset: Directory of the preset.
        hugging_face: Directory of the checkpoint.
    """
    from model.backbone import FNetBackbone  # noqa: PLC0415

    weights = WEIGHTS[kind](architecture)
    backbone = FNetBackbone.from_architecture(architecture)
    backbone.assign_weights(weights)
    backbone.save_to_preset(preset)
    write_hugging_face(hugging_face, architecture, weights)


def _previous(preset: Path, options: argparse.Namespace) -> list[Candidate]:
    return previous_candidates(preset, options.before) if options.before else []


def _encode(report: Report, group: Group, options: argparse.Namespace) -> None:
    """Time every selected candidate on every selected workload of a group."""
    known = {candidate.name: candidate for candidate in group.candidates}
    built: dict[str, Encode] = {}
    for name in matching(list(known), options.only):
        _progress(f"{group.name}: building {name}")
        try:
            built[name] = known[name].make()
        except Exception as error:  # noqa: BLE001 - the other candidates run without it
            report.skipped[f"{name} ({group.name})"] = _reason(error)
    if not built:
        return
    own = [name for name in built if name.startswith("ours")]
    reference = report.references[group.name] = options.reference or (own or list(built))[-1]
    workloads = {workload.name: workload for workload in group.workloads}
    for workload in map(workloads.__getitem__, matching(list(workloads), options.only)):
        running = {name: built[name] for name in built if not _redundant(known[name], workload, group.architecture)}
        cosines, parts = _verified(report, group, workload, running, known)
        _progress(f"{group.name}: timing {workload.name}")
        texts = token_ids(workload.lengths, group.architecture.vocabulary_size)
        calls = {name: partial(_seconds, running[name], texts[: parts.get(name)]) for name in cosines}
        seconds = measure(calls, options.rounds, options.seconds)
        scale = {name: len(workload.lengths) / count for name, count in parts.items()}
        for name, summary in summarize(seconds, reference, scale).items():
            candidate = known[name]
            flops = bert_flops if candidate.network == "BERT" else fnet_flops
            report.measured.append(
                Measured(
                    group=group.name,
                    workload=workload.name,
                    candidate=", ".join(filter(None, (candidate.label, candidate.variant))),
                    weights=group.weights if candidate.network == "FNet" else "random",
                    backend=candidate.backend,
                    dtype=candidate.dtype,
                    seconds=summary.seconds,
                    tokens=workload.tokens,
                    ratio=summary.ratio,
                    rounds=summary.rounds,
                    flops=flops(group.architecture, workload.lengths),
                    cosine=cosines[name],
                    part=parts.get(name),
                )
            )
        if report.products:
            _measure_products(report, options)
        _save(report, options)


def _seconds(encode: Encode, texts: Sequence[Int32s]) -> float:
    return encode(texts).seconds


def _measure_products(report: Report, options: argparse.Namespace) -> None:
    """Measure matrix products and keep the highest speeds: a limit is what the undisturbed machine reaches."""
    _progress("measuring matrix products")
    for name, speed in product_speeds(options.hidden, options.intermediate).items():
        report.products[name] = max(speed, report.products.get(name, 0.0))


def _redundant(candidate: Candidate, workload: Workload, architecture: Architecture) -> bool:
    """Return whether another candidate does the same on this workload, or there is nothing to run in parallel."""
    if STREAMS in candidate.variant:
        return len(workload.lengths) == 1
    return not candidate.exact and set(workload.lengths) == {architecture.max_sequence_length}


def _verified(
    report: Report, group: Group, workload: Workload, running: Mapping[str, Encode], known: Mapping[str, Candidate]
) -> tuple[dict[str, float], dict[str, int]]:
    """Run each candidate once, and compare its vectors with those of its network's float32 reference.

    Returns:
        Cosines of the candidates to time, in their order; and the number of texts of those that run a part.
    """
    texts = token_ids(workload.lengths, group.architecture.vocabulary_size)
    cosines: dict[str, float] = {}
    parts: dict[str, int] = {}
    references: dict[str, Float32s] = {}
    for name in sorted(running, key=lambda name: _reference_rank(known[name])):
        candidate = known[name]
        part = texts[: candidate.part]
        _progress(f"{group.name}, {workload.name}: first run of {name}")
        try:
            vectors = running[name](part).vectors
        except Exception as error:  # noqa: BLE001 - the other candidates run without it
            report.skipped[f"{name} ({group.name}, {workload.name})"] = _reason(error)
            continue
        cosine = min_cosine(vectors, references.setdefault(candidate.network, vectors)[: len(part)])
        # Others may be less accurate in a reduced precision: they run, and the report shows the cosine.
        strict = candidate.exact and (candidate.label == "ours" or candidate.dtype == "float32")
        if strict and not cosine >= MIN_COSINE[candidate.dtype]:
            report.skipped[f"{name} ({group.name}, {workload.name})"] = f"vectors differ, lowest cosine {cosine:.5f}"
            continue
        cosines[name] = cosine
        if len(part) < len(texts):
            parts[name] = len(part)
    return {name: cosines[name] for name in running if name in cosines}, parts


def _reference_rank(candidate: Candidate) -> tuple[bool, ...]:
    """Return a sort key that puts the network's reference first: exact, float32, and not this project's own."""
    return (candidate.dtype != "float32", not candidate.exact, candidate.label in ("ours", "before"))


def _serve(report: Report, options: argparse.Namespace) -> None:
    """Compare servers."""
    known = {server.name: server for server in serving.servers(options.before)}
    if not any(name.startswith("infinity") for name in known):
        report.skipped["infinity-emb"] = f"not installed in {serving.INFINITY.name}"
    served, failed = serving.compare(
        [known[name] for name in matching(list(known), options.only)],
        clients=options.clients,
        rounds=options.rounds,
        window_seconds=options.window,
        report_progress=_progress,
    )
    report.skipped |= {f"{name} (http)": reason for name, reason in failed.items()}
    report.served = [asdict(server) for server in served]


def _save(report: Report, options: argparse.Namespace) -> None:
    """Write the figures so far: a run takes long and may be interrupted."""
    if options.json:
        options.json.write_text(as_json(report), "utf-8")


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _progress(line: str) -> None:
    sys.stderr.write(f"{time.perf_counter() - _STARTED:5.0f} s: {line} …\n")


if __name__ == "__main__":
    main()

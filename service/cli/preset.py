"""`fnet-service preset`: what is known, what is here, whether it is whole, and a checkpoint made a preset."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from model.errors import PresetError
from model.presets.hub import (
    BUILT_IN_ARCHITECTURES,
    BUILT_IN_PRESETS,
    bundled_presets,
    check_handle,
    downloaded_presets,
    find,
    hub_handle,
    locate,
    preset_name,
)
from model.presets.preset import CARD_FILE, Preset, read_preset
from service.cli.exits import fail
from service.cli.progress import progress

T = TypeVar("T")


class Handle(click.ParamType[str]):
    """A preset's handle, which a shell can complete."""

    name = "handle"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that are known, what was downloaded, and directories."""
        names = [*bundled_presets(), *BUILT_IN_PRESETS, *downloaded_presets(ctx.params.get("cache_dir"))]
        found = [CompletionItem(name) for name in dict.fromkeys(names) if name.startswith(incomplete)]
        return found or click.Path(file_okay=False).shell_complete(ctx, param, incomplete)


_handle = click.argument("handle", type=Handle())
_cache_dir = click.option(
    "--cache-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where downloads are kept; FNET_CACHE_DIR, else the user's cache, by default.",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Write JSON for programs instead.")


@click.group()
def preset() -> None:
    """List, describe, fetch, verify and convert presets.

    A HANDLE is a bundled or built-in name, kaggle://owner/model/keras/variation[/version], hf://owner/name[@revision],
    or a preset's directory. Only `fetch` and `convert` use the network.

    \b
    Exit codes: 0 done, 1 failed or not whole, 2 asked wrongly.
    """  # noqa: D301 - click's mark for lines to be left as they are


@preset.command("list")
@_cache_dir
@_as_json
def list_presets(cache_dir: Path | None, *, as_json: bool) -> None:
    """List what is bundled, built in, and in the cache."""
    rows = list(_known(cache_dir))
    if as_json:
        _echo_json(rows)
        return
    _echo_table(
        ["PRESET", "PARAMETERS", "LAYERS", "HIDDEN", "WHERE"],
        [
            [row["handle"], *(_number(row[field]) for field in ("parameters", "num_layers", "hidden_dim")), _where(row)]
            for row in rows
        ],
    )


@preset.command()
@_handle
@_cache_dir
@_as_json
def info(handle: str, cache_dir: Path | None, *, as_json: bool) -> None:
    """Describe a preset, as far as that needs no download."""
    directory = _asked(lambda: find(handle, cache_dir))
    facts = _facts(handle, directory)
    if as_json:
        _echo_json(facts)
        return
    for name, value in facts.items():
        if value not in (None, ""):
            shown = f"{value:,}" if type(value) is int else value
            click.echo(f"{click.style(name.replace('_', ' ').ljust(_widest(facts)), bold=True)}  {shown}")
    if directory is None:
        click.echo(f"Not here. To have it: fnet-service preset fetch {handle}")


@preset.command()
@_handle
@_cache_dir
@click.option("--to", type=click.Path(path_type=Path, file_okay=False), help="Copy its files into this directory, too.")
@click.option("--force", is_flag=True, help="With --to, replace another preset that is there.")
def fetch(handle: str, cache_dir: Path | None, to: Path | None, *, force: bool) -> None:
    """Download a preset where it is not here yet, and print its directory.

    With --to the directory holds plain files and needs no cache: to be mounted, or shipped with an image. What is there
    already is not fetched or copied again.
    """
    if force and to is None:
        fail("--force: only --to replaces anything", 2)
    _asked(lambda: check_handle(handle))
    directory = _had(lambda: locate(handle, cache_dir))
    _had(lambda: read_preset(directory, preset_name(handle)))
    if to is not None:
        from model.presets.files import copy_preset  # noqa: PLC0415 - as in `verify`

        _had(lambda: copy_preset(directory, to, force=force))
    click.echo(to or directory)


@preset.command()
@_handle
@_cache_dir
@_as_json
def verify(handle: str, cache_dir: Path | None, *, as_json: bool) -> None:
    """Tell whether a preset is whole: files, shapes, vocabulary, and what its network computes.

    Files are held to the digests that metadata.json tells, if it does; a row of tokens to plain NumPy, and to the
    values that were recorded with the preset. Exits with 0 if it is whole, and with 1 and a line a fault if not.
    """
    directory = _asked(lambda: find(handle, cache_dir))
    if directory is None:
        fail(f"preset {handle!r}: not here: fnet-service preset fetch {handle}", 1)
    from model.verify import verify as checks  # noqa: PLC0415 - JAX takes a second; help and a wrong handle do not

    found = []
    for check in checks(directory, preset_name(handle)):
        found.append({"name": check.name, "finding": check.finding, "faults": list(check.faults)})
        if not as_json:
            word = click.style("fault", fg="red") if check.faults else click.style("whole", fg="green")
            click.echo(f"{word}  {check.name:<11}  {check.finding}")
            for fault in check.faults:
                click.echo(f"fnet-service: preset {handle!r}: {fault}", err=True)
    whole = not any(check["faults"] for check in found)
    if as_json:
        _echo_json({"handle": handle, "directory": str(directory), "whole": whole, "checks": found})
    if not whole:
        raise click.exceptions.Exit(1)


@preset.command()
@click.argument("source")
@click.argument("dest", type=click.Path(path_type=Path))
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="How the weights are kept; both others halve the file.",
)
@click.option(
    "--padding", metavar="VALUE", help="Default of texts: none, max_length or a number; by default as keras-hub."
)
@click.option("--pooling", type=click.Choice(["pooled", "mean"]), default="pooled", show_default=True)
@click.option("--without-tokenizer", is_flag=True, help="Convert the network alone, for token ids.")
@click.option("--force", is_flag=True, help="Replace the preset that is at DEST.")
@_cache_dir
def convert(
    source: str,
    dest: Path,
    dtype: Any,
    padding: str | None,
    pooling: Any,
    cache_dir: Path | None,
    *,
    without_tokenizer: bool,
    force: bool,
) -> None:
    """Make a preset of a Hugging Face FNet checkpoint.

    SOURCE is hf://owner/name[@revision] or a directory, with config.json, model.safetensors or pytorch_model.bin, and
    spiece.model or tokenizer.json. DEST is the preset directory to make, which this service, `FNetBackbone` and
    keras-hub load. Pickles are read, never run. What it cannot say in a preset it refuses.

    FNet has no padding mask: texts are padded as --padding says, and that is part of what is encoded. Text that the
    checkpoint was trained on was padded to the most positions; a network fine-tuned without padding wants none.

    \b
    fnet-service preset convert hf://google/fnet-base fnet_base_en
    fnet-service preset verify ./fnet_base_en
    fnet-service serve --preset ./fnet_base_en
    """  # noqa: D301 - click's mark for lines to be left as they are
    chosen = _padding(padding)
    from model.conversion.convert import convert as make  # noqa: PLC0415 - as in `verify`
    from model.conversion.convert import locate_checkpoint  # noqa: PLC0415

    directory = _had(lambda: locate_checkpoint(source, cache_dir))
    tell = progress()
    try:
        make(
            directory,
            dest,
            dtype=dtype,
            tokenizer=not without_tokenizer,
            padding=chosen,
            pooling=pooling,
            description=f"Converted from {source if '://' in source else directory.resolve().name}.",
            force=force,
            progress=tell,
        )
    except PresetError as error:
        tell("")
        fail(error, 1)
    tell("")
    click.echo(dest)


def _padding(value: str | None) -> Any:
    if value is None or value in ("none", "max_length"):
        return value
    if not (value.isdecimal() and int(value)):
        fail(f"--padding: {value!r}: expected none, max_length or a positive number", 2)
    return int(value)


def _known(cache_dir: Path | None) -> Iterator[dict[str, Any]]:
    downloaded = downloaded_presets(cache_dir)
    built_in = {hub_handle(name): name for name in BUILT_IN_PRESETS}
    handles = [*bundled_presets(), *built_in.values(), *(each for each in downloaded if each not in built_in)]
    for handle in handles:
        kind = "bundled" if handle in bundled_presets() else "built-in" if handle in BUILT_IN_PRESETS else "cached"
        directory = find(handle, cache_dir)
        row: dict[str, Any] = {"handle": handle, "kind": kind, "directory": None, "bytes": None, "fault": None}
        architecture = BUILT_IN_ARCHITECTURES.get(handle)
        if directory is not None:
            from model.presets.files import size_of  # noqa: PLC0415 - as in `verify`

            row |= {"directory": str(directory), "bytes": size_of(directory)}
            try:
                architecture = read_preset(directory, preset_name(handle)).architecture
            except PresetError as error:
                row["fault"] = str(error)
        yield row | {
            "parameters": architecture and architecture.parameter_count,
            "num_layers": architecture and architecture.num_layers,
            "hidden_dim": architecture and architecture.hidden_dim,
        }


def _where(row: dict[str, Any]) -> str:
    if row["fault"]:
        return f"not whole: {row['fault']}"
    if row["directory"] is None:
        return f"not here; fnet-service preset fetch {row['handle']}"
    return f"{row['kind']}, {row['bytes'] / 1e6:,.0f} MB, {row['directory']}"


def _facts(handle: str, directory: Path | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"handle": handle, "name": preset_name(handle)}
    if handle in BUILT_IN_PRESETS:
        facts |= {"source": hub_handle(handle), "description": BUILT_IN_PRESETS[handle]["metadata"]["description"]}
    if directory is None:
        architecture = BUILT_IN_ARCHITECTURES.get(handle)
        return facts | (_sizes(architecture) if architecture else {}) | {"directory": None}
    found: Preset = _had(lambda: read_preset(directory, preset_name(handle)))
    from model.presets.files import size_of  # noqa: PLC0415
    from model.presets.weights import weights_digest  # noqa: PLC0415 - as in `verify`

    return (
        facts
        | {"name": found.name, "description": found.description or facts.get("description", "")}
        | _sizes(found.architecture)
        | {
            "version": found.version,
            "trained": found.trained,
            "tokenizer": found.has_tokenizer,
            "pooling": found.pooling,
            "padding": found.padding,
            "matryoshka": found.matryoshka,
            "directory": str(directory),
            "card": str(directory / CARD_FILE) if found.has_card else None,
            "bytes": size_of(directory),
            "sha256": _had(lambda: weights_digest(directory)),
        }
    )


def _sizes(architecture: Any) -> dict[str, Any]:
    names = ("num_layers", "hidden_dim", "intermediate_dim", "vocabulary_size", "max_sequence_length", "num_segments")
    return {"parameters": architecture.parameter_count, **{name: getattr(architecture, name) for name in names}}


def _asked(find_out: Callable[[], T]) -> T:
    """Return what a handle gives; one that can name nothing was asked wrongly."""
    try:
        return find_out()
    except PresetError as error:
        fail(error, 2)


def _had(find_out: Callable[[], T]) -> T:
    """Return what a preset gives, or end with the reason why it cannot be had."""
    try:
        return find_out()
    except PresetError as error:
        fail(error, 1)


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _widest(names: Sequence[str] | dict[str, Any]) -> int:
    return max(map(len, names))


def _echo_table(head: list[str], rows: list[list[str]]) -> None:
    widths = [_widest([row[column] for row in [head, *rows]]) for column in range(len(head))]
    for row in [head, *rows]:
        # Numbers stand to the right.
        cells = [
            cell.rjust(width) if 0 < n < len(row) - 1 else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  ".join(cells).rstrip()
        click.echo(click.style(line, bold=True) if row is head else line)


def _echo_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))

"""The command group `fnet-service preset`: list, describe, fetch, verify and convert presets."""

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
    """A preset's handle, with shell completion."""

    name = "handle"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the handles of known and downloaded presets, or else directories."""
        names = [*bundled_presets(), *BUILT_IN_PRESETS, *downloaded_presets(ctx.params.get("cache_dir"))]
        items = [CompletionItem(name) for name in dict.fromkeys(names) if name.startswith(incomplete)]
        return items or click.Path(file_okay=False).shell_complete(ctx, param, incomplete)


_handle = click.argument("handle", type=Handle())
_cache_dir = click.option(
    "--cache-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory for downloads. FNET_CACHE_DIR by default, else the user's cache.",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def preset() -> None:
    """List, describe, fetch, verify and convert presets.

    A HANDLE is a bundled or built-in name, kaggle://owner/model/keras/variation[/version], hf://owner/name[@revision],
    or a preset directory. Only `fetch` and `convert` use the network.

    \b
    Exit codes: 0 success, 1 failure, 2 usage error.
    """  # noqa: D301 - click keeps lines after this mark unwrapped


@preset.command("list")
@_cache_dir
@_as_json
def list_presets(cache_dir: Path | None, *, as_json: bool) -> None:
    """List bundled, built-in and cached presets."""
    rows = list(_known(cache_dir))
    if as_json:
        _echo_json(rows)
        return
    _echo_table(
        ["PRESET", "PARAMETERS", "LAYERS", "HIDDEN", "LOCATION"],
        [
            [
                row["handle"],
                *(_number(row[field]) for field in ("parameters", "num_layers", "hidden_dim")),
                _state(row),
            ]
            for row in rows
        ],
    )


@preset.command()
@_handle
@_cache_dir
@_as_json
def info(handle: str, cache_dir: Path | None, *, as_json: bool) -> None:
    """Describe a preset without downloading it."""
    directory = _or_usage_error(lambda: find(handle, cache_dir))
    facts = _facts(handle, directory)
    if as_json:
        _echo_json(facts)
        return
    for name, value in facts.items():
        if value not in (None, ""):
            shown = f"{value:,}" if type(value) is int else value
            click.echo(f"{click.style(name.replace('_', ' ').ljust(_max_width(facts)), bold=True)}  {shown}")
    if directory is None:
        click.echo(f"Not downloaded; run fnet-service preset fetch {handle}")


@preset.command()
@_handle
@_cache_dir
@click.option("--to", type=click.Path(path_type=Path, file_okay=False), help="Also copy the files into this directory.")
@click.option("--force", is_flag=True, help="With --to, replace another preset in that directory.")
def fetch(handle: str, cache_dir: Path | None, to: Path | None, *, force: bool) -> None:
    """Download a preset if necessary, and print its directory.

    With --to the directory contains plain files and needs no cache, so it can be mounted or added to an image. Existing
    files are not downloaded or copied again.
    """
    if force and to is None:
        fail("--force has no effect without --to; add --to DIRECTORY", 2)
    _or_usage_error(lambda: check_handle(handle))
    directory = _or_failure(lambda: locate(handle, cache_dir))
    _or_failure(lambda: read_preset(directory, preset_name(handle)))
    if to is not None:
        from model.presets.files import copy_preset  # noqa: PLC0415 - as in `verify`

        _or_failure(lambda: copy_preset(directory, to, force=force))
    click.echo(to or directory)


@preset.command()
@_handle
@_cache_dir
@_as_json
def verify(handle: str, cache_dir: Path | None, *, as_json: bool) -> None:
    """Verify a preset: files, shapes, vocabulary, and the outputs of its network.

    Compares the files with the digests in metadata.json, if it has any, and the outputs of a sequence with the NumPy
    reference and with the values recorded in the preset. Exits with 0 if all checks pass, else prints one line per
    failure and exits with 1.
    """
    directory = _or_usage_error(lambda: find(handle, cache_dir))
    if directory is None:
        fail(f"preset {handle!r}: not downloaded; run fnet-service preset fetch {handle}", 1)
    from model.verify import verify as checks  # noqa: PLC0415 - importing JAX takes a second

    results = []
    for check in checks(directory, preset_name(handle)):
        results.append({"name": check.name, "finding": check.finding, "faults": list(check.faults)})
        if not as_json:
            status = click.style("FAILED", fg="red") if check.faults else click.style("ok    ", fg="green")
            click.echo(f"{status}  {check.name:<11}  {check.finding}")
            for fault in check.faults:
                click.echo(f"fnet-service: preset {handle!r}: {fault}", err=True)
    passed = not any(check["faults"] for check in results)
    if as_json:
        _echo_json({"handle": handle, "directory": str(directory), "whole": passed, "checks": results})
    if not passed:
        raise click.exceptions.Exit(1)


@preset.command()
@click.argument("source")
@click.argument("dest", type=click.Path(path_type=Path))
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Dtype of the stored weights; bfloat16 and float16 halve the file.",
)
@click.option(
    "--padding",
    metavar="VALUE",
    help="Padding of texts: none, max_length or a length in tokens; by default as keras-hub.",
)
@click.option(
    "--pooling", type=click.Choice(["pooled", "mean"]), default="pooled", show_default=True, help="Default pooling."
)
@click.option("--without-tokenizer", is_flag=True, help="Convert only the network; the preset accepts only token ids.")
@click.option("--force", is_flag=True, help="Replace the preset at DEST.")
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
    """Convert a Hugging Face FNet checkpoint to a preset.

    SOURCE is hf://owner/name[@revision] or a directory, with config.json, model.safetensors or pytorch_model.bin, and
    spiece.model or tokenizer.json. DEST is the preset directory to create; this service, `FNetBackbone` and keras-hub
    can load it. Pickle files are parsed without running code. A checkpoint that a preset cannot represent is rejected.

    FNet has no padding mask, so padding affects the outputs. The checkpoint was trained on texts padded to the maximum
    length; for a network fine-tuned without padding use --padding none.

    \b
    fnet-service preset convert hf://google/fnet-base fnet_base_en
    fnet-service preset verify ./fnet_base_en
    fnet-service serve --preset ./fnet_base_en
    """  # noqa: D301 - click keeps lines after this mark unwrapped
    padding_option = _padding(padding)
    from model.conversion.convert import convert as convert_checkpoint  # noqa: PLC0415 - as in `verify`
    from model.conversion.convert import locate_checkpoint  # noqa: PLC0415

    directory = _or_failure(lambda: locate_checkpoint(source, cache_dir))
    report = progress()
    try:
        convert_checkpoint(
            directory,
            dest,
            dtype=dtype,
            tokenizer=not without_tokenizer,
            padding=padding_option,
            pooling=pooling,
            description=f"Converted from {source if '://' in source else directory.resolve().name}.",
            force=force,
            progress=report,
        )
    except PresetError as error:
        report("")
        fail(error, 1)
    report("")
    click.echo(dest)


def _padding(value: str | None) -> Any:
    if value is None or value in ("none", "max_length"):
        return value
    if not (value.isdecimal() and int(value)):
        fail(f"--padding: {value!r}: expected none, max_length or a positive number", 2)
    return int(value)


def _known(cache_dir: Path | None) -> Iterator[dict[str, Any]]:
    downloaded = downloaded_presets(cache_dir)
    built_ins = {hub_handle(name): name for name in BUILT_IN_PRESETS}
    handles = [
        *bundled_presets(),
        *built_ins.values(),
        *(name for name in downloaded if name not in built_ins),
    ]
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


def _state(row: dict[str, Any]) -> str:
    if row["fault"]:
        return f"invalid: {row['fault']}"
    if row["directory"] is None:
        return f"not downloaded; run fnet-service preset fetch {row['handle']}"
    return f"{row['kind']}, {row['bytes'] / 1e6:,.0f} MB, {row['directory']}"


def _facts(handle: str, directory: Path | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"handle": handle, "name": preset_name(handle)}
    if handle in BUILT_IN_PRESETS:
        facts |= {"source": hub_handle(handle), "description": BUILT_IN_PRESETS[handle]["metadata"]["description"]}
    if directory is None:
        architecture = BUILT_IN_ARCHITECTURES.get(handle)
        return facts | (_sizes(architecture) if architecture else {}) | {"directory": None}
    loaded: Preset = _or_failure(lambda: read_preset(directory, preset_name(handle)))
    from model.presets.files import size_of  # noqa: PLC0415
    from model.presets.weights import weights_digest  # noqa: PLC0415 - as in `verify`

    return (
        facts
        | {"name": loaded.name, "description": loaded.description or facts.get("description", "")}
        | _sizes(loaded.architecture)
        | {
            "version": loaded.version,
            "trained": loaded.trained,
            "tokenizer": loaded.has_tokenizer,
            "pooling": loaded.pooling,
            "padding": loaded.padding,
            "matryoshka": loaded.matryoshka,
            "directory": str(directory),
            "card": str(directory / CARD_FILE) if loaded.has_card else None,
            "bytes": size_of(directory),
            "sha256": _or_failure(lambda: weights_digest(directory)),
        }
    )


def _sizes(architecture: Any) -> dict[str, Any]:
    names = ("num_layers", "hidden_dim", "intermediate_dim", "vocabulary_size", "max_sequence_length", "num_segments")
    return {"parameters": architecture.parameter_count, **{name: getattr(architecture, name) for name in names}}


def _or_usage_error(action: Callable[[], T]) -> T:
    """Return the result of an action; exit with code 2 on a preset error."""
    try:
        return action()
    except PresetError as error:
        fail(error, 2)


def _or_failure(action: Callable[[], T]) -> T:
    """Return the result of an action; exit with code 1 on a preset error."""
    try:
        return action()
    except PresetError as error:
        fail(error, 1)


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _max_width(names: Sequence[str] | dict[str, Any]) -> int:
    return max(map(len, names))


def _echo_table(header: list[str], rows: list[list[str]]) -> None:
    widths = [_max_width([row[column] for row in [header, *rows]]) for column in range(len(header))]
    for row in [header, *rows]:
        # Columns of numbers are right-aligned.
        cells = [
            cell.rjust(width) if 0 < n < len(row) - 1 else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  ".join(cells).rstrip()
        click.echo(click.style(line, bold=True) if row is header else line)


def _echo_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))

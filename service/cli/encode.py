"""`fnet-service encode`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.cli.exits import fail
from service.cli.progress import progress
from service.cli.urls import address
from service.settings import Settings, SettingsError

if TYPE_CHECKING:  # what these import takes a second; help is told at once
    from service.bulk.encoders import Encoder, EncoderFingerprint
    from service.bulk.file_job import FileJob
    from service.bulk.readers import Reader

_INPUTS = ("text", "jsonl", "csv", "tsv", "parquet")
_OUTPUTS = ("npy", "npz", "jsonl", "parquet")
_NAMES = ("pooled_output", "mean_output", "sequence_output")
_STDOUT = "-"
# Of a shell, for what a signal ended.
_SIGNALLED = 128
# Beside anything that is asked of a service, its queue is its own matter; here nobody else is in it.
_QUEUE_TOKENS = 1 << 30


class Padding(click.ParamType[str | int]):
    """`none`, `max_length` or a length."""

    name = "padding"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | int:
        """Return what was meant."""
        if value in ("none", "max_length"):
            return str(value)
        if isinstance(value, int) or (str(value).isdecimal() and int(value)):
            return int(value)
        raise click.BadParameter(f"{value!r} is neither none nor max_length nor a length", ctx, param)


class Share(click.ParamType[tuple[int, int]]):
    """`i/n`, from 0."""

    name = "i/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Return both numbers."""
        if isinstance(value, tuple):
            return value
        first, _, of = str(value).partition("/")
        if first.isdecimal() and of.isdecimal() and int(first) < int(of):
            return int(first), int(of)
        raise click.BadParameter(f"{value!r} is not i/n with i from 0 to n - 1", ctx, param)


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="IN...")
@click.option("-o", "--output", metavar="OUT", help="File, or a directory for several inputs. JSON lines by default.")
@click.option("--input-format", type=click.Choice(_INPUTS), help="By default as the file is called; text, else.")
@click.option(
    "--output-format", type=click.Choice(_OUTPUTS), help="By default as OUT is called; parquet in a directory."
)
@click.option("--field", default="text", show_default=True, help="Field or column with the text.")
@click.option(
    "--outputs",
    type=click.Choice(_NAMES),
    multiple=True,
    help="Repeatable. The preset's pooling by default.",
)
@click.option("--normalize", is_flag=True, help="Give pooled and mean vectors a length of 1.")
@click.option("--truncate", is_flag=True, help="Cut what is too long; else it is an error.")
@click.option("--padding", type=Padding(), help="none, max_length or a length. The preset's by default.")
@click.option("--on-error", type=click.Choice(["fail", "skip"]), default="fail", show_default=True, help="See below.")
@click.option(
    "--shard", type=Share(), default=(0, 1), help="Only share i of n: of the files, or of a single file's rows."
)
@click.option("--force", is_flag=True, help="Write over an output that is there.")
@click.option("--restart", is_flag=True, help="Throw away what a stopped run has done.")
@click.option("--url", help="Ask the service there in place of encoding here.")
@click.option("--api-key", envvar="SERVICE_API_KEY", show_envvar=True, help="A key of that service.")
@click.option("--preset", help="As for `serve`, when encoding here.")
@click.option("--dtype", help="As for `serve`, when encoding here.")
@click.option("--backend", help="As for `serve`, when encoding here.")
def encode(
    inputs: tuple[str, ...],
    output: str | None,
    url: str | None,
    api_key: str | None,
    preset: str | None,
    dtype: str | None,
    backend: str | None,
    on_error: str,
    input_format: str | None,
    output_format: str | None,
    field: str,
    outputs: tuple[str, ...],
    padding: str | int | None,
    shard: tuple[int, int],
    *,
    normalize: bool,
    truncate: bool,
    force: bool,
    restart: bool,
) -> None:
    """Encode whole files: a row in, a vector out.

    IN is a file of lines, JSON lines (`text`, or `token_ids` with `segment_ids` or without), CSV, TSV or Parquet, or -
    for standard input; all but Parquet gzipped or not. OUT is .npy (float32, a vector a row), .npz, .jsonl or .parquet.
    Row i of the output is row i of the input, counted from 0.

    What is done is kept in OUT.part. A run that was stopped, in whatever way, goes on where it was when the same
    command is given again, and its output is the same to the byte.

    A row that cannot be encoded ends the run, with its line and the reason. With --on-error skip it keeps its place,
    as NaN in arrays, null in Parquet and an "error" in JSON lines, and is listed in OUT.skipped.jsonl.

    Several inputs need a directory: each gets a file of its own there, and what is there already is not done again.

    \b
    Examples:
      fnet-service encode corpus.txt -o corpus.npy
      fnet-service encode reviews.csv --field body -o reviews.parquet --truncate
      fnet-service encode shards/*.jsonl -o vectors/ --shard 0/8
      cat queries.txt | fnet-service encode - --normalize | head

    \b
    Exit codes: 0 done, 1 failed, 2 asked wrongly, 130 or 143 stopped by a signal.
    """  # noqa: D301 - click's mark for lines to be left as they are
    pairs, share = _targets(inputs, output, shard, output_format)
    try:
        settings = Settings.load(os.environ, {"preset": preset, "dtype": dtype, "backend": backend})
    except SettingsError as error:
        fail(error, 2)
    if url is not None and (preset or dtype or backend):
        fail("--preset, --dtype and --backend are the service's own where there is a --url", 2)
    _check_service(url, api_key)
    _check_inputs(inputs)
    _check_outputs(pairs, force=force or len(inputs) > 1)
    form_of = {out: output_format or Path(out).suffix.removeprefix(".").lower() for _, out in pairs}
    if "npy" in form_of.values() and (len(set(outputs)) > 1 or "sequence_output" in outputs):
        fail("--outputs: .npy holds one vector a row; .npz, .jsonl and .parquet hold more", 2)
    # Nothing is begun yet: an interrupt just ends it, and is not told as a failure.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from service.bulk.encoders import EncodeOptions  # noqa: PLC0415
    from service.bulk.file_job import FileJob  # noqa: PLC0415
    from service.telemetry import logs  # noqa: PLC0415 - as above

    logs.configure("console", "error")

    def job(pooling: str) -> FileJob:
        names: Any = tuple(dict.fromkeys(outputs or (f"{pooling}_output",)))
        way: Any = padding
        encode_options = EncodeOptions(outputs=names, normalize=normalize, truncate=truncate, padding=way)
        return FileJob(encode_options=encode_options, shard=share, skip=on_error == "skip", restart=restart)

    there = {out for _, out in pairs if out != _STDOUT and Path(out).exists() and not force}
    for out in there:
        click.echo(f"{out}: there already", err=True)
    pairs = [pair for pair in pairs if pair[1] not in there]

    async def work() -> None:
        async with _encoder(settings, url, api_key) as (encoder, about):
            for name, out in pairs:
                with Reader.open(name, input_format, field) as reader:  # type: ignore[arg-type] # one of the choices
                    await _one(reader, out, form_of[out], job(about.pooling), encoder, about)

    from service.bulk.readers import Reader  # noqa: PLC0415 - as above

    code = _until_signalled(_translate_errors(work()), kept=pairs[0][1] != _STDOUT) if pairs else 0
    if "pyarrow" in sys.modules:
        # Its threads may outlive the interpreter, which then crashes at its end; everything is written by now.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _targets(
    inputs: tuple[str, ...], output: str | None, shard: tuple[int, int], output_format: str | None
) -> tuple[list[tuple[str, str]], tuple[int, int]]:
    """Return each input with its output, and the share of its rows; or stop if they do not fit."""
    if len(inputs) == 1 and not (output is not None and (output.endswith("/") or Path(output).is_dir())):
        out = output or _STDOUT
        if out == _STDOUT and output_format not in (None, "jsonl"):
            fail(f"--output-format: {output_format} needs a file: -o OUT", 2)
        if (
            out != _STDOUT
            and output_format is None
            and Path(out).suffix.lower() not in {f".{each}" for each in _OUTPUTS}
        ):
            known = ", ".join(f".{each}" for each in _OUTPUTS)
            fail(f"--output: {out} ends in none of {known}: call it so, or say --output-format", 2)
        return [(inputs[0], out)], shard
    if output is None or (Path(output).exists() and not Path(output).is_dir()):
        fail("--output: several inputs need a directory", 2)
    if _STDOUT in inputs:
        fail("standard input cannot be one of several inputs", 2)
    form = output_format or "parquet"
    found = [(each, str(Path(output) / f"{Path(each).name.removesuffix('.gz')}.{form}")) for each in inputs]
    outs = [out for _, out in found]
    if twice := next((out for out in outs if outs.count(out) > 1), None):
        fail(f"{twice} would be written twice: inputs need different names", 2)
    first, of = shard
    if not found[first::of]:
        click.echo(f"{len(found)} files: none of them is in share {first} of {of}", err=True)
    return found[first::of], (0, 1)


def _check_service(url: str | None, api_key: str | None) -> None:
    """Stop if no service can be asked so."""
    if url is not None:
        address(url)
    if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
        fail("--api-key: has characters that no header can hold", 2)


def _check_inputs(inputs: tuple[str, ...]) -> None:
    """Stop if an input can be none."""
    for name in inputs:
        if os.path.isdir(name):  # noqa: PTH112 - pathlib raises where a name is too long for a path
            fail(f"{name}: is a directory; name the files in it: {Path(name) / '*'} -o OUT/", 2)


def _check_outputs(pairs: list[tuple[str, str]], *, force: bool) -> None:
    """Stop if an output is an input, or is there already."""
    for name, out in pairs:
        if out == _STDOUT or not Path(out).exists():
            continue
        if name != _STDOUT and Path(name).exists() and Path(out).samefile(name):
            fail(f"--output: {out} is the input itself", 2)
        if not force:
            fail(f"--output: {out} is there already; --force writes over it", 2)


def _until_signalled(work: Coroutine[Any, Any, int], *, kept: bool) -> int:
    """Run until done, or until a signal ends it; returns the exit code."""

    async def main() -> int:
        task = asyncio.ensure_future(work)
        received: list[int] = []

        def end(number: int) -> None:
            received.append(number)
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, end, number)
        try:
            return await task
        except asyncio.CancelledError:
            click.echo(
                f"fnet-service: stopped{'; the same command goes on where this one was' if kept else ''}", err=True
            )
            sys.stderr.flush()
            # A thread may be waiting for standard input, for ever; what is done is on the disk.
            os._exit(_SIGNALLED + received[0])

    return asyncio.run(main())


async def _translate_errors(work: Coroutine[Any, Any, None]) -> int:
    """Do the work; whatever ends it is told in one line. Returns the exit code."""
    from service.bulk.chunks import JobError  # noqa: PLC0415
    from service.bulk.encoders import EncoderError  # noqa: PLC0415 - as above
    from service.bulk.job import RowError  # noqa: PLC0415
    from service.bulk.readers import InputError  # noqa: PLC0415

    try:
        await work
    except BrokenPipeError:
        # Whoever read has enough; nothing may be flushed there any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except RowError as error:
        click.echo(f"fnet-service: {error}; --on-error skip goes on without it", err=True)
        return 1
    except (InputError, JobError, EncoderError) as error:
        click.echo(f"fnet-service: {error}", err=True)
        return 1
    except OSError as error:
        click.echo(f"fnet-service: {error.filename or 'the output'}: {error.strerror}", err=True)
        return 1
    return 0


@asynccontextmanager
async def _encoder(
    settings: Settings, url: str | None, api_key: str | None
) -> AsyncIterator[tuple[Encoder, EncoderFingerprint]]:
    """Give an encoder, and what its vectors depend on."""
    from service.bulk.encoders import LocalEncoder, RemoteEncoder, wait_ready  # noqa: PLC0415 - as above

    if url is not None:
        from service.client import AsyncClient  # noqa: PLC0415

        # Whether it is there is soon known; later, one that restarts or is full is waited for.
        async with AsyncClient(url, api_key, timeout=20) as client:
            about = await RemoteEncoder(client).describe()
        async with AsyncClient(url, api_key, timeout=600, retries=1000) as client:
            yield RemoteEncoder(client), about
        return
    from service.core.engine import Engine  # noqa: PLC0415
    from service.settings import engine_options  # noqa: PLC0415

    engine = Engine(engine_options(settings, max_queue_tokens=_QUEUE_TOKENS))
    report = progress()
    report(f"loading {settings.preset} …")
    engine.start()
    try:
        await wait_ready(engine)
        report("")
        local = LocalEncoder(engine)
        yield local, await local.describe()
    finally:
        engine.close()


async def _one(reader: Reader, out: str, form: Any, job: FileJob, encoder: Encoder, about: EncoderFingerprint) -> None:
    """Encode one file, and say what was done."""
    from service.bulk.file_job import to_file, to_stream  # noqa: PLC0415 - as above
    from service.bulk.job import RowError  # noqa: PLC0415

    began = time.monotonic()
    report = progress()
    try:
        if out == _STDOUT:
            done = await to_stream(reader, sys.stdout.buffer, job, encoder, about, report)
        else:
            done = await to_file(reader, Path(out), form, job, encoder, about, report)
    except RowError as error:
        raise RowError(f"{reader.name}: {error}") from error
    seconds = time.monotonic() - began
    summary = f"{done.rows:,} rows, {done.tokens:,} tokens in {seconds:,.1f} s, {done.tokens / seconds:,.0f} tokens/s"
    before = f"; {done.kept:,} rows were done before" if done.kept else ""
    skipped = (
        f"; {done.faults:,} rows at fault, listed in {out}.skipped.jsonl" if done.faults and out != _STDOUT else ""
    )
    click.echo(f"{reader.name}: {summary}{before}{skipped}", err=True)

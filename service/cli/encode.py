"""The command `fnet-service encode`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.cli.exits import fail
from service.cli.progress import progress
from service.cli.urls import address
from service.settings import CLIENT_KEY_VARIABLE, Settings, SettingsError

if TYPE_CHECKING:  # these imports take a second, and help must be fast
    from service.bulk.encoders import Encoder, EncoderFingerprint
    from service.bulk.file_job import FileJob
    from service.bulk.readers import Reader

_INPUT_FORMATS = ("text", "jsonl", "csv", "tsv", "parquet")
_OUTPUT_FORMATS = ("npy", "npz", "jsonl", "parquet")
_ENCODER_OUTPUTS = ("pooled_output", "mean_output", "sequence_output")
_STDOUT = "-"
# Shells report 128 plus the signal number for a process that a signal ended.
_SIGNAL_EXIT_BASE = 128
# The engine serves this command alone, so its queue needs no practical limit.
_MAX_QUEUE_TOKENS = 1 << 30


class Padding(click.ParamType[str | int]):
    """A padding: `none`, `max_length` or a length in tokens."""

    name = "padding"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | int:
        """Return the mode, or the length in tokens."""
        if value in ("none", "max_length"):
            return str(value)
        if isinstance(value, int) or (str(value).isdecimal() and int(value)):
            return int(value)
        raise click.BadParameter(f"{value!r}: expected none, max_length or a positive number", ctx, param)


class Share(click.ParamType[tuple[int, int]]):
    """A share `i/n` of the input, counted from 0."""

    name = "i/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Return `i` and `n`."""
        if isinstance(value, tuple):
            return value
        index, _, count = str(value).partition("/")
        if index.isdecimal() and count.isdecimal() and int(index) < int(count):
            return int(index), int(count)
        raise click.BadParameter(f"{value!r}: expected i/n with i from 0 to n - 1", ctx, param)


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="IN...")
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    help="Output file or directory; standard output by default.",
)
@click.option(
    "--input-format",
    type=click.Choice(_INPUT_FORMATS),
    help="Input format. Default: by suffix, else text.",
)
@click.option(
    "--output-format",
    type=click.Choice(_OUTPUT_FORMATS),
    help="Output format. Default: by suffix; parquet in a directory.",
)
@click.option("--field", default="text", show_default=True, help="Field or column that contains the text.")
@click.option(
    "--outputs",
    type=click.Choice(_ENCODER_OUTPUTS),
    multiple=True,
    help="Output to write; repeatable. The preset's pooling by default.",
)
@click.option("--normalize", is_flag=True, help="L2-normalize pooled and mean vectors.")
@click.option("--truncate", is_flag=True, help="Truncate sequences that are too long, instead of failing.")
@click.option(
    "--padding",
    type=Padding(),
    help="none, max_length or a length in tokens; the preset's by default.",
)
@click.option(
    "--on-error",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="Fail on an invalid row, or skip it.",
)
@click.option(
    "--shard",
    type=Share(),
    default=(0, 1),
    help="Encode only share i of n of the files, or of the rows of one file.",
)
@click.option("--force", is_flag=True, help="Overwrite existing outputs.")
@click.option("--restart", is_flag=True, help="Discard the chunks of an earlier run.")
@click.option("--url", help="Encode with the service at this URL instead of a local model.")
@click.option("--api-key", envvar=CLIENT_KEY_VARIABLE, show_envvar=True, help="API key of that service.")
@click.option("--preset", help="As for `serve`; for a local model.")
@click.option("--dtype", help="As for `serve`; for a local model.")
@click.option("--backend", help="As for `serve`; for a local model.")
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
    """Encode files: one output vector per input row.

    IN is a file of text lines, JSON lines (`text`, or `token_ids` with optional `segment_ids`), CSV, TSV or Parquet, or
    - for standard input. All formats except Parquet may be gzipped. OUT is .npy (float32, one vector per row), .npz,
    .jsonl or .parquet. Row i of the output is row i of the input, counted from 0.

    Finished chunks are stored in OUT.part. If a run stops, the same command resumes it, and the output is identical to
    that of an uninterrupted run.

    A row that cannot be encoded ends the run with its line and the reason. With --on-error skip the row is NaN in
    arrays, null in Parquet and an "error" in JSON lines, and OUT.skipped.jsonl lists it.

    Several inputs need a directory, which receives one file per input. Existing files are skipped.

    \b
    Examples:
      fnet-service encode corpus.txt -o corpus.npy
      fnet-service encode reviews.csv --field body -o reviews.parquet --truncate
      fnet-service encode shards/*.jsonl -o vectors/ --shard 0/8
      cat queries.txt | fnet-service encode - --normalize | head

    \b
    Exit codes: 0 success, 1 failure, 2 usage error, 130 or 143 stopped by a signal.
    """  # noqa: D301 - click keeps lines after this mark unwrapped
    pairs, share = _targets(inputs, output, shard, output_format)
    try:
        settings = Settings.load(os.environ, {"preset": preset, "dtype": dtype, "backend": backend})
    except SettingsError as error:
        fail(error, 2)
    if url is not None and (preset or dtype or backend):
        fail("--preset, --dtype and --backend cannot be combined with --url; the service sets them", 2)
    _check_service(url, api_key)
    _check_inputs(inputs)
    _check_outputs(pairs, force=force or len(inputs) > 1)
    formats = {out: output_format or Path(out).suffix.removeprefix(".").lower() for _, out in pairs}
    if "npy" in formats.values() and (len(set(outputs)) > 1 or "sequence_output" in outputs):
        fail("--outputs: .npy holds one vector per row; use .npz, .jsonl or .parquet", 2)
    _check_parquet({*formats.values(), *(input_format or Path(name).suffix.removeprefix(".") for name in inputs)})
    # Nothing has started yet, so an interrupt ends the process without an error message.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from service.bulk.encoders import EncodeOptions  # noqa: PLC0415
    from service.bulk.file_job import FileJob  # noqa: PLC0415
    from service.telemetry import logs  # noqa: PLC0415 - imports are slow

    logs.configure("console", "error")

    def create_job(pooling: str) -> FileJob:
        names: Any = tuple(dict.fromkeys(outputs or (f"{pooling}_output",)))
        padding_option: Any = padding
        encode_options = EncodeOptions(outputs=names, normalize=normalize, truncate=truncate, padding=padding_option)
        return FileJob(encode_options=encode_options, shard=share, skip=on_error == "skip", restart=restart)

    existing = {out for _, out in pairs if out != _STDOUT and Path(out).exists() and not force}
    for out in existing:
        click.echo(f"{out}: already exists; skipped", err=True)
    pairs = [pair for pair in pairs if pair[1] not in existing]

    async def encode_all() -> None:
        async with _encoder(settings, url, api_key) as (encoder, fingerprint):
            for name, out in pairs:
                with Reader.open(name, input_format, field) as reader:  # type: ignore[arg-type] # one of the choices
                    await _encode_file(reader, out, formats[out], create_job(fingerprint.pooling), encoder, fingerprint)

    from service.bulk.readers import Reader  # noqa: PLC0415 - imports are slow

    code = _until_signaled(_translate_errors(encode_all()), resumable=pairs[0][1] != _STDOUT) if pairs else 0
    if "pyarrow" in sys.modules:
        # The threads of pyarrow may outlive the interpreter and crash it at exit; all output is written by now.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _targets(
    inputs: tuple[str, ...], output: str | None, shard: tuple[int, int], output_format: str | None
) -> tuple[list[tuple[str, str]], tuple[int, int]]:
    """Return each input with its output, and the share of its rows; exit with a usage error if they do not match."""
    if len(inputs) == 1 and not (output is not None and (output.endswith("/") or Path(output).is_dir())):
        out = output or _STDOUT
        if out == _STDOUT and output_format not in (None, "jsonl"):
            fail(f"--output-format: {output_format} needs an output file; add -o OUT", 2)
        if (
            out != _STDOUT
            and output_format is None
            and Path(out).suffix.lower() not in {f".{suffix}" for suffix in _OUTPUT_FORMATS}
        ):
            suffixes = ", ".join(f".{suffix}" for suffix in _OUTPUT_FORMATS)
            fail(f"--output: {out}: unknown suffix; use {suffixes}, or add --output-format", 2)
        return [(inputs[0], out)], shard
    if output is None or (Path(output).exists() and not Path(output).is_dir()):
        fail("--output: several inputs need a directory; add -o OUT/", 2)
    if _STDOUT in inputs:
        fail("standard input cannot be one of several inputs; encode it alone", 2)
    format_ = output_format or "parquet"
    pairs = [(name, str(Path(output) / f"{Path(name).name.removesuffix('.gz')}.{format_}")) for name in inputs]
    outs = [out for _, out in pairs]
    if duplicate := next((out for out in outs if outs.count(out) > 1), None):
        fail(f"{duplicate} is the output of several inputs; give the inputs different names", 2)
    index, count = shard
    if not pairs[index::count]:
        click.echo(f"{len(pairs)} files: share {index} of {count} is empty", err=True)
    return pairs[index::count], (0, 1)


def _check_parquet(formats: set[str]) -> None:
    if "parquet" in formats and find_spec("pyarrow") is None:
        fail("Parquet needs pyarrow, which is not installed: pip install 'fnet-encode[parquet]'", 2)


def _check_service(url: str | None, api_key: str | None) -> None:
    """Exit with a usage error if the URL or the API key is invalid."""
    if url is not None:
        address(url)
    if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
        fail("--api-key: not printable ASCII; check the key", 2)


def _check_inputs(inputs: tuple[str, ...]) -> None:
    """Exit with a usage error if an input is a directory."""
    for name in inputs:
        if os.path.isdir(name):  # noqa: PTH112 - pathlib raises where a name is too long for a path
            fail(f"{name}: is a directory; name its files: {Path(name) / '*'} -o OUT/", 2)


def _check_outputs(pairs: list[tuple[str, str]], *, force: bool) -> None:
    """Exit with a usage error if an output is its input or already exists."""
    for name, out in pairs:
        if out == _STDOUT or not Path(out).exists():
            continue
        if name != _STDOUT and Path(name).exists() and Path(out).samefile(name):
            fail(f"--output: {out} is the input itself; name another file", 2)
        if not force:
            fail(f"--output: {out} already exists; use --force to overwrite it", 2)


def _until_signaled(work: Coroutine[Any, Any, int], *, resumable: bool) -> int:
    """Run until the work is done or a signal arrives, and return the exit code."""

    async def main() -> int:
        task = asyncio.ensure_future(work)
        received: list[int] = []

        def cancel(number: int) -> None:
            received.append(number)
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, cancel, number)
        try:
            return await task
        except asyncio.CancelledError:
            click.echo(f"fnet-service: stopped{'; the same command resumes it' if resumable else ''}", err=True)
            sys.stderr.flush()
            # A thread may block on standard input forever; finished chunks are on disk.
            os._exit(_SIGNAL_EXIT_BASE + received[0])

    return asyncio.run(main())


async def _translate_errors(work: Coroutine[Any, Any, None]) -> int:
    """Await the work, print an error in one line, and return the exit code."""
    from service.bulk.chunks import JobError  # noqa: PLC0415
    from service.bulk.encoders import EncoderError  # noqa: PLC0415 - imports are slow
    from service.bulk.job import RowError  # noqa: PLC0415
    from service.bulk.readers import InputError  # noqa: PLC0415

    try:
        await work
    except BrokenPipeError:
        # The reader has closed the pipe, so the final flush must not write to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except RowError as error:
        click.echo(f"fnet-service: {error}; use --on-error skip to skip such rows", err=True)
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
    """Yield an encoder and its fingerprint."""
    from service.bulk.encoders import LocalEncoder, RemoteEncoder, wait_ready  # noqa: PLC0415 - imports are slow

    if url is not None:
        from service.client import AsyncClient  # noqa: PLC0415

        # A wrong URL fails soon; afterwards the client waits for a service that restarts or is full.
        async with AsyncClient(url, api_key, timeout=20) as client:
            fingerprint = await RemoteEncoder(client).describe()
        async with AsyncClient(url, api_key, timeout=600, retries=1000) as client:
            yield RemoteEncoder(client), fingerprint
        return
    from service.core.engine import Engine  # noqa: PLC0415
    from service.settings import engine_options  # noqa: PLC0415

    engine = Engine(engine_options(settings, max_queue_tokens=_MAX_QUEUE_TOKENS))
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


async def _encode_file(
    reader: Reader, out: str, format_: Any, job: FileJob, encoder: Encoder, fingerprint: EncoderFingerprint
) -> None:
    """Encode one file and print a summary."""
    from service.bulk.file_job import to_file, to_stream  # noqa: PLC0415 - imports are slow
    from service.bulk.job import RowError  # noqa: PLC0415

    started = time.monotonic()
    report = progress()
    try:
        if out == _STDOUT:
            done = await to_stream(reader, sys.stdout.buffer, job, encoder, fingerprint, report)
        else:
            done = await to_file(reader, Path(out), format_, job, encoder, fingerprint, report)
    except RowError as error:
        raise RowError(f"{reader.name}: {error}") from error
    seconds = time.monotonic() - started
    summary = f"{done.rows:,} rows, {done.tokens:,} tokens in {seconds:,.1f} s, {done.tokens / seconds:,.0f} tokens/s"
    resumed = f"; {done.resumed:,} rows resumed" if done.resumed else ""
    skipped = f"; {done.errors:,} invalid rows, listed in {out}.skipped.jsonl" if done.errors and out != _STDOUT else ""
    click.echo(f"{reader.name}: {summary}{resumed}{skipped}", err=True)

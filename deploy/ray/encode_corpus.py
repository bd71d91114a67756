"""Encode a corpus on a Ray cluster: each file of texts becomes a Parquet file of vectors.

    python deploy/ray/encode_corpus.py --output /data/vectors --workers 8 /data/texts/*.jsonl

Ray Data distributes the files over actors. Each actor has an encoder and processes one file at a time. All nodes must
see the files under the same paths. The output has the same bytes as that of `fnet-service encode`. A file is written
atomically, and its completed rows are saved next to it. If an actor stops, another one resumes its file. The same
command resumes an interrupted run and skips existing output files.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import click
import ray
import ray.data

from service.bulk.encoders import EncodeOptions, LocalEncoder, wait_ready
from service.bulk.file_job import FileJob, to_file
from service.bulk.readers import Reader
from service.cli.exits import fail
from service.core.engine import Engine
from service.settings import Settings, engine_options

# The engine of an actor has only one client, so its queue needs no limit.
_MAX_QUEUE_TOKENS = 1 << 30


class FileEncoder:
    """Encoder of an actor, which loads the preset once and encodes files.

    Args:
        settings: Settings by environment variable, as for `fnet-service`.
        options: `field`, `normalize`, `truncate`, `skip`.
    """

    def __init__(self, settings: dict[str, str], options: dict[str, Any]) -> None:
        self._options = options
        self._engine = Engine(engine_options(Settings.load(settings), max_queue_tokens=_MAX_QUEUE_TOKENS))
        self._engine.start()
        asyncio.run(wait_ready(self._engine))

    def __call__(self, file: dict[str, Any]) -> dict[str, Any]:
        """Encode one file and return its numbers of rows and of invalid rows."""
        return asyncio.run(self._encode(str(file["input"]), Path(file["output"])))

    async def _encode(self, name: str, out: Path) -> dict[str, Any]:
        encoder = LocalEncoder(self._engine)
        fingerprint = await encoder.describe()
        options = self._options
        encode_options = EncodeOptions(
            outputs=("pooled_output" if fingerprint.pooling == "pooled" else "mean_output",),
            normalize=options["normalize"],
            truncate=options["truncate"],
            padding=None,
        )
        job = FileJob(encode_options=encode_options, shard=(0, 1), skip=options["skip"], restart=False)
        with Reader.open(name, None, options["field"]) as reader:
            done = await to_file(reader, out, "parquet", job, encoder, fingerprint, lambda _text: None)
        return {"input": name, "output": str(out), "rows": done.rows + done.resumed, "errors": done.errors}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("inputs", nargs=-1, required=True)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, file_okay=False), help="Output directory."
)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Actors, each with an encoder.")
@click.option("--cpus", type=click.FloatRange(0.1), default=2, show_default=True, help="CPU cores per actor.")
@click.option("--address", help="Address of the cluster; by default a local one starts.")
@click.option("--field", default="text", show_default=True, help="Field or column that contains the text.")
@click.option("--normalize", is_flag=True, help="L2-normalize the vectors.")
@click.option("--truncate", is_flag=True, help="Truncate long texts instead of failing.")
@click.option("--skip", is_flag=True, help="Write null for invalid rows and list them, instead of failing.")
def main(inputs: tuple[str, ...], output: Path, workers: int, cpus: float, address: str | None, **options: Any) -> None:
    """Encode the files INPUTS (JSON lines, CSV, Parquet, text; gzipped or not) into a directory of Parquet files.

    The FNET_… variables of this command apply to all actors.
    """
    files = [{"input": os.path.abspath(name), "output": str(_target(name, output))} for name in inputs]  # noqa: PTH100 - does not resolve links
    outs = [file["output"] for file in files]
    if duplicate := next((out for out in outs if outs.count(out) > 1), None):
        fail(f"{duplicate} is the output of several inputs; rename one of the inputs", 2)
    pending = [file for file in files if not Path(file["output"]).exists()]
    click.echo(f"{len(files) - len(pending)} of {len(files)} files already exist", err=True)
    if not pending:
        return
    ray.init(address=address, log_to_driver=False)
    settings = {name: value for name, value in os.environ.items() if name.startswith("FNET_")}
    done = (
        ray.data.from_items(pending, override_num_blocks=len(pending))
        .map(
            FileEncoder,
            fn_constructor_args=(settings, options),
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(pending)), max_tasks_in_flight_per_actor=1),
            num_cpus=cpus,
            # Actors restart after the loss of a node. Unreadable files fail after three retries.
            max_restarts=-1,
            max_task_retries=3,
        )
        .iter_rows()
    )
    for file in done:
        invalid = f", {file['errors']:,} invalid" if file["errors"] else ""
        click.echo(f"{file['output']}: {file['rows']:,} rows{invalid}")


def _target(name: str, output: Path) -> Path:
    return output.absolute() / f"{Path(name).name.removesuffix('.gz')}.parquet"


if __name__ == "__main__":
    main()

"""Encode a corpus on a Ray cluster: files of texts in, a Parquet file of vectors for each out.

    python deploy/ray/encode_corpus.py --output /data/vectors --workers 8 /data/texts/*.jsonl

Ray Data deals the files to actors, each with an encoder of its own and a file at a time. All nodes see the same files,
by the same paths. A file is written as `fnet-service encode` writes it, to the same bytes: whole or not at all, with
what is done kept beside it. So when an actor dies another goes on with its file where it was, and so does the same
command after all of it was stopped; files that are there already are left out.
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
from service.cli.exits import stop
from service.core.engine import Engine
from service.settings import Settings, engine_options

# Nobody else is in the queue of an actor's own engine.
_QUEUE_TOKENS = 1 << 30


class FileEncoder:
    """An actor's encoder: loads the preset once, then turns files into files.

    Args:
        settings: As in the environment of `fnet-service`, by their variables.
        options: `field`, `normalize`, `truncate`, `skip`.
    """

    def __init__(self, settings: dict[str, str], options: dict[str, Any]) -> None:
        self._options = options
        self._engine = Engine(engine_options(Settings.load(settings), max_queue_tokens=_QUEUE_TOKENS))
        self._engine.start()
        asyncio.run(wait_ready(self._engine))

    def __call__(self, file: dict[str, Any]) -> dict[str, Any]:
        """Encode one file; returns how many rows it has, and how many of them were at fault."""
        return asyncio.run(self._encode(str(file["input"]), Path(file["output"])))

    async def _encode(self, name: str, out: Path) -> dict[str, Any]:
        encoder = LocalEncoder(self._engine)
        about = await encoder.describe()
        options = self._options
        encode_options = EncodeOptions(
            outputs=("pooled_output" if about.pooling == "pooled" else "mean_output",),
            normalize=options["normalize"],
            truncate=options["truncate"],
            padding=None,
        )
        job = FileJob(encode_options=encode_options, shard=(0, 1), skip=options["skip"], restart=False)
        with Reader.open(name, None, options["field"]) as reader:
            done = await to_file(reader, out, "parquet", job, encoder, about, lambda _text: None)
        return {"input": name, "output": str(out), "rows": done.rows + done.kept, "faults": done.faults}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("inputs", nargs=-1, required=True)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path, file_okay=False), help="Directory.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Actors, each with an encoder.")
@click.option("--cpus", type=click.FloatRange(0.1), default=2, show_default=True, help="Processors of an actor.")
@click.option("--address", help="Of the cluster; a local one is started by default.")
@click.option("--field", default="text", show_default=True, help="Field or column with the text.")
@click.option("--normalize", is_flag=True, help="Give vectors a length of 1.")
@click.option("--truncate", is_flag=True, help="Cut what is too long; else it is an error.")
@click.option("--skip", is_flag=True, help="Go on without rows at fault, which are null and listed.")
def main(inputs: tuple[str, ...], output: Path, workers: int, cpus: float, address: str | None, **options: Any) -> None:
    """Encode the files INPUTS (JSON lines, CSV, Parquet, text; gzipped or not) into a directory of Parquet files.

    Settings FNET_… of this command's environment hold for all actors.
    """
    files = [{"input": os.path.abspath(each), "output": str(_target(each, output))} for each in inputs]  # noqa: PTH100 - links are kept
    outs = [file["output"] for file in files]
    if twice := next((out for out in outs if outs.count(out) > 1), None):
        stop(f"{twice} would be written twice: inputs need different names", 2)
    left = [file for file in files if not Path(file["output"]).exists()]
    click.echo(f"{len(files) - len(left)} of {len(files)} files are there already", err=True)
    if not left:
        return
    ray.init(address=address, log_to_driver=False)
    settings = {name: value for name, value in os.environ.items() if name.startswith("FNET_")}
    done = (
        ray.data.from_items(left, override_num_blocks=len(left))
        .map(
            FileEncoder,
            fn_constructor_args=(settings, options),
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(left)), max_tasks_in_flight_per_actor=1),
            num_cpus=cpus,
            # A node that is lost is a reason to go on elsewhere; a file that cannot be read is none to try for ever.
            max_restarts=-1,
            max_task_retries=3,
        )
        .iter_rows()
    )
    for file in done:
        faults = f", {file['faults']:,} at fault" if file["faults"] else ""
        click.echo(f"{file['output']}: {file['rows']:,} rows{faults}")


def _target(name: str, output: Path) -> Path:
    return output.absolute() / f"{Path(name).name.removesuffix('.gz')}.parquet"


if __name__ == "__main__":
    main()

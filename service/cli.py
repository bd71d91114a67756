"""The command `fnet-service`: its verbs, each in `service.commands`."""

from __future__ import annotations

import click

from service import __version__
from service.commands.bench import bench
from service.commands.serve import serve


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fnet-service")
def main() -> None:
    """Serve embeddings from Fourier encoders (FNet)."""


main.add_command(serve)
main.add_command(bench)

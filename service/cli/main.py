"""The command `fnet-service`: its verbs, each in `service.cli`."""

from __future__ import annotations

import os

import click

from service import __version__
from service.cli.bench import bench
from service.cli.completion import completion
from service.cli.encode import encode
from service.cli.health import health
from service.cli.preset import preset
from service.cli.serve import serve


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""
\b
Examples:
  fnet-service serve --port 8000
  fnet-service encode corpus.txt -o corpus.npy
  fnet-service preset list
  fnet-service preset fetch f_net_base_en --to ./preset
  fnet-service bench --quick

\b
Exit codes:
  0  done
  1  failed: a preset that cannot be had, loaded or verified, a worker that died
  2  asked wrongly: an unknown command or option, a bad setting

Every setting of `serve` is an environment variable, too: FNET_PORT for --port. Messages go to standard error, results
to standard output. NO_COLOR turns colours off. The interface is described at /docs of a running service, the rest in
README.md, ARCHITECTURE.md and docs/ of the source.
""",
)
@click.version_option(__version__, prog_name="fnet-service")
@click.pass_context
def main(context: click.Context) -> None:
    """Serve embeddings from Fourier encoders (FNet)."""
    if os.environ.get("NO_COLOR"):
        context.color = False


main.add_command(serve)
main.add_command(encode)
main.add_command(bench)
main.add_command(health)
main.add_command(preset)
main.add_command(completion)

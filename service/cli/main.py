"""The command `fnet-service`."""

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
  0  success
  1  failure: a preset cannot be downloaded, loaded or verified, or a worker died
  2  usage error: an unknown command or option, or a bad setting

Every setting of `serve` is also an environment variable: FNET_PORT for --port. Messages go to standard error, results
to standard output. NO_COLOR disables colors. A running service describes its API at /docs; README.md, ARCHITECTURE.md
and docs/ of the source describe the rest.
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

"""`fnet-service completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from service.cli.exits import fail

_SHELLS = ("bash", "zsh", "fish")
_PROGRAM = "fnet-service"


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes this command in a shell.

    \b
    bash: eval "$(fnet-service completion bash)"     in ~/.bashrc
    zsh:  eval "$(fnet-service completion zsh)"      in ~/.zshrc
    fish: fnet-service completion fish | source      in ~/.config/fish/config.fish

    It completes commands, options, presets that are known or here, and file names.
    """  # noqa: D301 - click's mark for lines to be left as they are
    kind = get_completion_class(shell)
    if kind is None:
        fail(f"completion: {shell}: not known to the library that reads the command line", 1)
    variable = f"_{_PROGRAM.replace('-', '_').upper()}_COMPLETE"
    click.echo(kind(context.find_root().command, {}, _PROGRAM, variable).source())

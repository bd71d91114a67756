"""The command `fnet-service completion`."""

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
    """Print the shell completion script.

    \b
    bash: eval "$(fnet-service completion bash)"     in ~/.bashrc
    zsh:  eval "$(fnet-service completion zsh)"      in ~/.zshrc
    fish: fnet-service completion fish | source      in ~/.config/fish/config.fish

    The script completes commands, options, names of presets, and file names.
    """  # noqa: D301 - click keeps lines after this mark unwrapped
    completion_class = get_completion_class(shell)
    if completion_class is None:
        fail(f"completion: {shell}: not supported by the installed version of click", 1)
    variable = f"_{_PROGRAM.replace('-', '_').upper()}_COMPLETE"
    click.echo(completion_class(context.find_root().command, {}, _PROGRAM, variable).source())

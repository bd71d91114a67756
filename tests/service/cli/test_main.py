"""The command `fnet-service` without a model."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from service import __version__
from service.cli.main import main
from service.settings import Settings, option, variable


def output_of(*arguments: str) -> str:
    """Run the command, which must succeed, and return its output with normalized whitespace."""
    result = CliRunner().invoke(main, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return re.sub(r"\s+", " ", result.output)


def test_version_is_that_of_the_package() -> None:
    """`--version` prints the version of the package."""
    assert __version__ in output_of("--version")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_the_commands(flag: str) -> None:
    """Both help flags work for the group and its commands."""
    assert " serve " in output_of(flag)
    assert " serve " in output_of("serve", flag)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_help_lists_every_setting(name: str) -> None:
    """The help shows option, variable, description and default of each setting."""
    text = output_of("serve", "--help")
    field = Settings.model_fields[name]
    assert f" {option(name)} VALUE " in text
    assert f"[{variable(name)}]" in text
    assert re.sub(r"\s+", " ", str(field.description)) in text
    if field.default not in (None, []):
        assert f"Default: {field.default}. [{variable(name)}]" in text


@pytest.mark.parametrize(
    ("arguments", "environ", "line"),
    [
        (["--port", "banana"], {}, "fnet-service: --port: "),
        ([], {"FNET_PORT": "banana"}, "fnet-service: FNET_PORT: "),
        (["--port", "1"], {"FNET_PROT": "1"}, "fnet-service: FNET_PROT: unknown setting; did you mean FNET_PORT?"),
        (["--preset", "nothing"], {}, "fnet-service: --preset: "),
    ],
)
def test_bad_setting_stops_the_start(arguments: list[str], environ: dict[str, str], line: str) -> None:
    """The only output is one line, with exit code 2."""
    result = CliRunner().invoke(main, ["serve", *arguments], env=environ)
    assert result.exit_code == 2
    assert len(result.output.splitlines()) == 1
    assert result.output.startswith(line)


def test_help_has_examples_and_exit_codes() -> None:
    """The help shows examples, exit codes and further documentation."""
    help_text = output_of("--help")
    for text in (
        "Examples:",
        "fnet-service preset list",
        "Exit codes:",
        "0 success",
        "1 failure",
        "2 usage error",
        "/docs",
    ):
        assert text in help_text


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    """Yield the path of every command."""
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


@pytest.mark.parametrize("path", list(commands(main)), ids=" ".join)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_has_help(path: tuple[str, ...], flag: str) -> None:
    """Both help flags work at every level."""
    assert output_of(*path, flag).startswith(f"Usage: main {' '.join(path)} ")


@pytest.mark.parametrize(("arguments", "suggestion"), [(["serv"], "serve"), (["preset", "lst"], "list")])
def test_mistyped_command_is_suggested(arguments: list[str], suggestion: str) -> None:
    """The error names the nearest command on standard error, with exit code 2."""
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"Did you mean '{suggestion}'?" in result.stderr


@pytest.mark.parametrize(("environ", "colored"), [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True)])
def test_no_color_disables_colors(environ: dict[str, str], *, colored: bool) -> None:
    """A non-empty `NO_COLOR` (no-color.org) disables colors on a terminal."""
    terminal, output = pty.openpty()
    script = "from service.cli.main import main; main(['preset', 'list'], prog_name='fnet-service')"
    inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    subprocess.run([sys.executable, "-c", script], stdout=output, env=inherited | environ, check=True, timeout=60)
    os.close(output)
    assert (b"\x1b[" in os.read(terminal, 4096)) is colored
    os.close(terminal)


def test_unknown_option_is_a_usage_error() -> None:
    """The exit code is 2."""
    result = CliRunner().invoke(main, ["serve", "--prot", "1"])
    assert result.exit_code == 2
    assert "No such option" in result.output

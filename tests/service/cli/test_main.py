"""The command, as far as it needs no model."""

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


def told(*arguments: str) -> str:
    """Run the command, which has to succeed, and return what it writes, spaces and line ends evened out."""
    result = CliRunner().invoke(main, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return re.sub(r"\s+", " ", result.output)


def test_the_version_is_the_packages() -> None:
    """One number, written once."""
    assert __version__ in told("--version")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_the_commands(flag: str) -> None:
    """With both of the usual flags."""
    assert " serve " in told(flag)
    assert " serve " in told("serve", flag)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_help_lists_every_setting(name: str) -> None:
    """Its option, its variable, what it means, and its default where it has one."""
    text = told("serve", "--help")
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
def test_a_bad_setting_stops_the_start(arguments: list[str], environ: dict[str, str], line: str) -> None:
    """Exit code 2, one line, and nothing else."""
    result = CliRunner().invoke(main, ["serve", *arguments], env=environ)
    assert result.exit_code == 2
    assert len(result.output.splitlines()) == 1
    assert result.output.startswith(line)


def test_help_says_how_to_go_on() -> None:
    """Examples, exit codes, and where the rest is written."""
    text = told("--help")
    for part in (
        "Examples:",
        "fnet-service preset list",
        "Exit codes:",
        "0 done",
        "1 failed",
        "2 asked wrongly",
        "/docs",
    ):
        assert part in text


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    """Yield the way to every command."""
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


@pytest.mark.parametrize("path", list(commands(main)), ids=" ".join)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_explains_itself(path: tuple[str, ...], flag: str) -> None:
    """At every level, with both of the usual flags."""
    assert told(*path, flag).startswith(f"Usage: main {' '.join(path)} ")


@pytest.mark.parametrize(("typed", "meant"), [(["serv"], "serve"), (["preset", "lst"], "list")])
def test_a_slip_is_told_what_was_meant(typed: list[str], meant: str) -> None:
    """The nearest command is named, on standard error, with exit code 2."""
    result = CliRunner().invoke(main, typed)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"Did you mean '{meant}'?" in result.stderr


@pytest.mark.parametrize(("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True)])
def test_colours_can_be_turned_off(environ: dict[str, str], *, coloured: bool) -> None:
    """By `NO_COLOR` (no-color.org), which counts where it is not empty; a terminal has them otherwise."""
    terminal, end = pty.openpty()
    script = "from service.cli.main import main; main(['preset', 'list'], prog_name='fnet-service')"
    clean = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    subprocess.run([sys.executable, "-c", script], stdout=end, env=clean | environ, check=True, timeout=60)
    os.close(end)
    assert (b"\x1b[" in os.read(terminal, 4096)) is coloured
    os.close(terminal)


def test_an_unknown_option_is_refused() -> None:
    """With the exit code that all such mistakes have."""
    result = CliRunner().invoke(main, ["serve", "--prot", "1"])
    assert result.exit_code == 2
    assert "No such option" in result.output

"""The command, as far as it needs no model."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from service import __version__
from service.cli import main
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
        (["--port", "1"], {"FNET_PROT": "1"}, "fnet-service: FNET_PROT: no such setting"),
        (["--preset", "nothing"], {}, "fnet-service: --preset: "),
    ],
)
def test_a_bad_setting_stops_the_start(arguments: list[str], environ: dict[str, str], line: str) -> None:
    """Exit code 2, one line, and nothing else."""
    result = CliRunner().invoke(main, ["serve", *arguments], env=environ)
    assert result.exit_code == 2
    assert len(result.output.splitlines()) == 1
    assert result.output.startswith(line)


def test_an_unknown_option_is_refused() -> None:
    """With the exit code that all such mistakes have."""
    result = CliRunner().invoke(main, ["serve", "--prot", "1"])
    assert result.exit_code == 2
    assert "No such option" in result.output

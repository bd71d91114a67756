"""`fnet-service completion`: the script is one that the shell itself takes, and completes with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from service.cli.main import main
from tests.support.timeouts import TIMEOUT


def script(shell: str) -> str:
    """Return a shell's script."""
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    return result.output


def completed_by_bash(words: list[str], cache: Path, program: Path) -> list[str]:
    """Let bash load the script and complete the last of some words, as it does for the tabulator key."""
    asked = " ".join(f"'{word}'" for word in ["fnet-service", *words])
    commands = f"""
    {script("bash")}
    COMP_WORDS=({asked}); COMP_CWORD={len(words)}
    _fnet_service_completion fnet-service '{words[-1]}' ''
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    bash = shutil.which("bash")
    assert bash is not None
    environ = {**os.environ, "PATH": f"{program}:{os.environ['PATH']}", "FNET_CACHE_DIR": str(cache)}
    ran = subprocess.run(
        [bash, "--norc", "-c", commands], env=environ, capture_output=True, text=True, check=True, timeout=TIMEOUT
    )
    assert ran.stderr == ""
    return ran.stdout.split()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A directory with the command in it, whatever is installed."""
    file = tmp_path / "bin" / "fnet-service"
    file.parent.mkdir()
    file.write_text(f"#!{sys.executable}\nfrom service.cli.main import main\nmain(prog_name='fnet-service')\n")
    file.chmod(0o755)
    return file.parent


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["pres"], ["preset"]),
        (["preset", "ver"], ["verify"]),
        (["preset", "fetch", "f_net"], ["f_net_base_en", "f_net_large_en"]),
        (["preset", "convert", "--dt"], ["--dtype"]),
        (["completion", "z"], ["zsh"]),
    ],
)
def test_bash_completes(tmp_path: Path, program: Path, words: list[str], found: list[str]) -> None:
    """Commands, presets, options and values."""
    assert completed_by_bash(words, tmp_path / "cache", program) == found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(shell: str) -> None:
    """It is for this command."""
    assert "_FNET_SERVICE_COMPLETE" in script(shell)


def test_another_shell_is_refused() -> None:
    """With the names of those that are known."""
    result = CliRunner().invoke(main, ["completion", "csh"])
    assert result.exit_code == 2
    assert "'bash', 'zsh', 'fish'" in result.output

"""Shell completion: bash runs the script, and zsh and fish scripts exist."""

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
    """Return the completion script of a shell."""
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    return result.output


def complete_with_bash(words: list[str], cache: Path, program: Path) -> list[str]:
    """Return the completions of the last word in bash."""
    quoted = " ".join(f"'{word}'" for word in ["fnet-service", *words])
    commands = f"""
    {script("bash")}
    COMP_WORDS=({quoted}); COMP_CWORD={len(words)}
    _fnet_service_completion fnet-service '{words[-1]}' ''
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    bash = shutil.which("bash")
    assert bash is not None
    environ = {**os.environ, "PATH": f"{program}:{os.environ['PATH']}", "FNET_CACHE_DIR": str(cache)}
    completed = subprocess.run(
        [bash, "--norc", "-c", commands], env=environ, capture_output=True, text=True, check=True, timeout=TIMEOUT
    )
    assert completed.stderr == ""
    return completed.stdout.split()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Return a directory that contains the command."""
    file = tmp_path / "bin" / "fnet-service"
    file.parent.mkdir()
    file.write_text(f"#!{sys.executable}\nfrom service.cli.main import main\nmain(prog_name='fnet-service')\n")
    file.chmod(0o755)
    return file.parent


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pres"], ["preset"]),
        (["preset", "ver"], ["verify"]),
        (["preset", "fetch", "f_net"], ["f_net_base_en", "f_net_large_en"]),
        (["preset", "convert", "--dt"], ["--dtype"]),
        (["completion", "z"], ["zsh"]),
    ],
)
def test_bash_completes(tmp_path: Path, program: Path, words: list[str], expected: list[str]) -> None:
    """Bash completes commands, presets, options and values."""
    assert complete_with_bash(words, tmp_path / "cache", program) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(shell: str) -> None:
    """The script names the completion variable of this command."""
    assert "_FNET_SERVICE_COMPLETE" in script(shell)


def test_unknown_shell_is_rejected() -> None:
    """The error lists the known shells."""
    result = CliRunner().invoke(main, ["completion", "csh"])
    assert result.exit_code == 2
    assert "'bash', 'zsh', 'fish'" in result.output

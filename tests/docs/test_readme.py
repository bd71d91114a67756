"""Every command and program in the README runs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [command.strip() for command in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)]
(PROGRAM,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
# The suite that is running.
RUNS_THIS_SUITE = "make test"

RunShell = Callable[[str, str, Path], str]


@pytest.fixture(scope="module")
def address(serving: Callable[..., AbstractContextManager[str]]) -> Iterator[str]:
    """Serve with the command of the README, in the environment of the suite."""
    with serving(*COMMANDS[0].split(), f"VENV={sys.prefix}") as address:
        yield address


def test_first_request_is_answered(address: str, run_shell: RunShell, tmp_path: Path) -> None:
    """`make serve` serves the bundled preset, and the first curl returns two normalized vectors."""
    assert COMMANDS[0] == "make serve"
    response = json.loads(run_shell(COMMANDS[1], address, tmp_path))
    assert response["usage"]["sequences"] == 2
    norms = np.linalg.norm(response["pooled_output"], axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-6)


@pytest.mark.parametrize("command", [command for command in COMMANDS[1:] if command != RUNS_THIS_SUITE])
def test_every_command_succeeds(command: str, address: str, run_shell: RunShell, tmp_path: Path) -> None:
    """Each command succeeds and writes output."""
    printed = run_shell(command, address, tmp_path)
    assert printed or list(tmp_path.iterdir())


def test_program_prints_its_comment(
    address: str, run_program: Callable[[str, str, Path], None], tmp_path: Path
) -> None:
    """The output equals the comment after the last line."""
    run_program(PROGRAM, address, tmp_path)

"""Every command in the README does what it says, run as its reader would run it."""

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
# The suite itself, which is running right now.
RUNS_THIS_SUITE = "make test"

Typed = Callable[[str, str, Path], str]


@pytest.fixture(scope="module")
def address(serving: Callable[..., AbstractContextManager[str]]) -> Iterator[str]:
    """Serve as the README says; the environment that runs the suite is the one that `make` would build."""
    with serving(*COMMANDS[0].split(), f"VENV={sys.prefix}") as address:
        yield address


def test_the_first_command_serves_and_the_next_answers(address: str, run_shell: Typed, tmp_path: Path) -> None:
    """`make serve` serves the bundled preset, and the first curl gets two normalised vectors."""
    assert COMMANDS[0] == "make serve"
    answer = json.loads(run_shell(COMMANDS[1], address, tmp_path))
    assert answer["usage"]["sequences"] == 2
    norms = np.linalg.norm(answer["pooled_output"], axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-6)


@pytest.mark.parametrize("command", [command for command in COMMANDS[1:] if command != RUNS_THIS_SUITE])
def test_every_command_succeeds(command: str, address: str, run_shell: Typed, tmp_path: Path) -> None:
    """Each further command ends without an error and prints or writes something."""
    printed = run_shell(command, address, tmp_path)
    assert printed or list(tmp_path.iterdir())


def test_the_program_prints_what_it_says(
    address: str, run_program: Callable[[str, str, Path], None], tmp_path: Path
) -> None:
    """The comment behind its last line is what it prints."""
    run_program(PROGRAM, address, tmp_path)

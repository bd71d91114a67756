"""Every program of `docs/clients.md`, run as its reader would, with the real client."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[3] / "docs/clients.md").read_text("utf-8")
PROGRAMS = re.findall(r"## (.*?)\n.*?```python\n(.*?)```", PAGE, re.DOTALL)


def test_there_is_one_for_each_client() -> None:
    """Six of them."""
    assert len(PROGRAMS) == 6


@pytest.mark.parametrize(("client", "program"), PROGRAMS)
def test_a_program_prints_what_it_says(
    client: str,
    program: str,
    served: str,
    run_program: Callable[[str, str, Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the comment behind its `print`."""
    # huggingface_hub takes it for every address.
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert client
    run_program(program, served, tmp_path)


def test_the_command_writes_an_archive(served: str, run_shell: Callable[[str, str, Path], str], tmp_path: Path) -> None:
    """What curl leaves is what NumPy reads."""
    (command,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    run_shell(command.strip(), served, tmp_path)
    assert (tmp_path / "vectors.npz").read_bytes().startswith(b"PK")

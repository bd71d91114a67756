"""All programs of `docs/clients.md`, run with the client libraries."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[3] / "docs/clients.md").read_text("utf-8")
PROGRAMS = re.findall(r"## (.*?)\n.*?```python\n(.*?)```", PAGE, re.DOTALL)


def test_each_client_has_a_snippet() -> None:
    """Each client has a snippet."""
    assert len(PROGRAMS) == 6


@pytest.mark.parametrize(("client", "program"), PROGRAMS)
def test_snippet_prints_the_documented_output(
    client: str,
    program: str,
    served: str,
    run_program: Callable[[str, str, Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Snippet prints the documented output."""
    # huggingface_hub uses it for all URLs.
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert client
    run_program(program, served, tmp_path)


def test_curl_snippet_writes_an_archive(
    served: str, run_shell: Callable[[str, str, Path], str], tmp_path: Path
) -> None:
    """NumPy can read the file."""
    (command,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    run_shell(command.strip(), served, tmp_path)
    assert (tmp_path / "vectors.npz").read_bytes().startswith(b"PK")

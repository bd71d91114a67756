"""Every command in the README does what it says, run as its reader would run it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
(PROGRAM,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
# The suite itself, which is running right now.
RUNS_THIS_SUITE = "make test"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Serve as the README says, on a free port, and give the address that stands for its 127.0.0.1:8000."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # The environment that runs the suite is the one that `make` would build.
    command = [*shlex.split(COMMANDS[0]), f"VENV={sys.prefix}", f"PORT={port}"]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as process:
        try:
            deadline = time.monotonic() + 120
            while not _ready(f"http://127.0.0.1:{port}"):
                assert process.poll() is None, "the server ended before it was ready"
                assert time.monotonic() < deadline, "the server was not ready in time"
                time.sleep(0.2)
            yield f"127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def _run(command: str, address: str, directory: Path) -> str:
    command = command.replace("127.0.0.1:8000", address).replace(".venv/bin/", f"{sys.prefix}/bin/")
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],  # noqa: S607 - found on the path, as the reader's shell is
        cwd=directory,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout


def test_the_first_command_serves_and_the_next_answers(address: str, tmp_path: Path) -> None:
    """`make serve` serves the bundled preset, and the first curl gets two normalised vectors."""
    assert COMMANDS[0].strip() == "make serve"
    answer = json.loads(_run(COMMANDS[1], address, tmp_path))
    assert answer["usage"]["sequences"] == 2
    norms = np.linalg.norm(answer["pooled_output"], axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-6)


@pytest.mark.parametrize("command", [c for c in COMMANDS[1:] if c.strip() != RUNS_THIS_SUITE])
def test_every_command_succeeds(command: str, address: str, tmp_path: Path) -> None:
    """Each further command ends without an error and prints or writes something."""
    printed = _run(command, address, tmp_path)
    assert printed or list(tmp_path.iterdir())


def test_the_program_prints_what_it_says(address: str, tmp_path: Path) -> None:
    """The comment behind its last line is what it prints."""
    (tmp_path / "program.py").write_text(PROGRAM.replace("127.0.0.1:8000", address))
    printed = _run(".venv/bin/python program.py", address, tmp_path)
    assert printed.strip() == PROGRAM.rstrip().rpartition("# ")[2]

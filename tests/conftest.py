"""Fixtures of all tests: servers of the bundled preset, and commands of the documentation."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.timeouts import TIMEOUT

# Tests run offline, even on a machine with network access.
os.environ["HF_HUB_OFFLINE"] = "1"

ROOT = Path(__file__).parent.parent


@contextmanager
def _serving(*command: str) -> Iterator[str]:
    environ = {**os.environ, "FNET_PORT": "0", "PORT": "0"}
    with (
        tempfile.NamedTemporaryFile() as log,
        subprocess.Popen(command, cwd=ROOT, env=environ, start_new_session=True, stderr=log) as process,
    ):

        def output() -> str:
            return Path(log.name).read_text("utf-8")

        try:
            deadline = time.monotonic() + TIMEOUT
            # The server selects the port, so that no other process can take it first.
            while not ((match := re.search(r"http://(127\.0\.0\.1:\d+)", output())) and _ready(match[0])):
                assert process.poll() is None, f"the server ended before it was ready: {output()}"
                assert time.monotonic() < deadline, f"the server was not ready in time: {output()}"
                time.sleep(0.2)
            yield match[1]
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=TIMEOUT)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="session")
def serving() -> Callable[..., AbstractContextManager[str]]:
    """Serve the bundled preset with a command on a free port; yields the address once the server is ready."""
    return _serving


@pytest.fixture(scope="session")
def served() -> Iterator[str]:
    """Address of a service with the bundled preset."""
    with _serving(f"{sys.prefix}/bin/fnet-service", "serve") as address:
        yield address


@pytest.fixture(scope="session")
def run_shell() -> Callable[[str, str, Path], str]:
    """Run a shell command of a page against a running service and return its output."""

    def run(command: str, address: str, directory: Path) -> str:
        command = command.replace("127.0.0.1:8000", address).replace(".venv/bin/", f"{sys.prefix}/bin/")
        # Paths on the page are relative to the root of the project.
        command = re.sub(r"(?<= )(docs|examples)(?=[ /])", rf"{ROOT}/\1", command)
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],  # noqa: S607 - bash is found on the path
            cwd=directory,
            env={**os.environ, "SERVICE_URL": f"http://{address}"},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT,
        ).stdout

    return run


@pytest.fixture(scope="session")
def run_program(run_shell: Callable[[str, str, Path], str]) -> Callable[[str, str, Path], None]:
    """Run a program of a page and compare its output with the comments after `print`."""

    def run(program: str, address: str, directory: Path) -> None:
        (directory / "program.py").write_text(program.replace("127.0.0.1:8000", address))
        expected = re.findall(r"print\(.*\)  # (.*)", program)
        printed = run_shell(".venv/bin/python -W ignore program.py", address, directory)
        assert printed.strip().splitlines() == expected

    return run

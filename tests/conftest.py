"""What every test may rely on."""

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

# Nothing here may reach for a hub, whatever the machine would allow.
os.environ["HF_HUB_OFFLINE"] = "1"

ROOT = Path(__file__).parent.parent


@contextmanager
def _serving(*command: str) -> Iterator[str]:
    environ = {**os.environ, "FNET_PORT": "0", "PORT": "0"}
    with (
        tempfile.NamedTemporaryFile() as log,
        subprocess.Popen(command, cwd=ROOT, env=environ, start_new_session=True, stderr=log) as process,
    ):

        def said() -> str:
            return Path(log.name).read_text("utf-8")

        try:
            deadline = time.monotonic() + TIMEOUT
            # Only the server knows the port, which nobody can take before it.
            while not ((found := re.search(r"http://(127\.0\.0\.1:\d+)", said())) and _ready(found[0])):
                assert process.poll() is None, f"the server ended before it was ready: {said()}"
                assert time.monotonic() < deadline, f"the server was not ready in time: {said()}"
                time.sleep(0.2)
            yield found[1]
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
    """Serve the bundled preset by a command, on a free port; gives the address once it is ready."""
    return _serving


@pytest.fixture(scope="session")
def served() -> Iterator[str]:
    """The address of the bundled preset's service."""
    with _serving(f"{sys.prefix}/bin/fnet-service", "serve") as address:
        yield address


@pytest.fixture(scope="session")
def typed() -> Callable[[str, str, Path], str]:
    """Run what a page tells to type, with a running service's address in place of the page's; gives what it prints."""

    def run(command: str, address: str, directory: Path) -> str:
        command = command.replace("127.0.0.1:8000", address).replace(".venv/bin/", f"{sys.prefix}/bin/")
        # Files of the project are named as from its root.
        command = re.sub(r"(?<= )(docs|examples)(?=[ /])", rf"{ROOT}/\1", command)
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],  # noqa: S607 - found on the path, as the reader's shell is
            cwd=directory,
            env={**os.environ, "SERVICE_URL": f"http://{address}"},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT,
        ).stdout

    return run


@pytest.fixture(scope="session")
def programmed(typed: Callable[[str, str, Path], str]) -> Callable[[str, str, Path], None]:
    """Run a program of a page; it has to print what the comment behind its last `print` says."""

    def run(program: str, address: str, directory: Path) -> None:
        (directory / "program.py").write_text(program.replace("127.0.0.1:8000", address))
        said = re.findall(r"print\(.*\)  # (.*)", program)
        printed = typed(".venv/bin/python -W ignore program.py", address, directory)
        assert printed.strip().splitlines() == said

    return run

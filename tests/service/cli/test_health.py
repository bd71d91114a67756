"""`fnet-service health` asks a real process whether it is ready, as a container's engine does."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.timeouts import TIMEOUT

COMMAND = str(Path(sysconfig.get_path("scripts")) / "fnet-service")


def health(*options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FNET_")}
    return subprocess.run(
        [COMMAND, "health", *options],
        env={**inherited, **environ},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


@pytest.fixture(scope="module")
def port(smallest_preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The port of a service on all addresses that asks for a key even at its health routes."""
    environ = {**os.environ, **settings("0"), "FNET_PRESET": str(smallest_preset), "FNET_MAX_BATCH_TOKENS": "16"}
    log = tmp_path_factory.mktemp("health") / "log"
    with log.open("w") as stream, subprocess.Popen([COMMAND, "serve"], env=environ, stderr=stream) as process:
        end = time.monotonic() + TIMEOUT
        while not (found := re.search(r"http://0\.0\.0\.0:(\d+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield found[1]
        process.terminate()
        assert process.wait(TIMEOUT) == 0


def settings(port: str) -> dict[str, str]:
    """The environment that service and command share."""
    return {"FNET_HOST": "0.0.0.0", "FNET_PORT": port, "FNET_API_KEYS": "sesame", "FNET_HEALTH_REQUIRES_KEY": "true"}  # noqa: S104


def test_it_says_when_the_service_is_ready(port: str) -> None:
    """With the service's own environment alone: where it listens, and the key; no proxy is asked on the way."""
    end = time.monotonic() + TIMEOUT
    environ: dict[str, Any] = {**settings(port), "http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    while (asked := health(**environ)).returncode:
        assert asked.returncode == 1
        assert asked.stderr.startswith(f"fnet-service: http://127.0.0.1:{port}: ")
        assert len(asked.stderr.splitlines()) == 1
        assert time.monotonic() < end, asked.stderr
        time.sleep(0.1)
    assert json.loads(asked.stdout)["state"] == "ready"
    elsewhere = health("--url", f"http://localhost:{port}/", FNET_API_KEYS="sesame")
    assert (elsewhere.returncode, json.loads(elsewhere.stdout)["state"]) == (0, "ready")
    locked = health("--url", f"http://localhost:{port}")
    assert locked.returncode == 1
    assert locked.stderr.startswith(f"fnet-service: http://localhost:{port}: not ready: 401 ")


def test_nobody_there_is_not_ready() -> None:
    """One line, exit code 1."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        asked = health("--url", url)
    assert asked.returncode == 1
    assert asked.stderr.startswith(f"fnet-service: {url}: ")
    assert len(asked.stderr.splitlines()) == 1


def test_a_service_that_does_not_answer_is_not_waited_for() -> None:
    """It has so many seconds."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        asked = health("--url", f"http://127.0.0.1:{silent.getsockname()[1]}", "--timeout", "0.2")
    assert asked.returncode == 1
    assert "timed out" in asked.stderr


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://127.0.0.1:port"])
def test_a_bad_address_is_told(url: str) -> None:
    """One line, exit code 2."""
    asked = health("--url", url)
    assert asked.returncode == 2
    assert asked.stderr.startswith(f"fnet-service: --url: {url}: ")
    assert health(FNET_PORT="http").returncode == 2

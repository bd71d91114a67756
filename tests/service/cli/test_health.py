"""`fnet-service health` as a readiness probe of a server process."""

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
    """Yield the port of a service that listens on all addresses and requires a key for its health routes."""
    environ = {**os.environ, **settings("0"), "FNET_PRESET": str(smallest_preset), "FNET_MAX_BATCH_TOKENS": "16"}
    log = tmp_path_factory.mktemp("health") / "log"
    with log.open("w") as stream, subprocess.Popen([COMMAND, "serve"], env=environ, stderr=stream) as process:
        end = time.monotonic() + TIMEOUT
        while not (match := re.search(r"http://0\.0\.0\.0:(\d+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield match[1]
        process.terminate()
        assert process.wait(TIMEOUT) == 0


def settings(port: str) -> dict[str, str]:
    """Return the environment that service and command share."""
    return {"FNET_HOST": "0.0.0.0", "FNET_PORT": port, "FNET_API_KEYS": "sesame", "FNET_HEALTH_REQUIRES_KEY": "true"}  # noqa: S104


def test_probe_succeeds_when_ready(port: str) -> None:
    """The probe uses address and key of the environment, and ignores its proxy settings."""
    end = time.monotonic() + TIMEOUT
    environ: dict[str, Any] = {**settings(port), "http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    while (probe := health(**environ)).returncode:
        assert probe.returncode == 1
        assert probe.stderr.startswith(f"fnet-service: http://127.0.0.1:{port}: ")
        assert len(probe.stderr.splitlines()) == 1
        assert time.monotonic() < end, probe.stderr
        time.sleep(0.1)
    assert json.loads(probe.stdout)["state"] == "ready"
    other = health("--url", f"http://localhost:{port}/", FNET_API_KEYS="sesame")
    assert (other.returncode, json.loads(other.stdout)["state"]) == (0, "ready")
    unauthorized = health("--url", f"http://localhost:{port}")
    assert unauthorized.returncode == 1
    assert unauthorized.stderr.startswith(f"fnet-service: http://localhost:{port}: not ready: 401 ")


def test_refused_connection_is_not_ready() -> None:
    """The error is one line with exit code 1."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        probe = health("--url", url)
    assert probe.returncode == 1
    assert probe.stderr.startswith(f"fnet-service: {url}: ")
    assert len(probe.stderr.splitlines()) == 1


def test_timeout_applies() -> None:
    """A service that does not answer within the timeout is not ready."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        probe = health("--url", f"http://127.0.0.1:{silent.getsockname()[1]}", "--timeout", "0.2")
    assert probe.returncode == 1
    assert "timed out" in probe.stderr


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://127.0.0.1:port"])
def test_invalid_url_is_a_usage_error(url: str) -> None:
    """The error is one line with exit code 2."""
    probe = health("--url", url)
    assert probe.returncode == 2
    assert probe.stderr.startswith(f"fnet-service: --url: {url}: ")
    assert health(FNET_PORT="http").returncode == 2

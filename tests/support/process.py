"""`fnet-service serve` as a subprocess with a real port."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.timeouts import TIMEOUT

COMMAND = Path(sysconfig.get_path("scripts")) / "fnet-service"


class Process:
    """A running `fnet-service serve`, or a program that replaces it.

    Attributes:
        lines: Lines of standard error so far.
        url: The base URL.
    """

    def __init__(self, *options: str, program: str | None = None, **environ: str) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FNET_")}
        self._process = subprocess.Popen(
            [str(COMMAND), "serve", *options] if program is None else [sys.executable, "-c", program, *options],
            env={**inherited, "FNET_PORT": "0", "FNET_LOG_FORMAT": "json", **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.lines.append(line.rstrip("\n"))

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return once `condition` holds; fail if the process ends first or the wait times out."""
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert self._process.poll() is None, self.lines
            assert time.monotonic() < end, self.lines
            time.sleep(0.03)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of one event."""
        events = [json.loads(line) for line in list(self.lines) if line.startswith("{")]
        return [line for line in events if line["event"] == name]

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def url(self) -> str:
        """Return the base URL once the process listens."""
        self.wait_until(lambda: bool(self.events("listening")))
        return str(self.events("listening")[0]["url"])

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def end(self) -> int:
        """Wait for the process and return its exit code."""
        code = self._process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        assert self._process.stdout is not None
        assert self._process.stdout.read() == ""
        return code

    def close(self) -> None:
        """Kill the process if it runs, and close its streams."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()

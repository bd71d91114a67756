"""`fnet-service` in a process that is forked from one with all imports, which take most of a short run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.timeouts import TIMEOUT

# None of these modules starts a thread or a device. PyArrow is excluded, since it changes how the command exits.
_IMPORTED = [
    "service.cli.main",
    "service.cli.encode",
    "service.engine_options",
    "service.bulk.file_job",
    "model.backends.jax_backend",
]


class Command:
    """A run of `fnet-service`, with the exit code, signals and standard streams of a normal process.

    Args:
        arguments: Arguments of `fnet-service`.
        directory: The working directory.
        environ: The complete environment.
        stdin: A file or a named pipe.
        stdout: A file, which is overwritten.
        stderr: A file, which is overwritten.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        directory: Path,
        environ: Mapping[str, str],
        *,
        stdin: Path = Path(os.devnull),
        stdout: Path = Path(os.devnull),
        stderr: Path = Path(os.devnull),
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_IMPORTED)
        streams = (stdin, stdout, stderr)
        self._process = context.Process(target=_run, args=(list(arguments), directory, dict(environ), streams))
        self._process.start()

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while the process runs."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal if the process still runs."""
        if self._process.pid is not None and self.poll() is None:
            os.kill(self._process.pid, number)

    def wait(self, seconds: float = TIMEOUT) -> int | None:
        """Wait for the process; return its exit code, or None after the timeout."""
        self._process.join(seconds)
        return self.poll()


def _run(arguments: list[str], directory: Path, environ: dict[str, str], streams: tuple[Path, Path, Path]) -> None:
    for number, file in enumerate(streams):
        opened = os.open(file, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, "w" if number else "r") for number in range(3))
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = ["fnet-service", *arguments]
    from service.cli.main import main  # noqa: PLC0415 - imported before the fork

    main()

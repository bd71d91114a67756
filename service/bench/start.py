"""Time to ready and memory, measured in a new process that becomes ready and runs a row of every length.

Run as a program, this module is that process. It prints `ready` when ready, and one line of JSON at its end.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.bench.results import BenchError

_READY = "ready"
_POLL_SECONDS = 0.002


@dataclass(frozen=True, slots=True)
class ProcessStart:
    """The start of one process.

    Attributes:
        seconds: Time from the start until ready.
        import_seconds: Time to import libraries.
        ready_bytes: Resident memory when ready.
        peak_bytes: Peak resident memory.
    """

    seconds: float
    import_seconds: float
    ready_bytes: int
    peak_bytes: int


def start_process(options: Mapping[str, Any]) -> ProcessStart:
    """Start a process, and wait until it has become ready and ended.

    Args:
        options: The fields of `service.core.options.EngineOptions`.

    Raises:
        BenchError: The process does not become ready; the message is the reason.
    """
    arguments = [sys.executable, "-m", __name__, json.dumps(dict(options), default=str)]
    started = time.perf_counter()
    with subprocess.Popen(  # noqa: S603 - runs this module
        arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        seconds = 0.0
        report: dict[str, Any] = {}
        for line in process.stdout:
            if line.strip() == _READY:
                seconds = time.perf_counter() - started
            elif line.startswith("{"):
                report = json.loads(line)
    if process.returncode or not report:
        raise BenchError(report.get("failed") or f"the process exited with code {process.returncode}")
    return ProcessStart(seconds, **report)


def memory() -> tuple[int, int]:
    """Return the resident and the peak resident bytes of this process, or the peak twice on systems without /proc."""
    status = Path("/proc/self/status")
    if not status.exists():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak *= 1 if sys.platform == "darwin" else 1024
        return peak, peak
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return int(fields["VmRSS"].split()[0]) * 1024, int(fields["VmHWM"].split()[0]) * 1024


def main() -> None:
    """Run as the measured process."""
    started = time.perf_counter()
    options = json.loads(sys.argv[1])
    from model.backends import backend_type  # noqa: PLC0415
    from service.bench.candidate import full_row, one_line  # noqa: PLC0415
    from service.core.engine import Engine  # noqa: PLC0415
    from service.core.options import EngineOptions  # noqa: PLC0415
    from service.telemetry import logs  # noqa: PLC0415 - these imports are measured

    backend_type(options["backend"])
    import_seconds = time.perf_counter() - started
    logs.configure("json", "error")
    failures: list[BaseException] = []
    cache_dir = options["cache_dir"]
    options["cache_dir"] = None if cache_dir is None else Path(cache_dir)
    engine = Engine(EngineOptions(**options), on_failure=failures.append)
    engine.start()
    while engine.state != "ready" and not failures:
        time.sleep(_POLL_SECONDS)
    if failures:
        print(json.dumps({"failed": one_line(failures[0])}))  # noqa: T201 - read by the parent process
        sys.exit(1)
    print(_READY, flush=True)  # noqa: T201
    ready_bytes, _ = memory()
    encoder = engine.require_ready().encoder
    for length in encoder.row_lengths:
        full_row(encoder, length)()
    _, peak_bytes = memory()
    engine.close()
    report = {"import_seconds": import_seconds, "ready_bytes": ready_bytes, "peak_bytes": peak_bytes}
    print(json.dumps(report))  # noqa: T201


if __name__ == "__main__":
    main()

"""Time to ready, and memory: a fresh process that does nothing but become ready and run a row of every length.

Run as a program it is that process. It writes `ready` when it is, and at its end a line of JSON.
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
_POLL = 0.002


@dataclass(frozen=True, slots=True)
class Fresh:
    """One fresh process.

    Attributes:
        seconds: From its start until it was ready.
        import_seconds: What of that went into importing libraries.
        ready_bytes: Resident memory when ready.
        peak_bytes: Most resident memory until its end.
    """

    seconds: float
    import_seconds: float
    ready_bytes: int
    peak_bytes: int


def start_once(options: Mapping[str, Any]) -> Fresh:
    """Start a process and have it become ready.

    Args:
        options: The fields of `service.engine.EngineOptions`.

    Raises:
        BenchError: It does not get there; says why.
    """
    arguments = [sys.executable, "-m", __name__, json.dumps(dict(options), default=str)]
    started = time.perf_counter()
    with subprocess.Popen(  # noqa: S603 - this very program
        arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        seconds = 0.0
        told: dict[str, Any] = {}
        for line in process.stdout:
            if line.strip() == _READY:
                seconds = time.perf_counter() - started
            elif line.startswith("{"):
                told = json.loads(line)
    if process.returncode or not told:
        raise BenchError(told.get("failed") or f"a fresh process ended with {process.returncode}")
    return Fresh(seconds, **told)


def memory() -> tuple[int, int]:
    """Return this process's resident bytes now and at most; where the system does not tell, at most twice."""
    status = Path("/proc/self/status")
    if not status.exists():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak *= 1 if sys.platform == "darwin" else 1024
        return peak, peak
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return int(fields["VmRSS"].split()[0]) * 1024, int(fields["VmHWM"].split()[0]) * 1024


def main() -> None:
    """Be that process."""
    began = time.perf_counter()
    options = json.loads(sys.argv[1])
    from model.backends import backend_type  # noqa: PLC0415
    from service import logs  # noqa: PLC0415 - this and all below is what is timed
    from service.bench.workloads import filling, sequences  # noqa: PLC0415
    from service.engine import Engine, EngineOptions  # noqa: PLC0415

    backend_type(options["backend"])
    import_seconds = time.perf_counter() - began
    logs.configure("json", "error")
    failures: list[BaseException] = []
    cache_dir = options["cache_dir"]
    options["cache_dir"] = None if cache_dir is None else Path(cache_dir)
    engine = Engine(EngineOptions(**options), on_failure=failures.append)
    engine.start()
    while engine.state != "ready" and not failures:
        time.sleep(_POLL)
    if failures:
        print(json.dumps({"failed": " ".join(str(failures[0]).split())}))  # noqa: T201 - what is asked for
        sys.exit(1)
    print(_READY, flush=True)  # noqa: T201
    ready_bytes, _ = memory()
    encoder = engine.ready().encoder
    for length in encoder.rows:
        lengths = filling(length, encoder.architecture.max_sequence_length, encoder.spacing)
        row = sequences(lengths, encoder.architecture)
        encoder.run(encoder.lay(row, length), row)
    _, peak_bytes = memory()
    engine.close()
    found = {"import_seconds": import_seconds, "ready_bytes": ready_bytes, "peak_bytes": peak_bytes}
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()

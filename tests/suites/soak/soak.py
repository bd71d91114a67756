"""Mixed traffic with faults against a server process for a given time.

    make soak [MINUTES=10]

Steady clients send sequences with known outputs. Other clients disconnect, send slowly, do not read, send malformed
requests, or have expired deadlines. Overloads have ten times the clients. The run fails on a wrong vector, a request
without a response, a 429 without Retry-After, memory growth of more than 5 % after the warm-up, leaked descriptors or
threads, a compilation after ready, a slow health route, or an exit code other than 0.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.suites.soak.connection import Client, Connection, Response

STEADY_CLIENTS = 16
OVERLOAD_CLIENTS = 160
_SEQUENCES = 120
_TIMEOUT_SECONDS = 60.0
_WARM_UP_SHARE = 0.25
_MAX_MEMORY_RATIO = 1.05
_MAX_HEALTH_SECONDS = 1.0
_MAX_FAILURES = 100
_MALFORMED_BODIES = (
    b"",
    b"{",
    b"\xff\xfe{}",
    b'{"texts": ["\xff"]}',
    b'{"texts": "\\ud800"}',
    b'{"token_ids": [[NaN]]}',
    b'{"token_ids": [[-1]]}',
    b'{"token_ids": [[99999999999999999999]]}',
    b'{"token_ids": [[1.5]]}',
    b'{"token_ids": []}',
    b'{"token_ids": [[]]}',
    b'{"token_ids": [[5]], "segment_ids": [[9]]}',
    b'{"texts": "a", "unknown": 1}',
    b"[" * 5_000,
    b'{"token_ids": [' + b"[5]," * 3_000 + b"[5]]}",
)


@dataclass(slots=True)
class Findings:
    """Observations of a run.

    Attributes:
        outcomes: Number of requests by outcome.
        reopened: Number of connections closed between two requests.
        failures: Failures, at most 100.
        health: Durations of `/health/live` in seconds.
        memory: Resident bytes, once per second.
        descriptors: Open files, once per second.
        threads: Threads, once per second.
        recovery: Seconds from the end of each overload until latency is normal.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    reopened: int = 0
    failures: list[str] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    recovery: list[float] = field(default_factory=list)

    def fail(self, reason: str) -> None:
        """Record a failure, up to a limit."""
        if len(self.failures) < _MAX_FAILURES:
            self.failures.append(reason)


class Soak:
    """One run against a server process that is ready.

    Args:
        port: Port of the server.
        process: Process id of the server.
        seconds: Duration of the traffic.
        seed: Seed of all random choices.

    Attributes:
        findings: Observations of the run.
    """

    def __init__(self, port: int, process: int, seconds: float, seed: int = 0) -> None:
        self.findings = Findings()
        self._port, self._process = port, process
        self._seconds = seconds
        self._random = random.Random(seed)
        self._end = 0.0
        self._sequences: list[list[int]] = []
        self._expected: list[bytes] = []

    async def run(self) -> Findings:
        """Run for the given time, and return the findings."""
        await self._compute_expected()
        self._end = time.monotonic() + self._seconds
        clients = [self._steady(number) for number in range(STEADY_CLIENTS)]
        clients += [
            self._disconnecting(),
            self._slow_sending(),
            self._not_reading(),
            self._malformed(),
            self._expired(),
            self._overloads(),
        ]
        try:
            await asyncio.gather(*clients, self._monitor())
            await self._check_end_state()
        except OSError as error:
            self.findings.fail(f"the server does not listen: {error!r}")
        return self.findings

    async def _compute_expected(self) -> None:
        """Create sequences, and encode each of them alone."""
        client = Client(self._port)
        info = json.loads((await client.request("GET", "/v1/info")).body)
        vocabulary, max_tokens = info["architecture"]["vocabulary_size"], info["limits"]["max_sequence_length"]
        for _ in range(_SEQUENCES):
            length = max(1, min(max_tokens, int(self._random.lognormvariate(3.2, 0.9))))
            self._sequences.append([self._random.randrange(vocabulary) for _ in range(length)])
        for ids in self._sequences:
            response = await client.request("POST", "/v1/encode", _native([ids]))
            if response.status != 200:
                raise RuntimeError(f"{response.status}: {response.body[:200]!r}")
            self._expected.append(_pooled(response)[0])
        client.close()

    @property
    def _is_over(self) -> bool:
        return time.monotonic() >= self._end

    async def _request(
        self, client: Client, label: str, method: str, path: str, body: bytes = b"", **headers: str
    ) -> Response:
        """Send a request and return its response; without a response record a failure and return status 0."""
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                return await client.request(method, path, body, **headers)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            self.findings.fail(f"{label}: no response: {error!r}")
            await asyncio.sleep(0.1)
            return Response(0, {}, b"")

    def _close(self, client: Client) -> None:
        self.findings.reopened += max(0, client.connections - 1)
        client.close()

    async def _steady(self, number: int) -> None:
        """Send consecutive requests, and compare every response."""
        client = Client(self._port)
        while not self._is_over:
            indices = [self._random.randrange(_SEQUENCES) for _ in range(self._random.choice((1, 1, 2, 5)))]
            body = _native([self._sequences[i] for i in indices])
            response = await self._request(client, f"client {number}", "POST", "/v1/encode", body)
            if response.status:
                await self._check(response, indices)
        self._close(client)

    async def _check(self, response: Response, indices: list[int]) -> None:
        self.findings.outcomes[str(response.status)] += 1
        if response.status == 200:
            if _pooled(response) != [self._expected[i] for i in indices]:
                self.findings.fail(f"wrong vector among sequences {indices}")
        elif response.status == 429:
            wait = int(response.headers.get("retry-after", "0"))
            if not wait:
                self.findings.fail("429 without Retry-After")
            await asyncio.sleep(min(wait, max(0.0, self._end - time.monotonic())))
        else:
            self.findings.fail(f"{response.status}: {response.body[:200]!r}")

    async def _disconnecting(self) -> None:
        """Disconnect before, during and after the computation of the response."""
        while not self._is_over:
            connection = await Connection.open(self._port)
            ids = [self._random.choice(self._sequences) for _ in range(8)]
            body = json.dumps({"token_ids": ids, "outputs": ["sequence_output"]}).encode()
            await connection.send("POST", "/v1/encode", body)
            await asyncio.sleep(self._random.choice((0, 0.001, 0.01, 0.1)))
            connection.close()
            self.findings.outcomes["disconnected"] += 1
            await asyncio.sleep(0.05)

    async def _slow_sending(self) -> None:
        """Send a part of a body byte by byte, then disconnect."""
        while not self._is_over:
            connection = await Connection.open(self._port)
            with contextlib.suppress(OSError):
                connection.writer.write(b"POST /v1/encode HTTP/1.1\r\nHost: soak\r\nContent-Length: 100\r\n\r\n")
                for _ in range(20):
                    connection.writer.write(b" ")
                    await asyncio.sleep(0.1)
            connection.close()
            self.findings.outcomes["sent slowly"] += 1

    async def _not_reading(self) -> None:
        """Request large responses without reading them."""
        body = json.dumps({"token_ids": [max(self._sequences, key=len)] * 16}).encode()
        while not self._is_over:
            connection = await Connection.open(self._port)
            await connection.send("POST", "/v1/encode", body)
            await asyncio.sleep(3.0)
            connection.close()
            self.findings.outcomes["not read"] += 1

    async def _malformed(self) -> None:
        """Send malformed requests, which must get a 4xx status."""
        client = Client(self._port)
        while not self._is_over:
            for path in ("/v1/encode", "/v1/embeddings", "/embed", "/v2/models/any/infer", "/nowhere"):
                response = await self._request(
                    client, f"malformed request to {path}", "POST", path, self._random.choice(_MALFORMED_BODIES)
                )
                self.findings.outcomes["rejected"] += 1
                # The list of many short sequences is valid if the queue has space.
                if response.status != 200 and not 400 <= response.status < 500:
                    self.findings.fail(f"malformed request to {path}: {response.status} {response.body[:100]!r}")
            await asyncio.sleep(0.1)
        self._close(client)

    async def _expired(self) -> None:
        """Send requests whose deadline expires at once."""
        client = Client(self._port)
        while not self._is_over:
            body = _native([self._random.choice(self._sequences)])
            response = await self._request(client, "expired", "POST", "/v1/encode", body, X_Request_Timeout="0.0005")
            self.findings.outcomes["expired"] += 1
            if response.status not in (200, 429, 504):
                self.findings.fail(f"expired: {response.status} {response.body[:100]!r}")
            await asyncio.sleep(0.1)
        self._close(client)

    async def _overloads(self) -> None:
        """Repeat overloads of ten times the clients, and measure the recovery of the latency."""
        wait = min(30.0, self._seconds / 4)
        while self._end - time.monotonic() > 2 * wait:
            await asyncio.sleep(wait)
            before = await self._latency()
            stop = time.monotonic() + wait / 3
            await asyncio.gather(*(self._overloading_client(stop) for _ in range(OVERLOAD_CLIENTS)))
            started = time.monotonic()
            while await self._latency() > 3 * before + 0.2 and time.monotonic() - started < _TIMEOUT_SECONDS:
                pass
            self.findings.recovery.append(time.monotonic() - started)

    async def _overloading_client(self, stop: float) -> None:
        while time.monotonic() < stop:
            client = Client(self._port)
            # Different sequences, because equal ones are computed once.
            ids = [[self._random.randrange(1_000) for _ in range(100)] for _ in range(8)]
            response = await self._request(client, "overload", "POST", "/v1/encode", _native(ids))
            self.findings.outcomes[f"overload {response.status}"] += 1
            if response.status not in (0, 200, 429):
                self.findings.fail(f"overload: {response.status} {response.body[:100]!r}")
            if response.status == 429:
                await asyncio.sleep(0.2)  # shorter than Retry-After: an overloading client
            client.close()

    async def _latency(self) -> float:
        """Return the seconds of one small request."""
        client = Client(self._port)
        started = time.monotonic()
        await self._request(client, "after an overload", "POST", "/v1/encode", _native([self._sequences[0]]))
        client.close()
        return time.monotonic() - started

    async def _monitor(self) -> None:
        """Probe the health route and sample the resources of the process once per second."""
        while not self._is_over:
            client = Client(self._port)
            started = time.monotonic()
            response = await self._request(client, "health", "GET", "/health/live")
            self.findings.health.append(time.monotonic() - started)
            if response.status != 200:
                self.findings.fail(f"/health/live: {response.status}")
            client.close()
            if not self._sample_process():
                self.findings.fail("the process has ended")
                self._end = 0.0
            await asyncio.sleep(min(1.0, self._seconds / 20))

    def _sample_process(self) -> bool:
        """Record memory, descriptors and threads; return False if the process has ended."""
        directory = Path(f"/proc/{self._process}")
        pages = int((directory / "statm").read_text().split()[1])
        if not pages:
            return False
        self.findings.memory.append(pages * os.sysconf("SC_PAGE_SIZE"))
        self.findings.descriptors.append(len(list((directory / "fd").iterdir())))
        self.findings.threads.append(len(list((directory / "task").iterdir())))
        return True

    async def _check_end_state(self) -> None:
        """Check metrics, memory, descriptors, threads and recovery after all clients have disconnected."""
        findings = self.findings
        await asyncio.sleep(min(8.0, self._seconds / 2))
        client = Client(self._port)
        metrics = (await client.request("GET", "/metrics")).body.decode()
        client.close()
        values = {line.split()[0]: float(line.split()[1]) for line in metrics.splitlines() if line[:1] not in ("#", "")}
        for name in ("fnet_compilations_total", "fnet_non_finite_total", "fnet_queue_tokens", "fnet_queue_requests"):
            if values[name]:
                findings.fail(f"{name} is {values[name]:g} at the end")
        warm_up = int(len(findings.memory) * _WARM_UP_SHARE)
        early, late = (statistics.median(third) for third in _thirds(findings.memory[warm_up:]))
        if late > _MAX_MEMORY_RATIO * early:
            findings.fail(f"memory grew from {early / 1e6:.0f} to {late / 1e6:.0f} MB")
        before = findings.descriptors[0]
        self._sample_process()
        if findings.descriptors[-1] > before + 5:
            findings.fail(f"descriptors: {before} at first, {findings.descriptors[-1]} at the end")
        if max(findings.health) > _MAX_HEALTH_SECONDS:
            findings.fail(f"/health/live took {max(findings.health):.2f} s")
        if findings.threads[-1] > max(findings.threads[:3]) + 4:
            findings.fail(f"threads: {findings.threads[0]} at first, {findings.threads[-1]} at the end")
        if findings.recovery and statistics.median(findings.recovery) > 1.0:
            findings.fail(f"recovery from an overload took {statistics.median(findings.recovery):.1f} s")


def _thirds(values: list[int]) -> tuple[list[int], list[int]]:
    third = max(1, len(values) // 3)
    return values[:third], values[-third:]


def _native(ids: list[list[int]]) -> bytes:
    return json.dumps({"token_ids": ids, "outputs": ["pooled_output"], "encoding_format": "base64"}).encode()


def _pooled(response: Response) -> list[bytes]:
    return [base64.b64decode(row) for row in json.loads(response.body)["pooled_output"]]


def soak(minutes: float, *options: str) -> dict[str, Any]:
    """Run the traffic against a new server process, stop it, and return the report.

    Args:
        minutes: Duration of the traffic.
        options: Options of `fnet-service serve`.
    """
    command = [str(Path(sys.executable).with_name("fnet-service")), "serve", "--port", "0", "--log-format", "json"]
    command += ["--log-level", "info", "--max-queue-tokens", "16384", "--request-timeout", "30", *options]
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen(command, stderr=log, text=True) as process:
        try:
            port = _ready(log, process)
            findings = asyncio.run(Soak(port, process.pid, minutes * 60).run())
        finally:
            process.send_signal(signal.SIGTERM)
        code = process.wait(_TIMEOUT_SECONDS)
        log.seek(0)
        log_text = log.read()
    if code:
        findings.fail(f"exit code {code}")
    if "Traceback" in log_text or '"level": "error"' in log_text:
        findings.fail("the log has an error: " + next(line for line in log_text.splitlines() if "rror" in line)[:500])
    return {
        "minutes": minutes,
        "outcomes": dict(findings.outcomes.most_common()),
        "reopened": findings.reopened,
        "health_ms": {"median": statistics.median(findings.health) * 1e3, "max": max(findings.health) * 1e3},
        "memory_mb": [round(value / 1e6) for value in (findings.memory[0], max(findings.memory), findings.memory[-1])],
        "descriptors": [findings.descriptors[0], max(findings.descriptors), findings.descriptors[-1]],
        "threads": [findings.threads[0], max(findings.threads), findings.threads[-1]],
        "recovery_seconds": [round(value, 2) for value in findings.recovery],
        "failures": findings.failures,
    }


def _ready(log: Any, process: subprocess.Popen[str]) -> int:
    """Wait until a server process is ready, and return its port."""
    end = time.monotonic() + _TIMEOUT_SECONDS
    while time.monotonic() < end and process.poll() is None:
        log.seek(0)
        events = {line["event"]: line for line in map(json.loads, filter(None, log.read().splitlines()))}
        if "ready" in events and "listening" in events:
            return int(events["listening"]["url"].rpartition(":")[2])
        time.sleep(0.1)
    raise RuntimeError("the service did not become ready")


def main() -> None:
    """Run, print the report, and exit with 1 on failures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("options", nargs="*", help="options of fnet-service serve, after --")
    arguments = parser.parse_args()
    report = soak(arguments.minutes, *arguments.options)
    print(json.dumps(report, indent=2))  # noqa: T201 - the report
    sys.exit(1 if report["failures"] else 0)


if __name__ == "__main__":
    main()

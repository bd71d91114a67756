"""Mixed traffic with faults against a real process, for a set time; fails on whatever a user could suffer from.

    make soak [MINUTES=10]

Clients of every protocol send sequences whose answers are known to the bit; others leave in the middle, trickle, do not
read, send rubbish, or are out of time before they begin; once a minute the load is ten times what can be carried. The
run fails on a wrong vector, a lost request, a refusal that lies, memory that grows by more than 5 % after the warm-up,
descriptors or threads that leak, a compilation after ready, a health route that hangs, or an exit code other than 0.
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

from tests.suites.soak.connection import Answer, Client, Connection

STEADY = 16
CROWD = 160
_SEQUENCES = 120
_HANG = 60.0
_WARM = 0.25
_GROWTH = 1.05
_HEALTH_SECONDS = 1.0
_RUBBISH = (
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
    """What a run saw.

    Attributes:
        answers: Requests by what became of them.
        reopened: Connections that were closed between two requests.
        faults: What must not be, each with its circumstances.
        health: Seconds that `/health/live` took.
        memory: Resident bytes, once a second.
        descriptors: Open files, once a second.
        threads: Threads, once a second.
        recovery: Seconds after a crowd until a request was answered as quickly as before.
    """

    answers: Counter[str] = field(default_factory=Counter)
    reopened: int = 0
    faults: list[str] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    recovery: list[float] = field(default_factory=list)

    def fault(self, what: str) -> None:
        """Note what must not be; a few of a kind are enough."""
        if len(self.faults) < 100:
            self.faults.append(what)


class Soak:
    """One run against a process that is ready.

    Args:
        port: Where it listens.
        process: Its id.
        seconds: How long to run.
        seed: Of every random choice.
    """

    def __init__(self, port: int, process: int, seconds: float, seed: int = 0) -> None:
        self.found = Findings()
        self._port, self._process = port, process
        self._seconds = seconds
        self._random = random.Random(seed)
        self._end = 0.0
        self._sequences: list[list[int]] = []
        self._expected: list[bytes] = []

    async def run(self) -> Findings:
        """Run for the set time, and return what was seen."""
        await self._learn()
        self._end = time.monotonic() + self._seconds
        clients = [self._steady(number) for number in range(STEADY)]
        clients += [self._deserter(), self._trickler(), self._deaf(), self._rubbish(), self._late(), self._crowds()]
        try:
            await asyncio.gather(*clients, self._watch())
            await self._afterwards()
        except OSError as error:
            self.found.fault(f"nobody listens: {error!r}")
        return self.found

    async def _learn(self) -> None:
        """Make sequences, and learn what each gives alone."""
        client = Client(self._port)
        info = json.loads((await client.ask("GET", "/v1/info")).body)
        vocabulary, longest = info["architecture"]["vocabulary_size"], info["limits"]["max_sequence_length"]
        for _ in range(_SEQUENCES):
            length = max(1, min(longest, int(self._random.lognormvariate(3.2, 0.9))))
            self._sequences.append([self._random.randrange(vocabulary) for _ in range(length)])
        for ids in self._sequences:
            answer = await client.ask("POST", "/v1/encode", _native([ids]))
            if answer.status != 200:
                raise RuntimeError(f"{answer.status}: {answer.body[:200]!r}")
            self._expected.append(_pooled(answer)[0])
        client.close()

    @property
    def _over(self) -> bool:
        return time.monotonic() >= self._end

    async def _ask(self, client: Client, who: str, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Ask, and wait for as long as it takes within reason; no answer at all is a fault, and has status 0."""
        try:
            async with asyncio.timeout(_HANG):
                return await client.ask(method, path, body, **headers)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            self.found.fault(f"{who}: no answer: {error!r}")
            await asyncio.sleep(0.1)
            return Answer(0, {}, b"")

    def _leave(self, client: Client) -> None:
        self.found.reopened += max(0, client.connections - 1)
        client.close()

    async def _steady(self, number: int) -> None:
        """Ask again and again, and compare every answer."""
        client = Client(self._port)
        while not self._over:
            chosen = [self._random.randrange(_SEQUENCES) for _ in range(self._random.choice((1, 1, 2, 5)))]
            body = _native([self._sequences[i] for i in chosen])
            answer = await self._ask(client, f"client {number}", "POST", "/v1/encode", body)
            if answer.status:
                await self._judge(answer, chosen)
        self._leave(client)

    async def _judge(self, answer: Answer, chosen: list[int]) -> None:
        self.found.answers[str(answer.status)] += 1
        if answer.status == 200:
            if _pooled(answer) != [self._expected[i] for i in chosen]:
                self.found.fault(f"a wrong vector among sequences {chosen}")
        elif answer.status == 429:
            wait = int(answer.headers.get("retry-after", "0"))
            if not wait:
                self.found.fault("429 without Retry-After")
            await asyncio.sleep(min(wait, max(0.0, self._end - time.monotonic())))
        else:
            self.found.fault(f"{answer.status}: {answer.body[:200]!r}")

    async def _deserter(self) -> None:
        """Leave at all moments: before, while and after the answer is made."""
        while not self._over:
            connection = await Connection.open(self._port)
            ids = [self._random.choice(self._sequences) for _ in range(8)]
            body = json.dumps({"token_ids": ids, "outputs": ["sequence_output"]}).encode()
            await connection.send("POST", "/v1/encode", body)
            await asyncio.sleep(self._random.choice((0, 0.001, 0.01, 0.1)))
            connection.close()
            self.found.answers["left"] += 1
            await asyncio.sleep(0.05)

    async def _trickler(self) -> None:
        """Promise a body and send it byte by byte, then give up."""
        while not self._over:
            connection = await Connection.open(self._port)
            with contextlib.suppress(OSError):
                connection.writer.write(b"POST /v1/encode HTTP/1.1\r\nHost: soak\r\nContent-Length: 100\r\n\r\n")
                for _ in range(20):
                    connection.writer.write(b" ")
                    await asyncio.sleep(0.1)
            connection.close()
            self.found.answers["trickled"] += 1

    async def _deaf(self) -> None:
        """Ask for much and read nothing of it."""
        body = json.dumps({"token_ids": [max(self._sequences, key=len)] * 16}).encode()
        while not self._over:
            connection = await Connection.open(self._port)
            await connection.send("POST", "/v1/encode", body)
            await asyncio.sleep(3.0)
            connection.close()
            self.found.answers["not read"] += 1

    async def _rubbish(self) -> None:
        """Send what is no request; each is to be refused as the client's fault."""
        client = Client(self._port)
        while not self._over:
            for path in ("/v1/encode", "/v1/embeddings", "/embed", "/v2/models/any/infer", "/nowhere"):
                answer = await self._ask(client, f"rubbish at {path}", "POST", path, self._random.choice(_RUBBISH))
                self.found.answers["refused"] += 1
                # A list of many short sequences is a request, if the queue has room.
                if answer.status != 200 and not 400 <= answer.status < 500:
                    self.found.fault(f"rubbish at {path}: {answer.status} {answer.body[:100]!r}")
            await asyncio.sleep(0.1)
        self._leave(client)

    async def _late(self) -> None:
        """Be out of time before anything can happen."""
        client = Client(self._port)
        while not self._over:
            body = _native([self._random.choice(self._sequences)])
            answer = await self._ask(client, "out of time", "POST", "/v1/encode", body, X_Request_Timeout="0.0005")
            self.found.answers["late"] += 1
            if answer.status not in (200, 429, 504):
                self.found.fault(f"out of time: {answer.status} {answer.body[:100]!r}")
            await asyncio.sleep(0.1)
        self._leave(client)

    async def _crowds(self) -> None:
        """Ten times the load that is carried, for a while, once a minute; then see how soon all is well again."""
        wait = min(30.0, self._seconds / 4)
        while self._end - time.monotonic() > 2 * wait:
            await asyncio.sleep(wait)
            before = await self._quick()
            stop = time.monotonic() + wait / 3
            await asyncio.gather(*(self._one_of_a_crowd(stop) for _ in range(CROWD)))
            began = time.monotonic()
            while await self._quick() > 3 * before + 0.2 and time.monotonic() - began < _HANG:
                pass
            self.found.recovery.append(time.monotonic() - began)

    async def _one_of_a_crowd(self, stop: float) -> None:
        while time.monotonic() < stop:
            client = Client(self._port)
            # All different: equal ones would be computed once.
            ids = [[self._random.randrange(1_000) for _ in range(100)] for _ in range(8)]
            answer = await self._ask(client, "in a crowd", "POST", "/v1/encode", _native(ids))
            self.found.answers[f"crowd {answer.status}"] += 1
            if answer.status not in (0, 200, 429):
                self.found.fault(f"in a crowd: {answer.status} {answer.body[:100]!r}")
            if answer.status == 429:
                await asyncio.sleep(0.2)  # a rude one
            client.close()

    async def _quick(self) -> float:
        """Return the seconds that one small request takes."""
        client = Client(self._port)
        began = time.monotonic()
        await self._ask(client, "after a crowd", "POST", "/v1/encode", _native([self._sequences[0]]))
        client.close()
        return time.monotonic() - began

    async def _watch(self) -> None:
        """Look at health and at what the process holds, once a second, for as long as there is one."""
        while not self._over:
            client = Client(self._port)
            began = time.monotonic()
            answer = await self._ask(client, "health", "GET", "/health/live")
            self.found.health.append(time.monotonic() - began)
            if answer.status != 200:
                self.found.fault(f"/health/live: {answer.status}")
            client.close()
            if not self._look():
                self.found.fault("the process is gone")
                self._end = 0.0
            await asyncio.sleep(min(1.0, self._seconds / 20))

    def _look(self) -> bool:
        """Note what the process holds; a dead one holds nothing."""
        home = Path(f"/proc/{self._process}")
        pages = int((home / "statm").read_text().split()[1])
        if not pages:
            return False
        self.found.memory.append(pages * os.sysconf("SC_PAGE_SIZE"))
        self.found.descriptors.append(len(list((home / "fd").iterdir())))
        self.found.threads.append(len(list((home / "task").iterdir())))
        return True

    async def _afterwards(self) -> None:
        """See that nothing is left over when all have gone."""
        found = self.found
        await asyncio.sleep(min(8.0, self._seconds / 2))
        client = Client(self._port)
        metrics = (await client.ask("GET", "/metrics")).body.decode()
        client.close()
        values = {line.split()[0]: float(line.split()[1]) for line in metrics.splitlines() if line[:1] not in ("#", "")}
        for name in ("fnet_compilations_total", "fnet_non_finite_total", "fnet_queue_tokens", "fnet_queue_requests"):
            if values[name]:
                found.fault(f"{name} is {values[name]:g} at the end")
        warm = int(len(found.memory) * _WARM)
        early, late = (statistics.median(part) for part in _thirds(found.memory[warm:]))
        if late > _GROWTH * early:
            found.fault(f"memory grew from {early / 1e6:.0f} to {late / 1e6:.0f} MB")
        before = found.descriptors[0]
        self._look()
        if found.descriptors[-1] > before + 5:
            found.fault(f"descriptors: {before} at first, {found.descriptors[-1]} at the end")
        if max(found.health) > _HEALTH_SECONDS:
            found.fault(f"/health/live took {max(found.health):.2f} s")
        if found.threads[-1] > max(found.threads[:3]) + 4:
            found.fault(f"threads: {found.threads[0]} at first, {found.threads[-1]} at the end")
        if found.recovery and statistics.median(found.recovery) > 1.0:
            found.fault(f"after a crowd it took {statistics.median(found.recovery):.1f} s to be quick again")


def _thirds(values: list[int]) -> tuple[list[int], list[int]]:
    third = max(1, len(values) // 3)
    return values[:third], values[-third:]


def _native(ids: list[list[int]]) -> bytes:
    return json.dumps({"token_ids": ids, "outputs": ["pooled_output"], "encoding_format": "base64"}).encode()


def _pooled(answer: Answer) -> list[bytes]:
    return [base64.b64decode(row) for row in json.loads(answer.body)["pooled_output"]]


def soak(minutes: float, *options: str) -> dict[str, Any]:
    """Start a process, soak it, end it, and return the report.

    Args:
        minutes: How long the traffic lasts.
        options: Of `fnet-service serve`.
    """
    command = [str(Path(sys.executable).with_name("fnet-service")), "serve", "--port", "0", "--log-format", "json"]
    command += ["--log-level", "info", "--max-queue-tokens", "16384", "--request-timeout", "30", *options]
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen(command, stderr=log, text=True) as process:
        try:
            port = _ready(log, process)
            found = asyncio.run(Soak(port, process.pid, minutes * 60).run())
        finally:
            process.send_signal(signal.SIGTERM)
        code = process.wait(_HANG)
        log.seek(0)
        written = log.read()
    if code:
        found.fault(f"exit code {code}")
    if "Traceback" in written or '"level": "error"' in written:
        found.fault("the log has an error: " + next(line for line in written.splitlines() if "rror" in line)[:500])
    return {
        "minutes": minutes,
        "answers": dict(found.answers.most_common()),
        "reopened": found.reopened,
        "health_ms": {"median": statistics.median(found.health) * 1e3, "most": max(found.health) * 1e3},
        "memory_mb": [round(value / 1e6) for value in (found.memory[0], max(found.memory), found.memory[-1])],
        "descriptors": [found.descriptors[0], max(found.descriptors), found.descriptors[-1]],
        "threads": [found.threads[0], max(found.threads), found.threads[-1]],
        "recovery_seconds": [round(value, 2) for value in found.recovery],
        "faults": found.faults,
    }


def _ready(log: Any, process: subprocess.Popen[str]) -> int:
    """Return the port of a process once it is ready."""
    end = time.monotonic() + _HANG
    while time.monotonic() < end and process.poll() is None:
        log.seek(0)
        events = {line["event"]: line for line in map(json.loads, filter(None, log.read().splitlines()))}
        if "ready" in events and "listening" in events:
            return int(events["listening"]["url"].rpartition(":")[2])
        time.sleep(0.1)
    raise RuntimeError("the service did not become ready")


def main() -> None:
    """Soak for as long as asked, print the report, and exit with 1 if there are faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("options", nargs="*", help="of fnet-service serve, behind --")
    arguments = parser.parse_args()
    report = soak(arguments.minutes, *arguments.options)
    print(json.dumps(report, indent=2))  # noqa: T201 - its output
    sys.exit(1 if report["faults"] else 0)


if __name__ == "__main__":
    main()

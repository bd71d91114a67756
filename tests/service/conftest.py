"""One tiny preset, its application ready to be asked, and another whose model thread a test holds in its hand."""

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

# The same examples at every run, and nothing depends on how fast the machine is.
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
    """A run function for a batcher: the real engine's, held up while the gate is shut.

    Attributes:
        engine: Whose network runs.
        entered: Set when a batch has come to the gate.
        opened: Lets batches through.
        death: Raised instead of running, if set.
        sizes: Sequences of each batch that came.
        outputs: Outputs requested of each of those sequences.
    """

    engine: Engine
    entered: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)
    death: BaseException | None = None
    sizes: list[int] = field(default_factory=list)
    outputs: list[list[frozenset[Output]]] = field(default_factory=list)

    def __call__(self, plan: BatchPlan, batch: list[EncoderInput]) -> list[Encoding]:
        """Run a batch when the gate is open."""
        self.sizes.append(len(batch))
        self.outputs.append([encoder_input.outputs for encoder_input in batch])
        self.entered.set()
        assert self.opened.wait(TIMEOUT)
        if self.death is not None:
            raise self.death
        return self.engine._run(plan, batch)


class Service:
    """An application and a client of it in this process, both driven from ordinary functions.

    Args:
        app: The application.
        runner: Whose event loop all of it runs on.
    """

    def __init__(self, app: FastAPI, runner: asyncio.Runner) -> None:
        self.app = app
        self.engine: Engine = app.state.engine
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service", timeout=TIMEOUT)
        self._runner = runner

    def run(self, work: Awaitable[T]) -> T:
        """Run a coroutine to its end."""

        async def bounded() -> T:
            async with asyncio.timeout(TIMEOUT):
                return await work

        return self._runner.run(bounded())

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Send a GET."""
        return self.run(self.http.get(path, **options))

    def post(self, path: str, **options: Any) -> httpx.Response:
        """Send a POST."""
        return self.run(self.http.post(path, **options))

    def encode(self, **request: Any) -> httpx.Response:
        """Send a request to `/v1/encode`."""
        return self.post("/v1/encode", json=request)


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all tests."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def tiny_preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset that is ready in a moment: 64 positions, a real tokenizer, nothing padded."""
    return make_preset(
        tmp_path_factory.mktemp("presets") / "tiny_en",
        name="tiny_en",
        version="7",
        padding="none",
        description="A tiny network with random weights.",
    )


@pytest.fixture(scope="session")
def tiny_settings(tiny_preset: Path) -> Settings:
    """Settings of a small service for the tiny preset."""
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
    """The application with the tiny preset, ready."""
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
    """Make an application like `service` whose model thread stops at a gate; arguments are settings."""
    made: list[tuple[Service, BlockingRunner]] = []

    def make(**settings: Any) -> tuple[Service, BlockingRunner]:
        failures: list[BaseException] = []
        held = Service(
            create_app(Settings.model_validate({**dict(tiny_settings), **settings}), failures.append), runner
        )
        held.app.state.failures = failures
        engine = held.engine
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
        made.append((held, gate))
        return held, gate

    yield make
    for held, gate in made:
        gate.opened.set()
        held.run(held.http.aclose())
        held.engine.close()


@pytest.fixture(scope="session")
def make_engine() -> Iterator[Callable[..., Engine]]:
    """Make an engine that is ready; arguments are its options, `observe` and `on_failure`."""
    made: list[Engine] = []

    def make(
        preset: Path,
        observe: Callable[[Event], None] = lambda _record: None,
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
        made.append(engine)
        if ready:
            engine.start()
            _wait_until(lambda: engine.state in ("ready", "failed"))
        return engine

    yield make
    for engine in made:
        engine.close()


@pytest.fixture(scope="session")
def smallest_preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset with two row lengths and no tokenizer, for tests that need an engine of their own."""
    return make_preset(tmp_path_factory.mktemp("presets") / "smallest_en", positions=16, tokenizer=False)


@pytest.fixture(scope="session")
def write_preset() -> Callable[..., Path]:
    """Write the preset of a small network to a directory; arguments are those of `make_preset`."""
    return make_preset


@pytest.fixture(scope="session")
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Wait until a condition holds, and fail rather than hang."""
    return _wait_until


@pytest.fixture(scope="session")
def random_ids() -> Callable[..., list[list[int]]]:
    """Make token ids of the given lengths, the same for the same seed."""

    def make(lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
        random = np.random.default_rng(seed)
        return [[int(token) for token in random.integers(0, POISON, length)] for length in lengths]

    return make


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Start a process, ended with the test; arguments are options and environment variables."""
    started: list[Process] = []

    def start(*options: str, **given: str) -> Process:
        started.append(Process(*options, **given))
        return started[-1]

    yield start
    for process in started:
        process.close()

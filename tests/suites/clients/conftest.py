"""A `fnet-service` process for the client libraries of the protocols."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path

import httpx
import numpy as np
import pytest

from model.architecture import Architecture
from model.presets.hub import BUNDLED_DIRECTORY, DEFAULT_PRESET
from model.presets.weights import WEIGHTS_FILE, write_weights
from tests.support.bundled import VOCABULARY
from tests.support.timeouts import TIMEOUT

StartServer = Callable[..., AbstractContextManager["Server"]]
MakePreset = Callable[..., Path]


class Server:
    """A running `fnet-service serve`.

    Attributes:
        preset: Preset directory.
        model: Served model name.
        process: The process.
        lines: JSON log lines of standard error so far.
    """

    def __init__(self, preset: Path, settings: dict[str, str]) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FNET_")}
        metadata = json.loads((preset / "metadata.json").read_text())
        self.preset = preset
        self.model = str(metadata["fnet_service"]["name"])
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [str(Path(sys.executable).with_name("fnet-service")), "serve"],
            env={
                **inherited,
                "FNET_PRESET": str(preset),
                "FNET_PORT": "0",
                "FNET_LOG_FORMAT": "json",
                "FNET_MAX_BATCH_TOKENS": "64",
                **settings,
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    @cached_property
    def url(self) -> str:
        """Base URL of the server, such as `http://127.0.0.1:1234`."""
        self.wait_until(lambda: any('"listening"' in line for line in self.lines))
        listening = next(line for line in self.lines if '"listening"' in line)
        return str(json.loads(listening)["url"])

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` is true; fail if the process ends or the wait times out."""
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert self.process.poll() is None, self.lines
            assert time.monotonic() < end, self.lines
            time.sleep(0.02)

    def wait_until_ready(self) -> None:
        """Wait until the server is ready."""
        self.wait_until(lambda: httpx.get(f"{self.url}/health/ready", timeout=TIMEOUT).status_code == httpx.codes.OK)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def end(self) -> int:
        """Wait for the process and return its exit code."""
        return self.process.wait(TIMEOUT)

    def close(self) -> None:
        """Kill the process."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture(scope="session")
def make_preset(tmp_path_factory: pytest.TempPathFactory) -> MakePreset:
    """Write the preset of a small network with random weights; further arguments are its `fnet_service` block."""

    def make(
        name: str, *, layers: int = 2, hidden_dim: int = 32, positions: int = 64, **block: str | int | bool
    ) -> Path:
        architecture = Architecture(
            vocabulary_size=VOCABULARY,
            num_layers=layers,
            hidden_dim=hidden_dim,
            intermediate_dim=hidden_dim * 2,
            max_sequence_length=positions,
            num_segments=3,
        )
        random = np.random.default_rng(20210509)
        weights = {
            key: (random.normal(size=shape) * 0.1 + key.endswith("gamma")).astype(np.float32)
            for key, shape in architecture.variable_shapes().items()
        }
        directory = tmp_path_factory.mktemp("presets") / name
        directory.mkdir()
        write_weights(directory / WEIGHTS_FILE, weights)
        fields = {key: getattr(architecture, key) for key in Architecture.__dataclass_fields__}
        config = {"class_name": "FNetBackbone", "config": {**fields, "dtype": "float32"}}
        (directory / "config.json").write_text(json.dumps(config))
        served = {"name": name, "version": "7", "padding": "none", **block}
        (directory / "metadata.json").write_text(json.dumps({"fnet_service": served}))
        bundled = BUNDLED_DIRECTORY / DEFAULT_PRESET
        for file in ("tokenizer.json", "preprocessor.json"):
            shutil.copy(bundled / file, directory / file)
        shutil.copytree(bundled / "assets", directory / "assets")
        return directory

    return make


@pytest.fixture(scope="session")
def tiny_preset(make_preset: MakePreset) -> Path:
    """A preset that is ready in a moment: 64 positions, 32 dimensions, a real tokenizer, nothing padded."""
    return make_preset("tiny_en")


@pytest.fixture(scope="session")
def start_server(tiny_preset: Path) -> StartServer:
    """Start another server, as a context manager.

    Arguments are `preset`, the tiny one by default, `ready`, whether to wait until it is, and `FNET_…` variables. At
    the end it is terminated if it still runs, and must have ended in order.
    """

    @contextmanager
    def start(preset: Path = tiny_preset, *, ready: bool = True, **settings: str) -> Iterator[Server]:
        server = Server(preset, settings)
        try:
            if ready:
                server.wait_until_ready()
            yield server
            if server.process.poll() is None:
                server.terminate()
            assert server.end() == 0, server.lines
        finally:
            server.close()

    return start


@pytest.fixture(scope="session")
def server(start_server: StartServer) -> Iterator[Server]:
    """A ready server of the tiny preset, shared by all tests."""
    with start_server() as server:
        yield server

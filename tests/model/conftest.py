"""Tiny networks, their weights, and an oracle that shares no code with the package."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import numpy.typing as npt
import pytest

from model.architecture import Architecture
from model.presets.weights import WEIGHTS_FILE, write_weights

Array = npt.NDArray[Any]

# The examples are the same in every run, and do not depend on the speed of the machine.
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("steady")


@pytest.fixture(scope="session")
def tiny() -> Architecture:
    """A tiny network whose sizes all differ."""
    return Architecture(
        vocabulary_size=40, num_layers=2, hidden_dim=12, intermediate_dim=20, max_sequence_length=24, num_segments=3
    )


@pytest.fixture(scope="session")
def make_weights() -> Callable[..., dict[str, npt.NDArray[np.float32]]]:
    """Random weights of an architecture: scales near 1, and small values otherwise, as in a trained network."""

    def make(architecture: Architecture, seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
        random = np.random.default_rng(seed)
        return {
            name: (random.normal(size=shape) * 0.1 + name.endswith("gamma")).astype(np.float32)
            for name, shape in architecture.variable_shapes().items()
        }

    return make


@pytest.fixture(scope="session")
def oracle() -> Callable[..., tuple[Array, Array]]:
    """The network of the paper in float64, with NumPy's FFT: maps one sequence to its sequence and pooled output."""

    def normalize(x: Array, gamma: Array, beta: Array) -> Array:
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return np.asarray(scaled * gamma + beta)

    def gelu(x: Array) -> Array:
        return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))

    def network(weights: Mapping[str, Array], token_ids: Array, segment_ids: Array) -> tuple[Array, Array]:
        w = {name: array.astype(np.float64) for name, array in weights.items()}

        def dense(x: Array, name: str) -> Array:
            return np.asarray(x @ w[f"{name}/kernel"] + w[f"{name}/bias"])

        def norm(x: Array, name: str) -> Array:
            return normalize(x, w[f"{name}/gamma"], w[f"{name}/beta"])

        x = w["token_embedding/embeddings"][token_ids] + w["segment_embedding/embeddings"][segment_ids]
        x = norm(x + w["position_embedding/embeddings"][: len(token_ids)], "embeddings_layer_norm")
        x = dense(x, "embedding_projection")
        for index in range(len({name.split("/")[1] for name in w if name.startswith("layers/")})):
            layer = f"layers/{index}"
            x = norm(x + np.fft.fft2(x).real, f"{layer}/mixing_layer_norm")
            fed = dense(gelu(dense(x, f"{layer}/intermediate_dense")), f"{layer}/output_dense")
            x = norm(x + fed, f"{layer}/output_layer_norm")
        return x, np.tanh(dense(x[:1], "pooled_dense"))[0]

    return network


@pytest.fixture
def quick_compilation() -> Iterator[None]:
    """Disable most optimizations of JAX, which take longer than the calls of tiny networks."""
    import jax  # noqa: PLC0415 - not used by most tests

    jax.config.update("jax_disable_most_optimizations", True)  # type: ignore[no-untyped-call] # untyped in JAX
    yield
    jax.config.update("jax_disable_most_optimizations", False)  # type: ignore[no-untyped-call]


@pytest.fixture
def write_json() -> Callable[[Path, Any], None]:
    """Write a JSON document, and create its directory if it is missing."""

    def write(path: Path, document: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))

    return write


@pytest.fixture
def preset_directory(
    tmp_path: Path,
    tiny: Architecture,
    make_weights: Callable[..., dict[str, npt.NDArray[np.float32]]],
    write_json: Callable[[Path, Any], None],
) -> Path:
    """A complete preset of the tiny network in the format of keras-hub, without an `fnet_service` block."""
    directory = tmp_path / "tiny_en"
    config = {
        "name": "f_net_backbone",
        "trainable": True,
        "dtype": {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}},
        "vocabulary_size": 40,
        "num_layers": 2,
        "hidden_dim": 12,
        "intermediate_dim": 20,
        "dropout": 0.1,
        "max_sequence_length": 24,
        "num_segments": 3,
    }
    write_json(directory / "config.json", {"class_name": "FNetBackbone", "config": config})
    write_json(directory / "metadata.json", {"keras_version": "3.15.1", "tasks": []})
    write_json(directory / "tokenizer.json", {"class_name": "FNetTokenizer", "config": {"proto": None}})
    write_json(
        directory / "preprocessor.json",
        {
            "class_name": "FNetTextClassifierPreprocessor",
            "config": {"sequence_length": 16, "truncate": "round_robin"},
        },
    )
    vocabulary = directory / "assets" / "tokenizer" / "vocabulary.spm"
    vocabulary.parent.mkdir(parents=True)
    vocabulary.write_bytes(b"read by the tokenizer alone")
    write_weights(directory / WEIGHTS_FILE, make_weights(tiny))
    return directory

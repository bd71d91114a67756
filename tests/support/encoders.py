"""A medium network and random sequences for encoder tests, and bitwise comparison of results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from model.architecture import Architecture
from model.dtypes import SUPPORTED_DTYPES, BackendName
from model.encoder import Encoding, TokenSequence

Float32s = npt.NDArray[np.float32]

# Large enough for the matrix routines of real networks, and for the feature groups of int8.
MEDIUM = Architecture(
    vocabulary_size=100, num_layers=2, hidden_dim=192, intermediate_dim=384, max_sequence_length=300, num_segments=4
)

_INT8_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8"}


def _int8_is_supported() -> bool:
    cpu_info = Path("/proc/cpuinfo")
    return cpu_info.exists() and not _INT8_FLAGS.isdisjoint(cpu_info.read_text().split())


needs_int8 = pytest.mark.skipif(not _int8_is_supported(), reason="the processor has no 8-bit units (VNNI or AMX)")

# Every backend with every dtype that it runs.
BACKENDS_AND_DTYPES: list[Any] = [
    pytest.param((backend, dtype), id=f"{backend}-{dtype}", marks=[needs_int8] if dtype == "int8" else [])
    for backend, dtypes in SUPPORTED_DTYPES.items()
    for dtype in dtypes
]
BACKENDS: tuple[BackendName, ...] = tuple(SUPPORTED_DTYPES)


def medium_weights(architecture: Architecture = MEDIUM, seed: int = 0) -> dict[str, Float32s]:
    """Return random weights whose products keep the scale of their inputs, as in a trained network."""
    random = np.random.default_rng(seed)
    weights: dict[str, Float32s] = {}
    for name, shape in architecture.variable_shapes().items():
        scale = shape[0] ** -0.5 if name.endswith("kernel") else 0.1
        weights[name] = (random.normal(size=shape) * scale + name.endswith("gamma")).astype(np.float32)
    return weights


def sequence(random: np.random.Generator, length: int, architecture: Architecture = MEDIUM) -> TokenSequence:
    """Return a random sequence."""
    return TokenSequence(
        random.integers(0, architecture.vocabulary_size, length).astype(np.int32),
        random.integers(0, architecture.num_segments, length).astype(np.int32),
    )


def equal_bits(one: Encoding, other: Encoding) -> bool:
    """Return whether two encodings hold the same outputs with the same bits."""
    return one.arrays.keys() == other.arrays.keys() and all(
        one.arrays[name].tobytes() == other.arrays[name].tobytes() for name in one.arrays
    )

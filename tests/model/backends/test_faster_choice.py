"""Faster settings depend on installed libraries, the processor and the network."""

from __future__ import annotations

import pytest

from model import backends
from model.architecture import Architecture
from model.dtypes import BackendName, Dtype

ALL_UNITS = {"avx2", "avx512_vnni", "avx512_bf16"}


def network(hidden: int, inner: int) -> Architecture:
    """Return a network with the given sizes."""
    return Architecture(vocabulary_size=9, num_layers=1, hidden_dim=hidden, intermediate_dim=inner)


@pytest.mark.parametrize(
    ("backend", "dtype", "flags", "sizes", "expected"),
    [
        ("jax", "float32", ALL_UNITS, (768, 3072), "FNET_BACKEND=openvino FNET_DTYPE=int8"),
        ("openvino", "bfloat16", ALL_UNITS, (768, 3072), "FNET_BACKEND=openvino FNET_DTYPE=int8"),
        ("openvino", "int8", ALL_UNITS, (768, 3072), None),
        ("jax", "float32", ALL_UNITS, (384, 1536), "FNET_BACKEND=openvino FNET_DTYPE=bfloat16"),
        ("jax", "bfloat16", ALL_UNITS, (384, 1536), "FNET_BACKEND=openvino"),
        ("openvino", "bfloat16", ALL_UNITS, (384, 1536), None),
        ("openvino", "int8", ALL_UNITS, (384, 1536), None),
        ("jax", "float32", {"avx_vnni"}, (384, 1536), "FNET_BACKEND=openvino FNET_DTYPE=int8"),
        ("jax", "float32", {"avx512_bf16"}, (384, 1536), "FNET_BACKEND=openvino FNET_DTYPE=bfloat16"),
        ("jax", "float32", {"avx2"}, (384, 1536), "FNET_BACKEND=openvino"),
        ("openvino", "float32", {"avx2"}, (384, 1536), None),
        ("jax", "float32", ALL_UNITS, (100, 400), "FNET_BACKEND=openvino FNET_DTYPE=bfloat16"),
        ("jax", "float32", ALL_UNITS, (32, 64), "FNET_BACKEND=openvino"),
    ],
)
def test_faster_choice_fits_processor_and_network(
    monkeypatch: pytest.MonkeyPatch,
    backend: BackendName,
    dtype: Dtype,
    flags: set[str],
    sizes: tuple[int, int],
    expected: str | None,
) -> None:
    """int8 needs units and sizes that are multiples of 32, bfloat16 needs units, and both at least 64 features."""
    monkeypatch.setattr(backends, "is_installed", lambda _backend: True)
    monkeypatch.setattr(backends, "_processor_flags", lambda: flags)
    assert backends.faster_choice(network(*sizes), backend, dtype) == expected


def test_nothing_is_faster_without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that is not installed is not suggested."""
    monkeypatch.setattr(backends, "is_installed", lambda _backend: False)
    assert backends.faster_choice(network(384, 1536), "jax", "float32") is None

"""Backends: libraries that run the token-wise part of the network, imported on first use."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from model.architecture import Architecture
from model.backends.base import MIN_GROUP_SIZE, Backend, feed_forward_dtype
from model.dtypes import BackendName, Dtype

# CPU flags of Linux for units that multiply 8-bit integers, and bfloat16.
_INT8_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8"}
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}
# Below this size, bfloat16 is faster on processors with both units (measured with hidden sizes of 384 and 768).
_MIN_INT8_HIDDEN_DIM = 512


def backend_type(name: BackendName) -> type[Backend]:
    """Return the class of a backend.

    Raises:
        ModuleNotFoundError: The library of the backend is not installed.
    """
    if name == "openvino":
        from model.backends.openvino_backend import OpenVinoBackend  # noqa: PLC0415 - an optional dependency

        return OpenVinoBackend
    from model.backends.jax_backend import jax_backend_type  # noqa: PLC0415 - not needed by the other backend

    return jax_backend_type()


def is_installed(backend: BackendName) -> bool:
    """Whether the library of a backend is installed."""
    return find_spec(backend) is not None


def faster_choice(architecture: Architecture, backend: BackendName, dtype: Dtype) -> str | None:
    """Return settings that are expected to run a network faster on this processor, or None.

    Args:
        architecture: The network.
        backend: The current backend, on a CPU.
        dtype: The current dtype.
    """
    if not is_installed("openvino"):
        return None
    flags = _processor_flags()
    sizes = architecture.hidden_dim, architecture.intermediate_dim
    supports_narrow = feed_forward_dtype(architecture, "int8") == "int8"
    has_bfloat16 = supports_narrow and bool(flags & _BFLOAT16_FLAGS)
    has_int8 = supports_narrow and bool(flags & _INT8_FLAGS) and not any(size % MIN_GROUP_SIZE for size in sizes)
    fastest: Dtype = "float32"
    if has_int8 and (architecture.hidden_dim >= _MIN_INT8_HIDDEN_DIM or not has_bfloat16):
        fastest = "int8"
    elif has_bfloat16:
        fastest = "bfloat16"
    if backend == "openvino" and dtype in (fastest, "int8"):
        return None
    return "FNET_BACKEND=openvino" + (f" FNET_DTYPE={fastest}" if dtype != fastest else "")


def _processor_flags() -> set[str]:
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    return set(next((line for line in lines if line.startswith("flags")), "").split())

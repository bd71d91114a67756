"""The libraries that run the token-wise part of the network. Each is imported by name, when it is needed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from model.architecture import Architecture
from model.backends.base import MIN_GROUP_SIZE, Backend, BackendName, Dtype, feed_forward_dtype

SUPPORTED_DTYPES: dict[BackendName, tuple[Dtype, ...]] = {
    "jax": ("float32", "bfloat16"),
    "openvino": ("float32", "bfloat16", "int8"),
}


# What Linux calls the units that multiply 8-bit integers, and bfloat16.
_INT8_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8"}
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


def backend_type(name: BackendName) -> type[Backend]:
    """Return the class of a backend.

    Raises:
        ModuleNotFoundError: Its library is not installed.
    """
    if name == "openvino":
        from model.backends.openvino_backend import OpenVinoBackend  # noqa: PLC0415 - an extra

        return OpenVinoBackend
    from model.backends.jax_backend import jax_backend_type  # noqa: PLC0415 - not needed by the other backend

    return jax_backend_type()


def is_installed(backend: BackendName) -> bool:
    """Return whether a backend's library can be imported."""
    return find_spec(backend) is not None


def faster_choice(architecture: Architecture, backend: BackendName, dtype: Dtype) -> str | None:
    """Return which settings run a network faster on this processor with what is installed, if any are known to.

    Args:
        architecture: The network.
        backend: The backend that runs it, on a processor.
        dtype: Its dtype.
    """
    if not is_installed("openvino"):
        return None
    flags = _processor_flags()
    narrow = feed_forward_dtype(architecture, "int8") == "int8"
    sizes = architecture.hidden_dim, architecture.intermediate_dim
    if dtype != "int8" and narrow and flags & _INT8_FLAGS and not any(size % MIN_GROUP_SIZE for size in sizes):
        return "FNET_BACKEND=openvino FNET_DTYPE=int8"
    if dtype == "float32" and narrow and flags & _BFLOAT16_FLAGS:
        return "FNET_BACKEND=openvino FNET_DTYPE=bfloat16"
    return None if backend == "openvino" else "FNET_BACKEND=openvino"


def _processor_flags() -> set[str]:
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    return set(next((line for line in lines if line.startswith("flags")), "").split())

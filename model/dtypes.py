"""Names of backends and dtypes, and which of them go together."""

from __future__ import annotations

from typing import Literal

Dtype = Literal["float32", "bfloat16", "int8"]
BackendName = Literal["jax", "openvino"]

SUPPORTED_DTYPES: dict[BackendName, tuple[Dtype, ...]] = {
    "jax": ("float32", "bfloat16"),
    "openvino": ("float32", "bfloat16", "int8"),
}

"""The roofline: speed of matrix products in every installed library, the upper bound for encoders on this machine."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from model.arrays import Float32s
from model.dtypes import Dtype
from model.quantization import quantize

ROWS = 512
# One call multiplies to and from the intermediate size several times, so that its overhead is negligible.
_PAIRS = 4
_SEED = 20210509
_PRECISION: dict[Dtype, str] = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
# Features that share a scale, as in `model.backends.openvino_backend`.
_MAX_GROUP_SIZE = 128


def product_flops(hidden: int, inner: int) -> int:
    """Return the operations of one call of a product."""
    return 2 * ROWS * hidden * inner * 2 * _PAIRS


def products(hidden: int, inner: int, dtype: Dtype) -> dict[str, Callable[[], object]]:
    """Return by library a call that multiplies `[512, hidden]` to `[512, inner]` and back, several times.

    Kernels are `[out, in]`. Libraries that are not installed or do not support the dtype are omitted.

    Args:
        hidden: Hidden size.
        inner: Intermediate size. For int8 both sizes are multiples of 32.
        dtype: Operands. For int8 the library quantizes float32 activations.
    """
    random = np.random.default_rng(_SEED)
    shapes = ((inner, hidden), (hidden, inner)) * _PAIRS
    kernels = [random.normal(0, shape[1] ** -0.5, shape).astype(np.float32) for shape in shapes]
    x = random.normal(size=(ROWS, hidden)).astype(np.float32)
    makers = {"openvino": _in_openvino}
    if dtype != "int8":
        makers |= {"jax": _in_jax, "torch": _in_torch}
    return {library: make(x, kernels, dtype) for library, make in makers.items() if find_spec(library) is not None}


def _in_jax(x: Float32s, kernels: Sequence[Float32s], dtype: Dtype) -> Callable[[], object]:
    import jax  # noqa: PLC0415 - only where it is installed
    import jax.numpy as jnp  # noqa: PLC0415

    def chain(x: Any, kernels: Sequence[Any]) -> Any:
        for kernel in kernels:
            x = jax.lax.dot_general(
                x.astype(dtype), kernel, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
            )
        return x

    operands = jnp.asarray(x), [jnp.asarray(kernel, dtype) for kernel in kernels]
    compiled = jax.jit(chain).lower(*operands).compile()
    return lambda: jax.block_until_ready(compiled(*operands))  # type: ignore[no-untyped-call] # not annotated in JAX


def _in_openvino(x: Float32s, kernels: Sequence[Float32s], dtype: Dtype) -> Callable[[], object]:
    # As in `model.backends.openvino_backend`: no telemetry.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # how Python marks a module as missing
    import openvino  # noqa: PLC0415
    from openvino import opset15 as ops  # noqa: PLC0415

    def constant(kernel: Float32s) -> Any:
        if dtype != "int8":
            return ops.constant(kernel)
        integers, scales = quantize(kernel)
        return ops.multiply(ops.convert(ops.constant(integers), np.float32), ops.constant(scales))

    start = ops.parameter(list(x.shape), np.float32)
    node = start
    for kernel in kernels:
        node = ops.matmul(node, constant(kernel), False, True)
    group = math.gcd(*kernels[0].shape, _MAX_GROUP_SIZE) if dtype == "int8" else 0
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _PRECISION[dtype],
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(group),
    }
    compiled = openvino.Core().compile_model(openvino.Model([ops.result(node)], [start], "products"), "CPU", hints)
    return partial(compiled.create_infer_request().infer, [x], share_inputs=True)


def _in_torch(x: Float32s, kernels: Sequence[Float32s], dtype: Dtype) -> Callable[[], object]:
    import torch  # noqa: PLC0415

    torch_dtype = getattr(torch, dtype)
    operands = [torch.from_numpy(kernel).to(torch_dtype) for kernel in kernels]
    start = torch.from_numpy(x).to(torch_dtype)

    def chain() -> object:
        y = start
        with torch.inference_mode():
            for kernel in operands:
                y = torch.nn.functional.linear(y, kernel)
        return y

    return chain

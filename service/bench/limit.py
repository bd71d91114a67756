"""How fast this machine multiplies matrices, by every library at hand: what bounds any encoder here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from model.fourier import Float32s
from model.programs import Dtype

ROWS = 512
# Products in one call, so that calling costs nothing: there and back, as often.
_PAIRS = 4
_SEED = 20210509
_PRECISION: dict[Dtype, str] = {"float32": "f32", "bfloat16": "bf16"}


def product_flops(hidden: int, inner: int) -> int:
    """Return the floating-point operations of one call."""
    return 2 * ROWS * hidden * inner * 2 * _PAIRS


def products(hidden: int, inner: int, dtype: Dtype) -> dict[str, Callable[[], object]]:
    """Return by library a call that multiplies `[512, hidden]` to `[512, inner]` and back, several times.

    Kernels are `[out, in]`, as in the network. Libraries that are not installed are left out.
    """
    random = np.random.default_rng(_SEED)
    shapes = ((inner, hidden), (hidden, inner)) * _PAIRS
    kernels = [random.normal(0, shape[1] ** -0.5, shape).astype(np.float32) for shape in shapes]
    x = random.normal(size=(ROWS, hidden)).astype(np.float32)
    makers = {"jax": _in_jax, "openvino": _in_openvino, "torch": _in_torch}
    return {library: make(x, kernels, dtype) for library, make in makers.items() if find_spec(library) is not None}


def _in_jax(x: Float32s, kernels: Sequence[Float32s], dtype: Dtype) -> Callable[[], object]:
    import jax  # noqa: PLC0415 - each library only if it is there
    import jax.numpy as jnp  # noqa: PLC0415

    def chain(x: Any, kernels: Sequence[Any]) -> Any:
        for kernel in kernels:
            x = jax.lax.dot_general(
                x.astype(dtype), kernel, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
            )
        return x

    placed = jnp.asarray(x), [jnp.asarray(kernel, dtype) for kernel in kernels]
    compiled = jax.jit(chain).lower(*placed).compile()
    return lambda: jax.block_until_ready(compiled(*placed))  # type: ignore[no-untyped-call] # JAX leaves this one out


def _in_openvino(x: Float32s, kernels: Sequence[Float32s], dtype: Dtype) -> Callable[[], object]:
    # As in `model.openvino_programs`: without its reporter OpenVINO tells nobody, and forks no process to do so.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # how Python marks what is not there
    import openvino  # noqa: PLC0415
    from openvino import opset15 as ops  # noqa: PLC0415

    start = ops.parameter(list(x.shape), np.float32)
    node = start
    for kernel in kernels:
        node = ops.matmul(node, ops.constant(kernel), False, True)
    hints = {"INFERENCE_PRECISION_HINT": _PRECISION[dtype], "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(openvino.Model([ops.result(node)], [start], "products"), "CPU", hints)
    return partial(compiled.create_infer_request().infer, [x], share_inputs=True)


def _in_torch(x: Float32s, kernels: Sequence[Float32s], dtype: Dtype) -> Callable[[], object]:
    import torch  # noqa: PLC0415

    of = getattr(torch, dtype)
    placed = [torch.from_numpy(kernel).to(of) for kernel in kernels]
    begin = torch.from_numpy(x).to(of)

    def chain() -> object:
        y = begin
        with torch.inference_mode():
            for kernel in placed:
                y = torch.nn.functional.linear(y, kernel)
        return y

    return chain

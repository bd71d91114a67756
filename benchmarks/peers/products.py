"""Speed of matrix products on this machine, measured in the same run: the limit of every candidate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.peers.openvino_int8 import DYNAMIC_QUANTIZATION, compile_graph, quantize_weights

ROWS = 512
_PAIRS = 4
_MEASURE_SECONDS = 1.5
_MAX_CALLS = 200


def product_speeds(hidden: int, inner: int) -> dict[str, float]:
    """Return TFLOP/s of chained products of 512 rows, hidden to inner size and back, by library and dtype.

    The fastest of many calls counts, because this is a limit.
    """
    flops = 2 * ROWS * hidden * inner * 2 * _PAIRS
    return {name: flops / _min_seconds(call) / 1e12 for name, call in _calls(hidden, inner)}


def limits(speeds: dict[str, float]) -> dict[str, float]:
    """Return the highest TFLOP/s of each dtype."""
    dtypes = sorted({name.split()[-1] for name in speeds})
    return {dtype: max(speed for name, speed in speeds.items() if name.endswith(dtype)) for dtype in dtypes}


def _min_seconds(call: Callable[[], object]) -> float:
    call()
    seconds, end = float("inf"), time.perf_counter() + _MEASURE_SECONDS
    for _ in range(_MAX_CALLS):
        started = time.perf_counter()
        call()
        now = time.perf_counter()
        seconds = min(seconds, now - started)
        if now > end:
            break
    return seconds


def _calls(hidden: int, inner: int) -> Iterator[tuple[str, Callable[[], object]]]:
    import openvino  # noqa: PLC0415
    import torch  # noqa: PLC0415
    from openvino import opset13 as op  # noqa: PLC0415

    random = np.random.default_rng(0)
    shapes = ((inner, hidden), (hidden, inner)) * _PAIRS
    kernels = [random.normal(0, shape[1] ** -0.5, shape).astype(np.float32) for shape in shapes]
    x = random.normal(size=(ROWS, hidden)).astype(np.float32)
    for dtype in (torch.float32, torch.bfloat16):
        operands = [torch.from_numpy(kernel).to(dtype) for kernel in kernels]
        start = torch.from_numpy(x).to(dtype)
        name = str(dtype).removeprefix("torch.")
        yield f"oneDNN through torch {name}", partial(_chain, start, operands)
    for name, precision in (("float32", "f32"), ("bfloat16", "bf16"), ("int8", "f32")):
        parameter = op.parameter([ROWS, hidden], np.float32)
        node = parameter
        for kernel in kernels:
            node = op.matmul(node, op.constant(kernel), transpose_a=False, transpose_b=True)
        graph = openvino.Model([node], [parameter])
        options = {"INFERENCE_PRECISION_HINT": precision}
        if name == "int8":
            quantize_weights(graph)
            options |= DYNAMIC_QUANTIZATION
        yield f"OpenVINO {name}", partial(compile_graph(graph, options), [x])


def _chain(start: Any, kernels: Sequence[Any]) -> object:
    import torch  # noqa: PLC0415

    with torch.inference_mode():
        for kernel in kernels:
            start = torch.nn.functional.linear(start, kernel)
    return start

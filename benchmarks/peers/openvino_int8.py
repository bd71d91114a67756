"""Int8 for OpenVINO graphs: weights with one scale per output row, activations quantized while the network runs."""

from __future__ import annotations

from typing import Any

import numpy as np

GROUP_SIZE = 128
# OpenVINO quantizes activations per token and group of so many features, where the weights are in int8.
DYNAMIC_QUANTIZATION = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": str(GROUP_SIZE)}
WEIGHTS_ONLY = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}


class NotQuantizedError(RuntimeError):
    """The library did not compute in int8."""


def quantize_weights(graph: Any) -> int:
    """Replace the constant weights of all products by int8 constants times a float32 scale per output row.

    Args:
        graph: An `openvino.Model` whose products have weights `[out, in]`, as `torch.nn.Linear` has them.

    Returns:
        The number of products that were changed.
    """
    from openvino import opset13 as op  # noqa: PLC0415

    count = 0
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "MatMul" or not node.get_attributes()["transpose_b"]:
            continue
        constant = node.input_value(1).get_node()
        if constant.get_type_name() != "Constant":
            continue
        weights = constant.data
        scales = np.abs(weights).max(axis=1, keepdims=True).clip(np.finfo(np.float32).tiny) / np.float32(127)
        quantized = op.constant(np.rint(weights / scales).astype(np.int8))
        restored = op.multiply(op.convert(quantized, "f32"), op.constant(scales.astype(np.float32)))
        node.input(1).replace_source_output(restored.output(0))
        count += 1
    return count


def compile_graph(graph: Any, *options: dict[str, str]) -> Any:
    """Return a compiled network; unless options say otherwise, one call uses all cores."""
    import openvino  # noqa: PLC0415

    settings = {"PERFORMANCE_HINT": "LATENCY"}
    for overrides in options:
        settings |= overrides
    return openvino.Core().compile_model(graph, "CPU", settings)

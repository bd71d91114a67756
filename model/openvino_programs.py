"""The network in OpenVINO, for Intel CPUs: one model for every row length, its weights laid out once.

In bfloat16 the CPU plugin runs the products on the processor's matrix tiles and keeps what lies between them in
bfloat16, too, which halves the memory that they go through.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

# OpenVINO's package reports its use to its makers over the network, from a forked process, when it is imported. Where
# the reporter cannot be imported it does without.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # how Python marks what is not to be found

import openvino  # noqa: E402
from openvino import opset15 as ops  # noqa: E402

from model.architecture import Architecture  # noqa: E402
from model.checkpoints import Weights  # noqa: E402
from model.fourier import Float32s, HiddenOrder  # noqa: E402
from model.programs import Dtype, Places, RowArrays, Transform, kernel_in_order  # noqa: E402

_EPSILON = 1e-12
_PRECISION: dict[Dtype, str] = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoPrograms:
    """Implements `model.programs.Programs`.

    Args:
        architecture: The network.
        weights: Its variables, by the names of `Architecture.variable_shapes`.
        dtype: Dtype of the products and, here, of what lies between them; outputs are float32 always.
    """

    transform: Transform = "products"
    shortest_basis = 1
    # What lies between the products is rounded, too.
    carries = False
    segmented = False

    def __init__(self, architecture: Architecture, weights: Weights, dtype: Dtype) -> None:
        order = HiddenOrder(architecture.hidden_dim)
        self.published: Places = order.inverse
        core = openvino.Core()
        self.rows_at_once = 1
        self.devices = [f"cpu:0 {core.get_property('CPU', 'FULL_DEVICE_NAME')}"]
        hints = {"INFERENCE_PRECISION_HINT": _PRECISION[dtype], "PERFORMANCE_HINT": "LATENCY"}
        self._model = core.compile_model(_network(architecture, weights, order), "CPU", hints)
        self._requests: dict[int, Any] = {}

    def compile(self, length: int, members: int, segments: Sequence[int]) -> None:  # noqa: ARG002 - has none
        """Make a request for rows of a length and run it once: kernels are made when a size first comes."""
        ids, bases = np.zeros(length, np.int32), np.zeros((2, length, length), np.float32)
        request = self._model.create_infer_request()
        request.infer([ids, ids, ids, bases, np.zeros(members, np.int32)])
        self._requests[length] = request

    def forget(self, length: int) -> None:
        """Free the buffers of a row length."""
        self._requests.pop(length, None)

    def run(self, length: int, rows: list[RowArrays]) -> list[tuple[Float32s, Float32s]]:
        """Run a row."""
        (row,) = rows
        inputs = [row.token_ids, row.segment_ids, row.positions, row.bases[:, 0], row.firsts]
        found = self._requests[length].infer(inputs, share_inputs=True)
        return [(found[0], found[1])]

    def mixes_alike(self, length: int, one: RowArrays, other: RowArrays) -> bool:  # noqa: ARG002 - the same for all
        """Say no: it takes no bases of segments."""
        return False


def _network(architecture: Architecture, weights: Weights, order: HiddenOrder) -> Any:
    """Build the model: ids, segments, positions, bases and firsts to the sequence and the pooled output."""
    token_ids, segment_ids, positions, firsts = (ops.parameter([-1], np.int32) for _ in range(4))
    bases = ops.parameter([2, -1, -1], np.float32)
    inside, everywhere = order.order, slice(None)
    first_axis = _integers(0)

    def norm(x: Any, name: str, places: Places) -> Any:
        scaled = ops.mvn(x, _integers([-1]), True, _EPSILON, "inside_sqrt")
        scaled = ops.multiply(scaled, _floats(weights[f"{name}/gamma"][places]))
        return ops.add(scaled, _floats(weights[f"{name}/beta"][places]))

    def dense(x: Any, name: str, *, of: Places = everywhere, to: Places = everywhere) -> Any:
        kernel = _floats(kernel_in_order(weights, name, of, to))
        return ops.add(_product(x, kernel), _floats(weights[f"{name}/bias"][to][None]))

    def embedding(name: str, ids: Any) -> Any:
        return ops.gather(_floats(weights[f"{name}_embedding/embeddings"]), ids, first_axis)

    x = ops.add(embedding("token", token_ids), embedding("position", positions))
    x = norm(ops.add(x, embedding("segment", segment_ids)), "embeddings_layer_norm", everywhere)
    x = dense(x, "embedding_projection", to=inside)
    cosines, sines = (ops.gather(bases, _integers(which), first_axis) for which in (0, 1))

    def mix(x: Any) -> Any:
        """`model.fourier` has the mathematics."""
        plain, one, other = _split(x, order.plain, order.pairs, order.pairs)
        summed = ops.concat([plain, ops.add(one, other)], 1)
        even = ops.matmul(cosines, _product(summed, _floats(order.cosines)), False, False)
        odd = ops.matmul(sines, _product(ops.subtract(one, other), _floats(order.sines)), False, False)
        plain, paired = _split(even, order.plain, order.pairs)
        return ops.concat([plain, ops.subtract(paired, odd), ops.add(paired, odd)], 1)

    for index in range(architecture.num_layers):
        layer = f"layers/{index}"
        x = norm(ops.add(x, mix(x)), f"{layer}/mixing_layer_norm", inside)
        inner = ops.gelu(dense(x, f"{layer}/intermediate_dense", of=inside), "tanh")
        x = norm(ops.add(x, dense(inner, f"{layer}/output_dense", to=inside)), f"{layer}/output_layer_norm", inside)
    pooled = ops.tanh(dense(ops.gather(x, firsts, first_axis), "pooled_dense", of=inside))
    inputs = [token_ids, segment_ids, positions, bases, firsts]
    return openvino.Model([ops.result(x), ops.result(pooled)], inputs, "fnet")


def _split(x: Any, *sizes: int) -> Any:
    return ops.variadic_split(x, _integers(1), _integers(list(sizes))).outputs()


def _product(x: Any, kernel: Any) -> Any:
    return ops.matmul(x, kernel, False, True)


def _floats(array: Float32s) -> Any:
    return ops.constant(np.ascontiguousarray(array, np.float32))


def _integers(value: int | list[int]) -> Any:
    return ops.constant(np.array(value, np.int32))

"""The network in OpenVINO, for processors of Intel and AMD: one model per layer, for rows of any length.

In bfloat16 the products and what is fused with them are bfloat16; the residual stream and normalization are float32. In
int8 the kernels are quantized once, with one scale per output feature; activations are quantized by the library at run
time, with one scale per token and group of features. Results of the products are float32.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# OpenVINO's package reports its use over the network, from a forked process, when it is imported. Where the reporter
# cannot be imported it does without.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # how Python marks a module as missing

import openvino  # noqa: E402
from openvino import opset15 as ops  # noqa: E402

from model.architecture import Architecture  # noqa: E402
from model.arrays import Float32s, Int32s  # noqa: E402
from model.backends.base import (  # noqa: E402
    LAYER_NORM_EPSILON,
    MIN_GROUP_SIZE,
    Backend,
    BackendError,
    feed_forward_dtype,
)
from model.dtypes import Dtype  # noqa: E402
from model.presets.weights import Weights  # noqa: E402
from model.quantization import quantize, smoothing_factors  # noqa: E402

_PRECISION: dict[Dtype, str] = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
# Features that share a scale. Larger groups are no faster and less accurate; a group that does not divide the features
# is not quantized at all.
_GROUP_SIZES = (128, 64, MIN_GROUP_SIZE)
# Relative error above which a product was quantized: rounding to 8 bits costs 1e-3 and more, to float32 1e-6.
_MIN_QUANTIZATION_ERROR = 1e-4
_PROBE_TOKENS = 8
# Later layers amplify what the first ones lose: in int8 these, at most half of all, are computed in bfloat16, or in
# float32 on a processor without units for it.
_WIDE_LAYERS = 2
# Tokens of a row that pass a layer in one call, so that its intermediate results stay in the processor's cache: 8-bit
# products are fast enough to wait for memory otherwise. Products of wider types are faster with more tokens.
_INT8_TOKENS = 256


class OpenVinoBackend(Backend):
    """Implements `model.backends.base.Backend`.

    Raises:
        BackendError: The dtype is int8, and the processor or the network's sizes do not allow it.
    """

    def __init__(self, architecture: Architecture, weights: Weights, dtype: Dtype, lengths: Sequence[int]) -> None:
        super().__init__(architecture, weights, dtype, lengths)
        core = openvino.Core()
        self.devices = [f"cpu:0 {core.get_property('CPU', 'FULL_DEVICE_NAME')}"]
        dtypes = _layer_dtypes(architecture, feed_forward_dtype(architecture, dtype), core)
        self._piece = _INT8_TOKENS if "int8" in dtypes else self.lengths[-1]
        hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}

        def request(model: Any, hints: dict[str, str]) -> Any:
            return core.compile_model(model, "CPU", hints).create_infer_request()

        self._embed = request(_embedding_model(weights), hints)
        self._layers = [
            request(
                _layer_model(weights, f"layers/{index}", layer_dtype), hints | _layer_hints(architecture, layer_dtype)
            )
            for index, layer_dtype in enumerate(dtypes)
        ]
        self._pool = request(_pooling_model(weights), hints)
        if "int8" in dtypes:
            _check_quantization(weights, hints | _layer_hints(architecture, "int8"))

    def compile(self, progress: Callable[[int, int], None]) -> None:
        """Run every model once in every row length: kernels are generated when a length is first seen."""
        for done, length in enumerate(self.lengths, start=1):
            ids = np.zeros(length, np.int32)
            x = self.embed(ids, ids, ids)
            for layer in range(len(self._layers)):
                self.feed_forward(layer, x)
            self.pool(x)
            progress(done, len(self.lengths))

    def embed(self, token_ids: Int32s, segment_ids: Int32s, positions: Int32s) -> Float32s:
        """See the base class."""
        return _infer(self._embed, token_ids, segment_ids, positions)

    def feed_forward(self, layer: int, x: Float32s) -> Float32s:
        """See the base class."""
        request = self._layers[layer]
        if len(x) <= self._piece:
            return _infer(request, x, shared=layer + 1 < len(self._layers))
        output = np.empty_like(x)
        for start in range(0, len(x), self._piece):
            piece = slice(start, start + self._piece)
            output[piece] = _infer(request, x[piece], shared=True)
        return output

    def pool(self, x: Float32s) -> Float32s:
        """See the base class."""
        return _infer(self._pool, x)


def _infer(request: Any, *inputs: Any, shared: bool = False) -> Float32s:
    """Run a model.

    Args:
        request: The model and its memory.
        inputs: Arrays.
        shared: Whether the output stays in the request's memory, which its next run overwrites.
    """
    output: Float32s = request.infer(list(inputs), share_inputs=True, share_outputs=shared)[0]
    return output


def _layer_dtypes(architecture: Architecture, dtype: Dtype, core: Any) -> list[Dtype]:
    """Return the dtype of each layer's products."""
    if dtype != "int8":
        return [dtype] * architecture.num_layers
    wide: Dtype = "bfloat16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "float32"
    first = min(_WIDE_LAYERS, architecture.num_layers // 2)
    return [wide] * first + ["int8"] * (architecture.num_layers - first)


def _layer_hints(architecture: Architecture, dtype: Dtype) -> dict[str, str]:
    group = _group_size(architecture) if dtype == "int8" else 0
    return {"INFERENCE_PRECISION_HINT": _PRECISION[dtype], "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(group)}


def _layer_model(weights: Weights, layer: str, dtype: Dtype) -> Any:
    return _int8_feed_forward_model(weights, layer) if dtype == "int8" else _feed_forward_model(weights, layer)


def _check_quantization(weights: Weights, hints: dict[str, str]) -> None:
    """Verify that products are computed in 8 bits: the library computes in float32 where it cannot.

    Raises:
        BackendError: They are not.
    """
    random = np.random.default_rng(0)
    # Random kernels: next to the residual connection, the layer's own may be too small to show a rounding error.
    names = [f"layers/0/{name}/kernel" for name in ("intermediate_dense", "output_dense")]
    kernels = {name: random.standard_normal(weights[name].shape, np.float32) for name in names}
    model = _int8_feed_forward_model({**weights, **kernels}, "layers/0")
    x = random.standard_normal((_PROBE_TOKENS, weights[names[0]].shape[0]), np.float32)
    core = openvino.Core()
    quantized, exact = (
        core.compile_model(model, "CPU", tried)([x])[0]
        for tried in (hints, hints | {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"})
    )
    if np.linalg.norm(quantized - exact) <= _MIN_QUANTIZATION_ERROR * np.linalg.norm(exact):
        raise BackendError(
            "int8 is not available on this processor (it needs AVX-512 VNNI, AVX-VNNI or AMX): "
            "use FNET_DTYPE=float32 or bfloat16"
        )


def _group_size(architecture: Architecture) -> int:
    sizes = architecture.hidden_dim, architecture.intermediate_dim
    for group in _GROUP_SIZES:
        if not any(size % group for size in sizes):
            return group
    raise BackendError(
        f"int8 needs a hidden and an intermediate size that are multiples of {MIN_GROUP_SIZE}; this network has "
        f"{sizes[0]} and {sizes[1]}: use FNET_DTYPE=float32 or bfloat16"
    )


def _embedding_model(weights: Weights) -> Any:
    """Build token ids, segment ids and positions, each `[T]`, to the projected embeddings `[T, h]`."""
    token_ids, segment_ids, positions = (ops.parameter([-1], np.int32) for _ in range(3))

    def lookup(name: str, ids: Any) -> Any:
        return ops.gather(_floats(weights[f"{name}_embedding/embeddings"]), ids, _integers(0))

    x = ops.add(lookup("token", token_ids), lookup("position", positions))
    x = _norm(ops.add(x, lookup("segment", segment_ids)), weights, "embeddings_layer_norm")
    x = _dense(x, weights, "embedding_projection")
    return openvino.Model([ops.result(x)], [token_ids, segment_ids, positions], "embed")


def _feed_forward_model(weights: Weights, layer: str) -> Any:
    """Build a layer without its mixing, `[T, h]` to `[T, h]`."""
    x = ops.parameter([-1, len(weights[f"{layer}/mixing_layer_norm/gamma"])], np.float32)
    mixed = _norm(x, weights, f"{layer}/mixing_layer_norm")
    inner = ops.gelu(_dense(mixed, weights, f"{layer}/intermediate_dense"), "tanh")
    fed = _dense(inner, weights, f"{layer}/output_dense")
    # An activation that changes nothing is fused with the product, and makes it write float32 under the bfloat16 hint.
    fed = ops.prelu(fed, _floats(np.ones(1, np.float32)))
    output = _norm(ops.add(mixed, fed), weights, f"{layer}/output_layer_norm")
    return openvino.Model([ops.result(output)], [x], "feed_forward")


def _int8_feed_forward_model(weights: Weights, layer: str) -> Any:
    """Build the same layer with kernels in int8."""
    gamma, beta = weights[f"{layer}/mixing_layer_norm/gamma"], weights[f"{layer}/mixing_layer_norm/beta"]
    kernels = [weights[f"{layer}/{name}/kernel"] for name in ("intermediate_dense", "output_dense")]
    biases = [weights[f"{layer}/{name}/bias"] for name in ("intermediate_dense", "output_dense")]
    hidden, inner = smoothing_factors(gamma, beta, kernels[0], biases[0])
    x = ops.parameter([-1, len(gamma)], np.float32)
    normalized = ops.mvn(x, _integers([-1]), True, LAYER_NORM_EPSILON, "inside_sqrt")
    mixed = ops.add(ops.multiply(normalized, _floats(gamma)), _floats(beta))
    fed = ops.add(ops.multiply(normalized, _floats(gamma / hidden)), _floats(beta / hidden))
    fed = ops.matmul(fed, _int8_kernel(kernels[0] * hidden[:, None]), False, True)
    fed = ops.multiply(ops.gelu(ops.add(fed, _floats(biases[0][None])), "tanh"), _floats(1 / inner))
    fed = ops.matmul(fed, _int8_kernel(kernels[1] * inner[:, None]), False, True)
    fed = ops.add(fed, _floats(biases[1][None]))
    output = _norm(ops.add(mixed, fed), weights, f"{layer}/output_layer_norm")
    return openvino.Model([ops.result(output)], [x], "int8_feed_forward")


def _pooling_model(weights: Weights) -> Any:
    """Build the pooler, `[T, h]` to `[T, h]`."""
    x = ops.parameter([-1, len(weights["pooled_dense/bias"])], np.float32)
    return openvino.Model([ops.result(ops.tanh(_dense(x, weights, "pooled_dense")))], [x], "pool")


def _norm(x: Any, weights: Weights, name: str) -> Any:
    scaled = ops.mvn(x, _integers([-1]), True, LAYER_NORM_EPSILON, "inside_sqrt")
    scaled = ops.multiply(scaled, _floats(weights[f"{name}/gamma"]))
    return ops.add(scaled, _floats(weights[f"{name}/beta"]))


def _dense(x: Any, weights: Weights, name: str) -> Any:
    product = ops.matmul(x, _floats(weights[f"{name}/kernel"].T), False, True)
    return ops.add(product, _floats(weights[f"{name}/bias"][None]))


def _int8_kernel(kernel: Float32s) -> Any:
    """Return a kernel `[in, out]` as `[out, in]`: 8-bit integers times one float32 scale per output feature."""
    integers, scales = quantize(kernel.T)
    return ops.multiply(ops.convert(ops.constant(integers), np.float32), _floats(scales))


def _floats(array: npt.NDArray[Any]) -> Any:
    return ops.constant(np.ascontiguousarray(array, np.float32))


def _integers(value: int | list[int]) -> Any:
    return ops.constant(np.array(value, np.int32))

"""The OpenVINO backend, for CPUs of Intel and AMD: one model per layer, for rows of any length.

In bfloat16, products and operations fused with them are bfloat16; the residual stream and normalization are float32. In
int8, kernels are quantized once, with one scale per output feature. OpenVINO quantizes activations at run time, with
one scale per token and group of features. Results of the products are float32.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# The import of OpenVINO sends telemetry from a forked process. OpenVINO works without the telemetry module.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # marks the module as missing

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
# Numbers of features that share a scale. Larger groups are not faster and are less accurate. OpenVINO does not quantize
# if the group size does not divide the number of features.
_GROUP_SIZES = (128, 64, MIN_GROUP_SIZE)
# Relative error above which a product was quantized: rounding to 8 bits causes at least 1e-3, to float32 1e-6.
_MIN_QUANTIZATION_ERROR = 1e-4
_PROBE_TOKENS = 8
# Later layers amplify the errors of the first ones. In int8, this number of first layers, at most half of all, runs in
# bfloat16, or in float32 on CPUs without bfloat16 units.
_WIDE_LAYERS = 2
# Tokens per call of a layer in int8, so that intermediate results stay in the CPU cache: memory limits 8-bit products
# otherwise. Products of wider dtypes are faster with more tokens.
_INT8_TOKENS = 256


class OpenVinoBackend(Backend):
    """Runs on the CPU, with mixing on the host.

    Raises:
        BackendError: The dtype is int8, and the processor or the sizes of the network do not support it.
    """

    def __init__(self, architecture: Architecture, weights: Weights, dtype: Dtype, lengths: Sequence[int]) -> None:
        super().__init__(architecture, weights, dtype, lengths)
        core = openvino.Core()
        self.devices = [f"cpu:0 {core.get_property('CPU', 'FULL_DEVICE_NAME')}"]
        dtypes = _layer_dtypes(architecture, feed_forward_dtype(architecture, dtype), core)
        self._tokens_per_call = _INT8_TOKENS if "int8" in dtypes else self.lengths[-1]
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
        """Run every model once per row length, since OpenVINO generates kernels at the first run of a length."""
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
        if len(x) <= self._tokens_per_call:
            return _infer(request, x, shared=layer + 1 < len(self._layers))
        output = np.empty_like(x)
        for start in range(0, len(x), self._tokens_per_call):
            tokens = slice(start, start + self._tokens_per_call)
            output[tokens] = _infer(request, x[tokens], shared=True)
        return output

    def pool(self, x: Float32s) -> Float32s:
        """See the base class."""
        return _infer(self._pool, x)


def _infer(request: Any, *inputs: Any, shared: bool = False) -> Float32s:
    """Run a model.

    Args:
        request: An inference request of the model.
        inputs: Arrays.
        shared: Whether the output is a view that the next run overwrites.
    """
    output: Float32s = request.infer(list(inputs), share_inputs=True, share_outputs=shared)[0]
    return output


def _layer_dtypes(architecture: Architecture, dtype: Dtype, core: Any) -> list[Dtype]:
    """Return the dtype of the products of each layer."""
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
    """Verify that products run in 8 bits, since OpenVINO falls back to float32.

    Raises:
        BackendError: Products do not run in 8 bits.
    """
    random = np.random.default_rng(0)
    # Random kernels, since trained ones may be too small next to the residual connection to show a rounding error.
    names = [f"layers/0/{name}/kernel" for name in ("intermediate_dense", "output_dense")]
    kernels = {name: random.standard_normal(weights[name].shape, np.float32) for name in names}
    model = _int8_feed_forward_model({**weights, **kernels}, "layers/0")
    x = random.standard_normal((_PROBE_TOKENS, weights[names[0]].shape[0]), np.float32)
    core = openvino.Core()
    quantized, exact = (
        core.compile_model(model, "CPU", candidate)([x])[0]
        for candidate in (hints, hints | {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"})
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
    """Build the model of token ids, segment ids and positions, each `[T]`, to projected embeddings `[T, h]`."""
    token_ids, segment_ids, positions = (ops.parameter([-1], np.int32) for _ in range(3))

    def lookup(name: str, ids: Any) -> Any:
        return ops.gather(_floats(weights[f"{name}_embedding/embeddings"]), ids, _integers(0))

    x = ops.add(lookup("token", token_ids), lookup("position", positions))
    x = _norm(ops.add(x, lookup("segment", segment_ids)), weights, "embeddings_layer_norm")
    x = _dense(x, weights, "embedding_projection")
    return openvino.Model([ops.result(x)], [token_ids, segment_ids, positions], "embed")


def _feed_forward_model(weights: Weights, layer: str) -> Any:
    """Build the model of a layer without mixing, `[T, h]` to `[T, h]`."""
    x = ops.parameter([-1, len(weights[f"{layer}/mixing_layer_norm/gamma"])], np.float32)
    mixed = _norm(x, weights, f"{layer}/mixing_layer_norm")
    inner = ops.gelu(_dense(mixed, weights, f"{layer}/intermediate_dense"), "tanh")
    output = _dense(inner, weights, f"{layer}/output_dense")
    # An identity activation that is fused with the product makes it write float32 under the bfloat16 hint.
    output = ops.prelu(output, _floats(np.ones(1, np.float32)))
    output = _norm(ops.add(mixed, output), weights, f"{layer}/output_layer_norm")
    return openvino.Model([ops.result(output)], [x], "feed_forward")


def _int8_feed_forward_model(weights: Weights, layer: str) -> Any:
    """Build the model of a layer without mixing, `[T, h]` to `[T, h]`, with int8 kernels."""
    gamma, beta = weights[f"{layer}/mixing_layer_norm/gamma"], weights[f"{layer}/mixing_layer_norm/beta"]
    kernels = [weights[f"{layer}/{name}/kernel"] for name in ("intermediate_dense", "output_dense")]
    biases = [weights[f"{layer}/{name}/bias"] for name in ("intermediate_dense", "output_dense")]
    hidden, inner = smoothing_factors(gamma, beta, kernels[0], biases[0])
    x = ops.parameter([-1, len(gamma)], np.float32)
    normalized = ops.mvn(x, _integers([-1]), True, LAYER_NORM_EPSILON, "inside_sqrt")
    mixed = ops.add(ops.multiply(normalized, _floats(gamma)), _floats(beta))
    output = ops.add(ops.multiply(normalized, _floats(gamma / hidden)), _floats(beta / hidden))
    output = ops.matmul(output, _int8_kernel(kernels[0] * hidden[:, None]), False, True)
    output = ops.multiply(ops.gelu(ops.add(output, _floats(biases[0][None])), "tanh"), _floats(1 / inner))
    output = ops.matmul(output, _int8_kernel(kernels[1] * inner[:, None]), False, True)
    output = ops.add(output, _floats(biases[1][None]))
    output = _norm(ops.add(mixed, output), weights, f"{layer}/output_layer_norm")
    return openvino.Model([ops.result(output)], [x], "int8_feed_forward")


def _pooling_model(weights: Weights) -> Any:
    """Build the model of the pooler, `[T, h]` to `[T, h]`."""
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

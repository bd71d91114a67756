"""The NumPy reference: FNet for one sequence, without packing.

The self-test compares encoders with it before they serve (`model.selftest`). It needs no framework, so the start does
not wait for an import. Tests compare it with `FNetBackbone`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model.architecture import Architecture
from model.arrays import Float32s, Int32s
from model.presets.weights import Weights

_LAYER_NORM_EPSILON = 1e-12
_INITIALIZER_STDDEV = 0.02


def encode_one(
    architecture: Architecture, weights: Weights, token_ids: Int32s, segment_ids: Int32s
) -> tuple[Float32s, Float32s]:
    """Run one sequence.

    Args:
        architecture: The network.
        weights: Its variables, keyed by the names of `Architecture.variable_shapes`.
        token_ids: `[n]` int32.
        segment_ids: `[n]` int32.

    Returns:
        The sequence output `[n, h]` and the pooled output `[h]`, float32.
    """

    def norm(x: Float32s, name: str) -> Float32s:
        centered = x - x.mean(axis=-1, keepdims=True)
        scaled = centered / np.sqrt(np.square(centered).mean(axis=-1, keepdims=True) + np.float32(_LAYER_NORM_EPSILON))
        normalized: Float32s = scaled * weights[f"{name}/gamma"] + weights[f"{name}/beta"]
        return normalized

    def dense(x: Float32s, name: str) -> Float32s:
        return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]

    x = weights["token_embedding/embeddings"][token_ids] + weights["segment_embedding/embeddings"][segment_ids]
    x = x + weights["position_embedding/embeddings"][: len(token_ids)]
    x = dense(norm(x, "embeddings_layer_norm"), "embedding_projection")
    for index in range(architecture.num_layers):
        layer = f"layers/{index}"
        x = norm(x + np.fft.fft2(x.astype(np.float64)).real.astype(np.float32), f"{layer}/mixing_layer_norm")
        inner = _gelu(dense(x, f"{layer}/intermediate_dense"))
        x = norm(x + dense(inner, f"{layer}/output_dense"), f"{layer}/output_layer_norm")
    return x, np.tanh(dense(x[0], "pooled_dense"))


def random_weights(architecture: Architecture, seed: int) -> dict[str, Float32s]:
    """Return the initial weights of an `FNetBackbone`: normal with a deviation of 0.02, and identity normalizations."""
    random = np.random.default_rng(seed)
    weights: dict[str, npt.NDArray[np.float32]] = {}
    for name, shape in architecture.variable_shapes().items():
        if name.endswith(("gamma", "norm/beta")):
            weights[name] = np.full(shape, name.endswith("gamma"), np.float32)
        else:
            weights[name] = random.standard_normal(shape, np.float32) * np.float32(_INITIALIZER_STDDEV)
    return weights


def _gelu(x: Float32s) -> Float32s:
    """Return the tanh approximation of GELU, with which FNet is trained."""
    inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x * x * x)
    activated: Float32s = np.float32(0.5) * x * (1 + np.tanh(inner))
    return activated

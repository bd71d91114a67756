"""Compare activations of trained-like weights with the bundled preset's: `python -m benchmarks.peers.activations`.

The network is NumPy; the products of the feed-forward layers are a function, which may round their operands.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from benchmarks.peers.weights import bundled_weights, random_weights, trained_like_weights
from benchmarks.peers.workloads import token_ids
from model.architecture import Architecture
from model.arrays import Float32s, Int32s

# Activations [n, in] and a kernel [in, out] to their product.
Product = Callable[[Float32s, Float32s], Float32s]

_TOKENS = 200
_GROUP_SIZE = 128


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """Statistics of one layer's activations.

    Attributes:
        input_kurtosis: Median over the tokens of the kurtosis of the feed-forward input.
        input_shared: Ratio of the component that all tokens share to the rest, of the same.
        inner_kurtosis: Median kurtosis of the activations between the two dense layers.
        inner_shared: Ratio of the shared component to the rest, of the same.
        outlier: The largest feature of the residual stream before the last layer norm, over the root mean square of
            the others.
    """

    input_kurtosis: float
    input_shared: float
    inner_kurtosis: float
    inner_shared: float
    outlier: float


def encode(
    architecture: Architecture,
    weights: Mapping[str, Float32s],
    ids: Int32s,
    product: Product = np.matmul,
    stream: Callable[[Float32s], Float32s] = np.asarray,
) -> tuple[Float32s, list[LayerStatistics]]:
    """Return one sequence's output `[n, h]` and the statistics of every layer.

    Args:
        architecture: The network.
        weights: Arrays by the names of `Architecture.variable_shapes`.
        ids: `[n]` int32, all in segment 0.
        product: The product of the feed-forward layers.
        stream: Rounds the residual stream before each layer norm; by default it stays float32.
    """

    def norm(x: Float32s, name: str) -> Float32s:
        centered = x - x.mean(axis=-1, keepdims=True)
        scaled = centered / np.sqrt(np.square(centered).mean(axis=-1, keepdims=True) + np.float32(1e-12))
        normalized: Float32s = scaled * weights[f"{name}/gamma"] + weights[f"{name}/beta"]
        return normalized

    def dense(x: Float32s, name: str, product: Product = np.matmul) -> Float32s:
        return product(x, weights[f"{name}/kernel"]) + weights[f"{name}/bias"]

    embedded = weights["token_embedding/embeddings"][ids] + weights["position_embedding/embeddings"][: len(ids)]
    x = norm(embedded + weights["segment_embedding/embeddings"][0], "embeddings_layer_norm")
    x = dense(x, "embedding_projection")
    statistics = []
    for index in range(architecture.num_layers):
        layer = f"layers/{index}"
        mixed = np.fft.fft2(x.astype(np.float64)).real.astype(np.float32)
        x = norm(stream(x + mixed), f"{layer}/mixing_layer_norm")
        inner = _gelu(dense(x, f"{layer}/intermediate_dense", product))
        total = x + dense(inner, f"{layer}/output_dense", product)
        statistics.append(LayerStatistics(_kurtosis(x), _shared(x), _kurtosis(inner), _shared(inner), _outlier(total)))
        x = norm(stream(total), f"{layer}/output_layer_norm")
    return x, statistics


def round_to_bfloat16(values: Float32s) -> Float32s:
    """Return the nearest bfloat16 values, as float32."""
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def bfloat16_product(x: Float32s, kernel: Float32s) -> Float32s:
    """Return the product of operands that are rounded to bfloat16."""
    return round_to_bfloat16(x) @ round_to_bfloat16(kernel)


def int8_product(x: Float32s, kernel: Float32s) -> Float32s:
    """Return the product of operands in int8: one scale per output feature, and per token and group of inputs."""
    groups = x.reshape(len(x), -1, min(_GROUP_SIZE, x.shape[1]))
    rounded: Float32s = _round_to_int8(groups, axis=-1).reshape(x.shape) @ _round_to_int8(kernel, axis=0)
    return rounded


def token_cosines(outputs: Float32s, expected: Float32s) -> Float32s:
    """Return each token's cosine similarity."""
    norms = np.linalg.norm(outputs, axis=-1) * np.linalg.norm(expected, axis=-1)
    cosines: Float32s = (outputs * expected).sum(axis=-1) / norms
    return cosines


def _round_to_int8(values: Float32s, axis: int) -> Float32s:
    scales = np.abs(values).max(axis=axis, keepdims=True) / np.float32(127)
    scales = np.where(scales == 0, np.float32(1), scales)
    rounded: Float32s = np.rint(values / scales) * scales
    return rounded


def _kurtosis(values: Float32s) -> float:
    centered = values - values.mean(axis=-1, keepdims=True)
    return float(np.median((centered**4).mean(axis=-1) / np.square(centered).mean(axis=-1) ** 2))


def _shared(values: Float32s) -> float:
    mean = values.mean(axis=0)
    return float(np.sqrt(np.square(mean).mean() / np.square(values - mean).mean()))


def _outlier(values: Float32s) -> float:
    squares = np.square(values).mean(axis=0)
    return float(np.sqrt(squares.max() / (squares.sum() - squares.max()) * (len(squares) - 1)))


def _gelu(x: Float32s) -> Float32s:
    inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x * x * x)
    activated: Float32s = np.float32(0.5) * x * (1 + np.tanh(inner))
    return activated


ROUNDINGS: dict[str, tuple[Product, Callable[[Float32s], Float32s]]] = {
    "bfloat16 products": (bfloat16_product, np.asarray),
    "bfloat16 products and residual stream": (bfloat16_product, round_to_bfloat16),
    "int8 products": (int8_product, np.asarray),
}


def main() -> None:
    """Print the statistics of the preset, of trained-like weights and of random weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 12), ("hidden", 768), ("intermediate", 3072), ("vocabulary", 32000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    architecture = Architecture(
        vocabulary_size=options.vocabulary,
        num_layers=options.layers,
        hidden_dim=options.hidden,
        intermediate_dim=options.intermediate,
    )
    networks = {
        "bundled preset": bundled_weights(),
        "trained-like": (architecture, trained_like_weights(architecture)),
        "random": (architecture, random_weights(architecture)),
    }
    for name, (network, weights) in networks.items():
        ids = token_ids([_TOKENS], network.vocabulary_size)[0]
        expected, layers = encode(network, weights, ids)
        print(name)
        for field in LayerStatistics.__dataclass_fields__:
            print(f"  {field:16}" + "".join(f"{getattr(layer, field):8.2f}" for layer in layers))
        for label, (product, stream) in ROUNDINGS.items():
            cosines = token_cosines(encode(network, weights, ids, product, stream)[0], expected)
            print(f"  token cosine, {label}: median {np.median(cosines):.5f}, lowest {cosines.min():.5f}")


if __name__ == "__main__":
    main()

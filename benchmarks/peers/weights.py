"""FNet weights for any architecture, with the statistics of trained weights, and the two forms that peers read.

Random weights, normal with a deviation of 0.02, lack what makes a trained network hard to compute: they have no outlier
features, no component that all tokens share, and their feed-forward layers change little. `trained_like_weights`
resamples the bundled preset `fnet_mini_en` instead (5 layers, hidden size 384). It keeps, for each variable:

* the norms of rows and columns, and with them outlier features, rare tokens with small or large vectors and the
  kurtosis; values are drawn from the preset's own normalized values;
* the component that all rows of a matrix share, and with it the component that all tokens share (DC), each token to the
  extent that tokens of the preset do;
* layer-norm gammas and betas and all biases. Features 0 to 4 and their mirror images, the lowest frequencies of the
  hidden transform, keep their index, because the preset's outliers are among them;
* the mean input of every feed-forward unit: each kernel column has the preset's product with the beta of the layer norm
  in front of it. Most units are therefore off, and a few have large activations;
* the output of each product: kernels are scaled by the ratio of their input sizes.

A network with more layers than the preset spreads them evenly and scales each feed-forward output by the ratio of the
numbers of layers, so that rounding moves its tokens as far as the preset's: without this factor, int8 products give a
median token cosine of 0.994 at base size. The factor is an assumption; no trained network of 12 layers was measured.

Activations of 200 random ids, lowest and highest value over the layers (`python -m benchmarks.peers.activations`):

| | bundled preset | trained-like, base size | random, base size |
| --- | --- | --- | --- |
| kurtosis of the feed-forward input | 3.0 to 4.7 | 3.1 to 3.7 | 3.0 |
| its shared component over the rest | 0.15 to 2.9 | 0.06 to 0.23 | 0.07 |
| kurtosis between the dense layers | 5.7 to 1003 | 8.0 to 84 | 6.1 |
| its shared component over the rest | 0.34 to 2.2 | 0.33 to 1.8 | 0.36 |
| largest feature over the others (RMS) | 12 to 43 | 3.5 to 45 | 1.2 |
| token cosine with int8 products, median / lowest | 0.9992 / 0.9954 | 0.9993 / 0.9989 | 0.9999 / 0.9999 |
| same, bfloat16 products and residual stream | 0.9995 / 0.9966 | 0.9996 / 0.9988 | 1.0000 / 1.0000 |

Not matched: one layer of the preset, in which a single unit holds nearly all of the activation and most of the input is
shared, and the preset's single worst tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.architecture import Architecture
from model.arrays import Float32s
from model.presets.hub import DEFAULT_PRESET, load_preset
from model.presets.weights import read_weights

_Indices = npt.NDArray[np.intp]

_SEED = 20210509
_STDDEV = 0.02
# The preset keeps its outliers in the lowest frequencies of the hidden transform.
_MAX_FIXED_FREQUENCY = 4
_SPECIAL_TOKENS = 5

# Layers of transformers' FNetModel by the names of `Architecture.variable_shapes`.
_HUGGING_FACE_LAYERS = {
    "token_embedding": "embeddings.word_embeddings",
    "position_embedding": "embeddings.position_embeddings",
    "segment_embedding": "embeddings.token_type_embeddings",
    "embeddings_layer_norm": "embeddings.LayerNorm",
    "embedding_projection": "embeddings.projection",
    "mixing_layer_norm": "fourier.output.LayerNorm",
    "intermediate_dense": "intermediate.dense",
    "output_dense": "output.dense",
    "output_layer_norm": "output.LayerNorm",
    "pooled_dense": "pooler.dense",
}


def random_weights(architecture: Architecture, seed: int = _SEED) -> dict[str, Float32s]:
    """Return weights as an untrained network has them: normal, and layer norms that only normalize."""
    random = np.random.default_rng(seed)
    return {
        name: np.full(shape, name.endswith("gamma"), np.float32)
        if name.endswith(("gamma", "beta"))
        else random.standard_normal(shape, np.float32) * np.float32(_STDDEV)
        for name, shape in architecture.variable_shapes().items()
    }


def trained_like_weights(architecture: Architecture, seed: int = _SEED) -> dict[str, Float32s]:
    """Return weights with the statistics of the bundled preset's.

    Args:
        architecture: The network.
        seed: Equal seeds give equal weights.

    Returns:
        Arrays by the names of `Architecture.variable_shapes`.
    """
    source, trained = bundled_weights()
    random = np.random.default_rng(seed)
    hidden = _feature_map(architecture.hidden_dim, source.hidden_dim, random)
    source_layers = np.rint(np.linspace(0, source.num_layers - 1, architecture.num_layers)).astype(int)
    units = [_tiled(architecture.intermediate_dim, source.intermediate_dim, random) for _ in source_layers]
    weights: dict[str, Float32s] = {}
    for name, shape in architecture.variable_shapes().items():
        source_name, inner = name, hidden
        if name.startswith("layers/"):
            _, index, variable = name.split("/", 2)
            source_name, inner = f"layers/{source_layers[int(index)]}/{variable}", units[int(index)]
        values = trained[source_name]
        columns = inner if "intermediate_dense" in name else hidden
        if values.ndim == 1:
            weights[name] = values[columns]
        elif name.endswith("/kernel"):
            rows = inner if "output_dense" in name else hidden
            shares = np.ones(len(values), np.float32)
            weights[name] = _resampled(values, shares, rows, columns, random, len(values) / shape[0])
        else:
            rows = _table_rows(name, shape[0], len(values), random)
            weights[name] = _resampled(values, _shares(values), rows, columns, random)
    depth = np.float32(min(1.0, source.num_layers / max(1, architecture.num_layers)))
    for number, (source_layer, inner) in enumerate(zip(source_layers, units, strict=True)):
        layer = f"layers/{number}"
        _match_mean_inputs(weights, layer, mean_inputs(trained, f"layers/{source_layer}")[inner])
        weights[f"{layer}/output_dense/kernel"] *= depth
        weights[f"{layer}/output_dense/bias"] *= depth
    return weights


@cache
def bundled_weights() -> tuple[Architecture, dict[str, Float32s]]:
    """Return the bundled preset's architecture and weights."""
    preset = load_preset(DEFAULT_PRESET)
    return preset.architecture, read_weights(preset.directory, preset.architecture)


def mean_inputs(weights: Mapping[str, Float32s], layer: str) -> Float32s:
    """Return the input of every feed-forward unit where the layer norm in front gives its beta."""
    dense = f"{layer}/intermediate_dense"
    inputs: Float32s = (
        weights[f"{layer}/mixing_layer_norm/beta"] @ weights[f"{dense}/kernel"] + weights[f"{dense}/bias"]
    )
    return inputs


def _match_mean_inputs(weights: dict[str, Float32s], layer: str, target: Float32s) -> None:
    """Add the multiple of beta to each kernel column that gives its unit the target as mean input."""
    beta = weights[f"{layer}/mixing_layer_norm/beta"]
    missing = target - mean_inputs(weights, layer)
    weights[f"{layer}/intermediate_dense/kernel"] += np.outer(beta / (beta @ beta), missing)


def _resampled(
    values: Float32s,
    shares: Float32s,
    rows: _Indices,
    columns: _Indices,
    random: np.random.Generator,
    fan_in_ratio: float = 1.0,
) -> Float32s:
    """Return a matrix with the preset's norms of rows and columns, shared component and distribution of values.

    Args:
        values: The preset's matrix.
        shares: Share of the mean row in each of its rows.
        rows: The preset's row for each row of the result.
        columns: The preset's column for each column of the result.
        random: Source of randomness.
        fan_in_ratio: The preset's number of summed rows over the result's; 1 for tables, whose rows are not summed.
    """
    mean = values.mean(axis=0)
    normalized = values - np.outer(shares, mean)
    column_norms = _rms(normalized, axis=0)
    normalized /= _divisor(column_norms)
    row_norms = _rms(normalized, axis=1)
    normalized /= _divisor(row_norms)[:, None]
    drawn: Float32s = normalized.ravel()[random.integers(0, normalized.size, (len(rows), len(columns)))]
    drawn *= row_norms[rows, None] * column_norms[columns] * np.float32(fan_in_ratio**0.5)
    drawn += np.outer(shares[rows], mean[columns]) * np.float32(fan_in_ratio)
    return drawn


def _shares(values: Float32s) -> Float32s:
    """Return the share of the mean row in each row, 1 on average."""
    mean = values.mean(axis=0)
    shares: Float32s = values @ mean / (mean @ mean)
    return shares


def _rms(values: Float32s, axis: int) -> Float32s:
    norms: Float32s = np.sqrt(np.square(values).mean(axis=axis))
    return norms


def _divisor(norms: Float32s) -> Float32s:
    divisor: Float32s = np.where(norms == 0, np.float32(1), norms)
    return divisor


def _feature_map(size: int, source_size: int, random: np.random.Generator) -> _Indices:
    """Return the preset's feature for each feature: low frequencies keep their index, mirror images stay paired."""
    half, source_half = size // 2, source_size // 2
    fixed = min(_MAX_FIXED_FREQUENCY, half, source_half)
    spread = np.rint(np.linspace(fixed, source_half, half - fixed + 1)).astype(np.intp)
    random.shuffle(spread[1:-1])
    lower = np.concatenate([np.arange(fixed), spread])
    return np.concatenate([lower, (source_size - lower[1 : size - half][::-1]) % source_size])


def _table_rows(name: str, size: int, source_size: int, random: np.random.Generator) -> _Indices:
    """Return the preset's row for each row of an embedding table; only words are drawn."""
    if not name.startswith("token_embedding"):
        return np.arange(size) % source_size
    words = _SPECIAL_TOKENS + _tiled(size - _SPECIAL_TOKENS, source_size - _SPECIAL_TOKENS, random)
    return np.concatenate([np.arange(_SPECIAL_TOKENS), words])


def _tiled(size: int, source_size: int, random: np.random.Generator) -> _Indices:
    """Return indices of the preset in random order, each used about equally often."""
    repeats = -(-size // source_size)
    return np.concatenate([random.permutation(source_size) for _ in range(repeats)])[:size]


def write_hugging_face(directory: Path, architecture: Architecture, weights: Mapping[str, Float32s]) -> None:
    """Write weights as a checkpoint of transformers' FNetModel.

    Args:
        directory: The directory, created if missing.
        architecture: The network.
        weights: Arrays by the names of `Architecture.variable_shapes`.
    """
    from safetensors.numpy import save_file  # noqa: PLC0415 - needed only here

    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["FNetModel"],
        "model_type": "fnet",
        "vocab_size": architecture.vocabulary_size,
        "hidden_size": architecture.hidden_dim,
        "num_hidden_layers": architecture.num_layers,
        "intermediate_size": architecture.intermediate_dim,
        "hidden_act": "gelu_new",
        "hidden_dropout_prob": architecture.dropout,
        "max_position_embeddings": architecture.max_sequence_length,
        "tpu_short_seq_length": architecture.max_sequence_length,
        "type_vocab_size": architecture.num_segments,
        "layer_norm_eps": 1e-12,
    }
    (directory / "config.json").write_text(json.dumps(config), "utf-8")
    tensors = {
        _hugging_face_name(name): np.ascontiguousarray(values.T if name.endswith("/kernel") else values)
        for name, values in weights.items()
    }
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def _hugging_face_name(name: str) -> str:
    *group, layer, variable = name.split("/")
    prefix = f"encoder.layer.{group[1]}." if group else ""
    suffix = "bias" if variable in ("beta", "bias") else "weight"
    return f"{prefix}{_HUGGING_FACE_LAYERS[layer]}.{suffix}"

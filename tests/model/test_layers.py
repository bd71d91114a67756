"""The Keras layers equal NumPy in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from keras import ops

from model.architecture import Architecture
from model.layers import FNetEncoder, PositionEmbedding, fourier_mixing, gelu_approximate

pytestmark = pytest.mark.usefixtures("quick_compilation")

Array = npt.NDArray[Any]

RANDOM = np.random.default_rng(5)


def as_numpy(tensor: Any) -> Array:
    """Return a Keras tensor as float32."""
    return np.asarray(ops.convert_to_numpy(ops.cast(tensor, "float32")))


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 6), (2, 5, 1), (3, 7, 9), (1, 16, 10)])
def test_mixing_is_the_real_part_of_numpys_fft2(shape: tuple[int, ...]) -> None:
    """Each sequence of a batch is transformed over tokens and features, without normalization."""
    x = RANDOM.normal(size=shape)
    np.testing.assert_allclose(
        as_numpy(fourier_mixing(ops.convert_to_tensor(x, "float32"))), np.fft.fft2(x).real, atol=1e-4
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_mixing_keeps_the_dtype_and_computes_in_float32(dtype: str) -> None:
    """The result alone is rounded: a sum of 4,096 ones is exact in every dtype."""
    mixed = fourier_mixing(ops.ones((1, 64, 64), dtype))
    assert str(mixed.dtype) == dtype
    expected = np.zeros((64, 64))
    expected[0, 0] = 4096
    np.testing.assert_array_equal(as_numpy(mixed)[0], expected)


def test_gelu_is_the_tanh_approximation() -> None:
    """The activation is the tanh approximation, which differs measurably from the exact GELU."""
    x = np.linspace(-4, 4, 101)
    expected = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    np.testing.assert_allclose(as_numpy(gelu_approximate(ops.convert_to_tensor(x, "float32"))), expected, atol=1e-6)


def test_positions_are_the_first_rows_of_the_table() -> None:
    """Every sequence of a batch has the same position vectors, for any values."""
    layer = PositionEmbedding(10)
    actual = as_numpy(layer(ops.convert_to_tensor(RANDOM.normal(size=(2, 4, 3)), "float32")))
    table = as_numpy(layer.position_embeddings)
    assert table.shape == (10, 3)
    assert np.array_equal(actual, np.stack([table[:4], table[:4]]))


def test_sequence_length_is_limited_by_the_positions() -> None:
    """A sequence longer than the table is rejected with both lengths."""
    layer = PositionEmbedding(10)
    assert layer(ops.zeros((1, 10, 3))).shape == (1, 10, 3)
    with pytest.raises(ValueError, match="11 tokens exceed max_sequence_length of 10"):
        layer(ops.zeros((1, 11, 3)))


def test_block_equals_the_oracle(
    tiny: Architecture, make_weights: Callable[..., dict[str, Array]], oracle: Callable[..., tuple[Array, Array]]
) -> None:
    """A block computes mixing and feed-forward, each with residual connection and normalization."""
    x = RANDOM.normal(size=(7, 12))
    weights = make_weights(tiny)
    layer = FNetEncoder(20)
    layer.build((None, None, 12))
    prefix = "layers/0/"
    names = [name for name in weights if name.startswith(prefix)]
    layer.set_weights([weights[name] for name in names])
    # Embeddings and projection return `x` normalized and otherwise unchanged.
    hand = {name: weights[name] for name in names} | {
        "token_embedding/embeddings": x,
        "segment_embedding/embeddings": np.zeros((1, 12)),
        "position_embedding/embeddings": np.zeros((7, 12)),
        "embeddings_layer_norm/gamma": np.ones(12),
        "embeddings_layer_norm/beta": np.zeros(12),
        "embedding_projection/kernel": np.eye(12),
        "embedding_projection/bias": np.zeros(12),
        "pooled_dense/kernel": np.eye(12),
        "pooled_dense/bias": np.zeros(12),
    }
    expected, _ = oracle(hand, np.arange(7), np.zeros(7, int))
    normalized = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    actual = as_numpy(layer(ops.convert_to_tensor(normalized[None], "float32")))[0]
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("layer", [PositionEmbedding(10, name="positions"), FNetEncoder(20, 0.3, name="block")])
def test_layer_configuration_round_trip(layer: Any) -> None:
    """A layer built from `get_config` is equal."""
    config = layer.get_config()
    assert type(layer).from_config(config).get_config() == config


def test_dropout_is_for_training_only() -> None:
    """A block drops values in training only."""
    layer = FNetEncoder(20, dropout=0.5)
    x = ops.convert_to_tensor(RANDOM.normal(size=(1, 4, 6)), "float32")
    first, again = as_numpy(layer(x)), as_numpy(layer(x, training=False))
    assert np.array_equal(first, again)
    assert not np.allclose(as_numpy(layer(x, training=True)), first)

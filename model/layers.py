"""The layers of FNet in Keras 3, with the names of keras-hub and mixing by `fft2`.

This is the readable reference. `model.encoder` computes the same outputs for many sequences at once.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

# Initialization and epsilon of the paper (google-research/f_net, configs/base.py).
INITIALIZER_STDDEV = 0.02
LAYER_NORM_EPSILON = 1e-12


def normal_initializer() -> Any:
    """Return a new initializer for kernels, biases and embeddings."""
    return keras.initializers.RandomNormal(stddev=INITIALIZER_STDDEV)


def gelu_approximate(x: Any) -> Any:
    """Return the tanh approximation of GELU, with which FNet is trained."""
    return keras.activations.gelu(x, approximate=True)


def fourier_mixing(x: Any) -> Any:
    """Return the real part of the unnormalized 2-D DFT over tokens and features (paper, section 3.2).

    Args:
        x: `[batch, length, hidden]`, any floating-point dtype. The transform is computed in float32. One of its outputs
            is the sum over all values, which may exceed the range of float16.

    Returns:
        The same shape and dtype.
    """
    x_float32 = ops.cast(x, "float32")
    real, _ = ops.fft2((x_float32, ops.zeros_like(x_float32)))
    return ops.cast(real, x.dtype)


class PositionEmbedding(keras.layers.Layer):  # type: ignore[misc]
    """Trained position embeddings.

    Args:
        sequence_length: Number of positions, and so the maximum length of a sequence.

    Call arguments:
        inputs: `[batch, length, hidden]`; only its shape matters.

    Returns:
        `[batch, length, hidden]`, equal for all sequences of the batch.
    """

    def __init__(self, sequence_length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sequence_length = sequence_length

    def build(self, inputs_shape: tuple[int | None, ...]) -> None:
        """Create the `[sequence_length, hidden]` table."""
        self.position_embeddings = self.add_weight(
            name="embeddings",
            shape=(self.sequence_length, inputs_shape[-1]),
            initializer=normal_initializer(),
            trainable=True,
        )
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Return the first `length` rows of the table."""
        length = ops.shape(inputs)[1]
        if isinstance(length, int) and length > self.sequence_length:
            raise ValueError(f"{length} tokens exceed max_sequence_length of {self.sequence_length}")
        table = ops.convert_to_tensor(self.position_embeddings)
        rows = table[:length] if isinstance(length, int) else ops.take(table, ops.arange(length), axis=0)
        return ops.broadcast_to(rows, ops.shape(inputs))

    def compute_output_shape(self, inputs_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the input."""
        return inputs_shape

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "sequence_length": self.sequence_length}


class FNetEncoder(keras.layers.Layer):  # type: ignore[misc]
    """One FNet block: mixing and feed-forward, each with residual connection and normalization (paper, figure 1).

    Args:
        intermediate_dim: Size of the inner feed-forward vector.
        dropout: Dropout rate of the feed-forward output in training.

    Call arguments:
        inputs: `[batch, length, hidden]`.
        training: Whether dropout applies.

    Returns:
        `[batch, length, hidden]`.
    """

    def __init__(self, intermediate_dim: int, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.intermediate_dim = intermediate_dim
        self.dropout = dropout

    def build(self, inputs_shape: tuple[int | None, ...]) -> None:
        """Create the sublayers for the hidden size of the input."""
        hidden = inputs_shape[-1]
        # The attribute names are the paths of the variables in a weights file.
        self._mixing_layer_norm = self._layer_norm("mixing_layer_norm")
        self._intermediate_dense = self._dense(self.intermediate_dim, "intermediate_dense", gelu_approximate)
        self._output_dense = self._dense(hidden, "output_dense")
        self._output_dropout = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy, name="output_dropout")
        self._output_layer_norm = self._layer_norm("output_layer_norm")
        self._mixing_layer_norm.build(inputs_shape)
        self._intermediate_dense.build(inputs_shape)
        self._output_dense.build((*inputs_shape[:-1], self.intermediate_dim))
        self._output_layer_norm.build(inputs_shape)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:  # noqa: FBT001 - the signature of Keras
        """Return the block's output."""
        mixed = self._mixing_layer_norm(inputs + fourier_mixing(inputs))
        feed_forward = self._output_dense(self._intermediate_dense(mixed))
        return self._output_layer_norm(mixed + self._output_dropout(feed_forward, training=training))

    def compute_output_shape(self, inputs_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the input."""
        return inputs_shape

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "intermediate_dim": self.intermediate_dim, "dropout": self.dropout}

    def _layer_norm(self, name: str) -> Any:
        return keras.layers.LayerNormalization(epsilon=LAYER_NORM_EPSILON, dtype=self.dtype_policy, name=name)

    def _dense(self, units: int | None, name: str, activation: Any = None) -> Any:
        return keras.layers.Dense(
            units,
            activation=activation,
            kernel_initializer=normal_initializer(),
            bias_initializer=normal_initializer(),
            dtype=self.dtype_policy,
            name=name,
        )

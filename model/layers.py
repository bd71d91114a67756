"""The layers of FNet in Keras 3: what keras-hub calls by the same names, mixing by a plain `fft2`.

This is the reference that reads top to bottom; `model.encoder` computes the same numbers for many sequences at once.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

# The paper's initialisation, and its epsilon (google-research/f_net, configs/base.py).
INITIALIZER_STDDEV = 0.02
LAYER_NORM_EPSILON = 1e-12


def normal_initializer() -> Any:
    """Return a new initialiser for kernels, biases and embeddings."""
    return keras.initializers.RandomNormal(stddev=INITIALIZER_STDDEV)


def gelu_approximate(x: Any) -> Any:
    """GELU by its tanh approximation, which FNet was trained with."""
    return keras.activations.gelu(x, approximate=True)


def fourier_mixing(x: Any) -> Any:
    """Mix tokens and features: the real part of the unnormalised 2-D DFT (paper, section 3.2).

    Args:
        x: `[batch, length, hidden]`, any floating-point dtype. Computed in float32; note that the sum over all values
            is one of the outputs, which float16 may not hold.

    Returns:
        The same shape and dtype.
    """
    wide = ops.cast(x, "float32")
    real, _ = ops.fft2((wide, ops.zeros_like(wide)))
    return ops.cast(real, x.dtype)


class PositionEmbedding(keras.layers.Layer):  # type: ignore[misc]
    """One trained vector for every position.

    Args:
        sequence_length: Number of positions, the longest sequence it takes.

    Call arguments:
        inputs: `[batch, length, hidden]`; only its shape matters.

    Returns:
        `[batch, length, hidden]`, the same for every member of the batch.
    """

    def __init__(self, sequence_length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sequence_length = sequence_length

    def build(self, inputs_shape: tuple[int | None, ...]) -> None:
        """Make the `[sequence_length, hidden]` table."""
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
            raise ValueError(
                f"a sequence of {length} tokens is longer than max_sequence_length, {self.sequence_length}"
            )
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
    """One FNet block: Fourier mixing, then feed-forward, each added to its input and normalised (paper, figure 1).

    Args:
        intermediate_dim: Size of the feed-forward layer's inner vector.
        dropout: Share of the feed-forward output dropped while training.

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
        """Make the sublayers for the input's hidden size."""
        hidden = inputs_shape[-1]
        # The attributes' names are the paths of the weights in a preset's file.
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

    def call(self, inputs: Any, training: bool | None = None) -> Any:  # noqa: FBT001 - Keras passes it so
        """Return the block's output."""
        mixed = self._mixing_layer_norm(inputs + fourier_mixing(inputs))
        fed = self._output_dense(self._intermediate_dense(mixed))
        return self._output_layer_norm(mixed + self._output_dropout(fed, training=training))

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

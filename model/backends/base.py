"""The interface of backends: embeddings, feed-forward layers and pooling for rows of fixed lengths.

These programs are token-wise. Mixing is one transform per sequence, on the host between two layers (`model.mixing`). A
backend for accelerators overrides `encode_rows` and mixes on the device.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.architecture import Architecture
from model.arrays import Float32s, Int32s
from model.dtypes import Dtype
from model.mixing import FourierMixing
from model.packing import Chunk, Row, chunks
from model.presets.weights import Weights

LAYER_NORM_EPSILON = 1e-12
# Matrix units sum 32 terms of a narrow dtype per step. With fewer than two steps a narrow dtype is not faster, and
# rounding errors do not average out.
_MIN_NARROW_FEATURES = 64
# Features that share a scale in int8; hidden and intermediate size have to be multiples of it.
MIN_GROUP_SIZE = 32


class BackendError(RuntimeError):
    """A backend cannot run this network on this machine. The message is one line with the reason and the remedy."""


class RowInput(NamedTuple):
    """The tokens of a row and its division into sequences.

    Attributes:
        token_ids: `[T]` int32.
        segment_ids: `[T]` int32.
        positions: `[T]` int32, the position of each token in its sequence.
        row: The sequences.
    """

    token_ids: Int32s
    segment_ids: Int32s
    positions: Int32s
    row: Row


class Backend(ABC):
    """A network in one library.

    Args:
        architecture: The network.
        weights: Its variables, keyed by the names of `Architecture.variable_shapes`.
        dtype: Dtype of the operands of the feed-forward products; everything else is float32.
        lengths: Row lengths to compile, ascending.

    Attributes:
        devices: Names of the devices.
        rows_per_run: Number of rows per run, one per device.
    """

    devices: list[str]
    rows_per_run: int = 1

    def __init__(self, architecture: Architecture, weights: Weights, dtype: Dtype, lengths: Sequence[int]) -> None:  # noqa: ARG002 - used by subclasses
        self.architecture = architecture
        self.lengths = tuple(lengths)
        self._mixing = FourierMixing(len(os.sched_getaffinity(0)))
        self._residual: Float32s = np.zeros((0, architecture.hidden_dim), np.float32)

    @abstractmethod
    def compile(self, progress: Callable[[int, int], None]) -> None:
        """Compile the programs of all row lengths.

        Args:
            progress: Called with the number of compiled row lengths, and the total.
        """

    def release(self, length: int) -> None:
        """Release the programs of a row length."""
        self.lengths = tuple(other for other in self.lengths if other != length)

    @abstractmethod
    def embed(self, token_ids: Int32s, segment_ids: Int32s, positions: Int32s) -> Float32s:
        """Return the input of the first layer.

        Args:
            token_ids: `[T]` int32, where T is a compiled row length.
            segment_ids: `[T]` int32.
            positions: `[T]` int32.

        Returns:
            `[T, h]`.
        """

    @abstractmethod
    def feed_forward(self, layer: int, x: Float32s) -> Float32s:
        """Return a layer's output.

        Args:
            layer: Index of the layer.
            x: `[T, h]`, the layer's input plus its mixing, where T is a compiled row length. The caller may overwrite
                it after the call.

        Returns:
            `[T, h]`, `norm(z + W2 gelu(W1 z))` with `z = norm(x)`. The next call for this layer may overwrite it,
            except for the last layer.
        """

    @abstractmethod
    def pool(self, x: Float32s) -> Float32s:
        """Return `tanh(W x)` of first tokens, `[T, h]` to `[T, h]`, where T is a compiled row length."""

    def encode_rows(self, rows: Sequence[RowInput], lengths: Sequence[int]) -> list[Float32s]:
        """Run all layers.

        Args:
            rows: At most `rows_per_run`.
            lengths: Row lengths to choose from, ascending.

        Returns:
            The sequence output of each row, `[tokens, h]`, which later calls do not overwrite.
        """
        return [self._encode_row(row, lengths) for row in rows]

    def pool_rows(self, x: Float32s, lengths: Sequence[int]) -> Float32s:
        """Return the pooled outputs of any number of first tokens, `[M, h]` to `[M, h]`."""
        parts = chunks(len(x), lengths)
        padded = np.zeros((parts[-1].start + parts[-1].length, x.shape[1]), np.float32)
        padded[: len(x)] = x
        return _in_chunks(parts, x.shape[1], lambda part: self.pool(padded[part]))[: len(x)]

    def _encode_row(self, row: RowInput, lengths: Sequence[int]) -> Float32s:
        """Run all layers on one row, with one transform per sequence and token-wise programs per chunk."""
        tokens = row.row.tokens
        parts = chunks(tokens, lengths)
        total = parts[-1].start + parts[-1].length
        ids = np.zeros((3, total), np.int32)
        ids[:, :tokens] = row.token_ids, row.segment_ids, row.positions
        hidden = self.architecture.hidden_dim
        x = _in_chunks(parts, hidden, lambda part: self.embed(*ids[:, part]))
        layout = self._mixing.layout(row.row)
        residual = self._workspace(total)
        residual[tokens:] = 0
        for layer in range(self.architecture.num_layers):
            self._mixing.add(x, layout, residual)
            x = _in_chunks(parts, hidden, lambda part, layer=layer: self.feed_forward(layer, residual[part]))  # type: ignore[misc]
        return x[:tokens]

    def _workspace(self, tokens: int) -> Float32s:
        """Return an array of `tokens` rows, reused between runs up to the longest row length."""
        if tokens > self.lengths[-1]:
            return np.empty((tokens, self.architecture.hidden_dim), np.float32)
        if len(self._residual) < tokens:
            self._residual = np.empty((self.lengths[-1], self.architecture.hidden_dim), np.float32)
        return self._residual[:tokens]

    @classmethod  # noqa: B027 - optional
    def use_compilation_cache(cls, directory: Path) -> None:
        """Store compiled programs in a directory from now on, and reuse stored programs."""

    @classmethod  # noqa: B027 - optional
    def on_compilation(cls, callback: Callable[[], None]) -> None:
        """Install a compile hook: call `callback` whenever a program is compiled in this process from now on."""


def _in_chunks(parts: Sequence[Chunk], hidden: int, call: Callable[[slice], Float32s]) -> Float32s:
    """Return the outputs of a token-wise program for all chunks of a row, padding included."""
    if len(parts) == 1:
        return call(slice(0, parts[0].length))
    output = np.empty((parts[-1].start + parts[-1].length, hidden), np.float32)
    for part in parts:
        tokens = slice(part.start, part.start + part.length)
        # Copied immediately, since the next call may overwrite the result.
        output[tokens] = call(tokens)
    return output


def feed_forward_dtype(architecture: Architecture, dtype: Dtype) -> Dtype:
    """Return the dtype of the products of a network: `dtype`, or float32 for small networks."""
    smallest = min(architecture.hidden_dim, architecture.intermediate_dim)
    return dtype if smallest >= _MIN_NARROW_FEATURES else "float32"

"""What a backend computes: embeddings, one feed-forward layer, and pooling, for rows of fixed lengths.

Everything here is token-wise. Mixing, which is not, is one transform per sequence on the host between two layers
(`model.mixing`); a backend for accelerators mixes on the device instead and overrides `encode_rows`.
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
# Matrix units sum 32 narrow terms at a time: with fewer than two such steps a narrow dtype brings no speed, and the
# rounding errors of so few features do not average out.
_MIN_NARROW_FEATURES = 64
# Features that share a scale in int8; hidden and intermediate size have to be multiples of it.
MIN_GROUP_SIZE = 32


class BackendError(RuntimeError):
    """A backend cannot run this network on this machine. The message is one line that says why and what to do."""


class RowInput(NamedTuple):
    """A row's tokens, and which of them form a sequence.

    Attributes:
        token_ids: `[T]`.
        segment_ids: `[T]`.
        positions: `[T]`, each token's position in its own sequence.
        row: The sequences.
    """

    token_ids: Int32s
    segment_ids: Int32s
    positions: Int32s
    row: Row


class Backend(ABC):
    """A network, ready to run in one library.

    Args:
        architecture: The network.
        weights: Its variables, by the names of `Architecture.variable_shapes`.
        dtype: Operands of the feed-forward products; all else is float32.
        lengths: Row lengths that will be compiled, ascending.

    Attributes:
        devices: Names of the devices.
        rows_per_run: Number of rows that run together, one on each device.
    """

    devices: list[str]
    rows_per_run: int = 1

    def __init__(self, architecture: Architecture, weights: Weights, dtype: Dtype, lengths: Sequence[int]) -> None:  # noqa: ARG002 - what subclasses take
        self.architecture = architecture
        self.lengths = tuple(lengths)
        self._mixing = FourierMixing(len(os.sched_getaffinity(0)))
        self._residual: Float32s = np.zeros((0, architecture.hidden_dim), np.float32)

    @abstractmethod
    def compile(self, progress: Callable[[int, int], None]) -> None:
        """Prepare all row lengths.

        Args:
            progress: Called with the number of row lengths that are ready, and of all.
        """

    def release(self, length: int) -> None:
        """Free what was prepared for a row length."""
        self.lengths = tuple(kept for kept in self.lengths if kept != length)

    @abstractmethod
    def embed(self, token_ids: Int32s, segment_ids: Int32s, positions: Int32s) -> Float32s:
        """Return the input of the first layer.

        Args:
            token_ids: `[T]`, T a compiled row length.
            segment_ids: `[T]`.
            positions: `[T]`.

        Returns:
            `[T, h]`.
        """

    @abstractmethod
    def feed_forward(self, layer: int, x: Float32s) -> Float32s:
        """Return a layer's output.

        Args:
            layer: Index of the layer.
            x: `[T, h]`, the layer's input plus its mixing, T a compiled row length. It may change after the call.

        Returns:
            `[T, h]`, `norm(z + W2 gelu(W1 z))` with `z = norm(x)`. Where a later layer follows, the next call for this
            layer may overwrite it.
        """

    @abstractmethod
    def pool(self, x: Float32s) -> Float32s:
        """Return `tanh(W x)` of first tokens, `[T, h]` to `[T, h]`, T a compiled row length."""

    def encode_rows(self, rows: Sequence[RowInput], lengths: Sequence[int]) -> list[Float32s]:
        """Run all layers.

        Args:
            rows: At most `rows_per_run`.
            lengths: Row lengths to choose from, ascending.

        Returns:
            For each the sequence output of its tokens, `[tokens, h]`. It is not written to later.
        """
        return [self._encode_row(row, lengths) for row in rows]

    def pool_rows(self, x: Float32s, lengths: Sequence[int]) -> Float32s:
        """Return the pooled outputs of any number of first tokens, `[M, h]` to `[M, h]`."""
        parts = chunks(len(x), lengths)
        padded = np.zeros((parts[-1].start + parts[-1].length, x.shape[1]), np.float32)
        padded[: len(x)] = x
        return _in_chunks(parts, x.shape[1], lambda part: self.pool(padded[part]))[: len(x)]

    def _encode_row(self, row: RowInput, lengths: Sequence[int]) -> Float32s:
        """Run all layers on one row: a transform per sequence, and token-wise programs per chunk."""
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
        """Return an array for `tokens` rows, kept from one run to the next up to the longest row length."""
        if tokens > self.lengths[-1]:
            return np.empty((tokens, self.architecture.hidden_dim), np.float32)
        if len(self._residual) < tokens:
            self._residual = np.empty((self.lengths[-1], self.architecture.hidden_dim), np.float32)
        return self._residual[:tokens]

    @classmethod  # noqa: B027 - a backend may have nothing to keep
    def use_compilation_cache(cls, directory: Path) -> None:
        """Keep compiled programs in a directory from now on, and reuse those that it holds."""

    @classmethod  # noqa: B027 - or nothing to compile
    def on_compilation(cls, callback: Callable[[], None]) -> None:
        """Call `callback` whenever a program is compiled in this process from now on."""


def _in_chunks(parts: Sequence[Chunk], hidden: int, call: Callable[[slice], Float32s]) -> Float32s:
    """Return the outputs of a token-wise program for all chunks of a row, padding included."""
    if len(parts) == 1:
        return call(slice(0, parts[0].length))
    output = np.empty((parts[-1].start + parts[-1].length, hidden), np.float32)
    for part in parts:
        place = slice(part.start, part.start + part.length)
        # Copied at once: the next call may overwrite what this one returned.
        output[place] = call(place)
    return output


def feed_forward_dtype(architecture: Architecture, dtype: Dtype) -> Dtype:
    """Return the dtype of a network's products, asked for `dtype`: small networks multiply in float32."""
    smallest = min(architecture.hidden_dim, architecture.intermediate_dim)
    return dtype if smallest >= _MIN_NARROW_FEATURES else "float32"

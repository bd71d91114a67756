"""The student's forward pass for training: the variables of an `FNetBackbone` over packed rows.

Training does not pad: texts of any lengths are concatenated in rows, and the mixing along a row is a
product with block-diagonal DFT matrices. A test compares it with the backbone's own forward pass. It needs Keras's
torch backend, which trains fastest on CPUs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from model.backbone import FNetBackbone
from model.layers import LAYER_NORM_EPSILON

# tanh(u) = 2 sigmoid(2u) - 1, with u = sqrt(2 / pi) (x + 0.044715 x^3).
_GELU_SLOPE = 2 * math.sqrt(2 / math.pi)
_GELU_CUBIC = 0.044715 * _GELU_SLOPE


# How many of the last rows a text can be added to.
_OPEN_ROWS = 4


@dataclass(frozen=True, slots=True)
class Rows:
    """Texts packed into rows.

    Attributes:
        token_ids: `[rows, length]` int64; 0 in unused positions, which belong to no text.
        positions: `[rows, length]`, position in the text.
        lengths: `[rows, length]`, length of the text; 1 in unused positions.
        owners: `[rows, length]`, index of the text; the number of texts in unused positions.
        first_token_index: `[texts]`, index of each text's first token in the flattened rows.
    """

    token_ids: Tensor
    positions: Tensor
    lengths: Tensor
    owners: Tensor
    first_token_index: Tensor


def pack(texts: Sequence[Sequence[int]], row_tokens: int, rows: int) -> tuple[Rows, int]:
    """Pack texts into rows in their order, until one does not fit.

    Args:
        texts: Token ids, at most `row_tokens` per text.
        row_tokens: Length of a row.
        rows: Number of rows.

    Returns:
        The rows, and the number of texts in them.
    """
    shape = (rows, row_tokens)
    ids, positions, lengths = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.ones(shape, np.int64)
    owners = np.full(shape, -1, np.int64)
    first_token_index: list[int] = []
    ends = [0] * rows
    last_row = 0
    for index, text in enumerate(texts):
        length = len(text)
        candidates = range(max(0, last_row - _OPEN_ROWS + 1), last_row + 1)
        row = next((candidate for candidate in candidates if ends[candidate] + length <= row_tokens), last_row + 1)
        if row == rows:
            break
        last_row = max(last_row, row)
        span = slice(ends[row], ends[row] + length)
        ids[row, span], positions[row, span] = text, np.arange(length)
        lengths[row, span], owners[row, span] = length, index
        first_token_index.append(row * row_tokens + ends[row])
        ends[row] += length
    owners[owners < 0] = len(first_token_index)
    arrays = (ids, positions, lengths, owners, np.asarray(first_token_index))
    return Rows(*map(torch.from_numpy, arrays)), len(first_token_index)


class Student:
    """Runs an `FNetBackbone`'s variables over packed rows.

    Args:
        backbone: A backbone on the torch backend; its variables are trained.
        compute_dtype: Data type of the operands of matrix products; the rest is float32. The fastest type by default.
        compiled: Whether to fuse elementwise operations, which takes a minute at the first call.
    """

    def __init__(
        self, backbone: FNetBackbone, compute_dtype: torch.dtype | None = None, *, compiled: bool = False
    ) -> None:
        self.backbone = backbone
        self.compute_dtype = compute_dtype or fastest_dtype()
        self.variables: dict[str, Tensor] = {
            name: variable.value for name, variable in backbone.named_variables().items()
        }
        cosine, sine = _dft_matrices(backbone.hidden_dim)
        half = backbone.hidden_dim // 2 + 1
        self._hidden_dft = torch.cat([cosine[:, :half], sine[:, :half]], dim=1).to(self.compute_dtype)
        self._layer: Any = torch.compile(_layer, dynamic=False) if compiled else _layer

    def states(self, rows: Rows) -> Tensor:
        """Return `[rows, length, hidden]` float32, the sequence output; values in unused positions are meaningless."""
        weights = self.variables
        x = (
            functional.embedding(rows.token_ids, weights["token_embedding/embeddings"])
            + functional.embedding(rows.positions, weights["position_embedding/embeddings"])
            + weights["segment_embedding/embeddings"][0]
        )
        x = _layer_norm(x, weights["embeddings_layer_norm/gamma"], weights["embeddings_layer_norm/beta"])
        x = _dense(x, weights["embedding_projection/kernel"], weights["embedding_projection/bias"], self.compute_dtype)
        row_dft = _block_diagonal_dft(rows, self.compute_dtype)
        for index in range(self.backbone.num_layers):
            prefix = f"layers/{index}/"
            layer_weights = [weight for name, weight in weights.items() if name.startswith(prefix)]
            x = self._layer(x, self._hidden_dft, row_dft, *layer_weights)
        return x

    def outputs(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return the pooled and the mean output of every text, `[texts, hidden]` float32 each."""
        states = self.states(rows).flatten(0, 1)
        kernel, bias = self.variables["pooled_dense/kernel"], self.variables["pooled_dense/bias"]
        pooled = torch.tanh(states[rows.first_token_index] @ kernel + bias)
        texts = len(rows.first_token_index)
        sums = states.new_zeros(texts + 1, states.shape[1]).index_add(0, rows.owners.flatten(), states)[:texts]
        return pooled, sums / rows.lengths.flatten()[rows.first_token_index][:, None]


def fastest_dtype() -> torch.dtype:
    """Return bfloat16 if its matrix products are faster than those of float32; CPUs without it emulate it slowly."""
    return min((torch.bfloat16, torch.float32), key=_min_product_seconds)


def _min_product_seconds(dtype: torch.dtype) -> float:
    """Return the minimum time of a product that has the size of a small layer's."""
    left, right = torch.ones(512, 384, dtype=dtype), torch.ones(384, 1024, dtype=dtype)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _layer(
    x: Tensor,
    hidden_dft: Tensor,
    row_dft: Tensor,
    mixing_gamma: Tensor,
    mixing_beta: Tensor,
    intermediate_kernel: Tensor,
    intermediate_bias: Tensor,
    output_kernel: Tensor,
    output_bias: Tensor,
    output_gamma: Tensor,
    output_beta: Tensor,
) -> Tensor:
    compute_dtype = hidden_dft.dtype
    hidden, half = x.shape[-1], hidden_dft.shape[1] // 2
    spectrum = x.to(compute_dtype) @ hidden_dft
    # Half of the columns suffice: x is real, so column h - k is the sum of the terms whose difference is column k.
    cosine = (row_dft[0] @ spectrum[..., :half]).float()
    sine = (row_dft[1] @ spectrum[..., half:]).float()
    mirrored = (cosine + sine)[..., 1 : hidden - half + 1].flip(-1)
    x = _layer_norm(x + torch.cat([cosine - sine, mirrored], dim=-1), mixing_gamma, mixing_beta)
    inner = _gelu(_dense(x, intermediate_kernel, intermediate_bias, compute_dtype))
    return _layer_norm(x + _dense(inner, output_kernel, output_bias, compute_dtype), output_gamma, output_beta)


def _gelu(x: Tensor) -> Tensor:
    """Return the tanh approximation of GELU, computed with a sigmoid in half of the time."""
    return x * torch.sigmoid(x * (_GELU_SLOPE + _GELU_CUBIC * x * x))


def _dense(x: Tensor, kernel: Tensor, bias: Tensor, compute_dtype: torch.dtype) -> Tensor:
    biased: Tensor = _AddBias.apply(x.to(compute_dtype) @ kernel.to(compute_dtype), bias)
    return biased


class _AddBias(torch.autograd.Function):  # type: ignore[misc] # torch is Any where it is not installed
    """Adds a bias in float32; the bias's gradient is a matrix product, which is faster than a sum over the rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        ctx.dtype = x.dtype
        return x.float() + bias

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        converted = gradient.to(ctx.dtype)
        rows = converted.flatten(0, -2)
        return converted, (rows.new_ones(1, rows.shape[0]) @ rows)[0].float()


def _layer_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return functional.layer_norm(x, (x.shape[-1],), gamma, beta, LAYER_NORM_EPSILON)


def _dft_matrices(size: int) -> tuple[Tensor, Tensor]:
    """Return the cosine and the sine matrix of a DFT, each `[size, size]`."""
    positions = torch.arange(size)
    angles = (2 * math.pi / size) * (positions[:, None] * positions % size).double()
    return torch.cos(angles).float(), torch.sin(angles).float()


def _block_diagonal_dft(rows: Rows, compute_dtype: torch.dtype) -> Tensor:
    """Return block-diagonal cosine and sine matrices with one block per text, `[2, rows, length, length]`."""
    phase = rows.positions[:, :, None] * rows.positions[:, None, :] % rows.lengths[:, None, :]
    angles = phase * (2 * math.pi / rows.lengths[:, None, :])
    same_text = (rows.owners[:, :, None] == rows.owners[:, None, :]).float()
    return torch.stack([torch.cos(angles) * same_text, torch.sin(angles) * same_text]).to(compute_dtype)

"""The student's forward pass for training: `FNetBackbone`'s own variables over packed rows.

Nothing is padded, as in serving: texts of any lengths lie end to end in rows, and the mixing along a row is a product
with a block-diagonal basis. A test compares it with the backbone's own forward pass.
Runs on Keras's torch backend, which trains fastest on processors.
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


@dataclass(frozen=True, slots=True)
class Rows:
    """Texts packed into rows.

    Attributes:
        token_ids: `[rows, length]` int64; unused places hold 0 and belong to no text.
        positions: `[rows, length]`, place in the own text.
        lengths: `[rows, length]`, length of the own text; 1 in unused places.
        owners: `[rows, length]`, index of the own text; the number of texts in unused places.
        firsts: `[texts]`, where each text starts in the flattened rows.
    """

    token_ids: Tensor
    positions: Tensor
    lengths: Tensor
    owners: Tensor
    firsts: Tensor


def pack(texts: Sequence[Sequence[int]], row_tokens: int, rows: int) -> tuple[Rows, int]:
    """Lay as many texts as fit, in their order, a row after the other.

    Args:
        texts: Token ids, each at most `row_tokens` of them.
        row_tokens: Length of a row.
        rows: Number of rows.

    Returns:
        The rows, and how many texts are in them.
    """
    shape = (rows, row_tokens)
    ids, positions, lengths = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.ones(shape, np.int64)
    owners = np.full(shape, -1, np.int64)
    firsts: list[int] = []
    # The last few rows begun: a text goes in the first of them with room for it.
    ends = [0] * rows
    row = 0
    for index, text in enumerate(texts):
        length = len(text)
        place = next((r for r in range(max(0, row - 3), row + 1) if ends[r] + length <= row_tokens), row + 1)
        if place == rows:
            break
        row = max(row, place)
        at = slice(ends[place], ends[place] + length)
        ids[place, at], positions[place, at] = text, np.arange(length)
        lengths[place, at], owners[place, at] = length, index
        firsts.append(place * row_tokens + ends[place])
        ends[place] += length
    owners[owners < 0] = len(firsts)
    return Rows(*map(torch.from_numpy, (ids, positions, lengths, owners, np.asarray(firsts)))), len(firsts)


class Student:
    """Runs an `FNetBackbone`'s variables over packed rows.

    Args:
        backbone: Built on the torch backend; its variables are what is trained.
        precision: Of the products' operands; everything else is float32. By default whichever is faster here.
        compiled: Whether to fuse the elementwise work, which takes a minute the first time.
    """

    def __init__(self, backbone: FNetBackbone, precision: torch.dtype | None = None, *, compiled: bool = False) -> None:
        self.backbone = backbone
        precision = precision or faster_precision()
        self.precision = precision
        self.variables: dict[str, Tensor] = {
            name: variable.value for name, variable in backbone.named_variables().items()
        }
        cosine, sine = _basis(backbone.hidden_dim)
        half = backbone.hidden_dim // 2 + 1
        self._hidden = torch.cat([cosine[:, :half], sine[:, :half]], dim=1).to(precision)
        self._layer: Any = torch.compile(_layer, dynamic=False) if compiled else _layer

    def states(self, rows: Rows) -> Tensor:
        """Return `[rows, length, hidden]` float32, the sequence output; unused places hold nothing of use."""
        weights = self.variables
        x = (
            functional.embedding(rows.token_ids, weights["token_embedding/embeddings"])
            + functional.embedding(rows.positions, weights["position_embedding/embeddings"])
            + weights["segment_embedding/embeddings"][0]
        )
        x = _normalise(x, weights["embeddings_layer_norm/gamma"], weights["embeddings_layer_norm/beta"])
        x = _dense(x, weights["embedding_projection/kernel"], weights["embedding_projection/bias"], self.precision)
        bases = _row_bases(rows, self.precision)
        for index in range(self.backbone.num_layers):
            prefix = f"layers/{index}/"
            own = [weight for name, weight in weights.items() if name.startswith(prefix)]
            x = self._layer(x, self._hidden, bases, *own)
        return x

    def outputs(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return the pooled and the mean output of every text, `[texts, hidden]` float32 each."""
        states = self.states(rows).flatten(0, 1)
        kernel, bias = self.variables["pooled_dense/kernel"], self.variables["pooled_dense/bias"]
        pooled = torch.tanh(states[rows.firsts] @ kernel + bias)
        texts = len(rows.firsts)
        sums = states.new_zeros(texts + 1, states.shape[1]).index_add(0, rows.owners.flatten(), states)[:texts]
        return pooled, sums / rows.lengths.flatten()[rows.firsts][:, None]


def faster_precision() -> torch.dtype:
    """Return bfloat16 where products of it are faster than of float32: processors without it imitate it slowly."""
    return min((torch.bfloat16, torch.float32), key=_seconds_of_products)


def _seconds_of_products(precision: torch.dtype) -> float:
    """Return the least time that a product of the size of a small layer's takes."""
    left, right = torch.ones(512, 384, dtype=precision), torch.ones(384, 1024, dtype=precision)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _layer(
    x: Tensor,
    hidden_basis: Tensor,
    bases: Tensor,
    mixing_gamma: Tensor,
    mixing_beta: Tensor,
    intermediate_kernel: Tensor,
    intermediate_bias: Tensor,
    output_kernel: Tensor,
    output_bias: Tensor,
    output_gamma: Tensor,
    output_beta: Tensor,
) -> Tensor:
    precision = hidden_basis.dtype
    hidden, half = x.shape[-1], hidden_basis.shape[1] // 2
    spectrum = x.to(precision) @ hidden_basis
    # Half of the columns; x is real, so column h - k is the sum where column k is the difference.
    cosine = (bases[0] @ spectrum[..., :half]).float()
    sine = (bases[1] @ spectrum[..., half:]).float()
    mirrored = (cosine + sine)[..., 1 : hidden - half + 1].flip(-1)
    x = _normalise(x + torch.cat([cosine - sine, mirrored], dim=-1), mixing_gamma, mixing_beta)
    inner = _gelu(_dense(x, intermediate_kernel, intermediate_bias, precision))
    return _normalise(x + _dense(inner, output_kernel, output_bias, precision), output_gamma, output_beta)


def _gelu(x: Tensor) -> Tensor:
    """GELU by its tanh approximation, written with a sigmoid: the same function at half the time."""
    return x * torch.sigmoid(x * (_GELU_SLOPE + _GELU_CUBIC * x * x))


def _dense(x: Tensor, kernel: Tensor, bias: Tensor, precision: torch.dtype) -> Tensor:
    biased: Tensor = _AddBias.apply(x.to(precision) @ kernel.to(precision), bias)
    return biased


class _AddBias(torch.autograd.Function):  # type: ignore[misc] # torch is Any where it is not installed
    """Widens to float32 and adds a bias; the bias's gradient is a product, faster here than a sum over the rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        ctx.precision = x.dtype
        return x.float() + bias

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        narrow = gradient.to(ctx.precision)
        rows = narrow.flatten(0, -2)
        return narrow, (rows.new_ones(1, rows.shape[0]) @ rows)[0].float()


def _normalise(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return functional.layer_norm(x, (x.shape[-1],), gamma, beta, LAYER_NORM_EPSILON)


def _basis(size: int) -> tuple[Tensor, Tensor]:
    """Return the cosine and the sine matrix of a size, each `[size, size]`."""
    places = torch.arange(size)
    angles = (2 * math.pi / size) * (places[:, None] * places % size).double()
    return torch.cos(angles).float(), torch.sin(angles).float()


def _row_bases(rows: Rows, precision: torch.dtype) -> Tensor:
    """Return `[2, rows, length, length]`: the cosine and the sine matrices of the texts in their blocks."""
    phase = rows.positions[:, :, None] * rows.positions[:, None, :] % rows.lengths[:, None, :]
    angles = phase * (2 * math.pi / rows.lengths[:, None, :])
    same = (rows.owners[:, :, None] == rows.owners[:, None, :]).float()
    return torch.stack([torch.cos(angles) * same, torch.sin(angles) * same]).to(precision)

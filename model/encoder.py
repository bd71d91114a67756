"""The packed encoder: FNet over rows of many sequences, nothing padded, every program compiled before it is needed.

It computes what `FNetBackbone` computes (`model.backbone` is the reference, `model.selftest` holds one to the other).
Three small programs exist for every row length: embed, one layer, and pool. All layers share one program, called with
each layer's weights, so compiling does not grow with depth and weights are arguments, never constants.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array, lax

from model.architecture import Architecture
from model.checkpoints import Weights
from model.fourier import Float32s, HiddenOrder, Int32s, block_bases, mix, product, sequence_table
from model.packing import Row, distribute, lay, row_lengths

Dtype = Literal["float32", "bfloat16"]

# Fewer tokens than this along a row select another matrix-product routine, whose sums round differently.
_SHORTEST_BASIS = 64
# A product with a single row is another routine too.
_FEWEST_POOLED = 2
_EPSILON = 1e-12


class NonFiniteOutputError(ArithmeticError):
    """A row's output holds NaN or infinity."""


class Tokens(NamedTuple):
    """One sequence.

    Attributes:
        token_ids: `[n]` int32, each in `[0, vocabulary_size)`.
        segment_ids: `[n]` int32, each in `[0, num_segments)`.
    """

    token_ids: Int32s
    segment_ids: Int32s


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """What the network gives for one sequence.

    Attributes:
        pooled_output: `[h]` float32.
    """

    pooled_output: Float32s
    _tokens: Float32s
    _inverse: npt.NDArray[np.intp]

    @property
    def sequence_output(self) -> Float32s:
        """`[n, h]` float32, put in order at each access."""
        return self._tokens[:, self._inverse]

    @property
    def nbytes(self) -> int:
        """Bytes of the outputs."""
        return self.pooled_output.nbytes + self._tokens.nbytes

    def detached(self) -> Encoding:
        """Return a copy that does not keep the memory of its whole row."""
        return Encoding(self.pooled_output.copy(), self._tokens.copy(), self._inverse)

    @property
    def mean_output(self) -> Float32s:
        """`[h]` float32, the mean of `sequence_output` over its tokens."""
        mean: Float32s = self._tokens.mean(axis=0)[self._inverse]
        return mean


class _Affine(NamedTuple):
    gamma: Array
    beta: Array


class _Dense(NamedTuple):
    kernel: Array
    bias: Array


class _Embedder(NamedTuple):
    tokens: Array
    positions: Array
    segments: Array
    norm: _Affine
    projection: _Dense


class _Layer(NamedTuple):
    mixing_norm: _Affine
    intermediate: _Dense
    output: _Dense
    output_norm: _Affine


class _Programs(NamedTuple):
    embed: Callable[..., tuple[Array, Array]]
    layer: Callable[..., Array]
    pool: Callable[..., tuple[Array, Array]]


class PackedEncoder:
    """FNet's weights on the device, and the programs that run them. Use it from one thread at a time.

    Args:
        architecture: The network.
        weights: Its variables, by the names of `Architecture.variable_shapes`.
        dtype: Dtype of the matrix products' operands; sums, normalisation and outputs are float32 always.
        most_tokens: Tokens to aim for in the longest row.

    Attributes:
        architecture: As given.
        dtype: As given.
        rows: Row lengths in use, ascending.
        alignment: Sequences start at multiples of it.
    """

    def __init__(
        self, architecture: Architecture, weights: Weights, *, dtype: Dtype = "float32", most_tokens: int = 512
    ) -> None:
        self.architecture = architecture
        self.dtype = dtype
        self.rows = row_lengths(architecture.max_sequence_length, most_tokens)
        self.alignment = self._closest = 1
        self._order = HiddenOrder(architecture.hidden_dim)
        self._basis = jax.device_put(self._order.basis.astype(jnp.dtype(dtype)))
        self._embedder, self._layers, self._pooler = _lay_out(architecture, weights, self._order, jnp.dtype(dtype))
        self._programs: dict[int, _Programs] = {}

    def compile(self, alignment: int = 1, progress: Callable[[int, int], None] = lambda _done, _of: None) -> None:
        """Compile the programs of every row length.

        Args:
            alignment: Sequences are to start at multiples of it; it may be raised later.
            progress: Told how many row lengths are done, and of how many.
        """
        self.alignment = self._closest = alignment
        progress(0, len(self.rows))
        # XLA compiles outside the interpreter's lock.
        with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
            waiting = {pool.submit(self._compile, length): length for length in self.rows}
            for done, compiled in enumerate(as_completed(waiting), start=1):
                self._programs[waiting[compiled]] = compiled.result()
                progress(done, len(self.rows))

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Drop every row length but `rows`; the longest has to stay."""
        self.rows = tuple(sorted(rows))
        self._programs = {length: self._programs[length] for length in self.rows}

    def encode(self, sequences: Sequence[Tokens]) -> list[Encoding]:
        """Encode any number of sequences, in as many rows as they need.

        Raises:
            ValueError: A sequence is longer than the longest row.
            NonFiniteOutputError: An output is not finite.
        """
        results: dict[int, Encoding] = {}
        for row in distribute([len(s.token_ids) for s in sequences], self.rows, self.alignment):
            encodings = self.run(row, [sequences[i] for i in row.members])
            results |= dict(zip(row.members, encodings, strict=True))
        return [results[i] for i in range(len(sequences))]

    def lay(self, sequences: Sequence[Tokens], length: int | None = None) -> Row:
        """Lay sequences in one row, the shortest that holds them or the one of the given length.

        Raises:
            ValueError: They do not fit.
        """
        return lay([len(s.token_ids) for s in sequences], self.rows if length is None else (length,), self.alignment)

    def run(self, row: Row, sequences: Sequence[Tokens]) -> list[Encoding]:
        """Encode the members of one row, given in the order in which they lie.

        Raises:
            NonFiniteOutputError: An output is not finite.
        """
        programs = self._programs[row.length]
        integers, tables = _row_arrays(row, sequences)
        firsts = np.zeros(self._most_members(row.length), np.int32)
        firsts[: len(row.starts)] = row.starts
        x, bases = programs.embed(self._embedder, integers, tables)
        for layer in self._layers:
            x = programs.layer(layer, self._basis, x, bases)
        pooled, finite = programs.pool(self._pooler, x, firsts)
        if not finite:
            raise NonFiniteOutputError("the network's output is not finite")
        tokens, vectors = np.asarray(x), np.asarray(pooled)
        return [
            Encoding(vectors[place], tokens[start : start + len(sequence.token_ids)], self._order.inverse)
            for place, (start, sequence) in enumerate(zip(row.starts, sequences, strict=True))
        ]

    @property
    def devices(self) -> list[str]:
        """Names of the devices that it runs on."""
        return [f"{device.platform}:{device.id} {device.device_kind}" for device in self._basis.devices()]

    def _most_members(self, length: int) -> int:
        return max(_FEWEST_POOLED, -(-length // self._closest))

    def _compile(self, length: int) -> _Programs:
        hidden = self.architecture.hidden_dim
        basis_length = max(length, _SHORTEST_BASIS)
        dtype = jnp.dtype(self.dtype)
        integers = _shape(5, basis_length, of=jnp.int32)
        tables = _shape(2, basis_length)
        x = _shape(length, hidden)
        bases = _shape(2, basis_length, basis_length, of=dtype)
        firsts = _shape(self._most_members(length), of=jnp.int32)
        plain = self._order.plain
        layer: Any = None
        if self._layers:
            layer = (
                jax.jit(lambda *arguments: _layer(*arguments, plain=plain), donate_argnums=2)
                .lower(self._layers[0], self._basis, x, bases)
                .compile()
            )
        return _Programs(
            embed=jax.jit(lambda *arguments: _embed(*arguments, length=length, dtype=dtype))
            .lower(self._embedder, integers, tables)
            .compile(),
            layer=layer,
            pool=jax.jit(_pool).lower(self._pooler, x, firsts).compile(),
        )


def _shape(*shape: int, of: Any = jnp.float32) -> Any:
    return jax.ShapeDtypeStruct(shape, of)  # type: ignore[no-untyped-call] # JAX leaves this one out


def on_compilation(callback: Callable[[], None]) -> None:
    """Have `callback` called whenever XLA compiles a program in this process, from now on."""

    def listen(event: str, duration_secs: float, **_details: str | int) -> None:  # noqa: ARG001 - called by name
        if event == "/jax/core/compile/backend_compile_duration":
            callback()

    jax.monitoring.register_event_duration_secs_listener(listen)


def _row_arrays(row: Row, sequences: Sequence[Tokens]) -> tuple[Int32s, Float32s]:
    """Describe a row to the embed program: ids, segments, positions, lengths and starts `[5, T]`; tables `[2, T]`."""
    size = max(row.length, _SHORTEST_BASIS)
    integers = np.zeros((5, size), np.int32)
    tables = np.zeros((2, size), np.float32)
    # An unused place is a sequence of one token by itself.
    integers[3] = 1
    integers[4] = np.arange(size)
    tables[0] = 1
    for start, (token_ids, segment_ids) in zip(row.starts, sequences, strict=True):
        length = len(token_ids)
        place = slice(start, start + length)
        integers[0, place] = token_ids
        integers[1, place] = segment_ids
        integers[2, place] = np.arange(length)
        integers[3, place] = length
        integers[4, place] = start
        tables[:, place] = sequence_table(length)
    return integers, tables


def _embed(
    embedder: _Embedder, integers: Array, tables: Array, *, length: int, dtype: npt.DTypeLike
) -> tuple[Array, Array]:
    token_ids, segment_ids, positions, lengths, starts = integers
    bases = block_bases(positions, lengths, starts, tables, dtype)
    x = (
        embedder.tokens[token_ids[:length]].astype(jnp.float32)
        + embedder.positions[positions[:length]]
        + embedder.segments[segment_ids[:length]]
    )
    return _dense(_normalise(x, embedder.norm), embedder.projection), bases


def _layer(layer: _Layer, order_basis: Array, x: Array, bases: Array, *, plain: int) -> Array:
    x = _normalise(x + mix(x, order_basis, bases, plain), layer.mixing_norm)
    inner = jax.nn.gelu(_dense(x, layer.intermediate), approximate=True)
    return _normalise(x + _dense(inner, layer.output), layer.output_norm)


def _pool(pooler: _Dense, x: Array, firsts: Array) -> tuple[Array, Array]:
    pooled = jnp.tanh(_dense(x[firsts], pooler))
    finite: Array = jnp.isfinite(x).all() & jnp.isfinite(pooled).all()
    return pooled, finite


def _dense(x: Array, dense: _Dense) -> Array:
    return product(x, dense.kernel) + dense.bias


def _normalise(x: Array, norm: _Affine) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    scaled: Array = centred * lax.rsqrt(variance + _EPSILON) * norm.gamma
    return scaled + norm.beta


def _lay_out(
    architecture: Architecture, weights: Weights, order: HiddenOrder, dtype: npt.DTypeLike
) -> tuple[_Embedder, list[_Layer], _Dense]:
    """Put the weights on the device: kernels `[out, in]`, the hidden axis in the order that mixing leaves it in."""
    inside = order.order

    def put(array: npt.NDArray[Any], of: npt.DTypeLike = np.float32) -> Array:
        placed: Array = jax.device_put(np.ascontiguousarray(array).astype(of))
        return placed

    def norm(name: str, places: npt.NDArray[np.intp] | slice) -> _Affine:
        return _Affine(put(weights[f"{name}/gamma"][places]), put(weights[f"{name}/beta"][places]))

    def dense(name: str, *, of: Any = slice(None), to: Any = slice(None)) -> _Dense:
        return _Dense(put(weights[f"{name}/kernel"].T[:, of][to], dtype), put(weights[f"{name}/bias"][to]))

    embedder = _Embedder(
        put(weights["token_embedding/embeddings"], dtype),
        put(weights["position_embedding/embeddings"]),
        put(weights["segment_embedding/embeddings"]),
        norm("embeddings_layer_norm", slice(None)),
        dense("embedding_projection", to=inside),
    )
    layers = [
        _Layer(
            norm(f"{name}/mixing_layer_norm", inside),
            dense(f"{name}/intermediate_dense", of=inside),
            dense(f"{name}/output_dense", to=inside),
            norm(f"{name}/output_layer_norm", inside),
        )
        for name in (f"layers/{index}" for index in range(architecture.num_layers))
    ]
    return embedder, layers, dense("pooled_dense", of=inside)

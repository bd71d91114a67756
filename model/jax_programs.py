"""The network in JAX: a few small programs for every row length, compiled before they are needed.

All layers share one program, called with each layer's weights, so compiling does not grow with depth and weights are
arguments, never constants. With several devices every program runs on all of them at once, each with a row of its own:
what a device computes is the same as if it were alone.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Split

from model.architecture import Architecture
from model.checkpoints import Weights
from model.fourier import Float32s, HiddenOrder
from model.jax_mixing import Mixing, Waves, fft_is_invariant, mix, mix_by_fft, product
from model.programs import Dtype, Places, RowArrays, Transform, kernel_in_order

_EPSILON = 1e-12
_ROWS = "rows"
# What tells kinds of processors apart, on Intel's and AMD's and on ARM's.
_TELLING = ("model name", "flags", "CPU implementer", "CPU part", "Features")


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


class _Layers(NamedTuple):
    """What takes bases of one size of segments."""

    place: Callable[..., Any]
    layer: Callable[..., Any]


class _Compiled(NamedTuple):
    embed: Callable[..., Any]
    layers: dict[int, _Layers]
    pool: Callable[..., Any]


class JaxPrograms:
    """Implements `model.programs.Programs`.

    Args:
        architecture: The network.
        weights: Its variables, by the names of `Architecture.variable_shapes`.
        dtype: Dtype of the matrix products' operands; sums, normalisation and outputs are float32 always.
    """

    # Fewer tokens than this along a row select another matrix-product routine, whose sums round differently.
    shortest_basis = 64
    carries = True
    segmented = True

    def __init__(self, architecture: Architecture, weights: Weights, dtype: Dtype) -> None:
        devices = jax.local_devices()
        self.rows_at_once = len(devices)
        self.devices = [f"{device.platform}:{device.id} {device.device_kind}" for device in devices]
        self._architecture = architecture
        self._dtype = jnp.dtype(dtype)
        self._mesh = Mesh(np.array(devices), (_ROWS,))
        hidden = architecture.hidden_dim
        self.transform: Transform = "fft"
        self._waves: Waves | None = None
        inside: Places = slice(None)
        self.published: Places = slice(None)
        # Other devices, and narrower products, are faster with matrices along the hidden axis, too.
        if not (dtype == "float32" and devices[0].platform == "cpu" and fft_is_invariant(hidden)):
            self.transform, order = "products", HiddenOrder(hidden)
            self._waves = Waves(self._put(order.cosines, self._dtype), self._put(order.sines, self._dtype))
            inside, self.published = order.order, order.inverse
        self._embedder, self._layers, self._pooler = self._lay_out(weights, inside)
        self._compiled: dict[int, _Compiled] = {}

    def compile(self, length: int, members: int, segments: Sequence[int]) -> None:
        """Compile the programs of a row length; XLA does so outside the interpreter's lock."""
        basis = max(length, self.shortest_basis)
        ids, x = self._shape(length, of=jnp.int32), self._shape(length, self._architecture.hidden_dim)
        self._compiled[length] = _Compiled(
            embed=self._program(_embed, 1, (self._embedder,), (ids, ids, ids)),
            layers={size: self._layers_of(x, basis, size) for size in (*segments, basis) if self._layers},
            pool=self._program(_pool, 1, (self._pooler,), (x, self._shape(members, of=jnp.int32))),
        )

    def _layers_of(self, x: Any, basis: int, size: int) -> _Layers:
        """Compile what takes bases of segments of one size, `basis` in all."""
        length, dtype = x.shape[-2], self._dtype
        places, others = self._shape(length, of=jnp.int32), self._shape(length, 1)
        bases = (2, basis // size, size, size)

        def cast(bases: Array) -> Array:
            return bases.astype(dtype)

        def layer(layer: _Layer, waves: Waves | None, x: Array, *mixing: Array) -> Array:
            return _layer(layer, waves, x, Mixing(*mixing))

        row = (x, places, others, others, self._shape(*bases, of=dtype))
        narrow = dtype != jnp.float32
        return _Layers(
            place=self._program(cast, 0, (), (self._shape(*bases),)) if narrow else self._placed,
            layer=self._program(layer, 2, (self._layers[0], self._waves), row, donate=2),
        )

    def forget(self, length: int) -> None:
        """Free the programs of a row length."""
        self._compiled.pop(length, None)

    def run(self, length: int, rows: list[RowArrays]) -> list[tuple[Float32s, Float32s]]:
        """Run rows, each on its device; devices without one repeat the first."""
        row = self._together(rows)
        x = self._states(length, row, self._layers)
        pooled = np.asarray(self._compiled[length].pool(self._pooler, x, row.firsts))
        tokens = np.asarray(x)
        if self.rows_at_once == 1:
            return [(tokens, pooled)]
        return [(tokens[row], pooled[row]) for row in range(len(rows))]

    def mixes_alike(self, length: int, one: RowArrays, other: RowArrays) -> bool:
        """Compare the first layer's outputs: all layers are one program."""
        outputs = [np.asarray(self._states(length, self._together([row]), self._layers[:1])) for row in (one, other)]
        return outputs[0].tobytes() == outputs[1].tobytes()

    def _together(self, rows: list[RowArrays]) -> RowArrays:
        """Return what the programs take for rows: one row, or one for each device, the first again where they lack."""
        if self.rows_at_once == 1:
            return rows[0]
        filled = rows + rows[:1] * (self.rows_at_once - len(rows))
        return RowArrays(*map(np.stack, zip(*filled, strict=True)))

    def _states(self, length: int, row: RowArrays, layers: Sequence[_Layer]) -> Any:
        """Return what comes out of the last of some layers."""
        programs = self._compiled[length]
        x = programs.embed(self._embedder, row.token_ids, row.segment_ids, row.positions)
        if layers:
            place, run = programs.layers[row.bases.shape[-1]]
            bases = place(row.bases)
            for layer in layers:
                x = run(layer, self._waves, x, row.carriers, row.others, row.leads, bases)
        return x

    def _program(
        self,
        function: Callable[..., Any],
        shared: int,
        everywhere: tuple[Any, ...],
        each: tuple[Any, ...],
        *,
        donate: int | None = None,
    ) -> Callable[..., Any]:
        """Compile a function of `shared` arguments that all devices have and others of which each has its own."""
        donated = () if donate is None else (donate,)
        if self.rows_at_once == 1:
            return jax.jit(function, donate_argnums=donated).lower(*everywhere, *each).compile()

        def on_one(*arguments: Any) -> Any:
            return function(*arguments[:shared], *(argument[0] for argument in arguments[shared:]))[None]

        split, whole = _split(_ROWS), _split()
        spread = jax.shard_map(
            on_one,
            mesh=self._mesh,
            in_specs=(whole,) * shared + (split,) * len(each),
            out_specs=split,
        )
        return jax.jit(spread, donate_argnums=donated).lower(*everywhere, *each).compile()

    def _shape(self, *shape: int, of: Any = jnp.float32) -> Any:
        if self.rows_at_once == 1:
            return jax.ShapeDtypeStruct(shape, of)  # type: ignore[no-untyped-call] # JAX leaves this one out
        sharding = NamedSharding(self._mesh, _split(_ROWS))
        return jax.ShapeDtypeStruct((self.rows_at_once, *shape), of, sharding=sharding)  # type: ignore[no-untyped-call]

    def _placed(self, each: npt.NDArray[np.float32]) -> Array:
        """Return what each device has of its own, on the devices."""
        sharding = None if self.rows_at_once == 1 else NamedSharding(self._mesh, _split(_ROWS))
        placed: Array = jax.device_put(each, sharding)
        return placed

    def _put(self, array: npt.NDArray[Any], of: npt.DTypeLike = np.float32) -> Array:
        sharding = None if self.rows_at_once == 1 else NamedSharding(self._mesh, _split())
        placed: Array = jax.device_put(np.ascontiguousarray(array).astype(of), sharding)
        return placed

    def _lay_out(self, weights: Weights, inside: Places) -> tuple[_Embedder, list[_Layer], _Dense]:
        """Put the weights on the devices, the hidden axis in the order that mixing leaves it in."""

        def norm(name: str, places: Places) -> _Affine:
            return _Affine(self._put(weights[f"{name}/gamma"][places]), self._put(weights[f"{name}/beta"][places]))

        def dense(name: str, *, of: Places = slice(None), to: Places = slice(None)) -> _Dense:
            kernel = self._put(kernel_in_order(weights, name, of, to), self._dtype)
            return _Dense(kernel, self._put(weights[f"{name}/bias"][to]))

        embedder = _Embedder(
            self._put(weights["token_embedding/embeddings"], self._dtype),
            self._put(weights["position_embedding/embeddings"]),
            self._put(weights["segment_embedding/embeddings"]),
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
            for name in (f"layers/{index}" for index in range(self._architecture.num_layers))
        ]
        return embedder, layers, dense("pooled_dense", of=inside)


def _split(*axes: str) -> Split:
    return Split(*axes)  # type: ignore[no-untyped-call] # JAX leaves this one out


def keep_compiled(directory: Path) -> None:
    """Have XLA keep what it compiles from now on in a directory, and take it from there the next time.

    What is compiled for one processor may not run on another, so each kind has a directory of its own.
    """
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else [platform.machine()]
    kind = sorted({line for line in lines if line.startswith(_TELLING)} or lines)
    home = directory / hashlib.sha256("\n".join([jax.__version__, *kind]).encode()).hexdigest()[:16]
    jax.config.update("jax_compilation_cache_dir", str(home))  # type: ignore[no-untyped-call]
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # type: ignore[no-untyped-call]
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)  # type: ignore[no-untyped-call]


def on_compilation(callback: Callable[[], None]) -> None:
    """Have `callback` called whenever XLA compiles a program in this process, from now on."""

    def listen(event: str, duration_secs: float, **_details: str | int) -> None:  # noqa: ARG001 - called by name
        if event == "/jax/core/compile/backend_compile_duration":
            callback()

    jax.monitoring.register_event_duration_secs_listener(listen)


def _embed(embedder: _Embedder, token_ids: Array, segment_ids: Array, positions: Array) -> Array:
    x = embedder.tokens[token_ids].astype(jnp.float32) + embedder.positions[positions] + embedder.segments[segment_ids]
    return _dense(_normalise(x, embedder.norm), embedder.projection)


def _layer(layer: _Layer, waves: Waves | None, x: Array, mixing: Mixing) -> Array:
    mixed = mix_by_fft(x, mixing) if waves is None else mix(x, waves, mixing)
    x = _normalise(x + mixed, layer.mixing_norm)
    inner = jax.nn.gelu(_dense(x, layer.intermediate), approximate=True)
    return _normalise(x + _dense(inner, layer.output), layer.output_norm)


def _pool(pooler: _Dense, x: Array, firsts: Array) -> Array:
    return jnp.tanh(_dense(x[firsts], pooler))


def _dense(x: Array, dense: _Dense) -> Array:
    return product(x, dense.kernel) + dense.bias


def _normalise(x: Array, norm: _Affine) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    scaled: Array = centred * lax.rsqrt(variance + _EPSILON) * norm.gamma
    return scaled + norm.beta

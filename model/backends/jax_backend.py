"""The JAX backend: a few programs per row length, compiled in advance.

All layers share one program that takes the weights of a layer as arguments, so the compile time does not grow with
depth.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import lru_cache, partial
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
from model.arrays import Float32s, Int32s
from model.backends.base import LAYER_NORM_EPSILON, Backend, RowInput, feed_forward_dtype
from model.dtypes import Dtype
from model.presets.weights import Weights

# Fields of /proc/cpuinfo that identify a processor type, on x86 and on ARM.
_PROCESSOR_FIELDS = ("model name", "flags", "CPU implementer", "CPU part", "Features")
_DEVICES = "devices"


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


class _Product(NamedTuple):
    """How a kernel is multiplied.

    Attributes:
        axis: The kernel's input axis: 0 as Keras stores it, `[in, out]`, or 1.
        precision: Precision of float32 operands; None on CPUs.
    """

    axis: int
    precision: lax.Precision | None


_AS_STORED = _Product(axis=0, precision=None)


class _Products(NamedTuple):
    projection: _Product
    intermediate: _Product
    output: _Product
    pooler: _Product


class _Programs(NamedTuple):
    embed: Callable[..., Any]
    feed_forward: Callable[..., Any]
    pool: Callable[..., Any]


class JaxBackend(Backend):
    """Runs on the first device, with mixing on the host."""

    def __init__(self, architecture: Architecture, weights: Weights, dtype: Dtype, lengths: Sequence[int]) -> None:
        super().__init__(architecture, weights, dtype, lengths)
        device = jax.local_devices()[0]
        self.devices = [_device_name(device)]
        self._dtype = jnp.dtype(feed_forward_dtype(architecture, dtype))
        hidden, inner = architecture.hidden_dim, architecture.intermediate_dim

        def product(inputs: int, outputs: int, dtype: Any) -> _Product:
            if device.platform == "cpu":
                return _Product(_input_axis(inputs, outputs, dtype, self.lengths), None)
            return _Product(0, lax.Precision.HIGHEST)

        square = product(hidden, hidden, jnp.dtype(jnp.float32))
        self._products = _Products(
            square, product(hidden, inner, self._dtype), product(inner, hidden, self._dtype), square
        )
        self._embedder, self._layers, self._pooler = self._to_device(weights)
        self._programs: dict[int, _Programs] = {}

    def compile(self, progress: Callable[[int, int], None]) -> None:
        """Compile the programs of all row lengths in threads; XLA releases the interpreter lock."""
        with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
            futures = [pool.submit(self._compile_length, length) for length in self.lengths]
            for done, compiled in enumerate(as_completed(futures), start=1):
                compiled.result()
                progress(done, len(futures))

    def release(self, length: int) -> None:
        """Release the programs of a row length."""
        super().release(length)
        self._programs.pop(length, None)

    def embed(self, token_ids: Int32s, segment_ids: Int32s, positions: Int32s) -> Float32s:
        """See the base class."""
        program = self._programs[len(token_ids)].embed
        return np.asarray(program(self._embedder, token_ids, segment_ids, positions))

    def feed_forward(self, layer: int, x: Float32s) -> Float32s:
        """See the base class."""
        return np.asarray(self._programs[len(x)].feed_forward(self._layers[layer], x))

    def pool(self, x: Float32s) -> Float32s:
        """See the base class."""
        return np.asarray(self._programs[len(x)].pool(self._pooler, x))

    @classmethod
    def use_compilation_cache(cls, directory: Path) -> None:
        """Store compiled programs in a directory per processor type, since other types may not run them."""
        cpu_info = Path("/proc/cpuinfo")
        lines = cpu_info.read_text().splitlines() if cpu_info.exists() else [platform.machine()]
        kind = sorted({line for line in lines if line.startswith(_PROCESSOR_FIELDS)} or lines)
        cache = directory / hashlib.sha256("\n".join([jax.__version__, *kind]).encode()).hexdigest()[:16]
        jax.config.update("jax_compilation_cache_dir", str(cache))  # type: ignore[no-untyped-call]
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # type: ignore[no-untyped-call]
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)  # type: ignore[no-untyped-call]

    @classmethod
    def on_compilation(cls, callback: Callable[[], None]) -> None:
        """Call `callback` whenever XLA compiles a program in this process from now on."""

        def listen(event: str, duration_secs: float, **_details: str | int) -> None:  # noqa: ARG001 - passed by name
            if event == "/jax/core/compile/backend_compile_duration":
                callback()

        jax.monitoring.register_event_duration_secs_listener(listen)

    def _compile_length(self, length: int) -> None:
        products = self._products
        ids, x = _shape(length, of=jnp.int32), _shape(length, self.architecture.hidden_dim)
        layer = self._layers[0] if self._layers else None
        self._programs[length] = _Programs(
            _compiled(partial(_embed, product=products.projection), self._embedder, ids, ids, ids),
            _compiled(partial(_feed_forward, products=products), layer, x) if layer else _no_layer,
            _compiled(partial(_pool, product=products.pooler), self._pooler, x),
        )

    def _to_device(self, weights: Weights) -> tuple[_Embedder, list[_Layer], _Dense]:
        """Copy the weights to the device."""
        put, products = self._put, self._products

        def norm(name: str) -> _Affine:
            return _Affine(put(weights[f"{name}/gamma"]), put(weights[f"{name}/beta"]))

        def dense(name: str, product: _Product, dtype: npt.DTypeLike = np.float32) -> _Dense:
            kernel = weights[f"{name}/kernel"]
            return _Dense(put(kernel.T if product.axis else kernel, dtype), put(weights[f"{name}/bias"]))

        embedder = _Embedder(
            put(weights["token_embedding/embeddings"]),
            put(weights["position_embedding/embeddings"]),
            put(weights["segment_embedding/embeddings"]),
            norm("embeddings_layer_norm"),
            dense("embedding_projection", products.projection),
        )
        layers = [
            _Layer(
                norm(f"{name}/mixing_layer_norm"),
                dense(f"{name}/intermediate_dense", products.intermediate, self._dtype),
                dense(f"{name}/output_dense", products.output, self._dtype),
                norm(f"{name}/output_layer_norm"),
            )
            for name in (f"layers/{index}" for index in range(self.architecture.num_layers))
        ]
        return embedder, layers, dense("pooled_dense", products.pooler)

    def _put(self, array: npt.NDArray[Any], of: npt.DTypeLike = np.float32) -> Array:
        return _put(array, of, None)


class JaxDeviceBackend(JaxBackend):
    """Runs one row per device, with mixing on the devices to avoid a copy to the host per layer.

    Along the sequence axis, mixing is a product with block-diagonal DFT matrices, one block per sequence, in float32.
    Rows that exceed the longest row length run on the first device, with mixing on the host.
    """

    def __init__(self, architecture: Architecture, weights: Weights, dtype: Dtype, lengths: Sequence[int]) -> None:
        devices = jax.local_devices()
        self._mesh = Mesh(np.array(devices), (_DEVICES,))
        super().__init__(architecture, weights, dtype, lengths)
        self.rows_per_run = len(devices)
        self.devices = [_device_name(device) for device in devices]
        self._replicated = jax.device_put((self._embedder, self._layers), NamedSharding(self._mesh, _split()))
        self._device_programs: dict[int, tuple[Callable[..., Any], Callable[..., Any]]] = {}

    def release(self, length: int) -> None:
        """Release the programs of a row length."""
        super().release(length)
        self._device_programs.pop(length, None)

    def encode_rows(self, rows: Sequence[RowInput], lengths: Sequence[int]) -> list[Float32s]:
        """See the base class."""
        longest = lengths[-1]
        packed = iter(self._encode_packed([row for row in rows if row.row.tokens <= longest], lengths))
        return [next(packed) if row.row.tokens <= longest else self._encode_row(row, lengths) for row in rows]

    def _encode_packed(self, rows: Sequence[RowInput], lengths: Sequence[int]) -> list[Float32s]:
        if not rows:
            return []
        length = next(length for length in lengths if length >= max(row.row.tokens for row in rows))
        # Devices without a row run a copy of the first row.
        filled = [*rows, *[rows[0]] * (self.rows_per_run - len(rows))]
        ids = np.zeros((3, self.rows_per_run, length), np.int32)
        dft = np.zeros((2, self.rows_per_run, length, length), np.float32)
        for index, row in enumerate(filled):
            ids[:, index, : row.row.tokens] = row.token_ids, row.segment_ids, row.positions
            for start, size in zip(row.row.starts, row.row.sizes, strict=True):
                block = slice(start, start + size)
                dft[:, index, block, block] = _dft_matrices(size)
        embed, layer_of = self._device_programs[length]
        embedder, layers = self._replicated
        x = embed(embedder, *ids)
        sharded = jax.device_put(list(dft), NamedSharding(self._mesh, _split(_DEVICES)))
        for layer in layers:
            x = layer_of(layer, x, *sharded)
        states = np.asarray(x)
        return [states[index, : row.row.tokens] for index, row in enumerate(rows)]

    def _compile_length(self, length: int) -> None:
        super()._compile_length(length)
        products, hidden = self._products, self.architecture.hidden_dim

        def shape(*sizes: int, of: Any = jnp.float32) -> Any:
            sharding = NamedSharding(self._mesh, _split(_DEVICES))
            return jax.ShapeDtypeStruct((self.rows_per_run, *sizes), of, sharding=sharding)  # type: ignore[no-untyped-call]

        embedder, layers = self._replicated
        ids, dft = shape(length, of=jnp.int32), shape(length, length)
        embed = self._compile_sharded(partial(_embed, product=products.projection), embedder, ids, ids, ids)
        layer = (
            self._compile_sharded(partial(_mixed_layer, products=products), layers[0], shape(length, hidden), dft, dft)
            if layers
            else _no_layer
        )
        self._device_programs[length] = embed, layer

    def _compile_sharded(self, function: Callable[..., Any], weights: Any, *arguments: Any) -> Callable[..., Any]:
        """Compile a function of replicated weights and arguments that are sharded over devices."""

        def on_device(weights: Any, *arguments: Any) -> Any:
            return function(weights, *(argument[0] for argument in arguments))[None]

        split, replicated = _split(_DEVICES), _split()
        sharded_function = jax.shard_map(
            on_device,
            mesh=self._mesh,
            in_specs=(replicated, *[split] * len(arguments)),
            out_specs=split,
            check_vma=False,
        )
        return _compiled(sharded_function, weights, *arguments)


def jax_backend_type() -> type[JaxBackend]:
    """Return the backend class for the devices of this machine."""
    return JaxBackend if jax.local_devices()[0].platform == "cpu" else JaxDeviceBackend


def _device_name(device: Any) -> str:
    return f"{device.platform}:{device.id} {device.device_kind}"


def _split(*axes: str) -> Split:
    return Split(*axes)  # type: ignore[no-untyped-call] # untyped in JAX


def _put(array: npt.NDArray[Any], of: npt.DTypeLike, sharding: Any) -> Array:
    sharded: Array = jax.device_put(np.ascontiguousarray(array).astype(of), sharding)
    return sharded


def _shape(*shape: int, of: Any = jnp.float32) -> Any:
    return jax.ShapeDtypeStruct(shape, of)  # type: ignore[no-untyped-call] # untyped in JAX


def _compiled(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    return jax.jit(function).lower(*arguments).compile()


def _no_layer(*_arguments: Any) -> Any:
    raise IndexError("the network has no layers")


@lru_cache(maxsize=64)
def _input_axis(inputs: int, outputs: int, dtype: Any, lengths: Sequence[int]) -> int:
    """Return the input axis of a kernel whose products do not depend on the number of tokens.

    With `[in, out]`, as in Keras, products are fastest, but sums of few tokens may depend on their number. With
    `[out, in]`, they do not (measured on processors with AVX2 and AVX-512).
    """
    random = np.random.default_rng(inputs)
    kernel = _put(random.standard_normal((inputs, outputs), np.float32), dtype, None)
    x = random.standard_normal((lengths[-1], inputs), np.float32)
    few, many = (
        np.asarray(_compiled(_multiply, _shape(n, inputs), kernel)(x[:n], kernel)) for n in (lengths[0], lengths[-1])
    )
    return int(few.tobytes() != many[: len(few)].tobytes())


@lru_cache(maxsize=64)
def _dft_matrices(size: int) -> Float32s:
    """Return the cosines and sines of `2πjk/n`, `[2, n, n]`."""
    positions = np.arange(size)
    # Reduced modulo n as integers, since large angles lose precision.
    angles = 2 * np.pi / size * (np.outer(positions, positions) % size)
    return np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)


def _embed(embedder: _Embedder, token_ids: Array, segment_ids: Array, positions: Array, *, product: _Product) -> Array:
    x = embedder.tokens[token_ids] + embedder.positions[positions] + embedder.segments[segment_ids]
    return _dense(_norm(x, embedder.norm), embedder.projection, product)


def _feed_forward(layer: _Layer, x: Array, *, products: _Products) -> Array:
    x = _norm(x, layer.mixing_norm)
    inner = jax.nn.gelu(_dense(x, layer.intermediate, products.intermediate), approximate=True)
    return _norm(x + _dense(inner, layer.output, products.output), layer.output_norm)


def _mixed_layer(layer: _Layer, x: Array, cosines: Array, sines: Array, *, products: _Products) -> Array:
    """Return the output of a layer with mixing: `Re(F_n Z) = C_n Re(Z) + S_n Im(Z)` with `Z = X F_h`."""
    spectrum = jnp.fft.fft(x, axis=1)
    exact = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    return _feed_forward(layer, x + exact(cosines, spectrum.real) + exact(sines, spectrum.imag), products=products)


def _pool(pooler: _Dense, x: Array, *, product: _Product) -> Array:
    return jnp.tanh(_dense(x, pooler, product))


def _dense(x: Array, dense: _Dense, product: _Product) -> Array:
    return _multiply(x, dense.kernel, product) + dense.bias


def _multiply(x: Array, kernel: Array, product: _Product = _AS_STORED) -> Array:
    """Return the float32 product of operands in the dtype of the kernel."""
    # On CPUs, any precision but the default selects a slower routine. The result type float32 selects the fast
    # bfloat16 routines.
    return lax.dot_general(
        x.astype(kernel.dtype),
        kernel,
        (((1,), (product.axis,)), ((), ())),
        precision=product.precision,
        preferred_element_type=jnp.float32,
    )


def _norm(x: Array, norm: _Affine) -> Array:
    centered = x - x.mean(axis=-1, keepdims=True)
    variance = (centered * centered).mean(axis=-1, keepdims=True)
    scaled: Array = centered * lax.rsqrt(variance + LAYER_NORM_EPSILON) * norm.gamma
    return scaled + norm.beta

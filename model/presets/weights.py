"""Keras weight files, `.weights.h5`: in one file, sharded, or with older internal paths.

Variables are NumPy arrays, keyed by the names of `Architecture.variable_shapes`. Files are untrusted: links inside them
are not followed, nothing is unpickled, and shapes are checked before data is read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import numpy.typing as npt

from model.architecture import Architecture, Shape
from model.errors import PresetError, short_repr

Weights = Mapping[str, npt.NDArray[Any]]

WEIGHTS_FILE = "model.weights.h5"
SHARD_INDEX_FILE = "model.weights.json"
# An index has one line per variable, and networks have a few hundred variables.
_MAX_INDEX_BYTES = 1 << 20

# Paths of the variables in a Keras file: groups are named by layer class, and numbered from the second of a class on.
# A second path is that of older releases, in which the token embedding was an Embedding layer.
_KERAS_PATHS: dict[str, tuple[str, ...]] = {
    "token_embedding/embeddings": ("reversible_embedding/vars/0", "embedding/vars/0"),
    "position_embedding/embeddings": ("position_embedding/vars/0",),
    "segment_embedding/embeddings": ("embedding/vars/0", "embedding_1/vars/0"),
    "embeddings_layer_norm/gamma": ("layer_normalization/vars/0",),
    "embeddings_layer_norm/beta": ("layer_normalization/vars/1",),
    "embedding_projection/kernel": ("dense/vars/0",),
    "embedding_projection/bias": ("dense/vars/1",),
    "pooled_dense/kernel": ("dense_1/vars/0",),
    "pooled_dense/bias": ("dense_1/vars/1",),
}
_LAYER_GROUP = re.compile(r"\w+/f_net_encoder(?:_(\d{1,9}))?(?=/)", re.ASCII)
_ROOTS = ("layers", "_layer_checkpoint_dependencies")

# A plain file name, so that an index cannot refer to files outside its directory.
_SHARD = re.compile(r"[\w-][\w.-]{0,199}\.weights\.h5", re.ASCII)


def read_weights(directory: Path, architecture: Architecture) -> dict[str, npt.NDArray[np.float32]]:
    """Read the weights of a preset as float32.

    Args:
        directory: The preset directory.
        architecture: The network, which determines names and shapes.

    Raises:
        PresetError: A file is missing, truncated or not HDF5; or a variable is missing, has another shape, is stored
            outside the file, is not a floating-point array, or has non-finite values.
    """
    files = _variable_files(directory)
    for path in files:
        layer = _LAYER_GROUP.match(path)
        if layer and int(layer[1] or 0) >= architecture.num_layers:
            raise PresetError(
                f"{files[path].name}: contains {layer[0]}, but num_layers in config.json is {architecture.num_layers}"
            )
    weights = {}
    for name, shape in architecture.variable_shapes().items():
        file, path = _locate_variable(name, files)
        array = _read_array(files[path], file, path, shape)
        if not np.isfinite(array).all():
            raise PresetError(f"{file}: variable {path} holds non-finite values")
        weights[name] = array
    return weights


def write_weights(path: Path, weights: Weights, dtype: npt.DTypeLike = np.float32, *, compressed: bool = False) -> None:
    """Write a Keras weights file that keras-hub can load.

    Args:
        path: The file, `model.weights.h5` in a preset.
        weights: All variables of an architecture.
        dtype: Stored dtype, for example float16 for half the file size; loading casts to float32.
        compressed: Whether to compress losslessly, with a filter of every HDF5 library.
    """
    filters: dict[str, Any] = {"compression": "gzip", "compression_opts": 9, "shuffle": True} if compressed else {}
    with h5py.File(path, "w") as file:
        for name, array in weights.items():
            location = f"layers/{_keras_paths(name)[0]}"
            stored = file.create_dataset(location, data=np.asarray(array).astype(dtype), **filters)
            if np.dtype(dtype) == ml_dtypes.bfloat16:
                stored.attrs["dtype"] = "bfloat16"  # the convention of Keras, since HDF5 has no such type


def weights_digest(directory: Path) -> str:
    """Return the SHA-256 of the weight files of a preset, in hexadecimal, with shards in the order of their names."""
    digest = hashlib.sha256()
    for file in _weight_files(directory):
        with (directory / file).open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _keras_paths(name: str) -> tuple[str, ...]:
    """Return the possible paths of a variable below the root group, current path first."""
    if not name.startswith("layers/"):
        return _KERAS_PATHS[name]
    _, index, layer, variable = name.split("/")
    group = "f_net_encoder" if index == "0" else f"f_net_encoder_{index}"
    return (f"{group}/_{layer}/vars/{0 if variable in ('kernel', 'gamma') else 1}",)


def _weight_files(directory: Path) -> list[str]:
    if (directory / WEIGHTS_FILE).is_file():
        return [WEIGHTS_FILE]
    index = directory / SHARD_INDEX_FILE
    if not index.is_file():
        raise PresetError(f"{WEIGHTS_FILE}: missing from the preset directory {directory}, as is {SHARD_INDEX_FILE}")
    try:
        if index.stat().st_size > _MAX_INDEX_BYTES:
            raise PresetError(f"{SHARD_INDEX_FILE}: larger than {_MAX_INDEX_BYTES:,} bytes")
        entries = json.loads(index.read_bytes())["weight_map"].values()
        files = sorted({str(file) for entry in entries for file in ([entry] if isinstance(entry, str) else entry)})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, PresetError):
            raise
        raise PresetError(f"{SHARD_INDEX_FILE}: not readable as a shard index") from error
    for file in files:
        if not _SHARD.fullmatch(file):
            raise PresetError(f"{SHARD_INDEX_FILE}: shard {short_repr(file)} is not a .weights.h5 file name")
        if not (directory / file).is_file():
            raise PresetError(f"{file}: missing, but listed in {SHARD_INDEX_FILE}")
    return files


def _variable_files(directory: Path) -> dict[str, Path]:
    """Return the file of every array in the weight files of a preset, keyed by path."""
    files: dict[str, Path] = {}
    for name in _weight_files(directory):
        file = directory / name
        with _open_file(file) as root:
            for path in _array_paths(root, file.name, set()):
                files[path] = file
    return files


@contextmanager
def _open_file(file: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(file, "r") as root:
            yield root
    except PresetError:
        raise
    # h5py raises any of these for damaged metadata.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise PresetError(f"{file.name}: damaged or not an HDF5 file: {reason}") from error


def _array_paths(group: h5py.Group, file: str, seen: set[h5py.Group], depth: int = 0) -> Iterator[str]:
    """Yield the paths of all arrays below `group`; links, which may point outside the file, are rejected."""
    if depth > 8:  # noqa: PLR2004 - Keras nests five levels
        raise PresetError(f"{file}: groups are nested more than 8 levels deep at {group.name!r}")
    if group in seen:
        raise PresetError(f"{file}: the group {group.name!r} is linked twice")
    seen.add(group)
    for key in group:
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise PresetError(f"{file}: {key!r} in {group.name!r} is a link, expected a group or dataset")
        entry = group[key]
        if isinstance(entry, h5py.Group):
            yield from _array_paths(entry, file, seen, depth + 1)
        elif isinstance(entry, h5py.Dataset):
            yield str(entry.name).lstrip("/")


def _locate_variable(name: str, files: Mapping[str, Path]) -> tuple[str, str]:
    """Return the file and path of a variable, for current and older paths."""
    has_older_paths = any(f"{root}/embedding_1/vars/0" in files for root in _ROOTS)
    path_below_root = _keras_paths(name)[-1 if has_older_paths else 0]
    for root in _ROOTS:
        path = f"{root}/{path_below_root}"
        if path in files:
            return files[path].name, path
    names = sorted({file.name for file in files.values()}) or [WEIGHTS_FILE]
    raise PresetError(f"{', '.join(names)}: variable {_ROOTS[0]}/{path_below_root} ({name}) is missing")


def _read_array(file: Path, name: str, path: str, shape: Shape) -> npt.NDArray[np.float32]:
    with _open_file(file) as root:
        stored = root[path]
        if stored.external or stored.is_virtual:
            raise PresetError(f"{name}: variable {path} is stored outside the file")
        if stored.shape != shape:
            raise PresetError(f"{name}: variable {path} has shape {stored.shape}, expected {shape} by config.json")
        # Keras stores bfloat16 as two opaque bytes with an attribute, since HDF5 has no such type.
        if stored.attrs.get("dtype") == "bfloat16" and stored.dtype.itemsize == ml_dtypes.bfloat16(0).itemsize:
            return np.asarray(np.asarray(stored[()]).view(ml_dtypes.bfloat16), np.float32)
        if stored.dtype.kind != "f":
            raise PresetError(f"{name}: variable {path} has type {stored.dtype}, expected floating-point numbers")
        # Values that exceed float32 become infinite, which the caller rejects.
        with np.errstate(over="ignore"):
            return np.asarray(stored[()], np.float32)

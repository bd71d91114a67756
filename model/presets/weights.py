"""Keras weight files, `.weights.h5`: in one file, sharded, or with older internal paths.

They become a dictionary from the names of `Architecture.variable_shapes` to NumPy arrays. Files are taken as untrusted:
links inside them are not followed, nothing is unpickled, and a shape is checked before it is read.
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
from model.errors import PresetError, shown

Weights = Mapping[str, npt.NDArray[Any]]

WEIGHTS_FILE = "model.weights.h5"
SHARD_INDEX_FILE = "model.weights.json"
# A line a variable; networks of any size have a few hundred.
_MAX_INDEX_BYTES = 1 << 20

# Where Keras puts each variable: groups are named by layer class, counted from the second of a class on. A second
# spelling is the one of releases in which the token embedding was a plain Embedding layer.
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

# A plain file name: an index is not to lead out of its directory.
_SHARD = re.compile(r"[\w-][\w.-]{0,199}\.weights\.h5", re.ASCII)


def read_weights(directory: Path, architecture: Architecture) -> dict[str, npt.NDArray[np.float32]]:
    """Read a preset's weights as float32.

    Args:
        directory: The preset directory.
        architecture: What the weights have to fit.

    Raises:
        PresetError: A file is missing, truncated or no HDF5; a variable is missing, of another shape, kept outside the
            file, not a floating-point array, or not finite. Nothing is returned then.
    """
    files = _variable_files(directory)
    for path in files:
        layer = _LAYER_GROUP.match(path)
        if layer and int(layer[1] or 0) >= architecture.num_layers:
            raise PresetError(
                f"{files[path].name}: holds {layer[0]}, but config.json's num_layers is {architecture.num_layers}"
            )
    weights = {}
    for name, shape in architecture.variable_shapes().items():
        file, path = _find(name, files)
        array = _read_array(files[path], file, path, shape)
        if not np.isfinite(array).all():
            raise PresetError(f"{file}: variable {path} holds values that are not finite")
        weights[name] = array
    return weights


def write_weights(path: Path, weights: Weights, dtype: npt.DTypeLike = np.float32, *, compressed: bool = False) -> None:
    """Write `weights` as a Keras weights file that keras-hub loads.

    Args:
        path: The file, `model.weights.h5` in a preset.
        weights: Every variable of an architecture.
        dtype: How the values are kept, for example float16 to halve the file; loading casts back.
        compressed: Whether to compress them without loss, which any HDF5 library reads.
    """
    filters: dict[str, Any] = {"compression": "gzip", "compression_opts": 9, "shuffle": True} if compressed else {}
    with h5py.File(path, "w") as file:
        for name, array in weights.items():
            place = f"layers/{_keras_paths(name)[0]}"
            stored = file.create_dataset(place, data=np.asarray(array).astype(dtype), **filters)
            if np.dtype(dtype) == ml_dtypes.bfloat16:
                stored.attrs["dtype"] = "bfloat16"  # Keras's mark: HDF5 has no such type


def weights_digest(directory: Path) -> str:
    """Return the SHA-256, in hexadecimal, of the preset's weight files, shards in the order of their names."""
    digest = hashlib.sha256()
    for file in _weight_files(directory):
        with (directory / file).open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _keras_paths(name: str) -> tuple[str, ...]:
    """Return where a variable may lie below the root group, the present spelling first."""
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
        raise PresetError(f"{WEIGHTS_FILE}: missing from the preset directory {directory}, and no {SHARD_INDEX_FILE}")
    try:
        if index.stat().st_size > _MAX_INDEX_BYTES:
            raise PresetError(f"{SHARD_INDEX_FILE}: larger than {_MAX_INDEX_BYTES:,} bytes")
        listed = json.loads(index.read_bytes())["weight_map"].values()
        files = sorted({str(file) for entry in listed for file in ([entry] if isinstance(entry, str) else entry)})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, PresetError):
            raise
        raise PresetError(f"{SHARD_INDEX_FILE}: not readable as an index of shards") from error
    for file in files:
        if not _SHARD.fullmatch(file):
            raise PresetError(f"{SHARD_INDEX_FILE}: shard {shown(file)} is not the name of a .weights.h5 file")
        if not (directory / file).is_file():
            raise PresetError(f"{file}: missing, although {SHARD_INDEX_FILE} names it")
    return files


def _variable_files(directory: Path) -> dict[str, Path]:
    """Map the path of every array in the preset's weight files to the file that holds it."""
    found: dict[str, Path] = {}
    for name in _weight_files(directory):
        file = directory / name
        with _opened(file) as root:
            for path in _array_paths(root, file.name, set()):
                found[path] = file
    return found


@contextmanager
def _opened(file: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(file, "r") as root:
            yield root
    except PresetError:
        raise
    # h5py raises any of these when metadata inside the file is damaged.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise PresetError(f"{file.name}: damaged or not an HDF5 file: {reason}") from error


def _array_paths(group: h5py.Group, file: str, seen: set[h5py.Group], depth: int = 0) -> Iterator[str]:
    """Walk the hard links below `group`, each group once: a soft or external link could lead out of the file."""
    if depth > 8:  # noqa: PLR2004 - Keras nests five deep
        raise PresetError(f"{file}: groups are nested too deep at {group.name!r}")
    if group in seen:
        raise PresetError(f"{file}: the group {group.name!r} is linked twice")
    seen.add(group)
    for key in group:
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise PresetError(f"{file}: {key!r} in {group.name!r} is a link, expected the data itself")
        entry = group[key]
        if isinstance(entry, h5py.Group):
            yield from _array_paths(entry, file, seen, depth + 1)
        elif isinstance(entry, h5py.Dataset):
            yield str(entry.name).lstrip("/")


def _find(name: str, files: Mapping[str, Path]) -> tuple[str, str]:
    """Return the file and path of a variable, whichever spelling the preset uses."""
    older = any(f"{root}/embedding_1/vars/0" in files for root in _ROOTS)
    spelling = _keras_paths(name)[-1 if older else 0]
    for root in _ROOTS:
        path = f"{root}/{spelling}"
        if path in files:
            return files[path].name, path
    names = sorted({file.name for file in files.values()}) or [WEIGHTS_FILE]
    raise PresetError(f"{', '.join(names)}: variable {_ROOTS[0]}/{spelling} ({name}) is missing")


def _read_array(file: Path, name: str, path: str, shape: Shape) -> npt.NDArray[np.float32]:
    with _opened(file) as root:
        stored = root[path]
        if stored.external or stored.is_virtual:
            raise PresetError(f"{name}: variable {path} is kept outside the file")
        if stored.shape != shape:
            raise PresetError(f"{name}: variable {path} has shape {stored.shape}, expected {shape} by config.json")
        # Keras marks bfloat16 by an attribute, since HDF5 has no such type.
        if stored.attrs.get("dtype") == "bfloat16" and stored.dtype.itemsize == ml_dtypes.bfloat16(0).itemsize:
            return np.asarray(np.asarray(stored[()]).view(ml_dtypes.bfloat16), np.float32)
        if stored.dtype.kind != "f":
            raise PresetError(f"{name}: variable {path} has type {stored.dtype}, expected floating-point numbers")
        # What float32 cannot hold becomes infinite, which the caller refuses.
        with np.errstate(over="ignore"):
            return np.asarray(stored[()], np.float32)

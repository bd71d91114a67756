"""Reading of FNet checkpoints of Hugging Face transformers: configuration and weights.

Files are untrusted: only numbers are read from safetensors and `torch.save` files, and no code is executed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.architecture import MAX_LAYERS, Architecture
from model.errors import PresetError, short_repr

# File patterns of a checkpoint; files of torch.save are read only if there are no safetensors files.
SAFETENSORS_FILES = ["model.safetensors", "model.safetensors.index.json", "model-*.safetensors"]
TORCH_FILES = ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"]
OTHER_FILES = ["config.json", "spiece.model", "tokenizer.json", "tokenizer_config.json", "README.md"]

# A plain file name, so that an index cannot refer to files outside its directory.
_SHARD = re.compile(r"[\w-][\w.-]{0,199}\.(safetensors|bin)", re.ASCII)

_Tensors = dict[str, Callable[[], npt.NDArray[Any]]]

# Tensor names of transformers' FNetModel, with kernels [out, in].
_NAMES: dict[str, str] = {
    "token_embedding/embeddings": "embeddings.word_embeddings.weight",
    "position_embedding/embeddings": "embeddings.position_embeddings.weight",
    "segment_embedding/embeddings": "embeddings.token_type_embeddings.weight",
    "embeddings_layer_norm/gamma": "embeddings.LayerNorm.weight",
    "embeddings_layer_norm/beta": "embeddings.LayerNorm.bias",
    "embedding_projection/kernel": "embeddings.projection.weight",
    "embedding_projection/bias": "embeddings.projection.bias",
    "pooled_dense/kernel": "pooler.dense.weight",
    "pooled_dense/bias": "pooler.dense.bias",
}
_LAYER_NAMES: dict[str, str] = {
    "mixing_layer_norm/gamma": "fourier.output.LayerNorm.weight",
    "mixing_layer_norm/beta": "fourier.output.LayerNorm.bias",
    "intermediate_dense/kernel": "intermediate.dense.weight",
    "intermediate_dense/bias": "intermediate.dense.bias",
    "output_dense/kernel": "output.dense.weight",
    "output_dense/bias": "output.dense.bias",
    "output_layer_norm/gamma": "output.LayerNorm.weight",
    "output_layer_norm/beta": "output.LayerNorm.bias",
}


def read_hugging_face(
    directory: Path, progress: Callable[[int, int], None] = lambda _done, _of: None
) -> tuple[Architecture, dict[str, npt.NDArray[np.float32]]]:
    """Read a checkpoint: `config.json`, and `model.safetensors` or `pytorch_model.bin`, in one file or in shards.

    Heads are not read.

    Args:
        directory: Directory of the checkpoint.
        progress: Called with the number of variables read, and the total.

    Raises:
        PresetError: A file is missing or damaged, describes another model, or a variable does not fit.
    """
    architecture = read_architecture(directory)
    file, parts = _weight_files(directory)
    shapes = architecture.variable_shapes()
    weights = {}
    with ExitStack() as opened:
        tensors: _Tensors = {}
        for part in parts:
            open_part = _safetensors if part.endswith(".safetensors") else _torch_tensors
            tensors |= opened.enter_context(open_part(directory / part))
        # A model saved with a head stores the encoder under a prefix.
        tensors = {name.removeprefix("fnet."): read for name, read in tensors.items()}
        for done, (name, shape) in enumerate(shapes.items()):
            progress(done, len(shapes))
            tensor_name = _tensor_name(name)
            if tensor_name not in tensors:
                raise PresetError(f"{file}: tensor {tensor_name} is missing")
            array = tensors[tensor_name]()
            # Values that exceed float32 become infinite, and are rejected below.
            with np.errstate(over="ignore"):
                array = array.astype(np.float32)
            array = np.ascontiguousarray(array.T) if name.endswith("/kernel") else array
            if array.shape != shape:
                raise PresetError(f"{file}: tensor {tensor_name} has shape {array.shape}, expected {shape}")
            if not np.isfinite(array).all():
                raise PresetError(f"{file}: tensor {tensor_name} holds non-finite values")
            weights[name] = array
    progress(len(shapes), len(shapes))
    return architecture, weights


def _weight_files(directory: Path) -> tuple[str, list[str]]:
    """Return the file or index of the weights, and the files that hold them."""
    for file in ("model.safetensors", "pytorch_model.bin"):
        if (directory / file).is_file():
            return file, [file]
        index = f"{file}.index.json"
        if (directory / index).is_file():
            return index, _shards(directory, index)
    raise PresetError(f"{directory}: holds neither model.safetensors nor pytorch_model.bin")


def _shards(directory: Path, index: str) -> list[str]:
    try:
        files = sorted(set(map(str, json.loads((directory / index).read_bytes())["weight_map"].values())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PresetError(f"{index}: not readable as a shard index") from error
    for file in files:
        if not _SHARD.fullmatch(file):
            raise PresetError(f"{index}: {short_repr(file)} is not a .safetensors or .bin file name")
        if not (directory / file).is_file():
            raise PresetError(f"{file}: missing, but listed in {index}")
    return files


@contextmanager
def _safetensors(path: Path) -> Iterator[_Tensors]:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - only for conversion

    def reader(stored: Any, name: str) -> Callable[[], npt.NDArray[Any]]:
        def read() -> npt.NDArray[Any]:
            try:
                return np.asarray(stored.get_tensor(name))
            # Element types that NumPy lacks raise AttributeError.
            except (SafetensorError, OSError, AttributeError, TypeError) as error:
                raise _unreadable(path, error) from error

        return read

    try:
        stored: Any = safe_open(path, framework="numpy")
        names = list(stored.keys())
    except (SafetensorError, OSError, AttributeError, TypeError) as error:
        raise _unreadable(path, error) from error
    with stored:
        yield {name: reader(stored, name) for name in names}


@contextmanager
def _torch_tensors(path: Path) -> Iterator[_Tensors]:
    from model.conversion.torch_checkpoint import TorchFile  # noqa: PLC0415 - only for old checkpoints

    def reader(stored: TorchFile, name: str) -> Callable[[], npt.NDArray[Any]]:
        return lambda: stored.read(name)

    with TorchFile(path) as stored:
        yield {name: reader(stored, name) for name in stored.names()}


def _unreadable(path: Path, error: Exception) -> PresetError:
    return PresetError(f"{path.name}: not readable: {(str(error) or type(error).__name__).splitlines()[0]}")


def read_architecture(directory: Path) -> Architecture:
    """Read `config.json` of a checkpoint.

    Raises:
        PresetError: The file is missing or damaged, or describes another model.
    """
    try:
        config = json.loads((directory / "config.json").read_bytes())
        if config.get("model_type") != "fnet":
            raise PresetError(f"config.json: model_type is {short_repr(config.get('model_type'))}, expected 'fnet'")
        if config["hidden_act"] not in ("gelu_new", "gelu_pytorch_tanh"):
            raise PresetError(f"config.json: hidden_act is {short_repr(config['hidden_act'])}, expected 'gelu_new'")
        if config["layer_norm_eps"] != 1e-12:  # noqa: PLR2004 - the published value
            raise PresetError(f"config.json: layer_norm_eps is {short_repr(config['layer_norm_eps'])}, expected 1e-12")
        architecture = Architecture(
            vocabulary_size=int(config["vocab_size"]),
            num_layers=int(config["num_hidden_layers"]),
            hidden_dim=int(config["hidden_size"]),
            intermediate_dim=int(config["intermediate_size"]),
            dropout=float(config["hidden_dropout_prob"]),
            max_sequence_length=int(config["max_position_embeddings"]),
            num_segments=int(config["type_vocab_size"]),
        )
    except (OSError, ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError) as error:
        if isinstance(error, PresetError):
            raise
        raise PresetError(f"config.json: not a Hugging Face FNet configuration: {error}") from error
    if not 0 <= architecture.num_layers <= MAX_LAYERS:
        raise PresetError(f"config.json: num_hidden_layers is {architecture.num_layers}, expected 0 to {MAX_LAYERS}")
    return architecture


def _tensor_name(name: str) -> str:
    if name.startswith("layers/"):
        _, index, variable = name.split("/", 2)
        return f"encoder.layer.{index}.{_LAYER_NAMES[variable]}"
    return _NAMES[name]

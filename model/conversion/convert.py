"""Conversion of a Hugging Face FNet checkpoint to a preset directory, atomically."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt

from model.conversion.hugging_face import (
    OTHER_FILES,
    SAFETENSORS_FILES,
    TORCH_FILES,
    read_architecture,
    read_hugging_face,
)
from model.conversion.sentencepiece_conversion import read_vocabulary
from model.errors import PresetError
from model.presets import keras_config
from model.presets.hub import download_files
from model.presets.preset import CARD_FILE, VOCABULARY_FILE, Padding, Pooling, read_preset
from model.presets.weights import WEIGHTS_FILE, write_weights
from model.tokenizer import FNetTokenizer
from model.verify import fingerprint

StoredDtype = Literal["float32", "bfloat16", "float16"]
_DTYPES: dict[str, npt.DTypeLike] = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def locate_checkpoint(source: str, cache_dir: Path | None = None) -> Path:
    """Return the local directory of a checkpoint, downloading it if needed.

    Weights in the format of `torch.save` are downloaded only if there are no safetensors files.

    Args:
        source: `hf://owner/name[@revision]` or a directory.
        cache_dir: Directory of downloads; see `model.presets.hub.default_cache_dir`.

    Raises:
        PresetError: The directory does not exist, or the download failed.
    """
    if "://" not in source:
        if not Path(source).is_dir():
            raise PresetError(f"{source!r}: no such directory; pass a directory or hf://owner/name[@revision]")
        return Path(source)
    directory = download_files(source, OTHER_FILES + SAFETENSORS_FILES, cache_dir)
    if not any((directory / file).is_file() for file in SAFETENSORS_FILES[:2]):
        directory = download_files(source, OTHER_FILES + TORCH_FILES, cache_dir)
    return directory


def convert(
    source: Path,
    destination: Path,
    *,
    dtype: StoredDtype = "float32",
    tokenizer: bool = True,
    padding: Padding | None = None,
    pooling: Pooling = "pooled",
    description: str = "",
    force: bool = False,
    progress: Callable[[str], None] = lambda _text: None,
) -> None:
    """Convert a checkpoint.

    The preset is written to a temporary directory next to the destination, verified, and then renamed.

    Args:
        source: Directory of the checkpoint.
        destination: The preset directory to create; its name becomes the name of the preset.
        dtype: Dtype of the stored weights; it does not affect the dtype of computation.
        tokenizer: Whether to convert the tokenizer; without one, the preset accepts only token ids.
        padding: Default padding of texts; the number of positions by default, as in keras-hub.
        pooling: Output that is the embedding of a text.
        description: One sentence for people.
        force: Whether to replace a preset at `destination`.
        progress: Called with a description of each step.

    Raises:
        PresetError: The checkpoint is not readable, is of another model or has an unsupported tokenizer; `destination`
            exists; or writing failed.
    """
    _check_destination(destination, force=force)
    _check_source(source)
    read_architecture(source)  # before the slower steps, to reject other models
    vocabulary = read_vocabulary(source) if tokenizer else None
    if tokenizer and vocabulary is None:
        raise PresetError(
            f"{source}: holds neither spiece.model nor tokenizer.json; use --without-tokenizer for token ids only"
        )
    architecture, weights = read_hugging_face(
        source, lambda done, of: progress(f"reading {done} of {of} variables of {source}")
    )
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{destination.name}.", dir=destination.parent) as work:
            directory = Path(work) / destination.name
            directory.mkdir()
            progress(f"writing {WEIGHTS_FILE}")
            try:
                with np.errstate(over="raise"):
                    write_weights(directory / WEIGHTS_FILE, weights, _DTYPES[dtype])
            except FloatingPointError as error:
                raise PresetError(f"the weights exceed the range of {dtype}; use float32 or bfloat16") from error
            keras_config.write(directory / "config.json", keras_config.network(architecture))
            if vocabulary is not None:
                (directory / VOCABULARY_FILE).parent.mkdir(parents=True)
                (directory / VOCABULARY_FILE).write_bytes(vocabulary)
                keras_config.write(directory / "tokenizer.json", keras_config.tokenizer())
                preprocessor = keras_config.preprocessor(architecture.max_sequence_length)
                keras_config.write(directory / "preprocessor.json", preprocessor)
            if (source / CARD_FILE).is_file():
                shutil.copyfile(source / CARD_FILE, directory / CARD_FILE)
            block: dict[str, Any] = {"trained": True, "pooling": pooling, "description": description}
            if padding is not None:
                block["padding"] = padding
            metadata = keras_config.metadata_of(architecture, fnet_service=block)
            keras_config.write(directory / "metadata.json", metadata)
            progress("verifying the preset")
            metadata["fnet_service"] |= fingerprint(directory)
            keras_config.write(directory / "metadata.json", metadata)
            if (preset := read_preset(directory)).has_tokenizer:
                FNetTokenizer.from_preset(preset)
            _replace_directory(directory, destination, Path(work))
    except OSError as error:
        raise PresetError(f"{error.filename or destination}: {error.strerror or error}") from error


def _check_source(source: Path) -> None:
    if not (source / "config.json").is_file():
        raise PresetError(
            f"{source}: has no config.json; expected a directory of a Hugging Face checkpoint with config.json, "
            "model.safetensors or pytorch_model.bin, and spiece.model or tokenizer.json"
        )


def _check_destination(destination: Path, *, force: bool) -> None:
    if not destination.exists():
        return
    if not destination.is_dir() or (any(destination.iterdir()) and not (destination / "config.json").is_file()):
        raise PresetError(f"{destination}: already exists and is not a preset; choose another destination")
    if any(destination.iterdir()) and not force:
        raise PresetError(f"{destination}: already exists; use --force to replace it")


def _replace_directory(directory: Path, destination: Path, work: Path) -> None:
    """Rename the finished directory; a preset that it replaces is deleted with the temporary directory."""
    if destination.exists():
        destination.rename(work / "replaced")
        try:
            directory.rename(destination)
        except OSError:
            (work / "replaced").rename(destination)
            raise
    else:
        directory.rename(destination)

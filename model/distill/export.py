"""The export: a trained student becomes a preset directory, the one that keras-hub writes and the service loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.backbone import FNetBackbone
from model.checkpoints import WEIGHTS_FILE, write_weights
from model.distill.recipe import Recipe
from model.distill.train import CHECKPOINT
from model.distill.vocabulary import VOCABULARY
from model.presets import VOCABULARY_FILE, read_preset

_TOKENIZER_MODULE = "keras_hub.src.models.f_net.f_net_tokenizer"
_PREPROCESSOR_MODULE = "keras_hub.src.models.f_net.f_net_text_classifier_preprocessor"


def export(recipe: Recipe, work: Path) -> Path:
    """Write the preset `preset/NAME` from the last checkpoint and the vocabulary, and return its directory.

    The weights are kept as float16, which changes a vector by less than one part in a thousand and halves the file.

    Raises:
        FileNotFoundError: Nothing was trained yet.
    """
    state = torch.load(work / CHECKPOINT, weights_only=True)
    weights = {name: value.numpy() for name, value in state["variables"].items()}
    segments = weights["segment_embedding/embeddings"]
    # Only segment 0 is trained: a pair is read as one text.
    segments[1:] = segments[0]
    directory = work / "preset" / recipe.name
    shutil.rmtree(directory, ignore_errors=True)
    (directory / VOCABULARY_FILE).parent.mkdir(parents=True)
    backbone = FNetBackbone.from_architecture(recipe.architecture, name="f_net_backbone", dtype="float32")
    backbone.save_to_preset(directory)
    write_weights(directory / WEIGHTS_FILE, weights, np.float16, compressed=True)
    shutil.copy(work / VOCABULARY, directory / VOCABULARY_FILE)
    tokenizer = _tokenizer()
    _write(directory / "tokenizer.json", tokenizer)
    _write(directory / "preprocessor.json", _preprocessor(tokenizer, recipe.architecture.max_sequence_length))
    metadata = json.loads((directory / "metadata.json").read_text())
    metadata["fnet_service"] = {
        "name": recipe.name,
        "version": recipe.version,
        "trained": True,
        "padding": "none",
        "pooling": "pooled",
        "description": f"{recipe.architecture.num_layers}-layer FNet sentence encoder distilled from all-MiniLM-L6-v2; "
        "English, case-folded.",
    }
    _write(directory / "metadata.json", metadata)
    read_preset(directory)
    return directory


def _tokenizer() -> dict[str, Any]:
    """Return `tokenizer.json` as keras-hub writes it."""
    config = {
        "name": "f_net_tokenizer",
        "trainable": True,
        "dtype": _dtype_policy("int32"),
        "config_file": "tokenizer.json",
        "proto": None,
        "sequence_length": None,
        "add_bos": False,
        "add_eos": False,
    }
    return _serialised(_TOKENIZER_MODULE, "FNetTokenizer", config)


def _preprocessor(tokenizer: dict[str, Any], length: int) -> dict[str, Any]:
    """Return `preprocessor.json` as keras-hub writes it."""
    config = {
        "name": "f_net_text_classifier_preprocessor",
        "trainable": True,
        "dtype": _dtype_policy("float32"),
        "tokenizer": tokenizer,
        "config_file": "preprocessor.json",
        "sequence_length": length,
        "truncate": "round_robin",
    }
    return _serialised(_PREPROCESSOR_MODULE, "FNetTextClassifierPreprocessor", config)


def _serialised(module: str, name: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"module": module, "class_name": name, "config": config, "registered_name": f"keras_hub>{name}"}


def _dtype_policy(name: str) -> dict[str, Any]:
    return {"module": "keras", "class_name": "DTypePolicy", "config": {"name": name}, "registered_name": None}


def _write(file: Path, document: dict[str, Any]) -> None:
    file.write_text(json.dumps(document, indent=4) + "\n")

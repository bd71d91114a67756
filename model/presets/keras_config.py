"""The JSON files of a preset, in the format of keras-hub."""

from __future__ import annotations

import datetime
import json
from importlib import metadata
from pathlib import Path
from typing import Any

from model.architecture import Architecture

# The release whose format this is; keras-hub compares it with its own version when it loads a preset.
KERAS_HUB_VERSION = "0.32.0"


def network(architecture: Architecture) -> dict[str, Any]:
    """Return `config.json` of a network that computes in float32."""
    fields = {name: getattr(architecture, name) for name in Architecture.__dataclass_fields__}
    config = {"name": "f_net_backbone", "trainable": True, "dtype": _dtype_policy("float32"), **fields}
    return backbone(config)


def backbone(config: dict[str, Any]) -> dict[str, Any]:
    """Return `config.json` of a network whose constructor takes `config`."""
    return _serialized("backbone", "FNetBackbone", config)


def metadata_of(architecture: Architecture, **blocks: dict[str, Any]) -> dict[str, Any]:
    """Return `metadata.json`.

    Args:
        architecture: The network.
        **blocks: Further fields, such as `fnet_service`.
    """
    return {
        "keras_version": metadata.version("keras"),
        "keras_hub_version": KERAS_HUB_VERSION,
        "parameter_count": architecture.parameter_count,
        "date_saved": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d@%H:%M:%S"),
        **blocks,
    }


def tokenizer() -> dict[str, Any]:
    """Return `tokenizer.json`, which refers to the vocabulary file."""
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
    return _serialized("tokenizer", "FNetTokenizer", config)


def preprocessor(length: int) -> dict[str, Any]:
    """Return `preprocessor.json`.

    Args:
        length: Number of tokens to which keras-hub pads and truncates texts.
    """
    config = {
        "name": "f_net_text_classifier_preprocessor",
        "trainable": True,
        "dtype": _dtype_policy("float32"),
        "tokenizer": tokenizer(),
        "config_file": "preprocessor.json",
        "sequence_length": length,
        "truncate": "round_robin",
    }
    return _serialized("text_classifier_preprocessor", "FNetTextClassifierPreprocessor", config)


def write(file: Path, document: dict[str, Any]) -> None:
    """Write a document with the formatting of keras-hub."""
    file.write_text(json.dumps(document, indent=4) + "\n")


def _serialized(module: str, name: str, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "module": f"keras_hub.src.models.f_net.f_net_{module}",
        "class_name": name,
        "config": config,
        "registered_name": f"keras_hub>{name}",
    }


def _dtype_policy(name: str) -> dict[str, Any]:
    return {"module": "keras", "class_name": "DTypePolicy", "config": {"name": name}, "registered_name": None}

"""FNet encoders: arrays in, arrays out.

`FNetBackbone` is the Keras 3 reference implementation. `PackedEncoder` is the padding-free encoder that the service
runs. This package does not depend on HTTP: `service` imports `model`, and `model` never imports `service`.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.backbone import FNetBackbone
    from model.encoder import PackedEncoder
    from model.presets.hub import load_preset
    from model.tokenizer import FNetTokenizer

__all__ = ["FNetBackbone", "FNetTokenizer", "PackedEncoder", "load_preset"]

# Keras selects its backend once, at its first import, and defaults to TensorFlow.
os.environ.setdefault("KERAS_BACKEND", "jax")

_MODULES = {
    "FNetBackbone": "model.backbone",
    "FNetTokenizer": "model.tokenizer",
    "PackedEncoder": "model.encoder",
    "load_preset": "model.presets.hub",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first access: Keras and JAX each take more than a second to import."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)

"""FNet encoders: arrays in, arrays out.

`FNetBackbone` is the readable Keras 3 reference, `PackedEncoder` the padding-free program that serves.
Nothing here knows of HTTP; `service` is built on top of this package and never the other way round.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.backbone import FNetBackbone
    from model.encoder import PackedEncoder
    from model.presets.preset import load_preset
    from model.tokenizer import FNetTokenizer

__all__ = ["FNetBackbone", "FNetTokenizer", "PackedEncoder", "load_preset"]

# Keras chooses its backend once, when it is first imported, and would choose TensorFlow.
os.environ.setdefault("KERAS_BACKEND", "jax")

_HOMES = {
    "FNetBackbone": "model.backbone",
    "FNetTokenizer": "model.tokenizer",
    "PackedEncoder": "model.encoder",
    "load_preset": "model.presets.preset",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for: Keras and JAX each cost more than a second."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)

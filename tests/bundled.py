"""The bundled preset's vocabulary, which the tests' tiny presets share."""

from __future__ import annotations

from model import load_preset
from model.presets import DEFAULT_PRESET

VOCABULARY = load_preset(DEFAULT_PRESET).architecture.vocabulary_size
# A token whose embedding is so large, in tiny presets, that the network cannot but overflow.
POISON = VOCABULARY - 1

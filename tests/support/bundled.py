"""Vocabulary and sizes of the bundled preset, which the tiny presets of tests share.

They are read at import, since parametrized tests use them.
"""

from __future__ import annotations

from model import load_preset
from model.presets.hub import DEFAULT_PRESET

_ARCHITECTURE = load_preset(DEFAULT_PRESET).architecture
PARAMETERS = _ARCHITECTURE.parameter_count
VOCABULARY = _ARCHITECTURE.vocabulary_size
# In tiny presets, the embedding of this token makes the network overflow.
POISON = VOCABULARY - 1

"""The bundled preset's vocabulary, which the tests' tiny presets share, and its size.

Read at import: cases of parametrized tests are made of it.
"""

from __future__ import annotations

from model import load_preset
from model.presets.preset import DEFAULT_PRESET

_ARCHITECTURE = load_preset(DEFAULT_PRESET).architecture
PARAMETERS = _ARCHITECTURE.parameter_count
VOCABULARY = _ARCHITECTURE.vocabulary_size
# Tiny presets give this token an embedding so large that the network cannot but overflow.
POISON = VOCABULARY - 1

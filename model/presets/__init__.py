"""Presets: directories of a configuration, a vocabulary and weights, as keras-hub writes them."""

"""Presets: directories with a configuration, a vocabulary and weights, in the format of keras-hub."""

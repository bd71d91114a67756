"""Checkpoints of other libraries to presets. Only the command line imports it."""

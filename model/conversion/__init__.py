"""Conversion of checkpoints of other libraries to presets. Only the command line imports this package."""

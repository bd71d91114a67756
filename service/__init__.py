"""The HTTP service around an FNet encoder."""

__version__ = "0.1.0"

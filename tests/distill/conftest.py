"""Keras on torch, as the recipe runs it. `make test-distill` runs what is here, in an environment of its own."""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "torch"

"""Settings for the tests of the recipe with Keras on torch; `make test-distill` runs them in their own environment."""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "torch"

import torch

# For tiny steps one thread is faster, and it never waits for another thread on a busy machine.
torch.set_num_threads(1)

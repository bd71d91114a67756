"""Keras on torch, as the recipe runs it. `make test-distill` runs what is here, in an environment of its own."""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "torch"

import torch

# One thread does tiny steps sooner, and does not wait for another on a busy machine.
torch.set_num_threads(1)

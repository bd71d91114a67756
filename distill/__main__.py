"""`python -m distill`: the recipe, step by step."""

from __future__ import annotations

import os

# Keras chooses its backend when it is first imported; torch trains fastest on processors.
os.environ["KERAS_BACKEND"] = "torch"

from distill.cli import main

main()

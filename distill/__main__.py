"""Run the recipe's command line: `python -m distill`."""

from __future__ import annotations

import os

# Keras selects its backend at the first import; torch trains fastest on CPUs.
os.environ["KERAS_BACKEND"] = "torch"

from distill.cli import main

main()

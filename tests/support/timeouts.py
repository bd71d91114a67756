"""Bounds of waiting in tests: long enough for a loaded machine, so that only a hang exceeds them."""

from __future__ import annotations

# Seconds.
TIMEOUT = 120.0

"""The timeout of tests, long enough for a loaded machine, so that only a hang exceeds it."""

from __future__ import annotations

# Seconds.
TIMEOUT = 120.0

"""Watchdog for runs that do not end. From outside, a deadlock in a library looks like a busy library."""

from __future__ import annotations

import time
from collections.abc import Callable

# Longest interval counted between two checks: time during which the process itself was suspended does not count.
_MAX_STEP_SECONDS = 1.0


class Watchdog:
    """Measures the duration of a run from periodic checks.

    Args:
        run_timeout: Seconds after which a run counts as hung.
        clock: Returns monotonic seconds.
    """

    def __init__(self, run_timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.run_timeout = run_timeout
        self._clock = clock
        self._run: int | None = None
        self._checked = clock()
        self._seconds = 0.0

    def expired(self, run: int | None) -> bool:
        """Check the current run and return whether it has exceeded the timeout.

        Args:
            run: Unique number of the current run; `None` while no batch runs.
        """
        now = self._clock()
        step, self._checked = min(now - self._checked, _MAX_STEP_SECONDS), now
        if run is None or run != self._run:
            self._run, self._seconds = run, 0.0
            return False
        self._seconds += step
        return self._seconds > self.run_timeout

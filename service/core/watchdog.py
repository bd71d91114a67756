"""Sees a run that does not end: a library that waits for itself looks, from outside, like one that is busy."""

from __future__ import annotations

import time
from collections.abc import Callable

# A process that was stopped itself, by a debugger or with its whole machine, has not waited in that time.
_LONGEST_STEP = 1.0


class Watchdog:
    """Counts the time that one run takes, as far as somebody looked on.

    Args:
        run_timeout: Seconds after which a run counts as hung.
        clock: Seconds, monotonic.
    """

    def __init__(self, run_timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.run_timeout = run_timeout
        self._clock = clock
        self._run: int | None = None
        self._looked = clock()
        self._seconds = 0.0

    def expired(self, run: int | None) -> bool:
        """Look at what runs now, and return whether it has been running for too long.

        Args:
            run: The number of the run, another for every one; nothing if nothing runs.
        """
        now = self._clock()
        step, self._looked = min(now - self._looked, _LONGEST_STEP), now
        if run is None or run != self._run:
            self._run, self._seconds = run, 0.0
            return False
        self._seconds += step
        return self._seconds > self.run_timeout

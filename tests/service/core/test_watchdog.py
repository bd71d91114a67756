"""The watchdog detects runs that do not end."""

from __future__ import annotations

from service.core.watchdog import Watchdog


class Checker:
    """A watchdog with a manual clock."""

    def __init__(self, run_timeout: float) -> None:
        self.now = 1000.0
        self.watchdog = Watchdog(run_timeout, lambda: self.now)

    def check(self, run: int | None, *, after: float) -> bool:
        """Advance the clock and check the run."""
        self.now += after
        return self.watchdog.expired(run)


def test_run_expires_after_the_timeout() -> None:
    """An expired run stays expired."""
    checker = Checker(run_timeout=2.0)
    assert [checker.check(7, after=0.5) for _ in range(7)] == [False] * 5 + [True] * 2


def test_each_run_has_its_own_timeout() -> None:
    """Consecutive runs and idle time do not add up."""
    checker = Checker(run_timeout=2.0)
    assert not any(checker.check(number // 3, after=0.5) for number in range(30))
    assert not any(checker.check(None, after=0.5) for _ in range(30))
    assert not checker.check(1, after=0.5)


def test_time_without_checks_does_not_count() -> None:
    """A suspended process resumes with the elapsed time before the suspension."""
    checker = Checker(run_timeout=2.0)
    checker.check(1, after=0.1)
    assert not checker.check(1, after=3600.0)
    assert [checker.check(1, after=0.5) for _ in range(3)] == [False, False, True]

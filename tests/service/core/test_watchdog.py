"""A run that does not end is seen, and one that merely takes long is not taken for it."""

from __future__ import annotations

from service.core.watchdog import Watchdog


class Looker:
    """A watch, and the clock in its hand."""

    def __init__(self, run_timeout: float) -> None:
        self.now = 1000.0
        self.watch = Watchdog(run_timeout, lambda: self.now)

    def look(self, run: int | None, *, after: float) -> bool:
        """Let time pass, and look."""
        self.now += after
        return self.watch.expired(run)


def test_a_run_that_goes_on_is_lost_when_patience_ends() -> None:
    """And stays lost."""
    looker = Looker(run_timeout=2.0)
    assert [looker.look(7, after=0.5) for _ in range(7)] == [False] * 5 + [True] * 2


def test_every_run_has_its_own_time() -> None:
    """Many runs one behind the other, or none at all, are no run that does not end."""
    looker = Looker(run_timeout=2.0)
    assert not any(looker.look(number // 3, after=0.5) for number in range(30))
    assert not any(looker.look(None, after=0.5) for _ in range(30))
    assert not looker.look(1, after=0.5)


def test_time_in_which_nobody_looked_does_not_count() -> None:
    """A process that was stopped for an hour, with its run, goes on where it was."""
    looker = Looker(run_timeout=2.0)
    looker.look(1, after=0.1)
    assert not looker.look(1, after=3600.0)
    assert [looker.look(1, after=0.5) for _ in range(3)] == [False, False, True]

"""Timing of alternating cases, so that a change of the speed of the machine affects all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

# Receives one line with the case, its speed, and the share of the work that is done.
Progress = Callable[[str], None]
# Identifies a case.
Key = tuple[str | int, ...]

# Threads of the previous case keep spinning for a moment.
_PAUSE_SECONDS = 0.02
_MAX_CALLS = 50
# A call that takes as many turns needs no warm-up.
_LONG_CALL_TURNS = 10


@dataclass(frozen=True, slots=True)
class Case:
    """One candidate on one workload.

    Attributes:
        key: Identifies its times.
        label: Its name in progress lines.
        amount: Work of one call, in `unit`.
        unit: Unit of the work, such as tokens.
        time: Makes one call and returns its seconds.
    """

    key: Key
    label: str
    amount: float
    unit: str
    time: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Budget:
    """Duration of a measurement.

    Attributes:
        rounds: Maximum number of turns of each case.
        turn_seconds: Minimum length of a turn, reached by repeating the call up to 50 times after a warm-up.
        case_seconds: A case that has used more time skips the remaining rounds.
    """

    rounds: int
    turn_seconds: float
    case_seconds: float


class Times:
    """The seconds of a case's calls, turn by turn."""

    def __init__(self) -> None:
        self.turns: list[list[float]] = []

    @property
    def turn_medians(self) -> list[float]:
        """The median of each turn."""
        return [statistics.median(turn) for turn in self.turns]

    @property
    def median(self) -> float:
        """The median of the medians of the turns, so that a slow spell counts as one turn regardless of its calls."""
        return statistics.median(self.turn_medians)

    @property
    def p95(self) -> float:
        """The 95th percentile of all calls, at least the median, because a slow turn has few calls."""
        percentile = float(np.percentile([seconds for turn in self.turns for seconds in turn], 95))
        return max(percentile, self.median)


def timed(call: Callable[[], object]) -> Callable[[], float]:
    """Return a function that makes the call and returns its seconds."""

    def run() -> float:
        started = time.perf_counter()
        call()
        return time.perf_counter() - started

    return run


def alternate(cases: Sequence[Case], budget: Budget, progress: Progress = lambda _text: None) -> dict[Key, Times]:
    """Measure alternating cases.

    Every second round runs in reverse order, so that no case always follows the same other case. Cases with equal keys
    share their times.

    Args:
        cases: The cases, ready to run.
        budget: Duration of the measurement.
        progress: Receives a line after every turn.

    Returns:
        The times by key. A case that exceeds its budget has fewer turns: those of the first rounds.
    """
    times = {case.key: Times() for case in cases}
    spent = dict.fromkeys(times, 0.0)
    done, of = 0, len(cases) * budget.rounds
    for number in range(budget.rounds):
        for case in cases if number % 2 == 0 else reversed(cases):
            done += 1
            if number and spent[case.key] >= budget.case_seconds:
                continue
            time.sleep(_PAUSE_SECONDS)
            started = time.perf_counter()
            turn = _turn(case, budget.turn_seconds)
            spent[case.key] += time.perf_counter() - started
            times[case.key].turns.append(turn)
            rate = case.amount / max(statistics.median(turn), 1e-9)
            progress(f"{done}/{of}  {case.label}  {rate:,.0f} {case.unit}/s")
    return times


def speedup(times: Times, baseline: Times) -> float:
    """Return the speed relative to a baseline, as the median of the ratios within their common rounds."""
    # Only the last rounds can lack one of them.
    return statistics.median(
        theirs / ours for ours, theirs in zip(times.turn_medians, baseline.turn_medians, strict=False)
    )


def _turn(case: Case, seconds: float) -> list[float]:
    first = case.time()
    if first >= _LONG_CALL_TURNS * seconds:
        return [first]
    # The first call was a warm-up: other cases have used the processor's caches and threads since the last turn.
    turn: list[float] = []
    while not turn or (sum(turn) < seconds and len(turn) < _MAX_CALLS):
        turn.append(case.time())
    return turn

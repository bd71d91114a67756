"""Contenders take turns, round by round, and what they took is summed up."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from service.bench.results import Line

# Told what is measured, how fast it is, and how far the whole has come.
Tell = Callable[[str], None]
# Who does what: what the times of a cell are found by.
Key = tuple[str | int, ...]

# Threads of the last contender still spin for a moment, in case more work comes.
_PAUSE = 0.02
# More calls in one turn tell nothing new.
_MOST_CALLS = 50
# A line through two points deviates from neither.
_FEWEST_POINTS = 3


@dataclass(frozen=True, slots=True)
class Cell:
    """One contender on one workload.

    Attributes:
        key: What its times are found by.
        label: What people see while it is measured.
        amount: How much a call does.
        unit: Of what.
        time: Does it once and returns the seconds.
    """

    key: Key
    label: str
    amount: float
    unit: str
    time: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Pace:
    """How much of everything is measured.

    Attributes:
        rounds: How many.
        turn: Seconds that a cell's turn lasts at least; one call at least, 50 at most.
        budget: Seconds after which a cell takes part in no further round.
    """

    rounds: int
    turn: float
    budget: float


class Times:
    """The seconds of a cell's calls, turn by turn."""

    def __init__(self) -> None:
        self.turns: list[list[float]] = []

    @property
    def median(self) -> float:
        """The median of the turns' medians: a slow spell of the machine is one turn's, however many calls that had."""
        return statistics.median(statistics.median(turn) for turn in self.turns)

    @property
    def p95(self) -> float:
        """What 95 % of all calls did not exceed."""
        return float(np.percentile([seconds for turn in self.turns for seconds in turn], 95))


def clocked(call: Callable[[], object]) -> Callable[[], float]:
    """Return a function that calls and returns the seconds."""

    def timed() -> float:
        started = time.perf_counter()
        call()
        return time.perf_counter() - started

    return timed


def alternate(cells: Sequence[Cell], pace: Pace, tell: Tell) -> dict[Key, Times]:
    """Measure cells in turn, so that a change of the machine's speed meets all of them.

    Every other round goes backwards, so that nobody always runs after the same neighbour.
    """
    times = {cell.key: Times() for cell in cells}
    spent = dict.fromkeys(times, 0.0)
    done, of = 0, len(cells) * pace.rounds
    for number in range(pace.rounds):
        for cell in cells if number % 2 == 0 else reversed(cells):
            done += 1
            if number and spent[cell.key] >= pace.budget:
                continue
            time.sleep(_PAUSE)
            started = time.perf_counter()
            turn = _turn(cell, pace.turn)
            spent[cell.key] += time.perf_counter() - started
            times[cell.key].turns.append(turn)
            rate = cell.amount / max(statistics.median(turn), 1e-9)
            tell(f"{done}/{of}  {cell.label}  {rate:,.0f} {cell.unit}/s")
    return times


def _turn(cell: Cell, seconds: float) -> list[float]:
    first = cell.time()
    if first >= seconds:
        return [first]
    # The first call brought its weights back into the caches, which others have used meanwhile.
    taken: list[float] = []
    while not taken or (sum(taken) < seconds and len(taken) < _MOST_CALLS):
        taken.append(cell.time())
    return taken


def straight_line(tokens: Sequence[float], seconds: Sequence[float]) -> Line | None:
    """Return the line with the least squares of relative distances, or nothing for fewer than three points.

    Relative, for else the longest queue alone would say where the line lies.
    """
    if len(tokens) < _FEWEST_POINTS:
        return None
    x, y = np.asarray(tokens, np.float64), np.asarray(seconds, np.float64)
    (intercept, slope), *_ = np.linalg.lstsq(np.stack([1 / y, x / y], axis=1), np.ones_like(y), rcond=None)
    return Line(
        intercept=float(intercept), slope=float(slope), deviation=float(np.abs(y / (intercept + slope * x) - 1).max())
    )


def spread(values: Sequence[float]) -> float:
    """Return the largest distance from the median, as a share of it."""
    middle = statistics.median(values)
    return max(abs(value / middle - 1) for value in values)

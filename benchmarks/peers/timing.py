"""Alternating measurement, and summaries: medians, and medians of the ratios within each round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

# One call of a few milliseconds is not a measurement: a turn repeats short calls for this long.
_TURN_SECONDS = 0.2
_MAX_CALLS = 50
# Threads of the previous candidate spin for a moment after its last call.
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Summary:
    """One candidate on one workload.

    Attributes:
        seconds: Median time.
        ratio: Median over the rounds of its time divided by the reference's time in the same round.
        rounds: Number of rounds it took part in.
    """

    seconds: float
    ratio: float
    rounds: int


def measure(
    candidates: Mapping[str, Callable[[], float]],
    rounds: int,
    budget_seconds: float,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, list[float]]:
    """Return each candidate's seconds in every round; candidates alternate, so that drift affects all of them.

    Args:
        candidates: Calls that run once and return their seconds; already warmed up.
        rounds: Number of rounds.
        budget_seconds: A candidate that has run for this long takes part in no further round.
        sleep: Waits for the given seconds.

    Returns:
        By name, the median seconds of each turn's calls. A candidate out of budget has only its first rounds.
    """
    estimates = {name: call() for name, call in candidates.items()}
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    spent = dict.fromkeys(candidates, 0.0)
    for turn in range(rounds):
        # The order alternates, so that no candidate always follows the same one.
        for name in list(candidates) if turn % 2 == 0 else reversed(list(candidates)):
            if turn and spent[name] >= budget_seconds:
                continue
            sleep(_PAUSE_SECONDS)
            durations = _turn(candidates[name], estimates[name])
            seconds[name].append(statistics.median(durations))
            spent[name] += sum(durations)
    return seconds


def _turn(call: Callable[[], float], estimate: float) -> list[float]:
    """Return the seconds of a turn's calls."""
    calls = max(1, min(_MAX_CALLS, round(_TURN_SECONDS / max(estimate, 1e-6))))
    if calls > 1:  # other candidates have evicted its weights from the caches
        call()
    return [call() for _ in range(calls)]


def summarize(
    seconds: Mapping[str, Sequence[float]], reference: str, scale: Mapping[str, float] | None = None
) -> dict[str, Summary]:
    """Return medians, and medians of the ratios to the reference within a round.

    Args:
        seconds: Seconds of every round, by candidate.
        reference: The candidate that ratios refer to; if it did not run, ratios are NaN.
        scale: Factors for the seconds of candidates that ran only a part of the workload.
    """
    base = seconds.get(reference, ())
    summaries = {}
    for name, times in seconds.items():
        factor = (scale or {}).get(name, 1.0)
        # One of the two may have fewer rounds: only common rounds are compared.
        ratios = [factor * own / other for own, other in zip(times, base, strict=False)]
        ratio = statistics.median(ratios) if ratios else float("nan")
        summaries[name] = Summary(factor * statistics.median(times), ratio, len(times))
    return summaries


def matching(names: Sequence[str], words: Sequence[str]) -> list[str]:
    """Return the names that contain any of the words, or all names if no name does."""
    return [name for name in names if any(word in name for word in words)] or list(names)

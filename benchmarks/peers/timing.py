"""Take turns, and sum up: medians, and medians of the ratios within each round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

# A turn lasts at least so many seconds, in as many calls as that takes: one call of a few milliseconds is no measure.
_TURN = 0.2
_MOST_CALLS = 50
# Threads of the last contender still spin for a moment in case more work comes.
_PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class Summary:
    """One contender on one workload.

    Attributes:
        seconds: Median time.
        ratio: Median over the rounds of its time as a multiple of the reference's in the same round.
        rounds: How many rounds it took part in.
    """

    seconds: float
    ratio: float
    rounds: int


def measure(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    budget: float,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, list[float]]:
    """Return each contender's seconds in every round; they take turns, so a change of the machine's speed meets all.

    Args:
        contenders: What to call, warmed up before.
        rounds: How many rounds there are.
        budget: Seconds after which a contender takes part in no further round.
        clock: Tells seconds.
        sleep: Waits for seconds.

    Returns:
        By name, the median of each turn's calls. A contender out of budget has fewer, those of the first rounds.
    """
    estimates = {}
    for name, call in contenders.items():
        started = clock()
        call()
        estimates[name] = clock() - started
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    spent = dict.fromkeys(contenders, 0.0)
    for turn in range(rounds):
        # There and back, so that nobody always runs after the same neighbour.
        for name in list(contenders) if turn % 2 == 0 else reversed(list(contenders)):
            if turn and spent[name] >= budget:
                continue
            sleep(_PAUSE)
            began = clock()
            seconds[name].append(_turn(contenders[name], estimates[name], clock))
            spent[name] += clock() - began
    return seconds


def _turn(call: Callable[[], object], estimate: float, clock: Callable[[], float]) -> float:
    """Return the median seconds of a turn's calls."""
    calls = max(1, min(_MOST_CALLS, round(_TURN / max(estimate, 1e-6))))
    if calls > 1:  # bring its weights back into the caches, which others have just used
        call()
    taken = []
    for _ in range(calls):
        started = clock()
        call()
        taken.append(clock() - started)
    return statistics.median(taken)


def summarize(
    seconds: Mapping[str, Sequence[float]], reference: str, scale: Mapping[str, float] | None = None
) -> dict[str, Summary]:
    """Return medians, and medians of the ratios to the reference within a round.

    Args:
        seconds: Of every round, by contender.
        reference: The contender that ratios are of; it needs not be there, then ratios are NaN.
        scale: What a contender's seconds are multiplied with, where it ran a part of the workload alone.
    """
    base = seconds.get(reference, ())
    summaries = {}
    for name, times in seconds.items():
        factor = (scale or {}).get(name, 1.0)
        # One of them may have left earlier: only rounds that both were in compare.
        ratios = [factor * mine / other for mine, other in zip(times, base, strict=False)]
        ratio = statistics.median(ratios) if ratios else float("nan")
        summaries[name] = Summary(factor * statistics.median(times), ratio, len(times))
    return summaries


def chosen(names: Sequence[str], words: Sequence[str]) -> list[str]:
    """Return the names that hold any of the words, or all of them if no word means any."""
    return [name for name in names if any(word in name for word in words)] or list(names)

"""Recommendation of a candidate, a pure function of the results."""

from __future__ import annotations

from collections.abc import Sequence

from service.bench.results import CandidateResult, Choice, Recommendation

_SHORT_TEXT_TOKENS = 32
# Repeated measurements differ by this share, so that closer speeds are equal.
_TIE_SHARE = 0.02
# An alternative must save at least this share of the memory.
_MIN_SAVING_SHARE = 0.05


def recommend(candidates: Sequence[CandidateResult]) -> Recommendation | None:
    """Choose a candidate, and alternatives for accuracy and memory.

    Only candidates within the accuracy bounds of their dtype are eligible. If any of them is batch-invariant, only
    batch-invariant ones are eligible.

    Args:
        candidates: Results of one measurement.

    Returns:
        The recommendation, or None if no candidate is within its bounds.
    """
    accurate = [candidate for candidate in candidates if candidate.accuracy.within_bounds]
    eligible = [candidate for candidate in accurate if candidate.batch_invariant] or accurate
    if not eligible:
        return None
    best = _fastest(eligible)
    float32 = [candidate for candidate in eligible if candidate.dtype == "float32"]
    closest = _fastest(float32) if float32 else best
    smallest = min(eligible, key=lambda candidate: candidate.start.peak_bytes)
    saves = smallest.start.peak_bytes <= (1 - _MIN_SAVING_SHARE) * best.start.peak_bytes
    return Recommendation(
        fastest=_choice(best),
        closest_to_float32=None if closest is best else _choice(closest),
        min_memory=_choice(smallest) if saves else None,
    )


def _fastest(candidates: Sequence[CandidateResult]) -> CandidateResult:
    """Return the candidate with the highest throughput of mixed texts; accuracy breaks a tie."""
    limit = (1 - _TIE_SHARE) * max(_speed(candidate) for candidate in candidates)
    tied = [candidate for candidate in candidates if _speed(candidate) >= limit]
    return max(tied, key=lambda candidate: (round(candidate.accuracy.pooled_min, 6), _speed(candidate)))


def _speed(candidate: CandidateResult) -> float:
    return candidate.throughputs[0].tokens_per_second


def _choice(candidate: CandidateResult) -> Choice:
    short = min(candidate.latencies, key=lambda latency: abs(latency.tokens - _SHORT_TEXT_TOKENS))
    return Choice(
        backend=candidate.backend,
        dtype=candidate.dtype,
        settings=f"FNET_BACKEND={candidate.backend} FNET_DTYPE={candidate.dtype}",
        tokens_per_second=_speed(candidate),
        speedup=candidate.throughputs[0].speedup,
        latency_tokens=short.tokens,
        latency_seconds=short.median_seconds,
        peak_bytes=candidate.start.peak_bytes,
        accuracy=candidate.accuracy,
    )

"""Kept results are the results, within a number of bytes."""

from __future__ import annotations

import numpy as np

from model.encoder import ALL_OUTPUTS, Encoding, Output, Tokens
from service.core.cache import ResultCache

HIDDEN = 8
POOLED, MEAN, SEQUENCE = (frozenset[Output]((name,)) for name in ("pooled_output", "mean_output", "sequence_output"))


def tokens(*ids: int, segment: int = 0) -> Tokens:
    """Return a sequence."""
    return Tokens(np.array(ids, np.int32), np.full(len(ids), segment, np.int32))


def encoding(length: int, seed: int = 0, outputs: frozenset[Output] = ALL_OUTPUTS) -> Encoding:
    """Return a result."""
    random = np.random.default_rng(seed)
    shapes: dict[Output, tuple[int, ...]] = {
        "sequence_output": (length, HIDDEN),
        "pooled_output": (HIDDEN,),
        "mean_output": (HIDDEN,),
    }
    return Encoding({name: random.normal(size=shapes[name]).astype(np.float32) for name in shapes if name in outputs})


def get(cache: ResultCache, tokens: Tokens, outputs: frozenset[Output] = ALL_OUTPUTS) -> Encoding | None:
    """Return what is kept with all the outputs."""
    return cache.get(tokens, outputs)


def test_a_kept_result_is_the_very_result() -> None:
    """All three outputs come back, and no copy is made of them."""
    cache, result = ResultCache(1 << 20), encoding(4)
    cache.put(tokens(1, 2, 3, 4), result)
    kept = get(cache, tokens(1, 2, 3, 4))
    assert kept is not None
    assert kept.sequence_output is result.sequence_output
    assert kept.pooled_output is result.pooled_output
    assert kept.mean_output is result.mean_output


def test_result_without_a_requested_output_is_not_found() -> None:
    """Any subset of the outputs that are kept is."""
    cache = ResultCache(1 << 20)
    cache.put(tokens(1, 2), encoding(2, outputs=POOLED | MEAN))
    assert all(get(cache, tokens(1, 2), outputs) for outputs in (POOLED, MEAN, POOLED | MEAN))
    assert not any(get(cache, tokens(1, 2), outputs) for outputs in (SEQUENCE, POOLED | SEQUENCE, ALL_OUTPUTS))


def test_outputs_of_the_same_ids_are_kept_next_to_one_another() -> None:
    """Requests for different outputs of one text do not evict each other's result."""
    cache = ResultCache(1 << 20)
    pooled, others = encoding(2, 1, POOLED), encoding(2, 2, MEAN | SEQUENCE)
    cache.put(tokens(1, 2), pooled)
    cache.put(tokens(1, 2), others)
    kept = get(cache, tokens(1, 2))
    assert kept is not None
    assert kept.arrays == {**pooled.arrays, **others.arrays}
    assert cache.nbytes == pooled.nbytes + others.nbytes + len(tokens(1, 2).key)


def test_outputs_that_do_not_fit_leave_the_kept_ones() -> None:
    """The token outputs of a long sequence do not cost its pooled output its place."""
    cache = ResultCache(200)
    cache.put(tokens(1, 2), encoding(2, outputs=POOLED))
    cache.put(tokens(1, 2), encoding(10, outputs=SEQUENCE))
    assert get(cache, tokens(1, 2), POOLED) is not None
    assert get(cache, tokens(1, 2), SEQUENCE) is None


def test_further_outputs_count_as_use() -> None:
    """A result that grows is evicted last."""
    cache = ResultCache(2 * (encoding(2, outputs=POOLED | MEAN).nbytes + 16))
    cache.put(tokens(1, 1), encoding(2, outputs=POOLED))
    cache.put(tokens(2, 2), encoding(2, outputs=POOLED))
    cache.put(tokens(1, 1), encoding(2, outputs=MEAN))
    cache.put(tokens(3, 3), encoding(2, outputs=POOLED | MEAN))
    assert get(cache, tokens(2, 2), POOLED) is None
    assert get(cache, tokens(1, 1), POOLED | MEAN) is not None
    assert cache.nbytes == 2 * (encoding(2, outputs=POOLED | MEAN).nbytes + 16)


def test_a_result_that_is_kept_already_stays() -> None:
    """Equal sequences of one request come one after the other."""
    cache, result = ResultCache(1 << 24), encoding(10)
    ids = tokens(*range(10))
    cache.put(ids, result)
    cache.put(ids, encoding(10, outputs=POOLED))
    kept = get(cache, ids)
    assert kept is not None
    assert kept.pooled_output is result.pooled_output
    assert cache.nbytes == result.nbytes + len(ids.key)


def test_other_ids_or_segments_are_other_inputs() -> None:
    """Only the very same input finds a result."""
    cache = ResultCache(1 << 20)
    cache.put(tokens(1, 2), encoding(2))
    for other in (tokens(1), tokens(2, 1), tokens(1, 2, 0), tokens(1, 2, segment=1)):
        assert get(cache, other) is None


def test_ids_are_not_mistaken_for_segments() -> None:
    """Two tokens with zeros are not one token and its segment beside another."""
    cache = ResultCache(1 << 20)
    cache.put(Tokens(np.array([1, 0], np.int32), np.array([0, 0], np.int32)), encoding(2))
    assert get(cache, Tokens(np.array([1], np.int32), np.array([0], np.int32))) is None
    assert get(cache, Tokens(np.array([1, 0], np.int32), np.array([0, 1], np.int32))) is None


def test_what_was_not_used_for_longest_makes_room() -> None:
    """A look counts as a use."""
    size = encoding(2).nbytes + 16
    cache = ResultCache(2 * size)
    cache.put(tokens(1, 1), encoding(2))
    cache.put(tokens(2, 2), encoding(2))
    assert get(cache, tokens(1, 1)) is not None
    cache.put(tokens(3, 3), encoding(2))
    assert get(cache, tokens(2, 2)) is None
    assert get(cache, tokens(1, 1)) is not None
    assert get(cache, tokens(3, 3)) is not None


def test_memory_is_bounded_however_many_results_come() -> None:
    """After a thousand results, no more than fit are kept."""
    size = encoding(3).nbytes + 24
    cache = ResultCache(10 * size + 1)
    for number in range(1000):
        cache.put(tokens(number, number, number), encoding(3, number))
        cache.put(tokens(number, number, number), encoding(3, number))
    assert [number for number in range(1000) if get(cache, tokens(number, number, number))] == list(range(990, 1000))


def test_a_result_larger_than_all_the_room_is_not_kept() -> None:
    """It is not an error either."""
    cache = ResultCache(64)
    cache.put(tokens(1, 2), encoding(2))
    assert get(cache, tokens(1, 2)) is None


def test_no_room_keeps_nothing() -> None:
    """That is the default."""
    cache = ResultCache(0)
    cache.put(tokens(1), encoding(1))
    assert get(cache, tokens(1)) is None

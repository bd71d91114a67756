"""Kept results are the results, within a number of bytes."""

from __future__ import annotations

import tracemalloc

import numpy as np

from model.encoder import Encoding, Tokens
from service.cache import ResultCache

HIDDEN = 8


def tokens(*ids: int, segment: int = 0) -> Tokens:
    """Return a sequence."""
    return Tokens(np.array(ids, np.int32), np.full(len(ids), segment, np.int32))


def encoding(length: int, seed: int = 0) -> Encoding:
    """Return a result whose outputs are part of a larger row, as the network gives them."""
    random = np.random.default_rng(seed)
    row = random.normal(size=(length + 100, HIDDEN)).astype(np.float32)
    pooled = random.normal(size=(3, HIDDEN)).astype(np.float32)
    return Encoding(pooled[1], row[5 : 5 + length], np.arange(HIDDEN)[::-1])


def test_a_kept_result_has_the_same_bits() -> None:
    """All three outputs come back as they were."""
    cache, result = ResultCache(1 << 20), encoding(4)
    cache.put(tokens(1, 2, 3, 4), result)
    kept = cache.get(tokens(1, 2, 3, 4))
    assert kept is not None
    assert np.array_equal(kept.sequence_output, result.sequence_output)
    assert np.array_equal(kept.pooled_output, result.pooled_output)
    assert np.array_equal(kept.mean_output, result.mean_output)


def test_a_kept_result_does_not_keep_its_row() -> None:
    """The memory counted is the memory held."""
    cache = ResultCache(1 << 20)
    cache.put(tokens(1), encoding(1))
    kept = cache.get(tokens(1))
    assert kept is not None
    assert kept.pooled_output.base is None
    assert kept._tokens.base is None


def test_a_result_that_is_kept_already_is_not_copied() -> None:
    """Equal sequences of one request come one after the other, and a copy of each may be large."""
    cache, result = ResultCache(1 << 24), encoding(10_000)
    ids = tokens(*range(10_000))
    cache.put(ids, result)
    tracemalloc.start()
    try:
        cache.put(ids, result)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(ids.key) < peak < result.nbytes


def test_other_ids_or_segments_are_other_inputs() -> None:
    """Only the very same input finds a result."""
    cache = ResultCache(1 << 20)
    cache.put(tokens(1, 2), encoding(2))
    for other in (tokens(1), tokens(2, 1), tokens(1, 2, 0), tokens(1, 2, segment=1)):
        assert cache.get(other) is None


def test_ids_are_not_mistaken_for_segments() -> None:
    """Two tokens with zeros are not one token and its segment beside another."""
    cache = ResultCache(1 << 20)
    cache.put(Tokens(np.array([1, 0], np.int32), np.array([0, 0], np.int32)), encoding(2))
    assert cache.get(Tokens(np.array([1], np.int32), np.array([0], np.int32))) is None
    assert cache.get(Tokens(np.array([1, 0], np.int32), np.array([0, 1], np.int32))) is None


def test_what_was_not_used_for_longest_makes_room() -> None:
    """A look counts as a use."""
    size = encoding(2).nbytes + 16
    cache = ResultCache(2 * size)
    cache.put(tokens(1, 1), encoding(2))
    cache.put(tokens(2, 2), encoding(2))
    assert cache.get(tokens(1, 1)) is not None
    cache.put(tokens(3, 3), encoding(2))
    assert cache.get(tokens(2, 2)) is None
    assert cache.get(tokens(1, 1)) is not None
    assert cache.get(tokens(3, 3)) is not None


def test_memory_is_bounded_however_many_results_come() -> None:
    """After a thousand results, no more than fit are kept."""
    size = encoding(3).nbytes + 24
    cache = ResultCache(10 * size + 1)
    for number in range(1000):
        cache.put(tokens(number, number, number), encoding(3, number))
        cache.put(tokens(number, number, number), encoding(3, number))
    assert [number for number in range(1000) if cache.get(tokens(number, number, number))] == list(range(990, 1000))


def test_a_result_larger_than_all_the_room_is_not_kept() -> None:
    """It is not an error either."""
    cache = ResultCache(64)
    cache.put(tokens(1, 2), encoding(2))
    assert cache.get(tokens(1, 2)) is None


def test_no_room_keeps_nothing() -> None:
    """That is the default."""
    cache = ResultCache(0)
    cache.put(tokens(1), encoding(1))
    assert cache.get(tokens(1)) is None

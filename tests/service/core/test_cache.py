"""The result cache returns exact results within its size."""

from __future__ import annotations

import numpy as np

from model.encoder import ALL_OUTPUTS, Encoding, Output, TokenSequence
from service.core.cache import ResultCache

HIDDEN = 8
POOLED, MEAN, SEQUENCE = (frozenset[Output]((name,)) for name in ("pooled_output", "mean_output", "sequence_output"))


def tokens(*ids: int, segment: int = 0) -> TokenSequence:
    """Return a sequence."""
    return TokenSequence(np.array(ids, np.int32), np.full(len(ids), segment, np.int32))


def encoding(length: int, seed: int = 0, outputs: frozenset[Output] = ALL_OUTPUTS) -> Encoding:
    """Return a result."""
    random = np.random.default_rng(seed)
    shapes: dict[Output, tuple[int, ...]] = {
        "sequence_output": (length, HIDDEN),
        "pooled_output": (HIDDEN,),
        "mean_output": (HIDDEN,),
    }
    return Encoding({name: random.normal(size=shapes[name]).astype(np.float32) for name in shapes if name in outputs})


def get(cache: ResultCache, tokens: TokenSequence, outputs: frozenset[Output] = ALL_OUTPUTS) -> Encoding | None:
    """Return the cached result with all of the outputs."""
    return cache.get(tokens, outputs)


def test_cached_result_is_not_copied() -> None:
    """The cache returns the same three arrays."""
    cache, result = ResultCache(1 << 20), encoding(4)
    cache.put(tokens(1, 2, 3, 4), result)
    cached = get(cache, tokens(1, 2, 3, 4))
    assert cached is not None
    assert cached.sequence_output is result.sequence_output
    assert cached.pooled_output is result.pooled_output
    assert cached.mean_output is result.mean_output


def test_result_without_a_requested_output_is_not_found() -> None:
    """A result serves requests for any subset of its outputs."""
    cache = ResultCache(1 << 20)
    cache.put(tokens(1, 2), encoding(2, outputs=POOLED | MEAN))
    assert all(get(cache, tokens(1, 2), outputs) for outputs in (POOLED, MEAN, POOLED | MEAN))
    assert not any(get(cache, tokens(1, 2), outputs) for outputs in (SEQUENCE, POOLED | SEQUENCE, ALL_OUTPUTS))


def test_outputs_of_the_same_ids_are_merged() -> None:
    """Requests for different outputs of one sequence do not evict each other."""
    cache = ResultCache(1 << 20)
    pooled, other = encoding(2, 1, POOLED), encoding(2, 2, MEAN | SEQUENCE)
    cache.put(tokens(1, 2), pooled)
    cache.put(tokens(1, 2), other)
    cached = get(cache, tokens(1, 2))
    assert cached is not None
    assert cached.arrays == {**pooled.arrays, **other.arrays}
    assert cache.nbytes == pooled.nbytes + other.nbytes + len(tokens(1, 2).key)


def test_outputs_that_do_not_fit_do_not_evict_cached_ones() -> None:
    """Large token outputs do not evict the pooled output of the sequence."""
    cache = ResultCache(200)
    cache.put(tokens(1, 2), encoding(2, outputs=POOLED))
    cache.put(tokens(1, 2), encoding(10, outputs=SEQUENCE))
    assert get(cache, tokens(1, 2), POOLED) is not None
    assert get(cache, tokens(1, 2), SEQUENCE) is None


def test_further_outputs_count_as_use() -> None:
    """Merging outputs marks a result as recently used."""
    cache = ResultCache(2 * (encoding(2, outputs=POOLED | MEAN).nbytes + 16))
    cache.put(tokens(1, 1), encoding(2, outputs=POOLED))
    cache.put(tokens(2, 2), encoding(2, outputs=POOLED))
    cache.put(tokens(1, 1), encoding(2, outputs=MEAN))
    cache.put(tokens(3, 3), encoding(2, outputs=POOLED | MEAN))
    assert get(cache, tokens(2, 2), POOLED) is None
    assert get(cache, tokens(1, 1), POOLED | MEAN) is not None
    assert cache.nbytes == 2 * (encoding(2, outputs=POOLED | MEAN).nbytes + 16)


def test_cached_outputs_are_not_replaced() -> None:
    """A second result of the same sequence is discarded."""
    cache, result = ResultCache(1 << 24), encoding(10)
    ids = tokens(*range(10))
    cache.put(ids, result)
    cache.put(ids, encoding(10, outputs=POOLED))
    cached = get(cache, ids)
    assert cached is not None
    assert cached.pooled_output is result.pooled_output
    assert cache.nbytes == result.nbytes + len(ids.key)


def test_lookup_distinguishes_ids_and_segments() -> None:
    """Only an identical sequence has a cached result."""
    cache = ResultCache(1 << 20)
    cache.put(tokens(1, 2), encoding(2))
    for other in (tokens(1), tokens(2, 1), tokens(1, 2, 0), tokens(1, 2, segment=1)):
        assert get(cache, other) is None


def test_lookup_does_not_confuse_ids_with_segments() -> None:
    """Sequences whose concatenated ids and segments agree have different keys."""
    cache = ResultCache(1 << 20)
    cache.put(TokenSequence(np.array([1, 0], np.int32), np.array([0, 0], np.int32)), encoding(2))
    assert get(cache, TokenSequence(np.array([1], np.int32), np.array([0], np.int32))) is None
    assert get(cache, TokenSequence(np.array([1, 0], np.int32), np.array([0, 1], np.int32))) is None


def test_least_recently_used_result_is_evicted() -> None:
    """A lookup marks a result as recently used."""
    size = encoding(2).nbytes + 16
    cache = ResultCache(2 * size)
    cache.put(tokens(1, 1), encoding(2))
    cache.put(tokens(2, 2), encoding(2))
    assert get(cache, tokens(1, 1)) is not None
    cache.put(tokens(3, 3), encoding(2))
    assert get(cache, tokens(2, 2)) is None
    assert get(cache, tokens(1, 1)) is not None
    assert get(cache, tokens(3, 3)) is not None


def test_cache_size_is_bounded() -> None:
    """After a thousand results, the cache holds only the latest that fit."""
    size = encoding(3).nbytes + 24
    cache = ResultCache(10 * size + 1)
    for number in range(1000):
        cache.put(tokens(number, number, number), encoding(3, number))
        cache.put(tokens(number, number, number), encoding(3, number))
    assert [number for number in range(1000) if get(cache, tokens(number, number, number))] == list(range(990, 1000))


def test_result_larger_than_the_cache_is_not_stored() -> None:
    """Storing a result that is too large is not an error."""
    cache = ResultCache(64)
    cache.put(tokens(1, 2), encoding(2))
    assert get(cache, tokens(1, 2)) is None


def test_size_of_zero_disables_the_cache() -> None:
    """A cache of size 0 stores no result."""
    cache = ResultCache(0)
    cache.put(tokens(1), encoding(1))
    assert get(cache, tokens(1)) is None

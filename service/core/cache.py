"""Cache of results for repeated inputs. A result depends on its ids alone, so a cached result is exact."""

from __future__ import annotations

import threading
from collections import OrderedDict

from model.encoder import Encoding, Output, TokenSequence


class ResultCache:
    """A thread-safe LRU cache of encodings, bounded in bytes.

    Args:
        max_bytes: Maximum size of results and keys in bytes; 0 disables the cache.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._encodings: OrderedDict[bytes, Encoding] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Size of results and keys in bytes."""
        return self._bytes

    @property
    def enabled(self) -> bool:
        """Whether the cache stores results."""
        return self._max_bytes > 0

    def get(self, tokens: TokenSequence, outputs: frozenset[Output]) -> Encoding | None:
        """Return the cached result of a sequence if it has all of the outputs."""
        key = tokens.key
        with self._lock:
            encoding = self._encodings.get(key)
            if encoding is None or not outputs <= encoding.arrays.keys():
                return None
            self._encodings.move_to_end(key)
            return encoding

    def put(self, tokens: TokenSequence, encoding: Encoding) -> None:
        """Store a result, merged with cached outputs of the same ids, and evict the least recently used results."""
        key = tokens.key
        with self._lock:
            cached = self._encodings.get(key)
            if cached is not None and encoding.arrays.keys() <= cached.arrays.keys():
                return
            merged = encoding if cached is None else Encoding({**cached.arrays, **encoding.arrays})
            # A result that exceeds the whole cache would evict all others.
            if len(key) + merged.nbytes > self._max_bytes:
                return
            self._drop(key)
            self._encodings[key] = merged
            self._bytes += len(key) + merged.nbytes
            while self._bytes > self._max_bytes:
                self._drop(next(iter(self._encodings)))

    def _drop(self, key: bytes) -> None:
        dropped = self._encodings.pop(key, None)
        if dropped is not None:
            self._bytes -= len(key) + dropped.nbytes

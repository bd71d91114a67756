"""Results kept for repeated inputs. Exact: a result is a function of its ids alone, so a kept one is the result."""

from __future__ import annotations

import threading
from collections import OrderedDict

from model.encoder import Encoding, Output, Tokens


class ResultCache:
    """The results used last, within a number of bytes.

    Args:
        max_bytes: Upper bound of the results' memory; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[bytes, Encoding] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of the results, their keys included."""
        return self._bytes

    @property
    def keeps(self) -> bool:
        """Whether anything is ever kept."""
        return self._max_bytes > 0

    def get(self, tokens: Tokens, outputs: frozenset[Output]) -> Encoding | None:
        """Return the result for these ids, if one with all of the outputs is kept."""
        key = tokens.key
        with self._lock:
            found = self._kept.get(key)
            if found is None or not outputs <= found.arrays.keys():
                return None
            self._kept.move_to_end(key)
            return found

    def put(self, tokens: Tokens, encoding: Encoding) -> None:
        """Keep a result, next to outputs of the same ids that are kept already; evict those not used for longest."""
        key = tokens.key
        with self._lock:
            known = self._kept.get(key)
            if known is not None and encoding.arrays.keys() <= known.arrays.keys():
                return
            merged = encoding if known is None else Encoding({**known.arrays, **encoding.arrays})
            # One that is too large by itself would only evict all others.
            if len(key) + merged.nbytes > self._max_bytes:
                return
            self._drop(key)
            self._kept[key] = merged
            self._bytes += len(key) + merged.nbytes
            while self._bytes > self._max_bytes:
                self._drop(next(iter(self._kept)))

    def _drop(self, key: bytes) -> None:
        dropped = self._kept.pop(key, None)
        if dropped is not None:
            self._bytes -= len(key) + dropped.nbytes

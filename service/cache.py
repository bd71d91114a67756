"""Results kept for repeated inputs. Exact: a result is a function of its ids alone, so a kept one is the result."""

from __future__ import annotations

import threading
from collections import OrderedDict

from model.encoder import Encoding, Tokens


class ResultCache:
    """The results used last, within a number of bytes.

    Args:
        max_bytes: What the results may take; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[bytes, Encoding] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes that the results take, their keys included."""
        return self._bytes

    @property
    def keeps(self) -> bool:
        """Whether anything is ever kept."""
        return self._max_bytes > 0

    def get(self, tokens: Tokens) -> Encoding | None:
        """Return the result for these ids, if it is kept."""
        key = tokens.key
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, tokens: Tokens, encoding: Encoding) -> None:
        """Keep a copy of a result, at the price of those not used for longest."""
        key = tokens.key
        # One that is too large by itself would only drive out all others.
        if len(key) + encoding.nbytes > self._max_bytes:
            return
        with self._lock:
            if key in self._kept:
                return
        # Outside of the lock, for which a look would wait; so another may come first.
        kept = encoding.detached()
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = kept
            self._bytes += len(key) + kept.nbytes
            while self._bytes > self._max_bytes:
                old, dropped = self._kept.popitem(last=False)
                self._bytes -= len(old) + dropped.nbytes

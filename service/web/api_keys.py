"""API keys. A key file is reloaded when it changes, so keys can be rotated without a restart."""

from __future__ import annotations

import hmac
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

# Minimum interval between checks of the key file.
_RELOAD_SECONDS = 1.0

log = structlog.get_logger("fnet.keys")


def read_keys(file: Path) -> frozenset[str]:
    """Return the keys of a file with one key per line; empty lines and lines that start with # are ignored.

    Raises:
        OSError: The file cannot be read.
        UnicodeDecodeError: The file is not UTF-8 text.
    """
    lines = (line.strip() for line in file.read_text("utf-8").splitlines())
    return frozenset(line for line in lines if line and not line.startswith("#"))


class ApiKeys:
    """Validates API keys.

    Args:
        fixed: Keys that are valid as long as the process runs.
        file: File with further keys in the format of `read_keys`. If it becomes unreadable or empty, the previous keys
            remain valid, so that a faulty edit neither disables authentication nor rejects all clients.
        clock: Monotonic time, in seconds.
    """

    def __init__(
        self, fixed: Iterable[str] = (), file: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fixed = [key.encode() for key in fixed]
        self._file = file
        self._clock = clock
        self._from_file: list[bytes] = []
        self._signature: tuple[int, int, int] | None = None
        self._checked_at = -float("inf")
        self._lock = threading.Lock()
        self._reload()

    @property
    def required(self) -> bool:
        """Whether requests require a key."""
        return bool(self._fixed or self._file)

    def is_valid(self, presented: Iterable[str]) -> bool:
        """Return whether any of the presented values is a valid key."""
        self._reload()
        keys = [*self._fixed, *self._from_file]
        # All keys are compared in constant time, so that timing does not reveal a match.
        return bool(
            sum(hmac.compare_digest(word.encode("latin-1", "replace"), key) for word in presented for key in keys)
        )

    def _reload(self) -> None:
        if self._file is None:
            return
        with self._lock:
            if self._clock() - self._checked_at < _RELOAD_SECONDS:
                return
            self._checked_at = self._clock()
            try:
                stat = os.stat(self._file)  # noqa: PTH116 - a single frequent call
                signature = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
                if signature == self._signature:
                    return
                keys = read_keys(self._file)
            except (OSError, UnicodeDecodeError):
                keys, signature = frozenset(), (0, 0, 0)
            if keys:
                if self._signature is not None:
                    log.info("API keys reloaded", file=str(self._file), keys=len(keys))
                self._from_file = [key.encode() for key in sorted(keys)]
            elif signature != self._signature:
                log.warning(
                    "API key reload failed, keeping previous keys",
                    file=str(self._file),
                    reason="the file is unreadable or contains no keys",
                )
            self._signature = signature

"""The keys that let clients in. Those of a file are read anew when it changes: they can be exchanged while serving."""

from __future__ import annotations

import hmac
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

# How often the file is looked at.
_LOOK_SECONDS = 1.0

log = structlog.get_logger("fnet.keys")


def read_keys(file: Path) -> frozenset[str]:
    """Return the keys of a file, one a line; empty lines and those that begin with # are none.

    Raises:
        OSError: The file cannot be read.
        UnicodeDecodeError: It is not UTF-8 text.
    """
    lines = (line.strip() for line in file.read_text("utf-8").splitlines())
    return frozenset(line for line in lines if line and not line.startswith("#"))


class ApiKeys:
    """Knows who may come in.

    Args:
        fixed: Keys that hold as long as the process runs.
        file: A file of more, `read_keys`. One that becomes unreadable or empty changes nothing: a slip of the hand must
            neither open the door nor lock everybody out.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, fixed: Iterable[str] = (), file: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fixed = [key.encode() for key in fixed]
        self._file = file
        self._clock = clock
        self._from_file: list[bytes] = []
        self._seen: tuple[int, int, int] | None = None
        self._looked = -float("inf")
        self._lock = threading.Lock()
        self._look()

    @property
    def required(self) -> bool:
        """Whether a key is asked for at all."""
        return bool(self._fixed or self._file)

    def is_valid(self, presented: Iterable[str]) -> bool:
        """Return whether any of what a client presents is a key."""
        self._look()
        keys = [*self._fixed, *self._from_file]
        # Every key is compared, each in constant time, so that a match's place does not show.
        return bool(
            sum(hmac.compare_digest(word.encode("latin-1", "replace"), key) for word in presented for key in keys)
        )

    def _look(self) -> None:
        if self._file is None:
            return
        with self._lock:
            if self._clock() - self._looked < _LOOK_SECONDS:
                return
            self._looked = self._clock()
            try:
                found = os.stat(self._file)  # noqa: PTH116 - one call, often
                seen = (found.st_mtime_ns, found.st_size, found.st_ino)
                if seen == self._seen:
                    return
                keys = read_keys(self._file)
            except (OSError, UnicodeDecodeError):
                keys, seen = frozenset(), (0, 0, 0)
            if keys:
                if self._seen is not None:
                    log.info("API keys reloaded", file=str(self._file), keys=len(keys))
                self._from_file = [key.encode() for key in sorted(keys)]
            elif seen != self._seen:
                log.warning(
                    "API key reload failed, keeping previous keys",
                    file=str(self._file),
                    reason="the file is unreadable or contains no keys",
                )
            self._seen = seen

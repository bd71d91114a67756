"""Immutable events emitted by the core. Metrics and tracing subscribe to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BatchRan:
    """One run of the network.

    Attributes:
        tokens: Tokens of all sequences.
        sequences: Number of sequences.
        row_tokens: Capacity of the rows in tokens.
        seconds: Duration of the run.
    """

    tokens: int
    sequences: int
    row_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RequestComputed:
    """All sequences of a request have been computed.

    Attributes:
        lengths: Tokens of each sequence.
        queue_seconds: Time from admission to the first run.
        compute_seconds: Total duration of the runs that contained a sequence of the request.
    """

    lengths: tuple[int, ...]
    queue_seconds: float
    compute_seconds: float


@dataclass(frozen=True, slots=True)
class TextsTokenized:
    """The texts of a request were tokenized.

    Attributes:
        seconds: Duration of the tokenization.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class ResultsLookedUp:
    """The sequences of a request were looked up in the result cache.

    Attributes:
        hits: Number of cached sequences.
        misses: Number of sequences that were not cached.
    """

    hits: int
    misses: int


@dataclass(frozen=True, slots=True)
class RequestRejected:
    """A request was rejected.

    Attributes:
        reason: Code of the error.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class RequestCancelled:
    """A client disconnected before the response."""


@dataclass(frozen=True, slots=True)
class OutputNotFinite:
    """An output of a sequence contains NaN or infinity."""


@dataclass(frozen=True, slots=True)
class ProgramCompiled:
    """A program was compiled after startup, which is a defect."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Timings of a request.

    Attributes:
        queue: Seconds from admission to the first run.
        compute: Total duration in seconds of the runs that contained a sequence of the request.
    """

    queue: float = 0.0
    compute: float = 0.0


Event = (
    BatchRan
    | RequestComputed
    | TextsTokenized
    | ResultsLookedUp
    | RequestRejected
    | RequestCancelled
    | OutputNotFinite
    | ProgramCompiled
)
Observer = Callable[[Event], None]

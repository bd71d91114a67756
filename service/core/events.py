"""What the core tells of its work: frozen records, handed to whoever observes. Metrics are one such observer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BatchRan:
    """One run of the network.

    Attributes:
        tokens: Tokens of its sequences.
        sequences: How many there were.
        row_tokens: Tokens that the row has room for.
        seconds: How long it took.
    """

    tokens: int
    sequences: int
    row_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RequestComputed:
    """A request's sequences have all run.

    Attributes:
        lengths: Tokens of each sequence.
        queue_seconds: From admission to its first run.
        compute_seconds: In the runs that it had a part in.
    """

    lengths: tuple[int, ...]
    queue_seconds: float
    compute_seconds: float


@dataclass(frozen=True, slots=True)
class TextsTokenized:
    """A request's texts became token ids.

    Attributes:
        seconds: How long it took.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class ResultsLookedUp:
    """A request's sequences were looked for among the results kept.

    Attributes:
        hits: How many were there.
        misses: How many were not.
    """

    hits: int
    misses: int


@dataclass(frozen=True, slots=True)
class RequestRejected:
    """A request was refused.

    Attributes:
        reason: The error's code.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class RequestCancelled:
    """A request's client left before its answer."""


@dataclass(frozen=True, slots=True)
class OutputNotFinite:
    """The network gave NaN or infinity for a sequence."""


@dataclass(frozen=True, slots=True)
class ProgramCompiled:
    """A program was compiled while serving, which should never happen."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a request's time went.

    Attributes:
        queue: Seconds until its first run.
        compute: Seconds in the runs that it had a part in.
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

"""What a measurement found: numbers and names, in seconds, bytes and tokens. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


class BenchError(RuntimeError):
    """What was to be measured does not run. The message is one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where it was measured.

    Attributes:
        cpu: Name of the processor.
        instructions: Those of its instruction sets that matrix products gain most by.
        cores: How many this process may use.
        load: Processes that ran or wanted to when the measurement began, the mean of a minute.
        system: Operating system and architecture.
        versions: Of Python and the packages at hand, by name.
    """

    cpu: str
    instructions: tuple[str, ...]
    cores: int
    load: float
    system: str
    versions: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A fresh process, from its start until it can answer.

    Attributes:
        first_seconds: With nothing compiled before.
        again_seconds: With compiled programs kept from an earlier start.
        import_seconds: What of the second was spent on importing libraries.
        ready_bytes: Resident memory when ready.
        peak_bytes: Most resident memory ever, after a row of every length has run.
    """

    first_seconds: float
    again_seconds: float
    import_seconds: float
    ready_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSpeed:
    """A full row on one device.

    Attributes:
        tokens: Its length.
        seconds: Median of a run, laying the arrays out included.
        tokens_per_second: Of that.
        tflops: 10^12 floating-point operations a second, the matrix products' alone.
        share: That, of what the best library reaches in matrix products.
    """

    tokens: int
    seconds: float
    tokens_per_second: float
    tflops: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """One sequence alone, from the request's entry into the engine to its answer.

    Attributes:
        tokens: Its length.
        median_seconds: Half of the answers came sooner.
        p95_seconds: All but one in twenty did.
    """

    tokens: int
    median_seconds: float
    p95_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Many requests of one sequence each, sent at once.

    Attributes:
        workload: What they hold.
        sequences: How many.
        tokens: Theirs together.
        seconds: Until the last answer, median.
        tokens_per_second: Of that.
        fill: Their tokens as a share of those of the rows that they ran in.
    """

    workload: str
    sequences: int
    tokens: int
    seconds: float
    tokens_per_second: float
    fill: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """A queue of equally long sequences that enters at once.

    Attributes:
        sequences: How many.
        length: Tokens of each.
        tokens: Tokens of all.
        seconds: Until all are done, median.
        seconds_per_token: Of that.
        full: Whether they fill a longest row on every device.
    """

    sequences: int
    length: int
    tokens: int
    seconds: float
    seconds_per_token: float
    full: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A straight line through times, `seconds = intercept + slope * tokens`.

    Attributes:
        intercept: Seconds.
        slope: Seconds a token.
        deviation: Largest distance of a time from the line, as a share of the line.
    """

    intercept: float
    slope: float
    deviation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One engine in one dtype.

    Attributes:
        backend: The library that runs the network.
        dtype: That of its matrix products.
        devices: What it runs on.
        dropped: Row lengths that failed the self-test, each with the reason.
        spacing: Alignment and tile of the places where sequences may start.
        batch_invariant: Whether results are the same to the bit in any company.
        start: Time to ready, and memory.
        rows: Every row length in use.
        latencies: By length.
        throughputs: By workload.
        queue: Cost by the number of sequences.
        lengths: Cost by their length, the tokens together about the same.
        line: Through the costs by number that fill rows; nothing if these are fewer than three.
        length_deviation: Largest distance of a length's cost a token from their median, as a share of it.
    """

    backend: str
    dtype: str
    devices: tuple[str, ...]
    dropped: dict[int, str]
    spacing: tuple[int, int]
    batch_invariant: bool
    start: Start
    rows: tuple[RowSpeed, ...]
    latencies: tuple[Latency, ...]
    throughputs: tuple[Throughput, ...]
    queue: tuple[Cost, ...]
    lengths: tuple[Cost, ...]
    line: Line | None
    length_deviation: float

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.backend} {self.dtype}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """Matrix products of 512 rows between hidden and intermediate size by one library in one dtype.

    Attributes:
        library: Its name.
        dtype: Of the operands.
        tflops: 10^12 floating-point operations a second.
    """

    library: str
    dtype: str
    tflops: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BatcherSpeed:
    """The batcher with a network that takes no time.

    Attributes:
        request: Sequences in a request.
        sequences_per_second: Through queue, batches and answers.
    """

    request: int
    sequences_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An engine and dtype that did not become ready.

    Attributes:
        backend: The library.
        dtype: That of its matrix products.
        reason: One line.
    """

    backend: str
    dtype: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """All that was measured in one run.

    Attributes:
        date: When it began, in UTC, ISO 8601.
        preset: The preset's name.
        parameters: Values in its weights.
        architecture: The numbers that define its network.
        machine: Where.
        rounds: How often every contender had its turn.
        products: The machine's matrix products, by library and dtype.
        batcher: The batcher alone.
        measured: Every engine in every dtype that runs here.
        failures: Those that do not.
    """

    date: str
    preset: str
    parameters: int
    architecture: dict[str, float]
    machine: Machine
    rounds: int
    products: tuple[Product, ...]
    batcher: tuple[BatcherSpeed, ...]
    measured: tuple[Measured, ...]
    failures: tuple[Failure, ...]


def best(products: Iterable[Product], dtype: str) -> Product:
    """Return the fastest library's products in a dtype."""
    return max((product for product in products if product.dtype == dtype), key=lambda product: product.tflops)

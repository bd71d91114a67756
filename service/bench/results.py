"""Results of a measurement: numbers and names, in seconds, bytes and tokens. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# Speeds are relative to this candidate, which has the default settings.
DEFAULT_CANDIDATE = "jax float32"


class BenchError(RuntimeError):
    """A measurement cannot run. The message is one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine.

    Attributes:
        cpu: Name of the processor.
        instructions: The instruction sets that affect matrix products most.
        cores: Number of cores available to this process.
        load: Load average over the minute before the measurement.
        system: Operating system and architecture.
        versions: Versions of Python and of packages, by name.
    """

    cpu: str
    instructions: tuple[str, ...]
    cores: int
    load: float
    system: str
    versions: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A new process, from its start until it is ready.

    Attributes:
        cold_seconds: Time to ready without compiled programs of an earlier start.
        warm_seconds: Time to ready with them.
        import_seconds: The part of a warm start that imports libraries.
        ready_bytes: Resident memory when ready.
        peak_bytes: Peak resident memory, after a row of every length has run.
    """

    cold_seconds: float
    warm_seconds: float
    import_seconds: float
    ready_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSpeed:
    """A full row on one device.

    Attributes:
        tokens: Row length.
        seconds: Median time of a run.
        tokens_per_second: Speed.
        tera_ops_per_second: Operations of the dense products per second, in 10^12.
        roofline_share: Operations per second as a share of those of the fastest library's matrix product.
    """

    tokens: int
    seconds: float
    tokens_per_second: float
    tera_ops_per_second: float
    roofline_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Latency of a single sequence, from the call of the engine to its result.

    Attributes:
        tokens: Length of the sequence.
        median_seconds: Median.
        p95_seconds: 95th percentile.
    """

    tokens: int
    median_seconds: float
    p95_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Throughput of many concurrent requests of one sequence each.

    Attributes:
        workload: Name of the workload.
        sequences: Number of sequences.
        tokens: Tokens of all sequences.
        seconds: Median time until the last result.
        tokens_per_second: Speed.
        speedup: Speed as a multiple of the default candidate's, None if that was not measured.
        fill: Share of the rows' tokens that belong to sequences.
    """

    workload: str
    sequences: int
    tokens: int
    seconds: float
    tokens_per_second: float
    speedup: float | None
    fill: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Cosines to the float32 NumPy reference on a fixed set of sequences.

    Attributes:
        token_median: Median over all tokens.
        token_min: Lowest of all tokens.
        pooled_median: Median over the pooled outputs.
        pooled_min: Lowest of the pooled outputs.
        max_error: Largest absolute difference of an output, relative to the scale of the outputs if it is above 1.
        within_bounds: Whether the cosines are within the documented bounds of the dtype.
    """

    token_median: float
    token_min: float
    pooled_median: float
    pooled_min: float
    max_error: float
    within_bounds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateResult:
    """One backend with one dtype.

    Attributes:
        backend: The library that runs the network.
        dtype: Operands of the matrix products, as set.
        compute_dtype: Operands of the feed-forward products, as computed: float32 for small networks.
        devices: Names of the devices.
        disabled: Row lengths that failed the self-test, with the reasons.
        batch_invariant: Whether results are bit-identical regardless of batch composition.
        numerics: Fingerprint of the output bits.
        start: Time to ready, and memory.
        rows: Speed by row length.
        latencies: Latency by length of a single sequence.
        throughputs: Throughput by workload, mixed texts first.
        accuracy: Cosines to the reference.
    """

    backend: str
    dtype: str
    compute_dtype: str
    devices: tuple[str, ...]
    disabled: dict[int, str]
    batch_invariant: bool
    numerics: str
    start: Start
    rows: tuple[RowSpeed, ...]
    latencies: tuple[Latency, ...]
    throughputs: tuple[Throughput, ...]
    accuracy: Accuracy

    @property
    def name(self) -> str:
        """Backend and dtype."""
        return f"{self.backend} {self.dtype}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """Matrix products of 512 rows between hidden and intermediate size by one library in one dtype.

    Attributes:
        library: Name of the library.
        dtype: Operands.
        tera_ops_per_second: Operations per second, in 10^12.
    """

    library: str
    dtype: str
    tera_ops_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A backend and dtype that did not become ready.

    Attributes:
        backend: The library.
        dtype: Operands of the matrix products.
        reason: One line.
    """

    backend: str
    dtype: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A recommended candidate.

    Attributes:
        backend: The library.
        dtype: Operands of the matrix products.
        settings: Environment variables that select it.
        tokens_per_second: Throughput of mixed texts.
        speedup: Throughput as a multiple of the default candidate's, None if that was not measured.
        latency_tokens: Length of the short text of the latency.
        latency_seconds: Median latency of the short text.
        peak_bytes: Peak resident memory.
        accuracy: Cosines to the reference.
    """

    backend: str
    dtype: str
    settings: str
    tokens_per_second: float
    speedup: float | None
    latency_tokens: int
    latency_seconds: float
    peak_bytes: int
    accuracy: Accuracy

    @property
    def name(self) -> str:
        """Backend and dtype."""
        return f"{self.backend} {self.dtype}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The choice for this machine and preset, and alternatives.

    Attributes:
        fastest: The fastest candidate for mixed texts within the accuracy bounds.
        closest_to_float32: The fastest float32 candidate, None if it is the fastest or was not measured.
        min_memory: The candidate with the lowest memory, None if it saves little.
    """

    fastest: Choice
    closest_to_float32: Choice | None
    min_memory: Choice | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """The result of one run.

    Attributes:
        date: Start of the measurement in UTC, ISO 8601.
        preset: Name of the preset.
        parameters: Number of values in its weights.
        architecture: The numbers that define its network.
        machine: The machine.
        rounds: Number of rounds.
        products: Matrix products alone, by library and dtype.
        candidates: Backends and dtypes that run on this machine.
        failures: Backends and dtypes that do not.
        recommendation: The recommendation, None if no candidate is within the accuracy bounds.
    """

    date: str
    preset: str
    parameters: int
    architecture: dict[str, float]
    machine: Machine
    rounds: int
    products: tuple[Product, ...]
    candidates: tuple[CandidateResult, ...]
    failures: tuple[Failure, ...]
    recommendation: Recommendation | None


def roofline(products: Iterable[Product], dtype: str) -> Product:
    """Return the fastest library's matrix product in a dtype."""
    return max(
        (product for product in products if product.dtype == dtype), key=lambda product: product.tera_ops_per_second
    )

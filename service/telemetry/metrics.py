"""Prometheus metrics: an adapter over the records that the core emits.

Every service has a registry of its own. Labels are bounded: routes are templates, statuses and reasons from tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from service.core.errors import CONNECTION_CODES, ServiceError
from service.core.events import (
    BatchRan,
    Event,
    OutputNotFinite,
    ProgramCompiled,
    RequestCancelled,
    RequestComputed,
    RequestRejected,
    ResultsLookedUp,
    TextsTokenized,
)

# From what a tiny model needs for a word, to what a long queue before a large one takes.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)

MODEL_LABELS = ("preset", "preset_version", "digest", "dtype", "backend", "numerics", "version")


@dataclass(frozen=True, slots=True)
class Description:
    """What there is to know of a metric before it has a value.

    Attributes:
        name: As it is scraped.
        kind: `counter`, `gauge`, `histogram` or `info`.
        labels: Names of its labels.
        help: What it means.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


class Metrics:
    """Everything that is counted and timed.

    Attributes:
        registry: Where all of it is, with what the client library knows of the process and its Python.
        descriptions: Of each metric of our own.

    Args:
        queue_tokens: Gives the tokens that wait now.
        queue_requests: Gives the requests that wait now.
        ready: Says whether the service is ready now.
        result_bytes: Gives what the results kept take now.
    """

    def __init__(
        self,
        queue_tokens: Callable[[], float] = lambda: 0,
        queue_requests: Callable[[], float] = lambda: 0,
        ready: Callable[[], bool] = lambda: False,
        result_bytes: Callable[[], float] = lambda: 0,
    ) -> None:
        registry = self.registry = CollectorRegistry()
        self.descriptions: list[Description] = []
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

        def histogram(name: str, help_: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()) -> Histogram:
            self.descriptions.append(Description(name, "histogram", labels, help_))
            return Histogram(name, help_, labels, buckets=buckets, registry=registry)

        def counter(name: str, help_: str, labels: tuple[str, ...] = ()) -> Counter:
            self.descriptions.append(Description(f"{name}_total", "counter", labels, help_))
            return Counter(name, help_, labels, registry=registry)

        self._requests = counter("fnet_requests", "Requests answered.", ("route", "status"))
        self._request_seconds = histogram(
            "fnet_request_duration_seconds", "From a request's first byte to its answer's last.", _SECONDS, ("route",)
        )
        self._queue_seconds = histogram("fnet_queue_duration_seconds", "From admission to the first run.", _SECONDS)
        self._compute_seconds = histogram("fnet_compute_duration_seconds", "In runs of the network.", _SECONDS)
        self._tokenize_seconds = histogram("fnet_tokenize_duration_seconds", "To tokenise a request.", _SECONDS)
        self._lengths = histogram("fnet_sequence_length_tokens", "Tokens of a sequence.", _TOKENS)
        self._batch_tokens = histogram("fnet_batch_tokens", "Tokens in a run of the network.", _TOKENS)
        self._batch_sequences = histogram("fnet_batch_sequences", "Sequences in a run of the network.", _SEQUENCES)
        self._batch_fill = histogram("fnet_batch_fill_ratio", "Share of a row that its tokens take.", _SHARES)
        self._hits = counter("fnet_result_cache_hits", "Sequences whose result was kept.")
        self._misses = counter("fnet_result_cache_misses", "Sequences whose result was not kept, of those looked for.")
        self._rejected = counter("fnet_rejected", "Requests refused.", ("reason",))
        # Each at 0 from the start: a rate sees no event in a series that appears with 1. Of routes and statuses there
        # are too many combinations for that.
        for code in (*(error.code for error in ServiceError.__subclasses__()), *CONNECTION_CODES.values()):
            self._rejected.labels(code)
        self._cancelled = counter("fnet_cancelled", "Requests whose client left before the answer.")
        self._compilations = counter("fnet_compilations", "Programs compiled while serving; more than 0 is a defect.")
        self._non_finite = counter("fnet_non_finite", "Outputs that were NaN or infinite.")
        self._model = Info("fnet_model", "The model that is served.", registry=registry)
        self.descriptions.append(Description("fnet_model_info", "info", MODEL_LABELS, "The model that is served."))
        for name, help_, read in (
            ("fnet_queue_tokens", "Tokens that wait.", queue_tokens),
            ("fnet_queue_requests", "Requests that wait.", queue_requests),
            ("fnet_result_cache_bytes", "Bytes of the results kept.", result_bytes),
            ("fnet_ready", "1 when the service is ready, else 0.", lambda: float(ready())),
        ):
            Gauge(name, help_, registry=registry).set_function(read)
            self.descriptions.append(Description(name, "gauge", (), help_))

    def observe(self, record: Event) -> None:
        """Take note of a record."""
        match record:
            case BatchRan():
                self._batch_tokens.observe(record.tokens)
                self._batch_sequences.observe(record.sequences)
                self._batch_fill.observe(record.tokens / record.row_tokens)
            case RequestComputed():
                self._queue_seconds.observe(record.queue_seconds)
                self._compute_seconds.observe(record.compute_seconds)
                for length in record.lengths:
                    self._lengths.observe(length)
            case TextsTokenized():
                self._tokenize_seconds.observe(record.seconds)
            case ResultsLookedUp():
                self._hits.inc(record.hits)
                self._misses.inc(record.misses)
            case RequestRejected():
                self._rejected.labels(record.reason).inc()
            case RequestCancelled():
                self._cancelled.inc()
            case OutputNotFinite():
                self._non_finite.inc()
            case ProgramCompiled():
                self._compilations.inc()

    def observe_response(self, route: str, status: int, seconds: float) -> None:
        """Count an answer.

        Args:
            route: The route's template.
            status: The HTTP status.
            seconds: How long it took.
        """
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def describe(self, **labels: str) -> None:
        """Set the labels of `fnet_model_info`."""
        self._model.info(labels)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in the format that an `Accept` header asks for, and its content type."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type

"""Prometheus metrics, derived from the events of the core.

Each service has its own registry. Labels are bounded: routes are templates; statuses and reasons come from tables.
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

# Bucket bounds: from one word in a tiny model to a long queue of a large model.
_BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BUCKETS_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_BUCKETS_SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128)
_BUCKETS_RATIO = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)

MODEL_LABELS = ("preset", "preset_version", "digest", "dtype", "backend", "numerics", "version")


@dataclass(frozen=True, slots=True)
class Description:
    """Static description of a metric.

    Attributes:
        name: Name in the exposition.
        kind: `counter`, `gauge`, `histogram` or `info`.
        labels: Names of the labels.
        help: Help text.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


class Metrics:
    """The metrics of one service.

    Attributes:
        registry: Registry of all metrics, including the process and Python metrics of the client library.
        descriptions: Descriptions of the metrics that the service defines.

    Args:
        queue_tokens: Returns the number of queued tokens.
        queue_requests: Returns the number of queued requests.
        ready: Returns whether the service is ready.
        result_bytes: Returns the size of the result cache in bytes.
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

        self._requests = counter("fnet_requests", "Completed requests.", ("route", "status"))
        self._request_seconds = histogram(
            "fnet_request_duration_seconds",
            "Time from the first byte of a request to the last byte of its response.",
            _BUCKETS_SECONDS,
            ("route",),
        )
        self._queue_seconds = histogram(
            "fnet_queue_duration_seconds", "Time from admission to the first run of the network.", _BUCKETS_SECONDS
        )
        self._compute_seconds = histogram(
            "fnet_compute_duration_seconds",
            "Duration of the runs of the network that contain the request.",
            _BUCKETS_SECONDS,
        )
        self._tokenize_seconds = histogram(
            "fnet_tokenize_duration_seconds", "Time to tokenize a request.", _BUCKETS_SECONDS
        )
        self._lengths = histogram("fnet_sequence_length_tokens", "Tokens per sequence.", _BUCKETS_TOKENS)
        self._batch_tokens = histogram("fnet_batch_tokens", "Tokens per run of the network.", _BUCKETS_TOKENS)
        self._batch_sequences = histogram(
            "fnet_batch_sequences", "Sequences per run of the network.", _BUCKETS_SEQUENCES
        )
        self._batch_fill = histogram(
            "fnet_batch_fill_ratio", "Ratio of tokens to the capacity of their rows.", _BUCKETS_RATIO
        )
        self._hits = counter("fnet_result_cache_hits", "Sequences whose result was cached.")
        self._misses = counter("fnet_result_cache_misses", "Sequences whose result was looked up but not cached.")
        self._rejected = counter("fnet_rejected", "Rejected requests.", ("reason",))
        # Series of reasons start at 0, because `rate` ignores the first event of a series that starts at 1. Routes and
        # statuses have too many combinations for that.
        for code in (*(error.code for error in ServiceError.__subclasses__()), *CONNECTION_CODES.values()):
            self._rejected.labels(code)
        self._cancelled = counter("fnet_cancelled", "Requests whose client disconnected before the response.")
        self._compilations = counter(
            "fnet_compilations", "Programs compiled after startup; a value above 0 is a defect."
        )
        self._non_finite = counter("fnet_non_finite", "Outputs that contain NaN or infinity.")
        self._model = Info("fnet_model", "The served model.", registry=registry)
        self.descriptions.append(Description("fnet_model_info", "info", MODEL_LABELS, "The served model."))
        for name, help_, read in (
            ("fnet_queue_tokens", "Queued tokens.", queue_tokens),
            ("fnet_queue_requests", "Queued requests.", queue_requests),
            ("fnet_result_cache_bytes", "Size of the result cache in bytes.", result_bytes),
            ("fnet_ready", "1 if the service is ready, else 0.", lambda: float(ready())),
        ):
            Gauge(name, help_, registry=registry).set_function(read)
            self.descriptions.append(Description(name, "gauge", (), help_))

    def observe(self, event: Event) -> None:
        """Update the metrics of an event."""
        match event:
            case BatchRan():
                self._batch_tokens.observe(event.tokens)
                self._batch_sequences.observe(event.sequences)
                self._batch_fill.observe(event.tokens / event.row_tokens)
            case RequestComputed():
                self._queue_seconds.observe(event.queue_seconds)
                self._compute_seconds.observe(event.compute_seconds)
                for length in event.lengths:
                    self._lengths.observe(length)
            case TextsTokenized():
                self._tokenize_seconds.observe(event.seconds)
            case ResultsLookedUp():
                self._hits.inc(event.hits)
                self._misses.inc(event.misses)
            case RequestRejected():
                self._rejected.labels(event.reason).inc()
            case RequestCancelled():
                self._cancelled.inc()
            case OutputNotFinite():
                self._non_finite.inc()
            case ProgramCompiled():
                self._compilations.inc()

    def observe_response(self, route: str, status: int, seconds: float) -> None:
        """Count a response.

        Args:
            route: Template of the route.
            status: HTTP status.
            seconds: Duration of the request.
        """
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def describe(self, **labels: str) -> None:
        """Set the labels of `fnet_model_info`."""
        self._model.info(labels)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Render all metrics.

        Args:
            accept: Value of the `Accept` header, which selects the format.

        Returns:
            The rendered metrics and their content type.
        """
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type

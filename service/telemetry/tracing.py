"""OpenTelemetry traces of requests, derived from the events of the core.

The span of a request is a child of the span of its client (W3C Trace Context). It has four child spans: tokenize,
queue, compute and render. Events of the core report the duration of a completed step, so spans are created afterwards
with explicit timestamps. Spans contain counts and lengths, but no texts, ids or API keys.

This is the only module that imports OpenTelemetry, which is an optional dependency.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.semconv.attributes import http_attributes, url_attributes
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import __version__
from service.core.events import Event, RequestComputed, TextsTokenized

_NANOSECONDS = 1_000_000_000
_MIN_ERROR_STATUS = 500
# Maximum number of spans queued for export. Further spans are dropped, so that requests never wait.
_MAX_QUEUED_SPANS = 2048
_EXPORT_SECONDS = 5
_PATH = "v1/traces"


@dataclass(slots=True)
class _Request:
    """Trace state of a request.

    Attributes:
        span: Span of the request.
        computed: End of the computation in nanoseconds since the epoch; 0 before.
        sequences: Number of sequences.
        tokens: Number of tokens.
    """

    span: trace.Span
    computed: int = 0
    sequences: int = 0
    tokens: int = 0


_current: ContextVar[_Request | None] = ContextVar("request", default=None)


class Tracing:
    """Creates spans and exports them to a collector. A process has one instance.

    Args:
        endpoint: URL of an OTLP/HTTP collector, such as `http://127.0.0.1:4318`. The `OTEL_…` environment variables of
            the OpenTelemetry SDK (headers, sampling, resource attributes) apply as well.
    """

    def __init__(self, endpoint: str) -> None:
        resource = Resource.create({"service.name": "fnet-encode", "service.version": __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/{_PATH}", timeout=_EXPORT_SECONDS)
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter, max_queue_size=_MAX_QUEUED_SPANS, export_timeout_millis=_EXPORT_SECONDS * 1000)
        )
        self.tracer = self._provider.get_tracer("fnet", __version__)

    def observe(self, event: Event) -> None:
        """Create the spans of a completed step. Events outside a request are ignored."""
        request = _current.get()
        if request is None or not request.span.is_recording():
            return
        now = time.time_ns()
        match event:
            case TextsTokenized():
                self._step(request, "tokenize", now - _nanoseconds(event.seconds), now)
            case RequestComputed():
                started = now - _nanoseconds(event.compute_seconds)
                self._step(request, "queue", started - _nanoseconds(event.queue_seconds), started)
                self._step(request, "compute", started, now)
                request.computed = now
                request.sequences, request.tokens = len(event.lengths), sum(event.lengths)
            case _:
                pass

    def middleware(self, route: Callable[[Scope], str], untraced: frozenset[str]) -> Middleware:
        """Return the middleware that creates the span of a request. It runs inside the request-id middleware.

        Args:
            route: Returns the route template of a scope.
            untraced: Paths without spans, such as health probes.
        """
        return Middleware(_TracedRequests, self, route, untraced)

    def close(self) -> None:
        """Export queued spans within the time limit of one export; drop the rest."""
        # The SDK would apply the time limit to each batch.
        sending = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        sending.start()
        sending.join(_EXPORT_SECONDS)

    def rendered(self, request: _Request) -> None:
        """Create the span from the end of the computation to the end of the response."""
        if request.computed:
            self._step(request, "render", request.computed, time.time_ns())

    def _step(self, request: _Request, name: str, start: int, end: int) -> None:
        # The timestamps come from two clocks; a child span must not start before its parent.
        earliest = request.span.start_time or 0 if isinstance(request.span, Span) else 0
        span = self.tracer.start_span(name, trace.set_span_in_context(request.span), start_time=max(start, earliest))
        span.end(max(end, earliest))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * _NANOSECONDS)


class _TracedRequests:
    def __init__(self, app: ASGIApp, tracing: Tracing, route: Callable[[Scope], str], untraced: frozenset[str]) -> None:
        self._app, self._tracing, self._route, self._untraced = app, tracing, route, untraced
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._untraced:
            await self._app(scope, receive, send)
            return
        parent = self._propagator.extract(dict(Headers(scope=scope)))
        attributes = {
            http_attributes.HTTP_REQUEST_METHOD: scope["method"],
            url_attributes.URL_SCHEME: scope["scheme"],
        }
        span = self._tracing.tracer.start_span(scope["method"], parent, kind=SpanKind.SERVER, attributes=attributes)
        request = _Request(span)

        async def send_with_status(message: Message) -> None:
            if message["type"] == "http.response.start":
                status = message["status"]
                span.set_attribute(http_attributes.HTTP_RESPONSE_STATUS_CODE, status)
                if status >= _MIN_ERROR_STATUS:
                    span.set_status(Status(StatusCode.ERROR))
            await send(message)

        structlog.contextvars.bind_contextvars(trace_id=trace.format_trace_id(span.get_span_context().trace_id))
        token = _current.set(request)
        try:
            await self._app(scope, receive, send_with_status)
        finally:
            _current.reset(token)
            self._tracing.rendered(request)
            route = self._route(scope)
            span.update_name(f"{scope['method']} {route}")
            span.set_attribute(http_attributes.HTTP_ROUTE, route)
            if request.computed:
                span.set_attributes({"fnet.sequences": request.sequences, "fnet.tokens": request.tokens})
            span.end()

"""Traces: OpenTelemetry spans of each request, an adapter over the records that the core emits.

A request's span is a child of its client's (W3C Trace Context) and has four of its own: tokenise, queue, compute and
render. The core knows nothing of it: what it tells when a step is done says how long that took, so the span is made
afterwards with the times that it had. Spans hold counts and lengths, and never a text, an id or a key.

The only home of OpenTelemetry, which is an extra.
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
_ERRORS_FROM = 500
# Spans that wait for a collector; beyond, the oldest are lost and no request waits.
_MOST_WAITING = 2048
_EXPORT_SECONDS = 5
_PATH = "v1/traces"


@dataclass(slots=True)
class _Request:
    """A request that is under way.

    Attributes:
        span: Its span.
        computed: When its vectors were there, in nanoseconds since the epoch; 0 before.
        sequences: How many it has.
        tokens: How many they have.
    """

    span: trace.Span
    computed: int = 0
    sequences: int = 0
    tokens: int = 0


_current: ContextVar[_Request | None] = ContextVar("request", default=None)


class Tracing:
    """Makes spans and sends them to a collector; one for a process.

    Args:
        endpoint: Where the collector takes OTLP over HTTP: `http://127.0.0.1:4318`. The variables `OTEL_…` of the
            environment that OpenTelemetry's SDK knows (headers, sampling, resource attributes) hold as well.
    """

    def __init__(self, endpoint: str) -> None:
        resource = Resource.create({"service.name": "fnet-encode", "service.version": __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/{_PATH}", timeout=_EXPORT_SECONDS)
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter, max_queue_size=_MOST_WAITING, export_timeout_millis=_EXPORT_SECONDS * 1000)
        )
        self.tracer = self._provider.get_tracer("fnet", __version__)

    def observe(self, record: Event) -> None:
        """Make the spans of a step that is done; records that belong to no request are left alone."""
        request = _current.get()
        if request is None or not request.span.is_recording():
            return
        now = time.time_ns()
        match record:
            case TextsTokenized():
                self._step(request, "tokenize", now - _nanoseconds(record.seconds), now)
            case RequestComputed():
                began = now - _nanoseconds(record.compute_seconds)
                self._step(request, "queue", began - _nanoseconds(record.queue_seconds), began)
                self._step(request, "compute", began, now)
                request.computed = now
                request.sequences, request.tokens = len(record.lengths), sum(record.lengths)
            case _:
                pass

    def middleware(self, route: Callable[[Scope], str], untraced: frozenset[str]) -> Middleware:
        """Return the middleware that makes a request's span, for inside of what names the request in the log.

        Args:
            route: Names the route that a scope took.
            untraced: Paths that machines ask for all the time, and that have no spans.
        """
        return Middleware(_TracedRequests, self, route, untraced)

    def close(self) -> None:
        """Send what waits, for as long as one export may take; what is left then is lost."""
        # The SDK itself would try batch after batch, each for as long.
        sending = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        sending.start()
        sending.join(_EXPORT_SECONDS)

    def rendered(self, request: _Request) -> None:
        """Make the span from when a request's vectors were there until its answer was sent."""
        if request.computed:
            self._step(request, "render", request.computed, time.time_ns())

    def _step(self, request: _Request, name: str, began: int, ended: int) -> None:
        # Two clocks measure: a child is never told to be older than its parent.
        started = request.span.start_time or 0 if isinstance(request.span, Span) else 0
        span = self.tracer.start_span(name, trace.set_span_in_context(request.span), start_time=max(began, started))
        span.end(max(ended, started))


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

        async def send_noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                status = message["status"]
                span.set_attribute(http_attributes.HTTP_RESPONSE_STATUS_CODE, status)
                if status >= _ERRORS_FROM:
                    span.set_status(Status(StatusCode.ERROR))
            await send(message)

        structlog.contextvars.bind_contextvars(trace_id=trace.format_trace_id(span.get_span_context().trace_id))
        token = _current.set(request)
        try:
            await self._app(scope, receive, send_noting)
        finally:
            _current.reset(token)
            self._tracing.rendered(request)
            route = self._route(scope)
            span.update_name(f"{scope['method']} {route}")
            span.set_attribute(http_attributes.HTTP_ROUTE, route)
            if request.computed:
                span.set_attributes({"fnet.sequences": request.sequences, "fnet.tokens": request.tokens})
            span.end()

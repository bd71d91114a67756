"""Request ID, elapsed time, log line and metrics of a request."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterable
from http import HTTPStatus

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.core.events import Timings
from service.web.middleware.routes import HEALTH_ROUTES, METRICS_ROUTE, PAGE_ROUTE

# Other characters could break a log line or a header.
_VALID_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_UNMATCHED = "unmatched"
# Metrics label of the page, whose path is also a protocol route.
_PAGE_LABEL = "index"

log = structlog.get_logger("fnet.http")

OnResponse = Callable[[str, int, float], None]


class RequestContextMiddleware:
    """Assigns a request ID, measures the elapsed time, and records metrics and a log line per response.

    Args:
        app: Inner application.
        on_response: Called after each response: route template (`index` for the page at `/`), status, seconds.
        routes: Returns all routes, to label requests that are rejected before routing.
        is_draining: Returns whether the service is shutting down. Responses then close their connection, so that
            clients do not reuse a connection that is about to close.
    """

    def __init__(
        self,
        app: ASGIApp,
        on_response: OnResponse,
        routes: Callable[[], Iterable[BaseRoute]] = list,
        is_draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self._app, self._on_response, self._routes, self._is_draining = app, on_response, routes, is_draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process the request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        client_id = Headers(scope=scope).get("x-request-id", "")
        request_id = client_id if _VALID_ID.fullmatch(client_id) else uuid.uuid4().hex
        status = 0

        def elapsed() -> float:
            return time.monotonic() - started

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                if self._is_draining():
                    headers["Connection"] = "close"
                # A request with a wrong method may have been intended for a POST route.
                if scope["method"] == "POST" or status == HTTPStatus.METHOD_NOT_ALLOWED:
                    headers["Server-Timing"] = _server_timing(state.get("timings", Timings()), elapsed())
            await send(message)

        state = scope.setdefault("state", {})
        state["elapsed"] = elapsed
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            route, seconds = route_of(scope, self._routes), elapsed()
            if status:
                page = route == PAGE_ROUTE and scope["method"] == "GET"
                self._on_response(_PAGE_LABEL if page else route, status, seconds)
            level = log.debug if route in HEALTH_ROUTES or route == METRICS_ROUTE else log.info
            level("request", method=scope["method"], route=route, status=status, ms=round(seconds * 1000, 1))


def route_of(scope: Scope, routes: Callable[[], Iterable[BaseRoute]]) -> str:
    """Return the template of the matching route, also for requests that are rejected before routing."""
    matched = scope.get("route")
    if matched is None:
        matched = next((route for route in routes() if route.matches(scope)[0] is not Match.NONE), None)
    return getattr(matched, "path", None) or _UNMATCHED


def _server_timing(timings: Timings, total: float) -> str:
    """Return the Server-Timing header, in milliseconds (W3C Server Timing).

    Args:
        timings: Queue and compute time, in seconds.
        total: Elapsed time of the request, in seconds.
    """
    durations = {"queue": timings.queue, "compute": timings.compute, "total": total}
    return ", ".join(f"{name};dur={seconds * 1000:.3f}" for name, seconds in durations.items())

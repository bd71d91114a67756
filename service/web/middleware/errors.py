"""Deadlines, and responses to errors that are raised before or outside a route."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.core.errors import (
    BadRequestError,
    DeadlineExceededError,
    DrainingError,
    InternalError,
    ServiceError,
)

# Renders the error in the format of the protocol that owns the path.
RenderError = Callable[[str, ServiceError], Response]

log = structlog.get_logger("fnet.http")


def timed_out(seconds: float) -> DeadlineExceededError:
    """Return the error of a request whose deadline passed."""
    return DeadlineExceededError(f"request timed out after {seconds:g} s")


class ErrorMiddleware:
    """Enforces the deadline of a request, and renders errors that are raised outside of a route or unexpectedly.

    Args:
        app: Inner application.
        render: Renders an error in the format of the path's protocol.
        max_seconds: Maximum duration of a request, in seconds; `X-Request-Timeout` can only lower it.
        is_draining: Returns whether the service is shutting down; requests cancelled then get `draining`.
    """

    def __init__(
        self, app: ASGIApp, render: RenderError, max_seconds: float, is_draining: Callable[[], bool] = lambda: False
    ) -> None:
        self._app, self._render, self._max_seconds, self._is_draining = app, render, max_seconds, is_draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process the request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        response_started = False
        limit = asyncio.timeout(None)

        async def send_tracked(message: Message) -> None:
            nonlocal response_started
            # A response that has started is completed, also if it starts at the moment of the deadline.
            if not (response_started or limit.expired()):
                limit.reschedule(None)
            response_started = True
            await send(message)

        try:
            timeout = self._timeout(Headers(scope=scope).get("x-request-timeout"))
            elapsed = scope["state"]["elapsed"]
            scope["state"]["timeout"] = timeout
            scope["state"]["time_left"] = lambda: max(0.0, timeout - elapsed())
            # The deadline covers the complete request, including a slow body and the wait for a worker.
            async with limit:
                limit.reschedule(asyncio.get_running_loop().time() + timeout)
                await self._app(scope, receive, send_tracked)
        except ServiceError as error:
            await self._render(scope["path"], error)(scope, receive, send)
        except asyncio.CancelledError:
            if response_started or not self._is_draining():
                raise
            # The drain period ended before the request was complete.
            draining = DrainingError("the service is shutting down", retry_after=1)
            await self._render(scope["path"], draining)(scope, receive, send)
        except Exception as error:
            if isinstance(error, TimeoutError) and limit.expired() and not response_started:
                await self._render(scope["path"], timed_out(timeout))(scope, receive, send)
                return
            log.exception("unexpected error")
            if response_started:
                raise  # after the start of a response, only closing the connection signals an error
            defect = InternalError("an unexpected error occurred; the server log contains it under this request ID")
            await self._render(scope["path"], defect)(scope, receive, send)

    def _timeout(self, value: str | None) -> float:
        if value is None:
            return self._max_seconds
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            raise BadRequestError("header X-Request-Timeout: expected a number of seconds above 0")
        return min(seconds, self._max_seconds)

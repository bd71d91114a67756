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

# A path and an error to the response in the format of the path's protocol.
RenderError = Callable[[str, ServiceError], Response]

log = structlog.get_logger("fnet.http")


def timed_out(seconds: float) -> DeadlineExceededError:
    """Return the error of a request whose deadline passed."""
    return DeadlineExceededError(f"request timed out after {seconds:g} s")


class ErrorMiddleware:
    """Sets a request's deadline, and answers for whatever is raised before its route, or by nobody's intention.

    Args:
        app: The rest.
        render: Turns an error into the answer that the path's protocol wants.
        max_seconds: Seconds that a request may take, which `X-Request-Timeout` can only lower.
        leaving: Says whether the service is about to end. Whatever is broken off then is told why.
    """

    def __init__(
        self, app: ASGIApp, render: RenderError, max_seconds: float, is_draining: Callable[[], bool] = lambda: False
    ) -> None:
        self._app, self._render, self._max_seconds, self._is_draining = app, render, max_seconds, is_draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False
        limit = asyncio.timeout(None)

        async def send_noting(message: Message) -> None:
            nonlocal begun
            # An answer that has begun is finished, also one that came about in the moment when the time was up.
            if not (begun or limit.expired()):
                limit.reschedule(None)
            begun = True
            await send(message)

        try:
            timeout = self._timeout(Headers(scope=scope).get("x-request-timeout"))
            elapsed = scope["state"]["elapsed"]
            scope["state"]["timeout"] = timeout
            scope["state"]["time_left"] = lambda: max(0.0, timeout - elapsed())
            # The whole of it: a body that trickles in and a wait for a worker take time as well as the queue.
            async with limit:
                limit.reschedule(asyncio.get_running_loop().time() + timeout)
                await self._app(scope, receive, send_noting)
        except ServiceError as error:
            await self._render(scope["path"], error)(scope, receive, send)
        except asyncio.CancelledError:
            if begun or not self._is_draining():
                raise
            # The server's time to finish is over, and this request has not even come in whole.
            over = DrainingError("the service is shutting down", retry_after=1)
            await self._render(scope["path"], over)(scope, receive, send)
        except Exception as error:
            if isinstance(error, TimeoutError) and limit.expired() and not begun:
                late = timed_out(timeout)
                await self._render(scope["path"], late)(scope, receive, send)
                return
            log.exception("unexpected error")
            if begun:
                raise  # only the connection's end can tell the client
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

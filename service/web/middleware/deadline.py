"""Deadlines of requests."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.core.errors import BadRequestError, DeadlineExceededError


def timed_out(seconds: float) -> DeadlineExceededError:
    """Return the error of a request whose deadline passed."""
    return DeadlineExceededError(f"request timed out after {seconds:g} s")


class DeadlineMiddleware:
    """Enforces the deadline of a request until its response starts.

    Args:
        app: Inner application.
        max_seconds: Maximum duration of a request, in seconds; `X-Request-Timeout` can only lower it.
    """

    def __init__(self, app: ASGIApp, max_seconds: float) -> None:
        self._app, self._max_seconds = app, max_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process the request.

        Raises:
            BadRequestError: `X-Request-Timeout` is invalid.
            DeadlineExceededError: The deadline passed before the response started.
        """
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

        timeout = self._timeout(Headers(scope=scope).get("x-request-timeout"))
        elapsed = scope["state"]["elapsed"]
        scope["state"]["timeout"] = timeout
        scope["state"]["time_left"] = lambda: max(0.0, timeout - elapsed())
        try:
            # The deadline covers the complete request, including a slow body and the wait for a worker.
            async with limit:
                limit.reschedule(asyncio.get_running_loop().time() + timeout)
                await self._app(scope, receive, send_tracked)
        except TimeoutError:
            if limit.expired() and not response_started:
                raise timed_out(timeout) from None
            raise

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

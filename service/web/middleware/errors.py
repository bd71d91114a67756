"""Responses to errors that are raised before or outside a route."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.core.errors import DrainingError, InternalError, ServiceError

# Renders the error in the format of the protocol that owns the path.
RenderError = Callable[[str, ServiceError], Response]

log = structlog.get_logger("fnet.http")


class ErrorMiddleware:
    """Renders errors that are raised by middleware, or unexpectedly.

    Args:
        app: Inner application.
        render: Renders an error in the format of the path's protocol.
        is_draining: Returns whether the service is shutting down; requests cancelled then get `draining`.
    """

    def __init__(self, app: ASGIApp, render: RenderError, is_draining: Callable[[], bool] = lambda: False) -> None:
        self._app, self._render, self._is_draining = app, render, is_draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process the request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        response_started = False

        async def send_tracked(message: Message) -> None:
            nonlocal response_started
            response_started = True
            await send(message)

        try:
            await self._app(scope, receive, send_tracked)
        except ServiceError as error:
            await self._render(scope["path"], error)(scope, receive, send)
        except asyncio.CancelledError:
            if response_started or not self._is_draining():
                raise
            # The drain period ended before the request was complete.
            draining = DrainingError("the service is shutting down", retry_after=1)
            await self._render(scope["path"], draining)(scope, receive, send)
        except Exception:
            log.exception("unexpected error")
            if response_started:
                raise  # after the start of a response, only closing the connection signals an error
            unexpected = InternalError("an unexpected error occurred; the server log contains it under this request ID")
            await self._render(scope["path"], unexpected)(scope, receive, send)

"""Cancellation of requests whose client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class DisconnectMiddleware:
    """Cancels a request when its client disconnects before the response starts.

    Args:
        app: Inner application.
        on_disconnect: Called for each such request.
    """

    def __init__(self, app: ASGIApp, on_disconnect: Callable[[], None]) -> None:
        self._app, self._on_disconnect = app, on_disconnect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process the request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        client = _Client(receive, send)
        work = asyncio.ensure_future(self._app(scope, client.receive, client.send))
        watcher = asyncio.ensure_future(client.watch(work))
        try:
            await work
        except asyncio.CancelledError:
            if not client.disconnected:
                work.cancel()
                raise
        finally:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher
        if client.disconnected:
            self._on_disconnect()


class _Client:
    """Reads one message ahead, so that a disconnect is detected while the request runs.

    Attributes:
        disconnected: Whether the client disconnected before the response started.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._messages: asyncio.Queue[Message | Exception] = asyncio.Queue(maxsize=1)
        self._response_started = False
        self.disconnected = False

    async def receive(self) -> Message:
        message = await self._messages.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def send(self, message: Message) -> None:
        if self.disconnected:  # the response became available at the same moment
            return
        self._response_started = True
        await self._send(message)

    async def watch(self, work: asyncio.Future[None]) -> None:
        """Forward messages; cancel the request if the client disconnects before the response starts."""
        more = True
        while more:
            try:
                message: Message | Exception = await self._receive()
                more = isinstance(message, dict) and message["type"] != "http.disconnect"
            except Exception as error:  # noqa: BLE001 - the application receives it
                message, more = error, False
            if isinstance(message, dict) and message["type"] == "http.disconnect" and not self._response_started:
                self.disconnected = True
                work.cancel()
            await self._messages.put(message)

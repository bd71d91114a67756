"""Clients that disconnect before the response."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class DisconnectMiddleware:
    """Ends a request's work when its client leaves before the answer has begun.

    Args:
        app: The rest.
        left: Told of each such client.
    """

    def __init__(self, app: ASGIApp, left: Callable[[], None]) -> None:
        self._app, self._left = app, left

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        client = _Client(receive, send)
        work = asyncio.ensure_future(self._app(scope, client.receive, client.send))
        watcher = asyncio.ensure_future(client.watch(work))
        try:
            await work
        except asyncio.CancelledError:
            if not client.left:
                work.cancel()
                raise
        finally:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher
        if client.left:
            self._left()


class _Client:
    """Both directions of one connection, read ahead by one message so that its end is noticed while work goes on.

    Attributes:
        left: Whether the client left before its answer had begun.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._messages: asyncio.Queue[Message | Exception] = asyncio.Queue(maxsize=1)
        self._begun = False
        self.left = False

    async def receive(self) -> Message:
        message = await self._messages.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def send(self, message: Message) -> None:
        if self.left:  # in the moment in which its answer came about
            return
        self._begun = True
        await self._send(message)

    async def watch(self, work: asyncio.Future[None]) -> None:
        """Pass messages on; when the client leaves too early, end the work."""
        more = True
        while more:
            try:
                message: Message | Exception = await self._receive()
                more = isinstance(message, dict) and message["type"] != "http.disconnect"
            except Exception as error:  # noqa: BLE001 - a limit was passed, or there is a defect: who reads is to hear of it
                message, more = error, False
            if isinstance(message, dict) and message["type"] == "http.disconnect" and not self._begun:
                self.left = True
                work.cancel()
            await self._messages.put(message)

"""Connections with bounds: on the time and size of a request's head, on readers that do not read, on their number.

A head that never ends, or an answer that nobody takes, holds memory and a descriptor; the deadline of a request begins
only when its head is there, and ends when its answer begins. What is refused here is no request yet and has no route,
so it is told in plain problem+json (RFC 9457) and the connection closed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_TITLES = {408: "Request Timeout", 431: "Request Header Fields Too Large", 503: "Service Unavailable"}

log = structlog.get_logger("fnet.http")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """What a connection may take.

    Attributes:
        head_seconds: Time for a request's line and headers, from its first byte or the connection's beginning.
        head_bytes: Their size.
        stall_seconds: Time that an answer may wait for its reader to take anything.
        connections: How many may be open.
    """

    head_seconds: float = 10.0
    head_bytes: int = 65_536
    stall_seconds: float = 60.0
    connections: int = 2_000


def bounded(limits: ConnectionLimits) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol with limits."""
    return type("BoundedConnection", (_Connection,), {"limits": limits})


class _Connection(HttpToolsProtocol):
    limits: ConnectionLimits

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._in_head = True
        self._head_bytes = 0
        # Of the message behind its head: what was body, and what was anything else, as trailers and frames of chunks.
        self._body_bytes = self._other_bytes = 0
        # Of the bytes being taken, those that are body, of whichever message.
        self._body_taken = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Begin to wait for a request."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(503, f"{self.limits.connections} connections are open already")
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._stop_clocks()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes, as long as a head does not grow for ever."""
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_timer is None:
                self._expect_head()
        self._body_taken = 0
        super().data_received(data)
        if self._in_head:
            if self._head_bytes > self.limits.head_bytes:
                self._refuse_head()
            return
        self._other_bytes += len(data) - self._body_taken
        # The smallest chunk has six bytes around one.
        if self._other_bytes > 2 * self.limits.head_bytes + 8 * self._body_bytes:
            log.info("connection refused", reason="a body with more around it than in it")
            self._stop_clocks()
            self.transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; one that comes behind the body is nothing that anybody reads."""
        if self._in_head:
            super().on_header(name, value)

    def on_message_begin(self) -> None:
        """Note that a head begins."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Note that the head is there, and start the request unless it is too large."""
        self._in_head = False
        self._head_bytes = self._body_bytes = self._other_bytes = 0
        self._stop_head_clock()
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > self.limits.head_bytes:
            self._refuse_head()
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body, unless the connection has been refused."""
        self._body_bytes += len(body)
        self._body_taken += len(body)
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that another head may follow."""
        self._in_head = True
        self._stop_head_clock()
        if not self.transport.is_closing():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the rest of a body that was refused early, but not for ever."""
        if not self._in_head and not self.transport.is_closing():
            self._stop_head_clock()
            self._head_timer = self.loop.call_later(self.limits.head_seconds, self.transport.abort)
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Wait for the reader, but not for ever."""
        super().pause_writing()
        self._stall_timer = self.loop.call_later(self.limits.stall_seconds, self._give_up)

    def resume_writing(self) -> None:
        """Go on."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        super().resume_writing()

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.head_seconds, self._head_late)

    def _head_late(self) -> None:
        if self._answering:  # a request behind the one that is being answered has time until then
            self._expect_head()
            return
        self._refuse(408, f"the request's headers were not there within {self.limits.head_seconds:g} seconds")

    def _refuse_head(self) -> None:
        self._refuse(431, f"the request's line and headers have more than {self.limits.head_bytes} bytes")

    def _give_up(self) -> None:
        log.info("answer abandoned", reason=f"nobody read for {self.limits.stall_seconds:g} seconds")
        self.transport.abort()

    def _refuse(self, status: int, detail: str) -> None:
        log.info("connection refused", status=status, reason=detail)
        self._stop_clocks()
        if self._answering:  # what is on its way must not be mixed up with this
            self.transport.abort()
            return
        title = _TITLES[status]
        body = f'{{"type":"about:blank","title":"{title}","status":{status},"detail":"{detail}"}}'
        head = [f"HTTP/1.1 {status} {title}", "content-type: application/problem+json", f"content-length: {len(body)}"]
        if status == 503:  # noqa: PLR2004 - of the three the one that another moment may change
            head.append("retry-after: 1")
        self.transport.write("\r\n".join([*head, "connection: close", "", body]).encode())
        self.transport.close()

    def _stop_head_clock(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_clocks(self) -> None:
        self._stop_head_clock()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

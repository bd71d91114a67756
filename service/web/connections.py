"""Connections with bounds: on the time and size of a request's head, on readers that do not read, on their number.

A head that never ends, or an answer that nobody takes, holds memory and a descriptor; the deadline of a request begins
only when its head is there, and ends when its answer begins. What is refused here is no request yet and has no route,
so it is told as a problem document (RFC 9457) and the connection closed; a body that is wrong belongs to its request.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import sys
import termios
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httptools
import structlog
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.core.errors import CONNECTION_CODES, BadRequestError

# They have neither interim answers nor chunks.
_OLD_VERSIONS = frozenset({"0.9", "1.0"})
# Requests of one connection that may wait while it is still read.
_READ_AHEAD = 8
# Bytes that are parsed between two looks at how many wait: of heads, which may be small, and of bodies.
_OF_HEADS, _OF_BODIES = 4_096, 65_536

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


def bounded(limits: ConnectionLimits, refused: Callable[[str], None] = lambda _code: None) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol with limits.

    Args:
        limits: What a connection may take.
        refused: Told of each refusal: its code.
    """
    return type("BoundedConnection", (_Connection,), {"limits": limits, "refused": staticmethod(refused)})


def _syntax_error(error: httptools.HttpParserError) -> str:
    """Return the failing part of a request head, without the parser's own wording."""
    message = str(error)
    if isinstance(error, httptools.HttpParserInvalidMethodError):
        return "unknown method"
    if "Content-Length" in message:
        return "invalid Content-Length header"
    return "invalid header line" if "header" in message.lower() else "malformed request head"


class _RefusedError(Exception):
    """A head is there that is not to become a request."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class _Flow(FlowControl):
    """Does not read on while there are bytes that nobody has looked at."""

    def __init__(self, transport: asyncio.Transport, unparsed: bytearray) -> None:
        super().__init__(transport)
        self._unparsed = unparsed

    def resume_reading(self) -> None:
        if not self._unparsed:
            super().resume_reading()


class _Connection(HttpToolsProtocol):
    limits: ConnectionLimits
    refused: Callable[[str], None]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._application, self.app = self.app, self._serve
        # The requests that have no whole answer yet; the first is being answered, the others wait.
        self._cycles: deque[RequestResponseCycle] = deque()
        # What has come and waits to be parsed, while many requests wait for their answers.
        self._unparsed = bytearray()
        self._held = False
        # After a refusal nothing more is taken.
        self._deaf = False
        # What is wrong with the last request's body.
        self._broken: str | None = None
        self._in_head = True
        self._head_bytes = 0
        # Of the message behind its head: what was body, and what was anything else, as trailers and frames of chunks.
        self._body_bytes = self._other_bytes = 0
        # Of the bytes being taken, those that are body, of whichever message.
        self._body_taken = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        # What the transport held when that clock began.
        self._unread = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Begin to wait for a request."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self._unparsed)
        if len(self.connections) > self.limits.connections:
            detail = f"the maximum of {self.limits.connections} open connections is reached; retry later"
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, detail)
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks, and tell every request that its client has left."""
        self._stop_clocks()
        self._unparsed.clear()
        self._disconnect()
        self.app = self._application  # no circle that is left to the collector
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; while too many requests wait they are kept, and no more are read."""
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        self._unparsed += data
        self._take()

    def _take(self) -> None:
        while self._unparsed and len(self._cycles) <= _READ_AHEAD:
            size = _OF_HEADS if self._in_head else _OF_BODIES
            part = bytes(self._unparsed[:size])
            del self._unparsed[:size]
            self._take_part(part)
        if self._unparsed:
            self._held = True
            self.flow.pause_reading()
        elif self._held or 1 < len(self._cycles) <= _READ_AHEAD:
            # uvicorn stops reading when a request waits; but who does not read does not see that the client leaves.
            self._held = False
            self.flow.resume_reading()

    def _take_part(self, data: bytes) -> None:
        """Parse bytes, as long as they are requests and a head does not grow for ever."""
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_timer is None:
                self._expect_head()
        self._body_taken = 0
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            # What a callback raises comes wrapped.
            reason = error.__context__
            if isinstance(reason, _RefusedError):
                self._refuse(reason.status, reason.detail)
            elif self._in_head or isinstance(error, httptools.HttpParserCallbackError):
                self._refuse(HTTPStatus.BAD_REQUEST, f"the request is not valid HTTP/1.1: {_syntax_error(error)}")
            else:
                self._break_off("the body is not valid chunked encoding, which its Transfer-Encoding header declares")
            return
        if self._in_head:
            if self._head_bytes > self.limits.head_bytes:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, self._too_large)
            return
        self._other_bytes += len(data) - self._body_taken
        # The smallest chunk has six bytes around one.
        if self._other_bytes > 2 * self.limits.head_bytes + 8 * self._body_bytes:
            log.info("connection rejected", reason="chunk framing exceeds the body size")
            self._stop_clocks()
            self._unparsed.clear()
            self.transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; one that comes behind the body is nothing that anybody reads."""
        if self._in_head:
            super().on_header(name, value)

    def on_message_begin(self) -> None:
        """Note that a head begins."""
        self._in_head = True
        self._unset_keepalive_if_required()
        if self._head_timer is None:  # it came together with the end of a body
            self._expect_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Note that the head is there, and start the request unless the head is refused."""
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise _RefusedError(
                    HTTPStatus.BAD_REQUEST, "method CONNECT is not supported: this server is not a proxy"
                )
            return  # it comes again, without its offer
        self._in_head = False
        self._head_bytes = self._body_bytes = self._other_bytes = 0
        self._stop_head_clock()
        self._check_head()
        super().on_headers_complete()
        self._cycles.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._body_bytes += len(body)
        self._body_taken += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that another head may follow."""
        if self.parser.should_upgrade():
            return
        self._in_head = True
        self._stop_head_clock()
        super().on_message_complete()
        if not self._cycles:  # it was answered before it was there: only now is the connection idle
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        """Wait for the rest of a body that was refused early, but not for ever."""
        finished = self._cycles.popleft()
        # A body that is still coming may be that of a request behind it, which has its own deadline.
        if finished is self.cycle and not self._in_head and not self.transport.is_closing():
            self._stop_head_clock()
            self._head_timer = self.loop.call_later(self.limits.head_seconds, self.transport.abort)
        super().on_response_complete()
        if self._unparsed:
            self._take()
        self._watch_last()

    def pause_writing(self) -> None:
        """Wait for the reader, but not for ever."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """Go on."""
        self._stop_stall_clock()
        super().resume_writing()
        self._watch_last()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that nobody uses."""
        super().timeout_keep_alive_handler()
        self._watch_last()

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on; to an old version an answer of unknown length ends with its connection."""
        cycle = self._cycles[0]

        async def receive_unbroken() -> Any:
            message = await receive()
            if self._broken is not None and cycle is self.cycle and not (cycle.disconnected or cycle.response_started):
                raise BadRequestError(self._broken)
            return message

        if scope["http_version"] not in _OLD_VERSIONS:
            await self._application(scope, receive_unbroken, send)
            return
        unframed = False

        async def send_unframed(message: Any) -> None:
            nonlocal unframed
            if message["type"] == "http.response.start":
                unframed = all(name.lower() != b"content-length" for name, _ in message.get("headers", ()))
                if unframed:
                    cycle.chunked_encoding = False  # else uvicorn chooses chunks (RFC 9112, section 6.1: must not)
                    cycle.keep_alive = False
            elif unframed:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await self._application(scope, receive_unbroken, send_unframed)

    def _parse(self, data: bytes) -> None:
        """Take bytes; an offer of another protocol is ignored (RFC 9110, section 7.8).

        httptools stops behind a head that makes one, as if no body followed, so the head is read again without it.
        """
        rest = memoryview(data)
        while rest:
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as offer:
                rest = rest[offer.args[0] :]
            else:
                return
            head = self._head_without_offer()
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            self.parser.feed_data(head)

    def _head_without_offer(self) -> bytes:
        line = b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        headers = (b"%b: %b" % header for header in self.headers if header[0] != b"upgrade")
        return b"\r\n".join([line, *headers, b"", b""])

    def _check_head(self) -> None:
        """Refuse a head that is too large or ambiguous, and write its target as uvicorn reads it."""
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > self.limits.head_bytes:
            raise _RefusedError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, self._too_large)
        version = self.parser.get_http_version()
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and version not in _OLD_VERSIONS):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, f"header Host: expected exactly one, found {hosts}")
        codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings not in ([], [b"chunked"]):
            detail = "header Transfer-Encoding: expected chunked only; use Content-Encoding for a compressed body"
            raise _RefusedError(HTTPStatus.BAD_REQUEST, detail)
        try:
            target = httptools.parse_url(self.url)
        except httptools.HttpParserInvalidURLError:
            detail = "the request target is not a valid URL; expected a path such as /v1/encode"
            raise _RefusedError(HTTPStatus.BAD_REQUEST, detail) from None
        if target.path is None:  # http://host
            self.url = b"/?" + target.query if target.query else b"/"
        if version in _OLD_VERSIONS:
            self.expect_100_continue = False

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.head_seconds, self._head_late)

    def _head_late(self) -> None:
        if self._cycles:  # a request behind the one that is being answered has time until then
            self._expect_head()
            return
        detail = f"the request head was not complete after {self.limits.head_seconds:g} s"
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, detail)

    @property
    def _too_large(self) -> str:
        return f"the request line and headers exceed the maximum of {self.limits.head_bytes} bytes"

    def _watch_last(self) -> None:
        """Wait for who reads the last of a connection that closes, but not for ever: little of it pauses no writing."""
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._watch_reader()

    def _watch_reader(self) -> None:
        self._stop_stall_clock()
        self._unread = self._unsent()
        self._stall_timer = self.loop.call_later(self.limits.stall_seconds, self._give_up)

    def _give_up(self) -> None:
        if self._unsent() < self._unread:  # slow, but reading
            self._watch_reader()
            return
        log.info("response aborted: client stopped reading", stall_seconds=self.limits.stall_seconds)
        self.transport.abort()

    def _unsent(self) -> int:
        """Return the bytes that the client has not taken, those that wait in the kernel among them where it tells."""
        waiting = b""
        # A large buffer there hides a slow reader for a minute from whoever looks at the transport's alone.
        with suppress(OSError):
            descriptor = self.transport.get_extra_info("socket").fileno()
            waiting = fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4))
        return self.transport.get_write_buffer_size() + int.from_bytes(waiting, sys.byteorder)

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """End a connection with a reason, or with the answer that is on its way: the two must not be mixed up."""
        code, request_id = CONNECTION_CODES[status], uuid.uuid4().hex
        log.info("connection rejected", status=status.value, code=code, reason=detail, request_id=request_id)
        self.refused(code)
        self._deaf = True
        self._unparsed.clear()
        self._stop_head_clock()
        answering = self._cycles[0] if self._cycles else None
        if answering is not None and not answering.more_body:  # what is refused came behind it
            answering.keep_alive = False
            self.pipeline.clear()
            self.flow.resume_reading()
            return
        self._disconnect()
        if answering is not None and answering.response_started:
            self.transport.abort()
            return
        title = code.replace("_", " ").capitalize()
        document = {
            "type": "about:blank",
            "title": title,
            "status": status,
            "detail": detail,
            "code": code,
            "errors": [],
        }
        body = json.dumps(document, separators=(",", ":"))
        head = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            "content-type: application/problem+json",
            f"content-length: {len(body)}",
            f"x-request-id: {request_id}",
            "x-content-type-options: nosniff",
        ]
        if status == HTTPStatus.SERVICE_UNAVAILABLE:  # of them all the one that another moment may change
            head.append("retry-after: 1")
        self.transport.write("\r\n".join([*head, "connection: close", "", body]).encode())
        self.transport.close()
        self._watch_last()

    def _break_off(self, reason: str) -> None:
        """Let the request whose body is wrong say so, in its protocol's words, as the last of its connection."""
        self._deaf = True
        self._unparsed.clear()
        self._stop_head_clock()
        if self.cycle.response_complete:  # it was refused before its body had come
            self.transport.close()
            self._watch_last()
            return
        self._broken = reason
        self.cycle.keep_alive = False
        self.cycle.message_event.set()

    def _disconnect(self) -> None:
        # uvicorn tells the last request alone, which may be one that waits.
        for cycle in self._cycles:
            cycle.disconnected = True
            cycle.message_event.set()

    def _stop_head_clock(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_clocks(self) -> None:
        self._stop_head_clock()
        self._stop_stall_clock()

    def _stop_stall_clock(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

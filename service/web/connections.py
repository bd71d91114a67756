"""Connections with limits on the duration and size of a request head, on stalled clients, and on their number.

The deadline of a request covers only the time from its complete head to the start of its response, so slow heads and
unread responses need their own limits. A rejected head has no route yet: the connection gets a problem document
(RFC 9457) and is closed. An invalid body is an error of its request.
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

# They support neither interim responses nor chunked encoding.
_OLD_VERSIONS = frozenset({"0.9", "1.0"})
# Maximum number of pipelined requests before reading is paused.
_MAX_PIPELINED_REQUESTS = 8
# Bytes parsed between two checks of the pipeline: in a head, which may be small, and in a body.
_HEAD_SLICE_BYTES, _BODY_SLICE_BYTES = 4_096, 65_536

log = structlog.get_logger("fnet.http")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Limits of connections.

    Attributes:
        head_seconds: Maximum duration of a request head, from its first byte or from the start of the connection.
        head_bytes: Maximum size of a request head.
        stall_seconds: Maximum time without progress of a client that reads a response.
        connections: Maximum number of open connections.
    """

    head_seconds: float = 10.0
    head_bytes: int = 65_536
    stall_seconds: float = 60.0
    connections: int = 2_000


def bounded(limits: ConnectionLimits, on_reject: Callable[[str], None] = lambda _code: None) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol class with limits.

    Args:
        limits: Limits of connections.
        on_reject: Called with the error code of each rejected connection.
    """
    return type("BoundedConnection", (_Connection,), {"limits": limits, "on_reject": staticmethod(on_reject)})


def _syntax_error(error: httptools.HttpParserError) -> str:
    """Return the failing part of a request head, without the parser's own wording."""
    message = str(error)
    if isinstance(error, httptools.HttpParserInvalidMethodError):
        return "unknown method"
    if "Content-Length" in message:
        return "invalid Content-Length header"
    return "invalid header line" if "header" in message.lower() else "malformed request head"


class _RejectedError(Exception):
    """The request head is rejected."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class _Flow(FlowControl):
    """Keeps reading paused while there are unparsed bytes."""

    def __init__(self, transport: asyncio.Transport, unparsed: bytearray) -> None:
        super().__init__(transport)
        self._unparsed = unparsed

    def resume_reading(self) -> None:
        if not self._unparsed:
            super().resume_reading()


class _Connection(HttpToolsProtocol):
    limits: ConnectionLimits
    on_reject: Callable[[str], None]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._application, self.app = self.app, self._serve
        # Requests without a complete response; the first one is running, the others wait.
        self._cycles: deque[RequestResponseCycle] = deque()
        # Received bytes that are not parsed yet, because too many requests wait.
        self._unparsed = bytearray()
        self._reading_paused = False
        # Input after a rejection is ignored.
        self._discard_input = False
        # Message about the invalid body of the last request.
        self._body_error: str | None = None
        self._in_head = True
        self._head_bytes = 0
        # Bytes after the head: body bytes, and all others, such as chunk framing and trailers.
        self._body_bytes = self._other_bytes = 0
        # Body bytes of any message in the slice that is being parsed.
        self._slice_body_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        # Unsent bytes at the start of that timer.
        self._unsent_at_start = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Wait for a request."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self._unparsed)
        if len(self.connections) > self.limits.connections:
            detail = f"the maximum of {self.limits.connections} open connections is reached; retry later"
            self._reject(HTTPStatus.SERVICE_UNAVAILABLE, detail)
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers, and signal the disconnect to all requests."""
        self._stop_timers()
        self._unparsed.clear()
        self._disconnect()
        self.app = self._application  # breaks the reference cycle
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse bytes; while too many requests wait, buffer them and pause reading."""
        if self._discard_input:
            return
        self._unset_keepalive_if_required()
        self._unparsed += data
        self._parse_buffer()

    def _parse_buffer(self) -> None:
        while self._unparsed and len(self._cycles) <= _MAX_PIPELINED_REQUESTS:
            size = _HEAD_SLICE_BYTES if self._in_head else _BODY_SLICE_BYTES
            part = bytes(self._unparsed[:size])
            del self._unparsed[:size]
            self._parse_slice(part)
        if self._unparsed:
            self._reading_paused = True
            self.flow.pause_reading()
        elif self._reading_paused or 1 < len(self._cycles) <= _MAX_PIPELINED_REQUESTS:
            # uvicorn pauses reading while a request waits, which would hide a disconnect.
            self._reading_paused = False
            self.flow.resume_reading()

    def _parse_slice(self, data: bytes) -> None:
        """Parse bytes, and enforce the limits of heads and chunk framing."""
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_timer is None:
                self._expect_head()
        self._slice_body_bytes = 0
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            # httptools wraps exceptions of callbacks.
            reason = error.__context__
            if isinstance(reason, _RejectedError):
                self._reject(reason.status, reason.detail)
            elif self._in_head or isinstance(error, httptools.HttpParserCallbackError):
                self._reject(HTTPStatus.BAD_REQUEST, f"the request is not valid HTTP/1.1: {_syntax_error(error)}")
            else:
                self._fail_body("the body is not valid chunked encoding, which its Transfer-Encoding header declares")
            return
        if self._in_head:
            if self._head_bytes > self.limits.head_bytes:
                self._reject(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, self._too_large)
            return
        self._other_bytes += len(data) - self._slice_body_bytes
        # The smallest chunk has six bytes of framing per body byte.
        if self._other_bytes > 2 * self.limits.head_bytes + 8 * self._body_bytes:
            log.info("connection rejected", reason="chunk framing exceeds the body size")
            self._stop_timers()
            self._unparsed.clear()
            self.transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Process a header; ignore trailers."""
        if self._in_head:
            super().on_header(name, value)

    def on_message_begin(self) -> None:
        """Start the timer of a head."""
        self._in_head = True
        self._unset_keepalive_if_required()
        if self._head_timer is None:  # the head arrived together with the end of a body
            self._expect_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Check the head and start the request."""
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise _RejectedError(
                    HTTPStatus.BAD_REQUEST, "method CONNECT is not supported: this server is not a proxy"
                )
            return  # the head is parsed again without its upgrade
        self._in_head = False
        self._head_bytes = self._body_bytes = self._other_bytes = 0
        self._stop_head_timer()
        self._check_head()
        super().on_headers_complete()
        self._cycles.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        """Count and forward a part of the body."""
        self._body_bytes += len(body)
        self._slice_body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Expect another head."""
        if self.parser.should_upgrade():
            return
        self._in_head = True
        self._stop_head_timer()
        super().on_message_complete()
        if not self._cycles:  # the response preceded the end of the body; the connection is idle from now on
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        """Start the timer for the rest of a body whose response is complete."""
        finished = self._cycles.popleft()
        # An incomplete body may belong to a later request, which has its own deadline.
        if finished is self.cycle and not self._in_head and not self.transport.is_closing():
            self._stop_head_timer()
            self._head_timer = self.loop.call_later(self.limits.head_seconds, self.transport.abort)
        super().on_response_complete()
        if self._unparsed:
            self._parse_buffer()
        self._watch_closing()

    def pause_writing(self) -> None:
        """Start the stall timer."""
        super().pause_writing()
        self._start_stall_timer()

    def resume_writing(self) -> None:
        """Stop the stall timer."""
        self._stop_stall_timer()
        super().resume_writing()
        self._watch_closing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection."""
        super().timeout_keep_alive_handler()
        self._watch_closing()

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        """Call the application; for HTTP/1.0, the end of the connection delimits a response of unknown length."""
        cycle = self._cycles[0]

        async def receive_checked() -> Any:
            message = await receive()
            if (
                self._body_error is not None
                and cycle is self.cycle
                and not (cycle.disconnected or cycle.response_started)
            ):
                raise BadRequestError(self._body_error)
            return message

        if scope["http_version"] not in _OLD_VERSIONS:
            await self._application(scope, receive_checked, send)
            return
        unchunked = False

        async def send_unchunked(message: Any) -> None:
            nonlocal unchunked
            if message["type"] == "http.response.start":
                unchunked = all(name.lower() != b"content-length" for name, _ in message.get("headers", ()))
                if unchunked:
                    cycle.chunked_encoding = (
                        False  # uvicorn would use chunked encoding, which RFC 9112, section 6.1 forbids
                    )
                    cycle.keep_alive = False
            elif unchunked:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await self._application(scope, receive_checked, send_unchunked)

    def _parse(self, data: bytes) -> None:
        """Parse bytes; ignore an Upgrade header (RFC 9110, section 7.8).

        httptools stops after a head with an Upgrade header, so that head is parsed again without it.
        """
        rest = memoryview(data)
        while rest:
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
            else:
                return
            head = self._head_without_upgrade()
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            self.parser.feed_data(head)

    def _head_without_upgrade(self) -> bytes:
        line = b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        headers = (b"%b: %b" % header for header in self.headers if header[0] != b"upgrade")
        return b"\r\n".join([line, *headers, b"", b""])

    def _check_head(self) -> None:
        """Reject a head that is too large or ambiguous, and normalize its target for uvicorn."""
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > self.limits.head_bytes:
            raise _RejectedError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, self._too_large)
        version = self.parser.get_http_version()
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and version not in _OLD_VERSIONS):
            raise _RejectedError(HTTPStatus.BAD_REQUEST, f"header Host: expected exactly one, found {hosts}")
        codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings not in ([], [b"chunked"]):
            detail = "header Transfer-Encoding: expected chunked only; use Content-Encoding for a compressed body"
            raise _RejectedError(HTTPStatus.BAD_REQUEST, detail)
        try:
            target = httptools.parse_url(self.url)
        except httptools.HttpParserInvalidURLError:
            detail = "the request target is not a valid URL; expected a path such as /v1/encode"
            raise _RejectedError(HTTPStatus.BAD_REQUEST, detail) from None
        if target.path is None:  # http://host
            self.url = b"/?" + target.query if target.query else b"/"
        if version in _OLD_VERSIONS:
            self.expect_100_continue = False

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.head_seconds, self._on_head_timeout)

    def _on_head_timeout(self) -> None:
        if self._cycles:  # the head of a pipelined request may wait for the running one
            self._expect_head()
            return
        detail = f"the request head was not complete after {self.limits.head_seconds:g} s"
        self._reject(HTTPStatus.REQUEST_TIMEOUT, detail)

    @property
    def _too_large(self) -> str:
        return f"the request line and headers exceed the maximum of {self.limits.head_bytes} bytes"

    def _watch_closing(self) -> None:
        """Start the stall timer for the last bytes of a closing connection, which do not pause writing."""
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._start_stall_timer()

    def _start_stall_timer(self) -> None:
        self._stop_stall_timer()
        self._unsent_at_start = self._unsent()
        self._stall_timer = self.loop.call_later(self.limits.stall_seconds, self._check_stall)

    def _check_stall(self) -> None:
        if self._unsent() < self._unsent_at_start:  # the client is slow but still reads
            self._start_stall_timer()
            return
        log.info("response aborted: client stopped reading", stall_seconds=self.limits.stall_seconds)
        self.transport.abort()

    def _unsent(self) -> int:
        """Return the number of unsent bytes, including the kernel's send buffer where it is known."""
        waiting = b""
        # A large kernel buffer hides a slow client from the transport for a minute.
        with suppress(OSError):
            descriptor = self.transport.get_extra_info("socket").fileno()
            waiting = fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4))
        return self.transport.get_write_buffer_size() + int.from_bytes(waiting, sys.byteorder)

    def _reject(self, status: HTTPStatus, detail: str) -> None:
        """Close the connection with an error response, or after a running response to prevent interleaving."""
        code, request_id = CONNECTION_CODES[status], uuid.uuid4().hex
        log.info("connection rejected", status=status.value, code=code, reason=detail, request_id=request_id)
        self.on_reject(code)
        self._discard_input = True
        self._unparsed.clear()
        self._stop_head_timer()
        running = self._cycles[0] if self._cycles else None
        if running is not None and not running.more_body:  # the rejected head follows it
            running.keep_alive = False
            self.pipeline.clear()
            self.flow.resume_reading()
            return
        self._disconnect()
        if running is not None and running.response_started:
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
        if status == HTTPStatus.SERVICE_UNAVAILABLE:  # the only rejection that a retry can change
            head.append("retry-after: 1")
        self.transport.write("\r\n".join([*head, "connection: close", "", body]).encode())
        self.transport.close()
        self._watch_closing()

    def _fail_body(self, reason: str) -> None:
        """Fail the request with an invalid body in its protocol's format, and close the connection afterwards."""
        self._discard_input = True
        self._unparsed.clear()
        self._stop_head_timer()
        if self.cycle.response_complete:  # the response preceded the body
            self.transport.close()
            self._watch_closing()
            return
        self._body_error = reason
        self.cycle.keep_alive = False
        self.cycle.message_event.set()

    def _disconnect(self) -> None:
        # uvicorn signals only the last request, which may be waiting.
        for cycle in self._cycles:
            cycle.disconnected = True
            cycle.message_event.set()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_timers(self) -> None:
        self._stop_head_timer()
        self._stop_stall_timer()

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

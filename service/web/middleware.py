"""What every request passes before its route: an id and a clock, the key, limits of its body, its client's leaving.

Plain ASGI, outermost first: `Heads`, `Context`, `Origins`, `Refusals`, `Keys`, `Bodies`, `Departures`.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.core.errors import (
    BadRequestError,
    BodyTooLargeError,
    DeadlineExceededError,
    DrainingError,
    InternalError,
    ServiceError,
    UnauthorizedError,
)
from service.core.events import Timings
from service.web.api_keys import KeyRing

Render = Callable[[str, ServiceError], Response]
Answered = Callable[[str, int, float], None]

# Anything else could break a log line or a header.
_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
# Asked for by machines all the time, and by those who hold no key.
HEALTH_ROUTES = frozenset({"/health", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"})
METRICS_ROUTE = "/metrics"
PAGE_ROUTE = "/"
# What is described here is no secret, and a browser that follows a link presents no key.
_OPEN_PAGES = frozenset({"/docs", "/openapi.json"})
_OPEN_ASSETS = ("/docs/assets/", "/page/")
_UNMATCHED = "unmatched"
# What the page is counted as: its template is also that of a protocol's route, which takes work.
_PAGE_LABEL = "index"

log = structlog.get_logger("fnet.http")


class Heads:
    """Answers HEAD wherever there is a GET, with the same headers (RFC 9110, section 9.3.2); the server sends no body.

    Args:
        app: The rest.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            # A copy: the server knows by its own that no body is to follow.
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


class Context:
    """Gives a request its id and clock, and its answer an id, timings, a count and a log line.

    Args:
        app: The rest.
        answered: Told of each answer: route template (`index` for the page at `/`), status, seconds.
        routes: Gives all routes, to name the one that a refused request would have taken.
        leaving: Says whether the service is about to end. Every answer then closes its connection: a client that
            reused it would find it closed in the middle of its next request.
    """

    def __init__(
        self,
        app: ASGIApp,
        answered: Answered,
        routes: Callable[[], Iterable[BaseRoute]] = list,
        leaving: Callable[[], bool] = lambda: False,
    ) -> None:
        self._app, self._answered, self._routes, self._leaving = app, answered, routes, leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
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
                if self._leaving():
                    headers["Connection"] = "close"
                # Another method than the route takes may have been meant for one that says it.
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
                self._answered(_PAGE_LABEL if page else route, status, seconds)
            level = log.debug if route in HEALTH_ROUTES or route == METRICS_ROUTE else log.info
            level("request", method=scope["method"], route=route, status=status, ms=round(seconds * 1000, 1))


def route_of(scope: Scope, routes: Callable[[], Iterable[BaseRoute]]) -> str:
    """Return the template of the route that a request takes, or would have taken if it had not been refused before."""
    taken = scope.get("route")
    if taken is None:
        taken = next((route for route in routes() if route.matches(scope)[0] is not Match.NONE), None)
    return getattr(taken, "path", None) or _UNMATCHED


class Origins(CORSMiddleware):
    """Lets web pages of some origins ask; a preflight of others is refused in the words of the path's protocol.

    It stands outside of what refuses, so that a page may read why it was refused.

    Args:
        app: The rest.
        refuse: Turns an error into the answer that the path's protocol wants.
        options: As for Starlette's.
    """

    def __init__(self, app: ASGIApp, /, refuse: Render, **options: Any) -> None:
        super().__init__(app, **options)
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer a preflight."""
        try:
            await super().__call__(scope, receive, send)
        except BadRequestError as error:  # a preflight's: all others are answered further in
            await self._refuse(scope["path"], error)(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Return what a preflight is answered with.

        Raises:
            BadRequestError: The page may not ask so.
        """
        response = super().preflight_response(request_headers)
        if response.status_code != HTTPStatus.OK:
            reason = bytes(response.body).decode()
            raise BadRequestError(f"{reason}: FNET_CORS_ORIGINS says which pages may call, with GET, HEAD and POST")
        return response


class Refusals:
    """Sets a request's deadline, and answers for whatever is raised before its route, or by nobody's intention.

    Args:
        app: The rest.
        render: Turns an error into the answer that the path's protocol wants.
        longest: Seconds that a request may take, which `X-Request-Timeout` can only lower.
        leaving: Says whether the service is about to end. Whatever is broken off then is told why.
    """

    def __init__(
        self, app: ASGIApp, render: Render, longest: float, leaving: Callable[[], bool] = lambda: False
    ) -> None:
        self._app, self._render, self._longest, self._leaving = app, render, longest, leaving

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
            scope["state"]["time_left"] = lambda: max(0.0, timeout - elapsed())
            # The whole of it: a body that trickles in and a wait for a worker take time as well as the queue.
            async with limit:
                limit.reschedule(asyncio.get_running_loop().time() + timeout)
                await self._app(scope, receive, send_noting)
        except ServiceError as error:
            await self._render(scope["path"], error)(scope, receive, send)
        except asyncio.CancelledError:
            if begun or not self._leaving():
                raise
            # The server's time to finish is over, and this request has not even come in whole.
            over = DrainingError("the service is shutting down", retry_after=1)
            await self._render(scope["path"], over)(scope, receive, send)
        except Exception as error:
            if isinstance(error, TimeoutError) and limit.expired() and not begun:
                late = DeadlineExceededError("the request's time was up before its answer was there")
                await self._render(scope["path"], late)(scope, receive, send)
                return
            log.exception("unexpected error")
            if begun:
                raise  # only the connection's end can tell the client
            defect = InternalError("an unexpected error occurred; the log has it under this request's id")
            await self._render(scope["path"], defect)(scope, receive, send)

    def _timeout(self, value: str | None) -> float:
        if value is None:
            return self._longest
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            raise BadRequestError("header X-Request-Timeout: expected a number of seconds above 0")
        return min(seconds, self._longest)


def _server_timing(timings: Timings, total: float) -> str:
    """Return the Server-Timing header: seconds become milliseconds (W3C Server Timing)."""
    durations = {"queue": timings.queue, "compute": timings.compute, "total": total}
    return ", ".join(f"{name};dur={seconds * 1000:.3f}" for name, seconds in durations.items())


class Keys:
    """Lets in only who presents a key, where keys are set: `Authorization: Bearer …` or `X-API-Key`.

    Args:
        app: The rest.
        ring: Knows the keys.
        open_routes: Paths that ask for none, beside the pages that describe the API.
    """

    def __init__(
        self, app: ASGIApp, ring: KeyRing, open_routes: frozenset[str] = HEALTH_ROUTES | {METRICS_ROUTE}
    ) -> None:
        self._app, self._ring = app, ring
        self._open = open_routes | _OPEN_PAGES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http" and self._ring.locked and not self._is_open(scope["method"], scope["path"]):
            headers = Headers(scope=scope)
            scheme, _, token = headers.get("authorization", "").partition(" ")
            presented = [token.strip()] if scheme.lower() == "bearer" else []
            if not self._ring.lets_in([*presented, *headers.getlist("x-api-key")]):
                raise UnauthorizedError("a valid key is needed: Authorization: Bearer …")
        await self._app(scope, receive, send)

    def _is_open(self, method: str, path: str) -> bool:
        if path == PAGE_ROUTE and method != "GET":
            return False  # a protocol's route as well
        return path in self._open or path.startswith(_OPEN_ASSETS)


class Bodies:
    """Bounds a body's bytes, as sent and as inflated, and inflates gzip and deflate.

    Args:
        app: The rest.
        most: Bytes that a body may have.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        encoding = headers.get("content-encoding", "").strip().lower() or "identity"
        encoding = _OTHER_NAMES.get(encoding, encoding)
        if encoding not in _WINDOW_BITS and encoding != "identity":
            raise BadRequestError("header Content-Encoding: expected gzip, deflate or none")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._most:
            raise self._too_large()
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._most:
                raise self._too_large()
            return message

        if encoding == "identity":
            await self._app(scope, bounded, send)
        else:
            await self._app(scope, self._inflating(bounded, encoding), send)

    def _inflating(self, receive: Receive, encoding: str) -> Receive:
        done = False

        async def inflated() -> Message:
            nonlocal done
            if done:
                return await receive()
            parts = []
            more = True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    return message
                parts.append(message.get("body", b""))
                more = message.get("more_body", False)
            done = True
            body = await asyncio.to_thread(_inflate, b"".join(parts), encoding, self._most)
            if body is None:
                raise self._too_large()
            return {"type": "http.request", "body": body, "more_body": False}

        return inflated

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"the body has more than {self._most} bytes")


# zlib's codes for the two containers; some clients send deflate without one.
_WINDOW_BITS = {"gzip": (31,), "deflate": (15, -15)}
# RFC 9110, section 8.4.1.3.
_OTHER_NAMES = {"x-gzip": "gzip"}
# Each copies what follows it: a body of nothing but empty ones would take minutes.
_MOST_MEMBERS = 256


def _inflate(data: bytes, encoding: str, most: int) -> bytes | None:
    """Return inflated bytes, or nothing if there are more than `most`."""
    for bits in _WINDOW_BITS[encoding]:
        with suppress(zlib.error):
            return _inflate_members(data, bits, most, 1 if encoding == "deflate" else _MOST_MEMBERS)
    raise BadRequestError(f"the body is not {encoding} as its Content-Encoding says")


def _inflate_members(data: bytes, bits: int, most: int, most_members: int) -> bytes | None:
    """Inflate members that follow each other, as gzip may have them (RFC 1952, section 2.2), with zeros behind each.

    Raises:
        zlib.error: There is anything else, or too much of it.
    """
    body = bytearray()
    for _ in range(most_members):
        inflater = zlib.decompressobj(bits)
        body += inflater.decompress(data, most + 1 - len(body))
        if len(body) > most:
            return None
        if not inflater.eof:
            break
        # What fills the blocks of a tape or disk; gzip's own tools pass over it, too.
        data = inflater.unused_data.lstrip(b"\0" if bits in _WINDOW_BITS["gzip"] else b"")
        if not data:
            return bytes(body)
    raise zlib.error("no end of it")


class Departures:
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

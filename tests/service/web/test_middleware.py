"""Each middleware around a minimal application."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import re
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.core.errors import OverloadedError, ServiceError
from service.core.events import Timings
from service.web.api_keys import ApiKeys
from service.web.middleware import (
    HEALTH_ROUTES,
    METRICS_ROUTE,
    ApiKeyMiddleware,
    DeadlineMiddleware,
    DisconnectMiddleware,
    ErrorMiddleware,
    RequestBodyMiddleware,
    RequestContextMiddleware,
)
from service.web.problem import PROBLEM, render_error
from tests.support.timeouts import TIMEOUT

LIMIT = 1000

Ask = Callable[..., httpx.Response]


@pytest.fixture
def ask(runner: asyncio.Runner) -> Ask:
    """Send a request to an ASGI application."""

    async def send(app: ASGIApp, method: str, path: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service", timeout=TIMEOUT) as client:
            return await client.request(method, path, **options)

    def ask(app: ASGIApp, method: str = "POST", path: str = "/", **options: Any) -> httpx.Response:
        return runner.run(send(app, method, path, **options))

    return ask


async def read(receive: Receive) -> bytes:
    """Return the complete body of a request."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    return body


async def answer(send: Send, body: bytes = b"", status: int = 200) -> None:
    """Send a response."""
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def echo(_scope: Scope, receive: Receive, send: Send) -> None:
    """Respond with the body of the request."""
    await answer(send, await read(receive))


def failing(error: BaseException) -> ASGIApp:
    """Return an application that raises an error."""

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise error

    return app


def in_context(app: ASGIApp, longest: float = 60.0, seen: list[tuple[str, int]] | None = None) -> ASGIApp:
    """Wrap an application in the context middleware; `seen` collects route and status of responses."""

    def respond(route: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        if seen is not None:
            seen.append((route, status))

    def render(_path: str, error: ServiceError) -> Any:
        return render_error(error)

    return RequestContextMiddleware(ErrorMiddleware(DeadlineMiddleware(app, longest), render), respond)


def code(response: httpx.Response) -> str:
    """Check that a response is a problem document, and return its code."""
    assert response.headers["content-type"] == PROBLEM
    document = response.json()
    assert document["status"] == response.status_code
    return str(document["code"])


# === Context: ids, clocks, and unexpected errors ===


@pytest.mark.parametrize("given", ["a", "a-b_c.d:e/f+g=h", "0" * 128, "4bf92f3577b34da6a3ce929d0e0e4736"])
def test_valid_request_id_is_returned(ask: Ask, given: str) -> None:
    """The response has the client's request ID."""
    assert ask(in_context(echo), headers={"X-Request-Id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize(
    "given", ["", " ", "a b", "0" * 129, "a\r\nSet-Cookie: x", "a\x1b[31m", "<script>", '"', "a\n", "é", "{}"]
)
def test_invalid_request_id_is_replaced(ask: Ask, given: str) -> None:
    """The response has a generated request ID."""
    headers = [(b"x-request-id", given.encode())]
    response = ask(in_context(echo), headers=headers)
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])
    assert "set-cookie" not in response.headers


def test_generated_request_ids_are_unique(ask: Ask) -> None:
    """Generated request ids are unique."""
    app = in_context(echo)
    assert len({ask(app).headers["x-request-id"] for _ in range(10)}) == 10


def test_post_responses_have_server_timing(ask: Ask) -> None:
    """Server-Timing has queue, compute and total in milliseconds."""

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        scope["state"]["timings"] = Timings(queue=0.25, compute=0.5)
        await answer(send)

    timing = ask(in_context(app)).headers["server-timing"]
    assert re.fullmatch(r"queue;dur=250\.000, compute;dur=500\.000, total;dur=\d+\.\d{3}", timing)
    assert "server-timing" not in ask(in_context(app), "GET").headers


def test_method_not_allowed_response_has_server_timing(ask: Ask) -> None:
    """Method not allowed response has server timing."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await answer(send, status=405)

    assert "server-timing" in ask(in_context(app), "PUT").headers


def test_error_responses_have_request_id_and_timing(ask: Ask) -> None:
    """Error responses have request id and timing."""
    response = ask(in_context(failing(OverloadedError("full", retry_after=4))), headers={"X-Request-Id": "mine"})
    assert (response.status_code, code(response)) == (429, "overloaded")
    assert response.headers["retry-after"] == "4"
    assert response.headers["x-request-id"] == "mine"
    assert response.headers["server-timing"].startswith("queue;dur=0.000, compute;dur=0.000, total;dur=")


@pytest.mark.parametrize(
    ("requested", "minimum", "maximum"), [(None, 59, 60), ("5", 4, 5), ("1e9", 59, 60), ("0.5", 0, 0.5)]
)
def test_request_timeout_header_can_only_lower_the_timeout(
    ask: Ask, requested: str | None, minimum: float, maximum: float
) -> None:
    """The setting is the maximum."""

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        await answer(send, str(scope["state"]["time_left"]()).encode())

    headers = {} if requested is None else {"X-Request-Timeout": requested}
    assert minimum <= float(ask(in_context(app), headers=headers).text) <= maximum


@pytest.mark.parametrize("requested", ["", "x", "0", "-1", "nan", "inf", "-inf", "1s", "1,5"])
def test_invalid_timeout_header_is_rejected(ask: Ask, requested: str) -> None:
    """Invalid timeout header is rejected."""
    response = ask(in_context(echo), headers={"X-Request-Timeout": requested})
    assert (response.status_code, code(response)) == (400, "bad_request")
    assert "X-Request-Timeout" in response.json()["detail"]


def test_deadline_covers_the_complete_request(ask: Ask) -> None:
    """The deadline also applies to a slow body."""

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        await asyncio.Event().wait()

    response = ask(in_context(app), headers={"X-Request-Timeout": "0.05"})
    assert (response.status_code, code(response)) == (504, "deadline_exceeded")


def test_response_that_starts_at_the_deadline_is_completed(ask: Ask) -> None:
    """Response that starts at the deadline is completed."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(30)
        await answer(send, b"here")

    response = ask(in_context(app, longest=0.01))
    assert (response.status_code, response.content) == (200, b"here")


def test_started_response_is_completed_after_the_deadline(ask: Ask) -> None:
    """Started response is completed after the deadline."""

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(scope["state"]["time_left"]() + 0.05)
        await send({"type": "http.response.body", "body": b"whole"})

    response = ask(in_context(app), headers={"X-Request-Timeout": "0.05"})
    assert (response.status_code, response.text) == (200, "whole")


def test_unexpected_error_reveals_no_details(ask: Ask) -> None:
    """The client gets a problem document, and the log has the traceback with the same request ID."""
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as logs:
        response = ask(in_context(failing(RuntimeError("secret/path.py line 3"))), headers={"X-Request-Id": "mine"})
    assert (response.status_code, code(response)) == (500, "internal_error")
    assert "secret" not in response.text
    assert "RuntimeError" not in response.text
    (defect,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert (defect["request_id"], defect["exc_info"]) == ("mine", True)


def test_unexpected_error_during_a_response_aborts_it(ask: Ask) -> None:
    """An incomplete response must not look complete."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("broken")

    seen: list[tuple[str, int]] = []
    with pytest.raises(RuntimeError, match="broken"):
        ask(in_context(app, seen=seen))
    assert seen == [("unmatched", 200)]


def test_responses_are_counted_by_route_template(ask: Ask) -> None:
    """All unknown paths share one label."""

    class Route:
        path = "/things/{name}"

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["path"].startswith("/things/"):
            scope["route"] = Route()
        await answer(send, status=404)

    seen: list[tuple[str, int]] = []
    for path in ("/things/1", "/things/2", "/a", "/b"):
        ask(in_context(app, seen=seen), path=path)
    assert seen == [("/things/{name}", 404)] * 2 + [("unmatched", 404)] * 2


def test_log_contains_no_path_or_query(ask: Ask) -> None:
    """The log has the route template, because paths may contain private data."""
    with structlog.testing.capture_logs() as logs:
        ask(in_context(echo), path="/private?key=secret", content=b"private text")
    (line,) = logs
    assert {key: line[key] for key in ("event", "method", "route", "status")} == {
        "event": "request",
        "method": "POST",
        "route": "unmatched",
        "status": 200,
    }
    assert not re.search("private|secret", str(line))


# === Keys ===


KEYS = frozenset({"first", "second-é"})


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer first"},
        {"authorization": "bearer  first "},
        {"X-API-Key": "first"},
        {"X-API-Key": "second-é".encode()},
        {"Authorization": "Basic Zmlyc3Q=", "X-API-Key": "first"},
        # Some clients always send their own bearer token.
        {"Authorization": "Bearer -", "X-API-Key": "first"},
    ],
)
def test_valid_key_is_accepted(ask: Ask, headers: dict[str, Any]) -> None:
    """The key is a bearer token or in X-API-Key."""
    assert ask(in_context(ApiKeyMiddleware(echo, ApiKeys(KEYS))), headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer firs"},
        {"Authorization": "Bearer firstfirst"},
        {"Authorization": "first"},
        {"Authorization": "Basic first"},
        {"X-API-Key": ""},
        {"X-API-Key": "FIRST"},
        {"Authorization": "Bearer wrong", "X-API-Key": "second"},
    ],
)
def test_missing_or_invalid_key_is_rejected(ask: Ask, headers: dict[str, str]) -> None:
    """The response names the scheme and does not repeat the key."""
    response = ask(in_context(ApiKeyMiddleware(echo, ApiKeys(KEYS))), headers=headers)
    assert (response.status_code, code(response)) == (401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["detail"] == 'missing or invalid API key (send "Authorization: Bearer KEY")'
    assert "wrong" not in response.text


@pytest.mark.parametrize("path", sorted({*HEALTH_ROUTES, METRICS_ROUTE}))
def test_probes_and_metrics_require_no_key(ask: Ask, path: str) -> None:
    """Probes and metrics require no key."""
    assert ask(in_context(ApiKeyMiddleware(echo, ApiKeys(KEYS))), "GET", path).status_code == 200


@pytest.mark.parametrize("path", ["/v1/encode", "/v1/info", "/health/", "/health/../v1/encode", "/metrics/x"])
def test_other_paths_require_a_key(ask: Ask, path: str) -> None:
    """Only exact paths are open."""
    assert ask(in_context(ApiKeyMiddleware(echo, ApiKeys(KEYS))), "GET", path).status_code == 401


def test_authentication_is_disabled_without_keys(ask: Ask) -> None:
    """Authentication is disabled without keys."""
    assert ask(in_context(ApiKeyMiddleware(echo, ApiKeys()))).status_code == 200


# === Bodies ===


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    """Yield a chunked body."""
    for part in parts:
        yield part


def compressed(body: bytes, bits: int) -> bytes:
    """Compress with zlib's window bits for the container."""
    compressor = zlib.compressobj(wbits=bits)
    return compressor.compress(body) + compressor.flush()


CODINGS = [("gzip", 31), ("GZIP", 31), ("x-gzip", 31), ("deflate", 15), ("deflate", -15)]


def test_body_within_the_limit_is_accepted(ask: Ask) -> None:
    """The limit is inclusive, for one part and for many."""
    app = in_context(RequestBodyMiddleware(echo, LIMIT))
    assert ask(app, content=b"x" * LIMIT).content == b"x" * LIMIT
    assert ask(app, content=chunks(*[b"x" * 100] * 10)).content == b"x" * LIMIT
    assert ask(app, content=b"").content == b""


def test_content_length_over_the_limit_is_rejected_without_reading(ask: Ask) -> None:
    """Content length over the limit is rejected without reading."""
    reached = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(await read(receive))

    response = ask(in_context(RequestBodyMiddleware(app, LIMIT)), content=b"x" * (LIMIT + 1))
    assert (response.status_code, code(response)) == (413, "body_too_large")
    assert response.json()["detail"] == f"the body exceeds the maximum of {LIMIT} bytes"
    assert not reached


def test_chunked_body_is_rejected_when_it_exceeds_the_limit(ask: Ask) -> None:
    """Chunked body is rejected when it exceeds the limit."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 100
            yield b"x" * 100

    response = ask(in_context(RequestBodyMiddleware(echo, LIMIT)), content=endless())
    assert (response.status_code, code(response)) == (413, "body_too_large")
    assert sent <= LIMIT + 200


@pytest.mark.parametrize(("coding", "bits"), CODINGS)
def test_compressed_bodies_are_inflated(ask: Ask, coding: str, bits: int) -> None:
    """Both codings, in one piece or in many, up to the very limit; deflate also without its container."""
    app = in_context(RequestBodyMiddleware(echo, LIMIT))
    headers = {"Content-Encoding": coding}
    for size in (0, 1, LIMIT):
        sent = compressed(b"x" * size, bits)
        assert ask(app, content=sent, headers=headers).content == b"x" * size
        assert ask(app, content=chunks(sent[:5], b"", sent[5:]), headers=headers).content == b"x" * size


@pytest.mark.parametrize(("coding", "bits"), CODINGS)
def test_limit_applies_to_inflated_bytes(ask: Ask, coding: str, bits: int) -> None:
    """Limit applies to inflated bytes."""
    sent = compressed(b"x" * (LIMIT + 1), bits)
    assert len(sent) < LIMIT
    response = ask(in_context(RequestBodyMiddleware(echo, LIMIT)), content=sent, headers={"Content-Encoding": coding})
    assert (response.status_code, code(response)) == (413, "body_too_large")


def test_limit_applies_to_compressed_bytes(ask: Ask) -> None:
    """Limit applies to compressed bytes."""
    app = in_context(RequestBodyMiddleware(echo, LIMIT))
    headers = {"Content-Encoding": "gzip"}
    assert ask(app, content=b"x" * (LIMIT + 1), headers=headers).status_code == 413
    assert ask(app, content=chunks(b"x" * LIMIT, b"x"), headers=headers).status_code == 413


def test_compression_bomb_uses_bounded_memory(ask: Ask) -> None:
    """A hundred megabytes of zeros are rejected after inflating the limit."""
    bomb = gzip.compress(bytes(100 << 20), compresslevel=9)
    maximum = 1 << 20
    assert len(bomb) < maximum
    app = in_context(RequestBodyMiddleware(echo, maximum))
    tracemalloc.start()
    try:
        response = ask(app, content=bomb, headers={"Content-Encoding": "gzip"})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (response.status_code, code(response)) == (413, "body_too_large")
    assert peak < 8 * maximum


def test_gzip_members_are_inflated(ask: Ask) -> None:
    """The limit applies to all members, and their number is limited."""
    app = in_context(RequestBodyMiddleware(echo, LIMIT))
    headers = {"Content-Encoding": "gzip"}
    assert (
        ask(app, content=gzip.compress(b"one ") + gzip.compress(b"") + gzip.compress(b"two"), headers=headers).content
        == b"one two"
    )
    response = ask(app, content=gzip.compress(b"x" * LIMIT) + gzip.compress(b"x"), headers=headers)
    assert (response.status_code, code(response)) == (413, "body_too_large")
    wide = in_context(RequestBodyMiddleware(echo, 1 << 20))
    assert ask(wide, content=gzip.compress(b"") * 20_000, headers=headers).status_code == 400


def test_gzip_zero_padding_is_ignored(ask: Ask) -> None:
    """Gzip zero padding is ignored."""
    app = in_context(RequestBodyMiddleware(echo, LIMIT))
    headers = {"Content-Encoding": "gzip"}
    one, two = gzip.compress(b"one "), gzip.compress(b"two")
    assert ask(app, content=one + bytes(100), headers=headers).content == b"one "
    assert ask(app, content=one + bytes(3) + two + bytes(1), headers=headers).content == b"one two"
    for sent in (bytes(100), one + bytes(3) + b"x", two[:-5] + bytes(2)):
        assert ask(app, content=sent, headers=headers).status_code == 400
    zeros_behind = zlib.compress(b"one") + bytes(3)
    assert ask(app, content=zeros_behind, headers={"Content-Encoding": "deflate"}).status_code == 400


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("damage", ["cut", "noise", "plain", "empty", "more"])
def test_damaged_compressed_body_is_a_bad_request(ask: Ask, coding: str, damage: str) -> None:
    """Damaged compressed body is a bad request."""
    complete = compressed(b"a text that is compressed", 31 if coding == "gzip" else 15)
    sent = {
        "cut": complete[:-5],
        "noise": complete[:12] + b"\xff" * 9,
        "plain": b"{}",
        "empty": b"",
        "more": complete + b"x",
    }
    response = ask(
        in_context(RequestBodyMiddleware(echo, LIMIT)), content=sent[damage], headers={"Content-Encoding": coding}
    )
    assert (response.status_code, code(response)) == (400, "bad_request")
    assert coding in response.json()["detail"]


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "x"])
def test_unknown_content_encoding_is_a_bad_request(ask: Ask, coding: str) -> None:
    """The message lists the supported encodings."""
    response = ask(in_context(RequestBodyMiddleware(echo, LIMIT)), content=b"x", headers={"Content-Encoding": coding})
    assert (response.status_code, code(response)) == (400, "bad_request")
    assert "gzip, deflate" in response.json()["detail"]


def test_identity_encoding_is_accepted(ask: Ask) -> None:
    """Identity encoding is accepted."""
    empty = ask(in_context(RequestBodyMiddleware(echo, LIMIT)), content=b"x", headers={"Content-Encoding": ""})
    assert (empty.status_code, empty.content) == (200, b"x")
    response = ask(
        in_context(RequestBodyMiddleware(echo, LIMIT)), content=b"x", headers={"Content-Encoding": "identity"}
    )
    assert response.content == b"x"


# === Departures ===


class Connection:
    """A client connection that can disconnect.

    Attributes:
        left: Set when the client disconnects.
        sent: Messages sent to the client.
    """

    def __init__(self, body: bytes = b"{}") -> None:
        self.left = asyncio.Event()
        self.sent: list[Message] = []
        self._messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive(self) -> Message:
        """Return the body, then the disconnect."""
        if self._messages:
            return self._messages.pop()
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Record a message of the response."""
        self.sent.append(message)


def unexpected_disconnect() -> None:
    """Fail on a reported disconnect."""
    pytest.fail("no client disconnected")


def talk(
    runner: asyncio.Runner,
    app: ASGIApp,
    meanwhile: Callable[[Connection], Awaitable[None]],
) -> Connection:
    """Run a POST against `app` with a client that acts concurrently."""

    async def run() -> Connection:
        connection = Connection()
        scope: Scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
        async with asyncio.timeout(TIMEOUT):
            await asyncio.gather(app(scope, connection.receive, connection.send), meanwhile(connection))
        return connection

    return runner.run(run())


def test_disconnect_cancels_the_request(runner: asyncio.Runner) -> None:
    """The application is cancelled, and nothing is sent."""
    started, ended = asyncio.Event(), asyncio.Event()

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.set()
            raise
        await answer(send)

    async def leave(connection: Connection) -> None:
        await started.wait()
        connection.left.set()

    seen: list[tuple[str, int]] = []
    reported: list[bool] = []
    connection = talk(runner, in_context(DisconnectMiddleware(app, lambda: reported.append(True)), seen=seen), leave)
    assert ended.is_set()
    assert reported == [True]
    assert not connection.sent
    assert not seen


def test_connected_client_gets_its_response(runner: asyncio.Runner) -> None:
    """Watching for a disconnect consumes neither body nor response."""

    async def stay(_connection: Connection) -> None:
        pass

    connection = talk(runner, DisconnectMiddleware(echo, unexpected_disconnect), stay)
    assert connection.sent[1]["body"] == b"{}"


def test_started_response_is_not_cancelled(runner: asyncio.Runner) -> None:
    """The server handles a later disconnect."""
    started, left = asyncio.Event(), asyncio.Event()

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        started.set()
        await left.wait()
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.body", "body": b"whole"})

    async def leave(connection: Connection) -> None:
        await started.wait()
        connection.left.set()
        left.set()

    connection = talk(runner, DisconnectMiddleware(app, unexpected_disconnect), leave)
    assert connection.sent[-1]["body"] == b"whole"


def test_body_limit_error_reaches_the_application(runner: asyncio.Runner, ask: Ask) -> None:
    """The error is raised where the body is read, and rendered once."""
    response = ask(
        in_context(RequestBodyMiddleware(DisconnectMiddleware(echo, unexpected_disconnect), LIMIT)),
        content=chunks(*[b"x" * 600] * 3),
    )
    assert (response.status_code, code(response)) == (413, "body_too_large")


def test_unexpected_error_of_a_body_reader_reaches_the_application(runner: asyncio.Runner) -> None:
    """The request does not wait until its deadline."""

    class Broken(Connection):
        async def receive(self) -> Message:
            raise MemoryError("no room to inflate it")

    heard: list[BaseException] = []

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        try:
            await read(receive)
        except BaseException as error:
            heard.append(error)
            raise

    connection = Broken()
    scope: Scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    runner.run(_run(in_context(DisconnectMiddleware(app, unexpected_disconnect), longest=TIMEOUT), scope, connection))
    assert [type(error) for error in heard] == [MemoryError]
    assert connection.sent[0]["status"] == 500


def test_disconnect_at_the_start_of_a_response_is_counted(runner: asyncio.Runner) -> None:
    """Disconnect at the start of a response is counted."""
    started = asyncio.Event()

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        started.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await answer(send)

    async def leave(connection: Connection) -> None:
        await started.wait()
        connection.left.set()

    seen: list[tuple[str, int]] = []
    reported: list[bool] = []
    connection = talk(runner, in_context(DisconnectMiddleware(app, lambda: reported.append(True)), seen=seen), leave)
    assert reported == [True]
    assert not connection.sent
    assert not seen


def test_cancellation_by_the_server_is_propagated(runner: asyncio.Runner) -> None:
    """Cancellation by the server is propagated."""

    async def run() -> None:
        started, ended = asyncio.Event(), asyncio.Event()

        async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        connection = Connection()
        scope: Scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
        task = asyncio.ensure_future(_run(DisconnectMiddleware(app, unexpected_disconnect), scope, connection))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(TIMEOUT):
            await ended.wait()

    runner.run(run())


async def _run(app: ASGIApp, scope: Scope, connection: Connection) -> None:
    await app(scope, connection.receive, connection.send)


def test_non_http_scopes_pass_through(runner: asyncio.Runner) -> None:
    """Non http scopes pass through."""
    seen: list[str] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["type"])

    stack = in_context(
        ApiKeyMiddleware(RequestBodyMiddleware(DisconnectMiddleware(app, unexpected_disconnect), LIMIT), ApiKeys(KEYS))
    )
    connection = Connection()
    runner.run(_run(stack, {"type": "lifespan"}, connection))
    assert seen == ["lifespan"]


def test_problem_documents_are_json(ask: Ask) -> None:
    """The body is valid JSON."""
    assert json.loads(ask(in_context(failing(OverloadedError("full")))).content)["code"] == "overloaded"

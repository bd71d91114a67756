"""What every request passes, each layer around an application of a few lines."""

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
    """Return a request's whole body."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    return body


async def answer(send: Send, body: bytes = b"", status: int = 200) -> None:
    """Send an answer."""
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def echo(_scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the request's body."""
    await answer(send, await read(receive))


def failing(error: BaseException) -> ASGIApp:
    """Return an application that fails."""

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise error

    return app


def in_context(app: ASGIApp, longest: float = 60.0, seen: list[tuple[str, int]] | None = None) -> ASGIApp:
    """Return an application in its outermost layer; `seen` gets each answer's route and status."""

    def respond(route: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        if seen is not None:
            seen.append((route, status))

    def render(_path: str, error: ServiceError) -> Any:
        return render_error(error)

    return RequestContextMiddleware(ErrorMiddleware(app, render, longest), respond)


def code(response: httpx.Response) -> str:
    """Return the code of a problem document, which the answer has to be."""
    assert response.headers["content-type"] == PROBLEM
    document = response.json()
    assert document["status"] == response.status_code
    return str(document["code"])


# === Context: ids, clocks, and what nobody caught ===


@pytest.mark.parametrize("given", ["a", "a-b_c.d:e/f+g=h", "0" * 128, "4bf92f3577b34da6a3ce929d0e0e4736"])
def test_a_sane_request_id_is_kept(ask: Ask, given: str) -> None:
    """A client finds its own id in the answer."""
    assert ask(in_context(echo), headers={"X-Request-Id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize(
    "given", ["", " ", "a b", "0" * 129, "a\r\nSet-Cookie: x", "a\x1b[31m", "<script>", '"', "a\n", "é", "{}"]
)
def test_an_id_that_could_break_a_header_or_a_log_line_is_replaced(ask: Ask, given: str) -> None:
    """The answer has an id of our own."""
    headers = [(b"x-request-id", given.encode())]
    response = ask(in_context(echo), headers=headers)
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])
    assert "set-cookie" not in response.headers


def test_every_request_without_id_gets_another_one(ask: Ask) -> None:
    """Ids tell requests apart."""
    app = in_context(echo)
    assert len({ask(app).headers["x-request-id"] for _ in range(10)}) == 10


def test_posts_say_where_the_time_went(ask: Ask) -> None:
    """Server-Timing has queue, compute and total in milliseconds."""

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        scope["state"]["timings"] = Timings(queue=0.25, compute=0.5)
        await answer(send)

    timing = ask(in_context(app)).headers["server-timing"]
    assert re.fullmatch(r"queue;dur=250\.000, compute;dur=500\.000, total;dur=\d+\.\d{3}", timing)
    assert "server-timing" not in ask(in_context(app), "GET").headers


def test_another_method_of_what_takes_a_post_is_timed_too(ask: Ask) -> None:
    """Every answer of such a route says where the time went."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await answer(send, status=405)

    assert "server-timing" in ask(in_context(app), "PUT").headers


def test_failures_have_an_id_and_a_timing_too(ask: Ask) -> None:
    """A client can report them."""
    response = ask(in_context(failing(OverloadedError("full", retry_after=4))), headers={"X-Request-Id": "mine"})
    assert (response.status_code, code(response)) == (429, "overloaded")
    assert response.headers["retry-after"] == "4"
    assert response.headers["x-request-id"] == "mine"
    assert response.headers["server-timing"].startswith("queue;dur=0.000, compute;dur=0.000, total;dur=")


@pytest.mark.parametrize(("asked", "least", "most"), [(None, 59, 60), ("5", 4, 5), ("1e9", 59, 60), ("0.5", 0, 0.5)])
def test_a_client_can_shorten_its_time_but_not_lengthen_it(
    ask: Ask, asked: str | None, least: float, most: float
) -> None:
    """The setting is the cap."""

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        await answer(send, str(scope["state"]["time_left"]()).encode())

    headers = {} if asked is None else {"X-Request-Timeout": asked}
    assert least <= float(ask(in_context(app), headers=headers).text) <= most


@pytest.mark.parametrize("asked", ["", "x", "0", "-1", "nan", "inf", "-inf", "1s", "1,5"])
def test_a_timeout_that_makes_no_sense_is_refused(ask: Ask, asked: str) -> None:
    """Guessing would serve nobody."""
    response = ask(in_context(echo), headers={"X-Request-Timeout": asked})
    assert (response.status_code, code(response)) == (400, "bad_request")
    assert "X-Request-Timeout" in response.json()["detail"]


def test_the_deadline_covers_the_whole_request(ask: Ask) -> None:
    """Whatever a request waits for, a body that trickles in for example, its time ends."""

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        await asyncio.Event().wait()

    response = ask(in_context(app), headers={"X-Request-Timeout": "0.05"})
    assert (response.status_code, code(response)) == (504, "deadline_exceeded")


def test_an_answer_in_the_moment_of_the_deadline_is_sent(ask: Ask) -> None:
    """The end of a wait can come together with what was waited for, which then is the answer."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(30)
        await answer(send, b"here")

    response = ask(in_context(app, longest=0.01))
    assert (response.status_code, response.content) == (200, b"here")


def test_an_answer_that_has_begun_is_finished(ask: Ask) -> None:
    """The deadline is for the wait: who is being answered is not cut off."""

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(scope["state"]["time_left"]() + 0.05)
        await send({"type": "http.response.body", "body": b"whole"})

    response = ask(in_context(app), headers={"X-Request-Timeout": "0.05"})
    assert (response.status_code, response.text) == (200, "whole")


def test_a_defect_shows_nothing_of_the_inside(ask: Ask) -> None:
    """The client gets a problem document and an id, the log gets the trace under the same id."""
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as logs:
        response = ask(in_context(failing(RuntimeError("secret/path.py line 3"))), headers={"X-Request-Id": "mine"})
    assert (response.status_code, code(response)) == (500, "internal_error")
    assert "secret" not in response.text
    assert "RuntimeError" not in response.text
    (defect,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert (defect["request_id"], defect["exc_info"]) == ("mine", True)


def test_a_defect_in_the_middle_of_an_answer_ends_it(ask: Ask) -> None:
    """Half an answer must not look like a whole one."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("broken")

    seen: list[tuple[str, int]] = []
    with pytest.raises(RuntimeError, match="broken"):
        ask(in_context(app, seen=seen))
    assert seen == [("unmatched", 200)]


def test_answers_are_counted_by_template(ask: Ask) -> None:
    """A path that no route has counts as one, whatever it is."""

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


def test_requests_are_logged_without_path_or_query(ask: Ask) -> None:
    """A log line has the template; what a client wrote may be private."""
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
        # Some clients send a bearer token of their own whatever one does.
        {"Authorization": "Bearer -", "X-API-Key": "first"},
    ],
)
def test_a_key_lets_in(ask: Ask, headers: dict[str, Any]) -> None:
    """As a bearer token, or in a header of its own."""
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
def test_without_the_right_key_nobody_comes_in(ask: Ask, headers: dict[str, str]) -> None:
    """The answer names the scheme and repeats nothing."""
    response = ask(in_context(ApiKeyMiddleware(echo, ApiKeys(KEYS))), headers=headers)
    assert (response.status_code, code(response)) == (401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"
    assert "wrong" not in response.text


@pytest.mark.parametrize("path", sorted({*HEALTH_ROUTES, METRICS_ROUTE}))
def test_machines_that_ask_for_health_need_no_key(ask: Ask, path: str) -> None:
    """Probes and scrapers hold none."""
    assert ask(in_context(ApiKeyMiddleware(echo, ApiKeys(KEYS))), "GET", path).status_code == 200


@pytest.mark.parametrize("path", ["/v1/encode", "/v1/info", "/health/", "/health/../v1/encode", "/metrics/x"])
def test_every_other_path_needs_one(ask: Ask, path: str) -> None:
    """Only the very paths are open."""
    assert ask(in_context(ApiKeyMiddleware(echo, ApiKeys(KEYS))), "GET", path).status_code == 401


def test_without_keys_everybody_comes_in(ask: Ask) -> None:
    """That is the default."""
    assert ask(in_context(ApiKeyMiddleware(echo, ApiKeys()))).status_code == 200


# === Bodies ===


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    """Yield a body in pieces, of which no header tells the length."""
    for part in parts:
        yield part


def compressed(body: bytes, bits: int) -> bytes:
    """Compress with zlib's code for the container."""
    compressor = zlib.compressobj(wbits=bits)
    return compressor.compress(body) + compressor.flush()


CODINGS = [("gzip", 31), ("GZIP", 31), ("x-gzip", 31), ("deflate", 15), ("deflate", -15)]


def test_a_body_within_the_limit_passes(ask: Ask) -> None:
    """The limit itself is within, in one piece or in many."""
    app = in_context(RequestBodyMiddleware(echo, LIMIT))
    assert ask(app, content=b"x" * LIMIT).content == b"x" * LIMIT
    assert ask(app, content=chunks(*[b"x" * 100] * 10)).content == b"x" * LIMIT
    assert ask(app, content=b"").content == b""


def test_a_length_over_the_limit_is_refused_unread(ask: Ask) -> None:
    """What the header says is enough."""
    reached = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(await read(receive))

    response = ask(in_context(RequestBodyMiddleware(app, LIMIT)), content=b"x" * (LIMIT + 1))
    assert (response.status_code, code(response)) == (413, "body_too_large")
    assert response.json()["detail"] == f"the body exceeds the maximum of {LIMIT} bytes"
    assert not reached


def test_pieces_over_the_limit_are_refused_when_they_pass_it(ask: Ask) -> None:
    """No more is read of an endless body than the limit and a piece."""
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
def test_the_limit_holds_for_inflated_bytes(ask: Ask, coding: str, bits: int) -> None:
    """One byte more than the limit is too many."""
    sent = compressed(b"x" * (LIMIT + 1), bits)
    assert len(sent) < LIMIT
    response = ask(in_context(RequestBodyMiddleware(echo, LIMIT)), content=sent, headers={"Content-Encoding": coding})
    assert (response.status_code, code(response)) == (413, "body_too_large")


def test_the_limit_holds_for_compressed_bytes(ask: Ask) -> None:
    """They count as sent, whatever they would inflate to."""
    app = in_context(RequestBodyMiddleware(echo, LIMIT))
    headers = {"Content-Encoding": "gzip"}
    assert ask(app, content=b"x" * (LIMIT + 1), headers=headers).status_code == 413
    assert ask(app, content=chunks(b"x" * LIMIT, b"x"), headers=headers).status_code == 413


def test_a_bomb_takes_no_memory(ask: Ask) -> None:
    """A hundred megabytes in a hundred kilobytes are refused after the limit's worth of work."""
    bomb = gzip.compress(bytes(100 << 20), compresslevel=9)
    most = 1 << 20
    assert len(bomb) < most
    app = in_context(RequestBodyMiddleware(echo, most))
    tracemalloc.start()
    try:
        response = ask(app, content=bomb, headers={"Content-Encoding": "gzip"})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (response.status_code, code(response)) == (413, "body_too_large")
    assert peak < 8 * most


def test_gzip_may_come_in_members(ask: Ask) -> None:
    """As block compressors and `cat` write it; all of them together are under the limit, and there are not too many."""
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


def test_gzip_may_be_filled_up_with_zeros(ask: Ask) -> None:
    """As blocks of tapes and disks are: gzip's own tools pass over them."""
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
def test_a_damaged_body_is_a_bad_request(ask: Ask, coding: str, damage: str) -> None:
    """What does not inflate to its end and no further is not what its header says."""
    whole = compressed(b"a text that is compressed", 31 if coding == "gzip" else 15)
    sent = {"cut": whole[:-5], "noise": whole[:12] + b"\xff" * 9, "plain": b"{}", "empty": b"", "more": whole + b"x"}
    response = ask(
        in_context(RequestBodyMiddleware(echo, LIMIT)), content=sent[damage], headers={"Content-Encoding": coding}
    )
    assert (response.status_code, code(response)) == (400, "bad_request")
    assert coding in response.json()["detail"]


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "x"])
def test_an_unknown_coding_is_a_bad_request(ask: Ask, coding: str) -> None:
    """The known ones are told."""
    response = ask(in_context(RequestBodyMiddleware(echo, LIMIT)), content=b"x", headers={"Content-Encoding": coding})
    assert (response.status_code, code(response)) == (400, "bad_request")
    assert "gzip, deflate" in response.json()["detail"]


def test_no_coding_at_all_may_be_said_aloud(ask: Ask) -> None:
    """`identity` is the body as it is, and so is the name of none."""
    empty = ask(in_context(RequestBodyMiddleware(echo, LIMIT)), content=b"x", headers={"Content-Encoding": ""})
    assert (empty.status_code, empty.content) == (200, b"x")
    response = ask(
        in_context(RequestBodyMiddleware(echo, LIMIT)), content=b"x", headers={"Content-Encoding": "identity"}
    )
    assert response.content == b"x"


# === Departures ===


class Connection:
    """A client's end of a connection, which it can leave.

    Attributes:
        left: Set when the client has left.
        sent: What it was sent.
    """

    def __init__(self, body: bytes = b"{}") -> None:
        self.left = asyncio.Event()
        self.sent: list[Message] = []
        self._messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive(self) -> Message:
        """Return the body, and later the end."""
        if self._messages:
            return self._messages.pop()
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a part of the answer."""
        self.sent.append(message)


def nobody_left() -> None:
    """Fail where somebody is said to have left who has not."""
    pytest.fail("nobody left")


def talk(
    runner: asyncio.Runner,
    app: ASGIApp,
    meanwhile: Callable[[Connection], Awaitable[None]],
) -> Connection:
    """Run a POST against `app` while something happens at the client's end."""

    async def run() -> Connection:
        connection = Connection()
        scope: Scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
        async with asyncio.timeout(TIMEOUT):
            await asyncio.gather(app(scope, connection.receive, connection.send), meanwhile(connection))
        return connection

    return runner.run(run())


def test_a_client_that_leaves_ends_its_work(runner: asyncio.Runner) -> None:
    """The application is cancelled where it waits, and nothing is sent to nobody."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.set()
            raise
        await answer(send)

    async def leave(connection: Connection) -> None:
        await begun.wait()
        connection.left.set()

    seen: list[tuple[str, int]] = []
    told: list[bool] = []
    connection = talk(runner, in_context(DisconnectMiddleware(app, lambda: told.append(True)), seen=seen), leave)
    assert ended.is_set()
    assert told == [True]
    assert not connection.sent
    assert not seen


def test_a_client_that_stays_gets_its_answer(runner: asyncio.Runner) -> None:
    """Watching for its leaving does not take its body or its answer away."""

    async def stay(_connection: Connection) -> None:
        pass

    connection = talk(runner, DisconnectMiddleware(echo, nobody_left), stay)
    assert connection.sent[1]["body"] == b"{}"


def test_an_answer_that_has_begun_is_not_cancelled(runner: asyncio.Runner) -> None:
    """The server finds out by itself that nobody takes it any more."""
    begun, left = asyncio.Event(), asyncio.Event()

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        begun.set()
        await left.wait()
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.body", "body": b"whole"})

    async def leave(connection: Connection) -> None:
        await begun.wait()
        connection.left.set()
        left.set()

    connection = talk(runner, DisconnectMiddleware(app, nobody_left), leave)
    assert connection.sent[-1]["body"] == b"whole"


def test_a_limit_that_is_passed_reaches_the_application(runner: asyncio.Runner, ask: Ask) -> None:
    """An error of the body's outer layer is raised where the body is read, and answered once."""
    response = ask(
        in_context(RequestBodyMiddleware(DisconnectMiddleware(echo, nobody_left), LIMIT)),
        content=chunks(*[b"x" * 600] * 3),
    )
    assert (response.status_code, code(response)) == (413, "body_too_large")


def test_a_defect_in_what_reads_a_body_reaches_the_application(runner: asyncio.Runner) -> None:
    """Nobody waits until the deadline for a body that cannot come any more."""

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
    runner.run(_run(in_context(DisconnectMiddleware(app, nobody_left), longest=TIMEOUT), scope, connection))
    assert [type(error) for error in heard] == [MemoryError]
    assert connection.sent[0]["status"] == 500


def test_a_client_that_leaves_in_the_moment_of_its_answer_has_left(runner: asyncio.Runner) -> None:
    """The end of a wait can come together with what was waited for; it is counted as what it is."""
    begun = asyncio.Event()

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await answer(send)

    async def leave(connection: Connection) -> None:
        await begun.wait()
        connection.left.set()

    seen: list[tuple[str, int]] = []
    told: list[bool] = []
    connection = talk(runner, in_context(DisconnectMiddleware(app, lambda: told.append(True)), seen=seen), leave)
    assert told == [True]
    assert not connection.sent
    assert not seen


def test_a_stopped_server_ends_the_work(runner: asyncio.Runner) -> None:
    """Cancelling the request from outside cancels the application and is not swallowed."""

    async def run() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        connection = Connection()
        scope: Scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
        task = asyncio.ensure_future(_run(DisconnectMiddleware(app, nobody_left), scope, connection))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(TIMEOUT):
            await ended.wait()

    runner.run(run())


async def _run(app: ASGIApp, scope: Scope, connection: Connection) -> None:
    await app(scope, connection.receive, connection.send)


def test_what_is_no_http_passes_through(runner: asyncio.Runner) -> None:
    """Start and stop of the application are nobody's request."""
    seen: list[str] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["type"])

    stack = in_context(
        ApiKeyMiddleware(RequestBodyMiddleware(DisconnectMiddleware(app, nobody_left), LIMIT), ApiKeys(KEYS))
    )
    connection = Connection()
    runner.run(_run(stack, {"type": "lifespan"}, connection))
    assert seen == ["lifespan"]


def test_problem_documents_are_json(ask: Ask) -> None:
    """Whoever reads the body need not look at the header."""
    assert json.loads(ask(in_context(failing(OverloadedError("full")))).content)["code"] == "overloaded"

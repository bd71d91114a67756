"""Connection limits and malformed requests, tested against a server on a socket."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.core.errors import BadRequestError
from service.web.connections import ConnectionLimits, bounded
from tests.support.timeouts import TIMEOUT

GET = b"GET / HTTP/1.1\r\nHost: here\r\n"

# Requests for `/wait` that have started, and those whose client disconnected.
started, left = threading.Semaphore(0), threading.Semaphore(0)


async def large(scope: Scope, receive: Receive, send: Send) -> None:
    """Send 64 MiB in parts."""

    async def parts() -> AsyncIterator[bytes]:
        # The size exceeds all buffers, but is finite, because an abort is not signaled here.
        for _ in range(1_000):
            yield bytes(1 << 16)

    await StreamingResponse(parts())(scope, receive, send)


async def one(scope: Scope, receive: Receive, send: Send) -> None:
    """Send 48 MiB at once."""
    await Response(bytes(48 << 20))(scope, receive, send)


async def little(scope: Scope, receive: Receive, send: Send) -> None:
    """Send less than the high-water mark of the write buffer."""
    await Response(bytes(60_000))(scope, receive, send)


async def two(scope: Scope, receive: Receive, send: Send) -> None:
    """Send parts without a Content-Length."""
    await StreamingResponse(iter(["two ", "parts"]))(scope, receive, send)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Send method, target and body."""
    try:
        body = await Request(scope, receive).body()
    except BadRequestError as error:
        await Response(f"<wrong: {error}>", 400)(scope, receive, send)
        return
    target = f"{scope['path']}?{scope['query_string'].decode()}"
    await Response(f"<{scope['method']} {target} {body.decode()}>")(scope, receive, send)


async def slow(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond after a delay, without reading the body."""
    await asyncio.sleep(1.0)
    await here(scope, receive, send)


async def late(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond some time after the end of the body."""
    body = await Request(scope, receive).body()
    await asyncio.sleep(0.5)
    await Response(body)(scope, receive, send)


async def wait(scope: Scope, receive: Receive, send: Send) -> None:
    """Do not respond, and signal the disconnect of the client."""
    started.release()
    while (await receive())["type"] != "http.disconnect":
        pass
    left.release()


async def here(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond at once."""
    await Response(f"here {scope['path']}")(scope, receive, send)


ROUTES = {f"/{item.__name__}": item for item in (large, little, one, two, echo, slow, late, wait)}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Dispatch by path; other paths respond at once."""
    await ROUTES.get(scope["path"], here)(scope, receive, send)


Connect = Callable[[], socket.socket]
Start = Callable[..., Connect]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a server with limits and return a function that connects to it."""
    with contextlib.ExitStack() as running:

        def start(
            reported: Callable[[str], None] = lambda _code: None, *, idle: int = 5, kernel: int = 0, **limits: float
        ) -> Connect:
            listening = running.enter_context(socket.create_server(("127.0.0.1", 0)))
            if kernel:  # size of the buffered response, here and below
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, kernel)
            http = bounded(ConnectionLimits(**limits), reported)  # type: ignore[arg-type] # floats and an integer
            config = uvicorn.Config(
                app,
                http=http,
                log_config=None,
                lifespan="off",
                timeout_graceful_shutdown=1,
                timeout_keep_alive=idle,
            )
            server = uvicorn.Server(config)
            runner = running.enter_context(_InThread(server, listening))
            assert runner

            def connect() -> socket.socket:
                connection = running.enter_context(socket.socket())
                connection.settimeout(TIMEOUT)
                if kernel:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, kernel)
                connection.connect(listening.getsockname())
                return connection

            return connect

        yield start


class _InThread:
    def __init__(self, server: uvicorn.Server, listening: socket.socket) -> None:
        self._server = server
        self._thread = threading.Thread(target=lambda: server.run([listening]))

    def __enter__(self) -> bool:
        self._thread.start()
        return True

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive(), "the server does not end"


def all_of(connection: socket.socket) -> bytes:
    """Read until the server closes."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def exchange(connect: Connect, *segments: bytes) -> bytes:
    """Send segments and return all bytes until the server closes the connection."""
    connection = connect()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for segment in segments:
        connection.sendall(segment)
        time.sleep(0.02 if len(segments) < 10 else 0.001)  # so that each segment arrives separately
    return all_of(connection)


def echoed(connect: Connect, *segments: bytes) -> list[bytes]:
    """Send segments and a final request, and return the responses of `/echo` to the segments."""
    answer = exchange(connect, *segments, GET + b"Connection: close\r\n\r\n")
    assert answer.endswith(b"\r\n\r\nhere /")
    echoes = re.findall(rb"\r\n\r\n<(.*?)>", answer, re.DOTALL)
    assert answer.count(b"HTTP/1.1 200 ") == len(echoes) + 1
    return echoes


def refused(answer: bytes, status: int) -> str:
    """Check that a response is a problem document, and return its detail."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"connection: close" in head
    assert b"content-type: application/problem+json" in head
    assert re.search(rb"\r\nx-request-id: [0-9a-f]{32}\r\n", head)
    problem = json.loads(body)
    assert list(problem) == ["type", "title", "status", "detail", "code", "errors"]
    assert problem["status"] == status
    assert problem["errors"] == []
    return str(problem["detail"])


def test_silent_connection_is_closed(start: Start) -> None:
    """A connection without input is closed after the head timeout."""
    assert "0.3 s" in refused(all_of(start(head_seconds=0.3)()), 408)


def test_slow_head_is_rejected(start: Start) -> None:
    """The timeout of a head starts with its first byte, also on a reused connection."""
    connection = start(head_seconds=0.5)()
    connection.sendall(GET + b"\r\n")
    answer = b""
    while not answer.endswith(b"here /"):
        answer += connection.recv(1 << 16)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for byte in GET * 3:
            connection.sendall(bytes([byte]))
            with contextlib.suppress(BlockingIOError):
                if connection.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK):
                    break
            asyncio.run(asyncio.sleep(0.05))
    refused(all_of(connection), 408)


@pytest.mark.parametrize("ended", [b"", b"\r\n\r\n"], ids=["without an end", "complete"])
@pytest.mark.parametrize("kind", [b"X-Many: %d\r\n", b"X-Long: %d", b"/?%d"])
def test_large_head_is_rejected(start: Start, kind: bytes, ended: bytes) -> None:
    """Many headers, one long header and a long target are limited."""
    connection = start(head_bytes=4_096)()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        flood = b"".join(kind % number for number in range(2_000))
        connection.sendall((b"GET " if kind.startswith(b"/") else GET) + flood + ended)
    assert "4096 bytes" in refused(all_of(connection), 431)


def test_large_body_does_not_count_as_head(start: Start) -> None:
    """The limit applies to the head only."""
    connection = start(head_bytes=1_000)()
    connection.sendall(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 50000\r\n\r\n" + bytes(50_000))
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_connection_is_reused_after_a_large_body(start: Start) -> None:
    """The counters are reset for each message."""
    connection = start()()
    head = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n"
    for size in (1 << 20, 3, 1 << 20, 0, 3):
        connection.sendall(head % size)
        time.sleep(0.05)  # the head arrives alone, as most clients send it
        connection.sendall(b"x" * size)
        answer = b""
        while not answer.endswith(b"here /"):
            answer += (part := connection.recv(1 << 16))
            assert part, "the connection was closed"
        assert answer.startswith(b"HTTP/1.1 200 ")


def test_endless_trailers_close_the_connection(start: Start) -> None:
    """Trailers are ignored, and too many of them close the connection."""
    connection = start(head_bytes=4_096)()
    head = b"POST /slow HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
    with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012 - which of many sends fails
        connection.sendall(head)
        for number in range(100_000):
            connection.sendall(b"X-%d: trailer\r\n" % number)
            if number % 100 == 0:
                asyncio.run(asyncio.sleep(0.005))


def test_chunks_of_one_byte_are_accepted(start: Start) -> None:
    """A body in chunks of one byte is valid."""
    connection = start(head_bytes=1_000)()
    connection.sendall(b"POST /slow HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n")
    connection.sendall(b"1\r\na\r\n" * 5_000 + b"0\r\n\r\n")
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_slow_rest_of_a_rejected_body_closes_the_connection(start: Start) -> None:
    """The response is complete, so a slow body is not read any longer."""
    connection = start(head_seconds=0.5)()
    connection.sendall(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\n")
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
    with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012 - which of many sends fails
        for _ in range(100):
            connection.sendall(b" ")
            asyncio.run(asyncio.sleep(0.05))


def test_stalled_client_is_disconnected(start: Start) -> None:
    """The response is aborted and its buffers are freed."""
    connection = start(stall_seconds=0.3)()
    connection.sendall(b"GET /large HTTP/1.1\r\nHost: here\r\n\r\n")
    asyncio.run(asyncio.sleep(1.0))
    received = all_of(connection)
    assert received.startswith(b"HTTP/1.1 200")
    assert not received.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("last", [True, False], ids=["closed", "kept"])
def test_stall_timeout_applies_to_final_bytes(start: Start, *, last: bool) -> None:
    """The timeout also applies after the complete response is written."""
    connection = start(stall_seconds=0.3, idle=1, kernel=4_096)()
    connection.sendall(b"GET /little HTTP/1.1\r\nHost: here\r\n" + b"Connection: close\r\n" * last + b"\r\n")
    asyncio.run(asyncio.sleep(2.0 if last else 3.5))
    received = all_of(connection)
    assert received.startswith(b"HTTP/1.1 200")
    assert len(received) < 60_000


@pytest.mark.parametrize("behind", [b"", GET], ids=["nothing", "half a head"])
@pytest.mark.parametrize("framed", [(b"Content-Length: 3", b"abc"), (b"Transfer-Encoding: chunked", b"0\r\n\r\n")])
def test_idle_connection_is_closed_if_the_body_followed_the_response(
    start: Start, framed: tuple[bytes, bytes], behind: bytes
) -> None:
    """Idle connection is closed if the body followed the response."""
    connection = start(head_seconds=0.5, idle=1)()
    connection.sendall(b"POST / HTTP/1.1\r\nHost: here\r\n" + framed[0] + b"\r\n\r\n")
    answer = b""
    while not answer.endswith(b"here /"):
        answer += connection.recv(1 << 16)
    connection.sendall(framed[1] + behind)
    rest = all_of(connection)
    if behind:
        refused(rest, 408)
    else:
        assert not rest


def test_head_timeout_does_not_apply_during_a_response(start: Start) -> None:
    """A pipelined head does not time out while a request runs."""
    connection = start(head_seconds=0.2)()
    connection.sendall(b"GET /slow HTTP/1.1\r\nHost: here\r\n\r\n" + GET)
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_number_of_connections_is_limited(start: Start) -> None:
    """A rejected client can connect after another connection is closed."""
    connect = start(connections=2)
    first, second = connect(), connect()
    for connection in (first, second):
        connection.sendall(GET + b"\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
    third = connect()
    assert "2 open connections" in refused(all_of(third), 503)
    first.close()
    for _ in range(100):
        again = connect()
        again.sendall(GET + b"\r\n")
        with contextlib.suppress(ConnectionResetError):
            if again.recv(1 << 16).startswith(b"HTTP/1.1 200"):
                return
    pytest.fail("no connection is accepted")


OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: here\r\n"
SIZED = b"Content-Length: 3\r\n\r\n", b"abc"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n", b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
ECHO = b"GET /echo HTTP/1.1\r\nHost: here\r\n"
SMUGGLED = b"GET /echo?smuggled HTTP/1.1\r\nHost: here\r\n\r\n"


@pytest.mark.parametrize(
    "offer",
    [
        OFFER,
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n",
        b"Connection: keep-alive\r\nConnection: upgrade\r\nUpgrade: websocket\r\n",
        b"UPGRADE: TLS/1.0\r\nUpgrade: h2c\r\nCONNECTION: keep-alive, UPGRADE\r\n",
    ],
    ids=["h2c", "websocket", "two lines", "capitals"],
)
@pytest.mark.parametrize("framed", [SIZED, CHUNKED], ids=["sized", "chunked"])
def test_upgrade_header_is_ignored(start: Start, offer: bytes, framed: tuple[bytes, bytes]) -> None:
    """The request keeps its body, in any number of segments (RFC 9110, section 7.8)."""
    connect = start()
    head, body = POST + offer + framed[0], framed[1]
    message = head + body
    expected = [b"POST /echo? abc"]
    assert echoed(connect, message) == expected
    assert echoed(connect, head, body) == expected
    assert echoed(connect, message[:60], message[60:-1], message[-1:]) == expected
    assert echoed(connect, *(bytes([byte]) for byte in message)) == expected


@pytest.mark.parametrize("at_once", [True, False])
def test_requests_with_upgrade_can_be_pipelined(start: Start, *, at_once: bool) -> None:
    """Each is one request, with and without a body."""
    connect = start()
    messages = [
        POST + OFFER + b"".join(SIZED),
        ECHO + OFFER + b"\r\n",
        ECHO + b"\r\n",
        POST + OFFER + b"".join(CHUNKED),
        POST + b"".join(SIZED),
    ]
    post, get = b"POST /echo? abc", b"GET /echo? "
    assert echoed(connect, *([b"".join(messages)] if at_once else messages)) == [post, get, get, post, post]


def test_body_after_upgrade_is_not_parsed_as_a_request(start: Start) -> None:
    """The body may look like a request, in the same segment or the next."""
    head = POST + OFFER + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED)
    expected = [b"POST /echo? " + SMUGGLED]
    connect = start()
    assert echoed(connect, head, SMUGGLED) == expected
    assert echoed(connect, head + SMUGGLED) == expected


def test_connection_close_is_respected_with_upgrade(start: Start) -> None:
    """The other headers of the head remain valid."""
    answer = exchange(start(), POST + b"Connection: close, upgrade\r\nUpgrade: h2c\r\n" + b"".join(SIZED) + SMUGGLED)
    assert answer.count(b"HTTP/1.1 200 ") == 1
    assert answer.endswith(b"<POST /echo? abc>")


def test_many_pipelined_upgrades_are_answered(start: Start) -> None:
    """One segment contains many requests."""
    assert len(echoed(start(), (ECHO + OFFER + b"\r\n") * 2_000)) == 2_000


def test_pipelined_requests_are_buffered_as_bytes(start: Start) -> None:
    """A few requests are parsed at a time, and all are answered in order."""
    count = 20_000
    flood = b"".join(b"GET /%d HTTP/1.1\r\nHost: here\r\n\r\n" % number for number in range(count))
    connection = start()()
    connection.sendall(b"POST /late HTTP/1.1\r\nHost: here\r\nContent-Length: 1\r\n\r\nx")
    sender = threading.Thread(target=connection.sendall, args=(flood,))
    sender.start()
    maximum = respond = 0
    came = b""
    while respond < count:
        came += connection.recv(1 << 20)
        *complete, came = re.split(rb"here /\d+", came)
        respond += len(complete)
        maximum = max(maximum, sum(isinstance(item, RequestResponseCycle) for item in gc.get_objects()))
    sender.join(TIMEOUT)
    assert respond == count
    assert maximum < 200


def test_many_requests_with_bodies_can_be_pipelined(start: Start) -> None:
    """Earlier heads do not count as chunk framing of the last body."""
    exchange = b"POST /echo HTTP/1.1\r\nHost: here\r\nPadding: %s\r\nContent-Length: 30\r\n\r\n%s" % (
        b"p" * 200,
        b"x" * 30,
    )
    connection = start()()
    connection.sendall((exchange * 1_500)[:-20])
    time.sleep(0.2)
    connection.sendall(exchange[-20:])
    came = b""
    while came.count(b"<POST /echo") < 1_500:
        part = connection.recv(1 << 20)
        assert part, f"closed after {came.count(b'<POST /echo')}"
        came += part


def test_head_with_upgrade_is_limited(start: Start) -> None:
    """The limit of a head applies."""
    connect = start(head_bytes=1_000)
    for end in (b"", b"\r\n\r\n"):
        assert "1000 bytes" in refused(exchange(connect, POST + OFFER + b"X: " + b"x" * 1_000 + end), 431)


def test_connect_method_is_rejected(start: Start) -> None:
    """Bytes after the head are not parsed as requests."""
    reported = "method CONNECT is not supported: this server is not a proxy"
    assert refused(exchange(start(), b"CONNECT here:80 HTTP/1.1\r\nHost: here:80\r\n\r\n" + SMUGGLED), 400) == reported


def test_slow_client_is_not_disconnected(start: Start) -> None:
    """The total duration is unlimited while the client makes progress."""
    connection = start(stall_seconds=1.0)()
    connection.sendall(b"GET /one HTTP/1.1\r\nHost: here\r\n\r\n")
    received = 0
    while received < 48 << 20:
        part = connection.recv(1 << 20)
        assert part, f"cut off after {received} bytes"
        received += len(part)
        time.sleep(len(part) / (20 << 20))


@pytest.mark.parametrize("behind", [GET + b"\r\n", POST + SIZED[0], GET])
@pytest.mark.parametrize("at_once", [True, False])
def test_disconnect_is_detected_with_pipelined_input(start: Start, behind: bytes, *, at_once: bool) -> None:
    """The running request gets the disconnect, not the waiting one."""
    connection = start()()
    wait = b"POST /wait HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\n\r\n"
    connection.sendall(wait + behind if at_once else wait)
    assert started.acquire(timeout=TIMEOUT)
    if not at_once:
        connection.sendall(behind)
        time.sleep(0.1)
    connection.close()
    assert left.acquire(timeout=TIMEOUT)


def test_open_body_of_a_pipelined_request_is_awaited(start: Start) -> None:
    """The timeout applies only to a body whose response is complete."""
    connection = start(head_seconds=0.3)()
    connection.sendall(ECHO + b"\r\n" + POST + SIZED[0])
    time.sleep(1.0)
    connection.sendall(SIZED[1])
    answer = b""
    while not answer.endswith(b"abc>"):
        answer += (part := connection.recv(1 << 16))
        assert part, "the connection was closed"
    assert answer.count(b"HTTP/1.1 200 ") == 2


@pytest.mark.parametrize("asks", [b"", b"Connection: keep-alive\r\n"])
def test_http_1_0_gets_no_chunked_encoding(start: Start, asks: bytes) -> None:
    """The end of the connection delimits a response of unknown length (RFC 9112, section 6.1)."""
    head, _, body = exchange(start(), b"GET /two HTTP/1.0\r\n" + asks + b"\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert body == b"two parts"


def test_http_1_0_gets_a_response_of_known_length_unchanged(start: Start) -> None:
    """HEAD gets the head only."""
    connect = start()
    answers = [
        exchange(connect, method + b" / HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n") for method in (b"GET", b"HEAD")
    ]
    assert answers[0][2] == b"here /"
    assert answers[1][2] == b""
    assert all(b"content-length: 6" in head for head, _, _ in answers)


def test_http_1_0_gets_no_interim_response(start: Start) -> None:
    """`100 Continue` is for HTTP/1.1 (RFC 9110, section 10.1.1)."""
    head = b"POST /echo HTTP/%b\r\nHost: here\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    connect = start()
    assert exchange(connect, head % b"1.0", b"abc").startswith(b"HTTP/1.1 200 ")
    assert exchange(connect, head % b"1.1", b"abc").startswith(b"HTTP/1.1 100 ")


@pytest.mark.parametrize(
    ("message", "expected_message"),
    [
        (b"this is not HTTP\r\n\r\n", "the request is not valid HTTP/1.1"),
        (b"GET / HTTP/1.1\r\nHost: here\r\nno colon\r\n\r\n", "invalid header line"),
        (b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: x\r\n\r\n", "invalid Content-Length header"),
        (b"GET / HTTP/1.1\r\n\r\n", "header Host: expected exactly one, found 0"),
        (b"GET / HTTP/1.1\r\nHost: here\r\nHost: there\r\n\r\n", "header Host: expected exactly one, found 2"),
        (b"GET / HTTP/1.0\r\nHost: here\r\nHost: there\r\n\r\n", "header Host: expected exactly one, found 2"),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "Transfer-Encoding: expected chunked only"),
        (POST + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "expected chunked only"),
        (b"GET http://here:99999/ HTTP/1.1\r\nHost: here\r\n\r\n", "not a valid URL"),
    ],
)
def test_malformed_request_gets_a_problem_document(start: Start, message: bytes, expected_message: str) -> None:
    """The document has a request ID, and the rejection is counted by code."""
    reported: list[str] = []
    assert expected_message in refused(exchange(start(reported.append), message + SMUGGLED), 400)
    assert reported == ["bad_request"]


def test_empty_host_header_is_valid(start: Start) -> None:
    """A client without an authority sends an empty header (RFC 9112, section 3.2)."""
    assert echoed(start(), b"GET /echo HTTP/1.1\r\nHost:\r\n\r\n") == [b"GET /echo? "]


@pytest.mark.parametrize(
    ("target", "path"),
    [(b"http://here", b"/"), (b"http://here/", b"/"), (b"http://here?a=b", b"/"), (b"http://here/slow", b"/slow")],
)
def test_absolute_target_is_accepted(start: Start, target: bytes, path: bytes) -> None:
    """A target without a path is `/` (RFC 9112, section 3.2.2)."""
    answer = exchange(start(), b"GET %b HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n" % target)
    assert answer.endswith(b"\r\n\r\nhere " + path)


def test_rejected_head_does_not_affect_the_previous_request(start: Start) -> None:
    """The previous response is complete and the last one of the connection."""
    answer = exchange(
        start(), b"POST /late HTTP/1.1\r\nHost: here\r\n" + b"".join(SIZED) + b"too much\r\n\r\n" + SMUGGLED
    )
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.endswith(b"\r\n\r\nabc")


@pytest.mark.parametrize("at_once", [True, False])
def test_invalid_chunked_body_is_an_error_of_its_request(start: Start, *, at_once: bool) -> None:
    """The error response is the last one of the connection."""
    reported: list[str] = []
    segments = [POST + CHUNKED[0] + b"1\r\na\r\n", b"no size\r\n" + SMUGGLED]
    answer = exchange(start(reported.append), *([b"".join(segments)] if at_once else segments))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nconnection: close\r\n" in answer
    assert re.search(rb"\r\n\r\n<wrong: the body is not valid chunked encoding, .*declares>$", answer)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert reported == []  # the application counts it


def test_invalid_chunked_body_does_not_affect_the_previous_request(start: Start) -> None:
    """Each request gets its own response."""
    late = b"POST /late HTTP/1.1\r\nHost: here\r\n" + b"".join(SIZED)
    answer = exchange(start(), late + POST + CHUNKED[0] + b"no size\r\n" + SMUGGLED)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 ") == 2
    assert b"\r\n\r\nabcHTTP/1.1 400 " in answer
    assert answer.endswith(b"header declares>")


def test_invalid_chunked_body_after_its_response_closes_the_connection(start: Start) -> None:
    """A request gets no second response."""
    answer = exchange(start(), b"POST / HTTP/1.1\r\nHost: here\r\n" + CHUNKED[0], b"no size\r\n" + SMUGGLED)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\nhere /")
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    ("message", "status", "code"),
    [(GET, 408, "head_timeout"), (GET + b"X: " + b"x" * 2_000, 431, "head_too_large")],
)
def test_rejected_connections_are_counted_by_code(start: Start, message: bytes, status: int, code: str) -> None:
    """The codes are those of the metrics."""
    reported: list[str] = []
    refused(exchange(start(reported.append, head_seconds=0.3, head_bytes=1_000), message), status)
    assert reported == [code]

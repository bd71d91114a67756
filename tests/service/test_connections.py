"""Slow, silent, swollen and too many connections, against a real server on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import uvicorn
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from service.connections import ConnectionLimits, bounded

HANG = 20.0
GET = b"GET / HTTP/1.1\r\nHost: here\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer `/large` with 64 MiB, `/slow` after a while, and anything else at once."""
    if scope["path"] == "/slow":
        await asyncio.sleep(1.0)
    if scope["path"] == "/large":

        async def parts() -> AsyncIterator[bytes]:
            # No connection buffers as much; and yet it ends, for nobody tells it that its reader was left.
            for _ in range(1_000):
                yield bytes(1 << 16)

        await StreamingResponse(parts())(scope, receive, send)
        return
    await Response("here")(scope, receive, send)


Connect = Callable[[], socket.socket]
Start = Callable[..., Connect]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a server with limits; what comes back connects to it."""
    with contextlib.ExitStack() as running:

        def start(**limits: float) -> Connect:
            listening = running.enter_context(socket.create_server(("127.0.0.1", 0)))
            http = bounded(ConnectionLimits(**limits))  # type: ignore[arg-type] # floats and an integer
            config = uvicorn.Config(app, http=http, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
            server = uvicorn.Server(config)
            runner = running.enter_context(_InThread(server, listening))
            assert runner

            def connect() -> socket.socket:
                connection = socket.create_connection(listening.getsockname(), timeout=HANG)
                return running.enter_context(connection)

            return connect

        yield start


class _InThread:
    def __init__(self, server: uvicorn.Server, listening: socket.socket) -> None:
        import threading  # noqa: PLC0415 - here alone

        self._server = server
        self._thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))

    def __enter__(self) -> bool:
        self._thread.start()
        return True

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(HANG)
        assert not self._thread.is_alive(), "the server does not end"


def all_of(connection: socket.socket) -> bytes:
    """Read until the server closes."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def refused(answer: bytes, status: int) -> str:
    """Check that an answer is a refusal, and return its detail."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"connection: close" in head
    problem = json.loads(body)
    assert problem["status"] == status
    return str(problem["detail"])


def test_a_silent_connection_is_closed(start: Start) -> None:
    """One that never says anything holds a place for seconds only."""
    assert "0.3 seconds" in refused(all_of(start(head_seconds=0.3)()), 408)


def test_a_head_that_trickles_is_refused(start: Start) -> None:
    """However steadily: its time begins with its first byte, on a used connection too."""
    connection = start(head_seconds=0.5)()
    connection.sendall(GET + b"\r\n")
    answer = b""
    while not answer.endswith(b"here"):
        answer += connection.recv(1 << 16)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for byte in GET * 3:
            connection.sendall(bytes([byte]))
            with contextlib.suppress(BlockingIOError):
                if connection.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK):
                    break
            asyncio.run(asyncio.sleep(0.05))
    refused(all_of(connection), 408)


@pytest.mark.parametrize("ended", [b"", b"\r\n\r\n"], ids=["without an end", "whole"])
@pytest.mark.parametrize("kind", [b"X-Many: %d\r\n", b"X-Long: %d", b"/?%d"])
def test_a_head_that_swells_is_refused(start: Start, kind: bytes, ended: bytes) -> None:
    """By many headers, a long one, or a long address."""
    connection = start(head_bytes=4_096)()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        flood = b"".join(kind % number for number in range(2_000))
        connection.sendall((b"GET " if kind.startswith(b"/") else GET) + flood + ended)
    assert "4096 bytes" in refused(all_of(connection), 431)


def test_a_large_body_is_no_large_head(start: Start) -> None:
    """Only the head is counted."""
    connection = start(head_bytes=1_000)()
    connection.sendall(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 50000\r\n\r\n" + bytes(50_000))
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_a_connection_is_used_again_after_a_large_body(start: Start) -> None:
    """What a message is counted for is forgotten with it."""
    connection = start()()
    head = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n"
    for size in (1 << 20, 3, 1 << 20, 0, 3):
        connection.sendall(head % size)
        time.sleep(0.05)  # the head arrives alone, as most clients send it
        connection.sendall(b"x" * size)
        answer = b""
        while not answer.endswith(b"here"):
            answer += (part := connection.recv(1 << 16))
            assert part, "the connection was closed"
        assert answer.startswith(b"HTTP/1.1 200 ")


def test_trailers_without_end_are_not_kept(start: Start) -> None:
    """Headers behind a chunked body are read by nobody; too many of them end the connection."""
    connection = start(head_bytes=4_096)()
    head = b"POST /slow HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
    with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012 - which of many sends fails
        connection.sendall(head)
        for number in range(100_000):
            connection.sendall(b"X-%d: trailer\r\n" % number)
            if number % 100 == 0:
                asyncio.run(asyncio.sleep(0.005))


def test_small_chunks_are_no_attack(start: Start) -> None:
    """A body in chunks of one byte is taken."""
    connection = start(head_bytes=1_000)()
    connection.sendall(b"POST /slow HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n")
    connection.sendall(b"1\r\na\r\n" * 5_000 + b"0\r\n\r\n")
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_the_rest_of_a_body_that_was_refused_is_not_waited_for(start: Start) -> None:
    """Its answer is there; whoever goes on to trickle is left."""
    connection = start(head_seconds=0.5)()
    connection.sendall(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\n")
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
    with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012 - which of many sends fails
        for _ in range(100):
            connection.sendall(b" ")
            asyncio.run(asyncio.sleep(0.05))


def test_a_reader_that_does_not_read_is_left(start: Start) -> None:
    """The answer is given up, and its buffers with it."""
    connection = start(stall_seconds=0.3)()
    connection.sendall(b"GET /large HTTP/1.1\r\nHost: here\r\n\r\n")
    asyncio.run(asyncio.sleep(1.0))
    received = all_of(connection)
    assert received.startswith(b"HTTP/1.1 200")
    assert not received.endswith(b"0\r\n\r\n")


def test_a_slow_answer_is_waited_for(start: Start) -> None:
    """The time for a head does not run while a request is answered, whatever its client has sent behind it."""
    connection = start(head_seconds=0.2)()
    connection.sendall(b"GET /slow HTTP/1.1\r\nHost: here\r\n\r\n" + GET)
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_there_are_only_so_many_connections(start: Start) -> None:
    """One more is told so, and let in when another has gone."""
    connect = start(connections=2)
    first, second = connect(), connect()
    for connection in (first, second):
        connection.sendall(GET + b"\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
    third = connect()
    assert "2 connections" in refused(all_of(third), 503)
    first.close()
    for _ in range(100):
        again = connect()
        again.sendall(GET + b"\r\n")
        with contextlib.suppress(ConnectionResetError):
            if again.recv(1 << 16).startswith(b"HTTP/1.1 200"):
                return
    pytest.fail("nobody is let in any more")

"""Small and streamed responses."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from fastapi.responses import StreamingResponse

from service.web.responses import respond

if TYPE_CHECKING:
    from tests.service.conftest import Service

LARGE = 65_536


class Pieces(Iterator[bytes]):
    """Pieces of equal size; `made` counts the serialized pieces."""

    def __init__(self, count: int, size: int) -> None:
        self.made, self._count, self._size = 0, count, size

    def __next__(self) -> bytes:
        if self.made == self._count:
            raise StopIteration
        self.made += 1
        return bytes([self.made % 256]) * self._size


def read_chunks(service: Service, pieces: Pieces, maximum: int | None = None) -> list[bytes]:
    """Read at most `maximum` chunks of a response and return them."""

    async def read() -> list[bytes]:
        response = await respond(service.engine, pieces, LARGE + 1, "text/plain", {"X-Extra": "1"})
        assert isinstance(response, StreamingResponse)
        assert (response.media_type, response.headers["x-extra"]) == ("text/plain", "1")
        actual: list[bytes] = []
        parts: AsyncIterator[bytes] = response.body_iterator  # type: ignore[assignment] # it is an async iterator
        while len(actual) != maximum and (part := await anext(parts, None)) is not None:
            actual.append(part)
        return actual

    return service.run(read())


def test_small_response_is_not_streamed(service: Service) -> None:
    """A small response has a Content-Length."""
    response = service.run(respond(service.engine, Pieces(3, 10), LARGE, "text/plain", {"X-Extra": "1"}))
    assert response.body == b"".join(Pieces(3, 10))
    assert (response.headers["content-length"], response.headers["x-extra"]) == ("30", "1")


def test_large_response_is_serialized_off_the_event_loop(service: Service) -> None:
    """A small response is serialized on the event loop."""
    threads: list[threading.Thread] = []

    def pieces() -> Iterator[bytes]:
        threads.append(threading.current_thread())
        yield b"x"

    service.run(respond(service.engine, pieces(), 1, "text/plain"))
    service.run(respond(service.engine, pieces(), LARGE, "text/plain"))
    assert [thread is threading.main_thread() for thread in threads] == [True, False]


def test_large_response_is_streamed_in_order(service: Service) -> None:
    """The chunks are in order and none is empty."""
    for pieces in (Pieces(0, 1), Pieces(7, 1), Pieces(3, 1 << 18), Pieces(5, (1 << 18) + 1), Pieces(1000, 1000)):
        actual = read_chunks(service, pieces)
        assert all(actual)
        assert b"".join(actual) == b"".join(Pieces(pieces.made, pieces._size))


def test_small_pieces_are_joined(service: Service) -> None:
    """Each chunk costs a switch to a worker thread."""
    assert len(read_chunks(service, Pieces(1000, 1000))) == 4


def test_stalled_client_buffers_at_most_one_chunk(service: Service) -> None:
    """Chunks are serialized on demand."""
    large, small = Pieces(100, 1 << 20), Pieces(100_000, 1000)
    read_chunks(service, large, 2)
    read_chunks(service, small, 2)
    assert large.made == 2
    assert small.made == 2 * 263

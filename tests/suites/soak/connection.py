"""No more of an HTTP client than a load needs: it sends what it is told, also what no proper client would send."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        status: The HTTP status.
        headers: By lower-case names.
        body: The whole of it.
    """

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """One connection, kept alive."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    @property
    def closed(self) -> bool:
        """Whether the other side has closed it."""
        return self._reader.at_eof() or self._reader.exception() is not None

    @classmethod
    async def open(cls, port: int) -> Connection:
        """Connect to a port of this machine."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> None:
        """Send a request; `_` in a header's name stands for `-`."""
        lines = [f"{method} {path} HTTP/1.1", "Host: soak", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await self.writer.drain()

    async def receive(self) -> Answer:
        """Read an answer to its end.

        Raises:
            asyncio.IncompleteReadError: The connection ended before it.
        """
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if headers.get("transfer-encoding") == "chunked":
            parts = []
            while size := int(await self._reader.readline(), 16):
                parts.append(await self._reader.readexactly(size))
                await self._reader.readexactly(2)
            await self._reader.readexactly(2)
            return Answer(int(first.split()[1]), headers, b"".join(parts))
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(int(first.split()[1]), headers, body)

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Send a request and read its answer."""
        await self.send(method, path, body, **headers)
        return await self.receive()

    def close(self) -> None:
        """Leave without a word."""
        self.writer.transport.abort()


class Client:
    """Asks one thing after another over a connection that it keeps.

    A server may close a connection between two requests (RFC 9112, section 9.5), after an answer that says so or after
    a while without any; then there is a new one for the next. One that ends after a request was sent is an error.

    Args:
        port: Where to ask, on this machine.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: Connection | None = None
        self.connections = 0

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Send a request and read its answer.

        Raises:
            OSError: The connection could not be made, or broke.
            asyncio.IncompleteReadError: It ended before the answer did.
        """
        if self._connection is None or self._connection.closed:
            self.close()
            self._connection = await Connection.open(self._port)
            self.connections += 1
        try:
            answer = await self._connection.ask(method, path, body, **headers)
        except BaseException:
            self.close()  # half an answer must not be taken for the next
            raise
        if answer.headers.get("connection") == "close":
            self.close()
        return answer

    def close(self) -> None:
        """Leave without a word."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

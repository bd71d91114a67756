"""A minimal HTTP client for load tests, which also sends malformed requests."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response.

    Attributes:
        status: HTTP status.
        headers: Values by lower-case name.
        body: Complete body.
    """

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """One persistent connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    @property
    def closed(self) -> bool:
        """Whether the server has closed the connection."""
        return self._reader.at_eof() or self._reader.exception() is not None

    @classmethod
    async def open(cls, port: int) -> Connection:
        """Connect to a local port."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> None:
        """Send a request; `_` in a header name stands for `-`."""
        lines = [f"{method} {path} HTTP/1.1", "Host: soak", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await self.writer.drain()

    async def receive(self) -> Response:
        """Read a complete response.

        Raises:
            asyncio.IncompleteReadError: The connection ended within the response.
        """
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if headers.get("transfer-encoding") == "chunked":
            chunks = []
            while size := int(await self._reader.readline(), 16):
                chunks.append(await self._reader.readexactly(size))
                await self._reader.readexactly(2)
            await self._reader.readexactly(2)
            return Response(int(first.split()[1]), headers, b"".join(chunks))
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return Response(int(first.split()[1]), headers, body)

    async def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> Response:
        """Send a request and read its response."""
        await self.send(method, path, body, **headers)
        return await self.receive()

    def close(self) -> None:
        """Abort the connection."""
        self.writer.transport.abort()


class Client:
    """Client that sends consecutive requests over a persistent connection.

    A server may close a connection between two requests (RFC 9112, section 9.5), after a response with
    `Connection: close` or when it is idle. The next request then opens a new connection. A connection that ends after
    a request was sent is an error.

    Args:
        port: Local port of the server.

    Attributes:
        connections: Number of opened connections.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: Connection | None = None
        self.connections = 0

    async def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> Response:
        """Send a request and read its response.

        Raises:
            OSError: The connection failed.
            asyncio.IncompleteReadError: The connection ended within the response.
        """
        if self._connection is None or self._connection.closed:
            self.close()
            self._connection = await Connection.open(self._port)
            self.connections += 1
        try:
            response = await self._connection.request(method, path, body, **headers)
        except BaseException:
            self.close()  # the next request must not read the rest of this response
            raise
        if response.headers.get("connection") == "close":
            self.close()
        return response

    def close(self) -> None:
        """Abort the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

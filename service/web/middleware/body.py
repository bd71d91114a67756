"""Size and content encoding of request bodies."""

from __future__ import annotations

import asyncio
import zlib
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.core.errors import BadRequestError, BodyTooLargeError


class RequestBodyMiddleware:
    """Limits the size of a body, as sent and as inflated, and inflates gzip and deflate.

    Args:
        app: Inner application.
        max_bytes: Maximum size of a body, as sent and as inflated, in bytes.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process the request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        encoding = headers.get("content-encoding", "").strip().lower() or "identity"
        encoding = _ALIASES.get(encoding, encoding)
        if encoding not in _WINDOW_BITS and encoding != "identity":
            raise BadRequestError("header Content-Encoding: expected gzip, deflate or no header")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._max_bytes:
            raise self._too_large()
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
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
            body = await asyncio.to_thread(_inflate, b"".join(parts), encoding, self._max_bytes)
            if body is None:
                raise self._too_large()
            return {"type": "http.request", "body": body, "more_body": False}

        return inflated

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"the body exceeds the maximum of {self._max_bytes} bytes")


# zlib's window bits for both containers; some clients send raw deflate.
_WINDOW_BITS = {"gzip": (31,), "deflate": (15, -15)}
# RFC 9110, section 8.4.1.3.
_ALIASES = {"x-gzip": "gzip"}
# Each member copies the remaining data; a body of empty members would take minutes.
_MAX_MEMBERS = 256


def _inflate(data: bytes, encoding: str, max_bytes: int) -> bytes | None:
    """Return the inflated bytes, or None if they exceed `max_bytes`."""
    for bits in _WINDOW_BITS[encoding]:
        with suppress(zlib.error):
            return _inflate_members(data, bits, max_bytes, 1 if encoding == "deflate" else _MAX_MEMBERS)
    raise BadRequestError(f"the body is not valid {encoding}, which its Content-Encoding header declares")


def _inflate_members(data: bytes, bits: int, max_bytes: int, max_members: int) -> bytes | None:
    """Inflate consecutive gzip members (RFC 1952, section 2.2), each with optional zero padding.

    Raises:
        zlib.error: The data is invalid, incomplete, or has too many members.
    """
    body = bytearray()
    for _ in range(max_members):
        inflater = zlib.decompressobj(bits)
        body += inflater.decompress(data, max_bytes + 1 - len(body))
        if len(body) > max_bytes:
            return None
        if not inflater.eof:
            break
        # Zero padding of tape or disk blocks, which the gzip tools ignore as well.
        data = inflater.unused_data.lstrip(b"\0" if bits in _WINDOW_BITS["gzip"] else b"")
        if not data:
            return bytes(body)
    raise zlib.error("no end of stream")

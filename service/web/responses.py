"""Answers: small ones whole, large ones made and sent a piece at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping

from fastapi.responses import Response, StreamingResponse

from service.core.engine import Engine

# An answer beyond this many values is sent in pieces, so that neither memory nor the event loop carries it whole.
_LARGE_BYTES = 65_536

# Bytes that are worth the way to another thread and back.
_PIECE = 1 << 18


async def respond(
    engine: Engine,
    pieces: Iterator[bytes],
    values: int,
    media_type: str,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an answer, made off the event loop unless that would take longer.

    Args:
        engine: Whose workers make it.
        pieces: Its bytes, none of them made yet.
        values: Numbers in it; many are sent in pieces.
        media_type: What it is.
        headers: Its headers besides the media type.
    """
    if values > _LARGE_BYTES:
        return StreamingResponse(stream_chunks(engine, pieces), headers=headers, media_type=media_type)
    content = await engine.run_sized(values, b"".join, pieces)
    return Response(content, headers=headers, media_type=media_type)


async def stream_chunks(engine: Engine, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Make pieces off the event loop, when the client is ready for them; small ones go together."""
    while piece := await engine.run_in_worker(_next, pieces):
        yield piece


def _next(pieces: Iterator[bytes]) -> bytes:
    gathered: list[bytes] = []
    size = 0
    for piece in pieces:
        gathered.append(piece)
        size += len(piece)
        if size >= _PIECE:
            break
    return b"".join(gathered)

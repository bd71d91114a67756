"""Responses: small ones in one piece, large ones streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping

from fastapi.responses import Response, StreamingResponse

from service.core.engine import Engine

# Responses with more values are streamed, to limit memory and time on the event loop.
_MAX_UNSTREAMED_VALUES = 65_536

# Minimum size of a chunk, which amortizes the switch to a worker thread and back.
_CHUNK_BYTES = 1 << 18


async def respond(
    engine: Engine,
    pieces: Iterator[bytes],
    values: int,
    media_type: str,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a response that is serialized off the event loop if it is large.

    Args:
        engine: Engine whose worker threads serialize.
        pieces: Lazily serialized body.
        values: Number of float values in the body; a large body is streamed.
        media_type: Media type of the body.
        headers: Further headers.
    """
    if values > _MAX_UNSTREAMED_VALUES:
        return StreamingResponse(stream_chunks(engine, pieces), headers=headers, media_type=media_type)
    content = await engine.run_sized(values, b"".join, pieces)
    return Response(content, headers=headers, media_type=media_type)


async def stream_chunks(engine: Engine, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Yield chunks that are serialized off the event loop on demand; small pieces are joined."""
    while piece := await engine.run_in_worker(_next, pieces):
        yield piece


def _next(pieces: Iterator[bytes]) -> bytes:
    chunk: list[bytes] = []
    size = 0
    for piece in pieces:
        chunk.append(piece)
        size += len(piece)
        if size >= _CHUNK_BYTES:
            break
    return b"".join(chunk)

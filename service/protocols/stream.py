"""Large answers, made and sent a piece at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from service.engine import Engine


async def streamed(engine: Engine, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Make each piece off the event loop, when the client is ready for it."""
    while (piece := await engine.in_worker(next, pieces, None)) is not None:
        yield piece

"""Interface between a protocol and the application."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from service.core.errors import ServiceError


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """A protocol adapter.

    Attributes:
        routes: Routes of the protocol.
        prefixes: Path prefixes of the protocol, which select the format of error responses; `/` matches only itself.
        render_error: Renders an error in the format of the protocol.
        wire_types: Types that the routes parse and render themselves, for the OpenAPI description.
    """

    routes: APIRouter
    prefixes: tuple[str, ...]
    render_error: Callable[[ServiceError], Response]
    wire_types: tuple[type[BaseModel], ...] = ()

    def owns(self, path: str) -> bool:
        """Return whether a path belongs to this protocol."""
        return any(path == prefix or (prefix != "/" and path.startswith(f"{prefix}/")) for prefix in self.prefixes)

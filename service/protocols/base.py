"""What the application needs to know of a protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from service.core.errors import ServiceError


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """A protocol: its routes, and its words for what goes wrong.

    Attributes:
        routes: Its routes.
        prefixes: Paths that are its own, with all below them, so that an error on one of them is told in its words; the
            path `/` stands for itself alone.
        render_error: Turns an error into the answer that its clients understand.
        wire_types: Types that its routes parse and render themselves, for the OpenAPI description.
    """

    routes: APIRouter
    prefixes: tuple[str, ...]
    render_error: Callable[[ServiceError], Response]
    wire_types: tuple[type[BaseModel], ...] = ()

    def owns(self, path: str) -> bool:
        """Whether a path is this protocol's."""
        return any(path == prefix or (prefix != "/" and path.startswith(f"{prefix}/")) for prefix in self.prefixes)

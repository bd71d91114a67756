"""A route whose endpoint reads the request by itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute


class DirectRoute(APIRoute):
    """Calls an endpoint that takes nothing but the request without FastAPI's reading of parameters and bodies.

    That reading takes as long as all else that happens to a short request. Endpoints with other parameters, as of a
    path, are called as usual.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the endpoint, or FastAPI's wrapper around it."""
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        parameters = inspect.signature(endpoint).parameters
        return endpoint if list(parameters) == ["request"] else super().get_route_handler()

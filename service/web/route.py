"""Route class for endpoints that parse the request themselves."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute


class DirectRoute(APIRoute):
    """Bypasses FastAPI's parsing of parameters and bodies for endpoints that take only the request.

    For a short request that parsing takes as long as everything else. Endpoints with other parameters, such as path
    parameters, are called by FastAPI.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the endpoint, or FastAPI's wrapper around it."""
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        parameters = inspect.signature(endpoint).parameters
        return endpoint if list(parameters) == ["request"] else super().get_route_handler()

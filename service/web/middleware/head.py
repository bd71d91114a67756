"""HEAD requests."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class HeadMiddleware:
    """Handles HEAD like GET (RFC 9110, section 9.3.2); the server omits the body.

    Args:
        app: Inner application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process the request."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            # A copy, because the server omits the body by the method of the original scope.
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)

"""HEAD requests."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class HeadMiddleware:
    """Answers HEAD wherever there is a GET, with the same headers (RFC 9110, section 9.3.2); the server sends no body.

    Args:
        app: The rest.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            # A copy: the server knows by its own that no body is to follow.
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)

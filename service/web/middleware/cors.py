"""Cross-origin requests."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.core.errors import BadRequestError
from service.web.middleware.errors import RenderError


class CorsMiddleware(CORSMiddleware):
    """Allows cross-origin requests of configured origins; rejected preflights get an error of the path's protocol.

    It is outside of the middleware that rejects requests, so that pages can read error responses.

    Args:
        app: Inner application.
        render_error: Renders an error in the format of the path's protocol.
        options: Options of Starlette's middleware.
    """

    def __init__(self, app: ASGIApp, /, render_error: RenderError, **options: Any) -> None:
        super().__init__(app, **options)
        self._render_error = render_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process the request, or respond to a preflight."""
        try:
            await super().__call__(scope, receive, send)
        except BadRequestError as error:  # of a preflight; inner middleware handles all other errors
            await self._render_error(scope["path"], error)(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Return the response to a preflight.

        Raises:
            BadRequestError: The origin, method or headers are not allowed.
        """
        response = super().preflight_response(request_headers)
        if response.status_code != HTTPStatus.OK:
            reason = bytes(response.body).decode()
            raise BadRequestError(
                f"{reason}: FNET_CORS_ORIGINS lists the allowed origins; allowed methods are GET, HEAD and POST"
            )
        return response

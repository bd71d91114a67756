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
    """Lets web pages of some origins ask; a preflight of others is refused in the words of the path's protocol.

    It stands outside of what refuses, so that a page may read why it was refused.

    Args:
        app: The rest.
        render_error: Turns an error into the answer that the path's protocol wants.
        options: As for Starlette's.
    """

    def __init__(self, app: ASGIApp, /, render_error: RenderError, **options: Any) -> None:
        super().__init__(app, **options)
        self._render_error = render_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer a preflight."""
        try:
            await super().__call__(scope, receive, send)
        except BadRequestError as error:  # a preflight's: all others are answered further in
            await self._render_error(scope["path"], error)(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        """Return what a preflight is answered with.

        Raises:
            BadRequestError: The page may not ask so.
        """
        response = super().preflight_response(request_headers)
        if response.status_code != HTTPStatus.OK:
            reason = bytes(response.body).decode()
            raise BadRequestError(
                f"{reason}: FNET_CORS_ORIGINS lists the allowed origins; allowed methods are GET, HEAD and POST"
            )
        return response

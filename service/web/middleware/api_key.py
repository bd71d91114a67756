"""API key authentication."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.core.errors import UnauthorizedError
from service.web.api_keys import ApiKeys
from service.web.middleware.routes import HEALTH_ROUTES, METRICS_ROUTE, PAGE_ROUTE

# A browser sends no key when it opens a page, and these pages contain no data.
_OPEN_PAGES = frozenset({"/docs", "/openapi.json"})
_OPEN_ASSETS = ("/docs/assets/", "/page/")


class ApiKeyMiddleware:
    """Requires a valid key in `Authorization: Bearer KEY` or `X-API-Key`, if keys are configured.

    Args:
        app: Inner application.
        api_keys: Validates keys.
        open_routes: Paths that require no key, besides the documentation pages.
    """

    def __init__(
        self, app: ASGIApp, api_keys: ApiKeys, open_routes: frozenset[str] = HEALTH_ROUTES | {METRICS_ROUTE}
    ) -> None:
        self._app, self._api_keys = app, api_keys
        self._open = open_routes | _OPEN_PAGES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process the request."""
        if scope["type"] == "http" and self._api_keys.required and not self._is_open(scope["method"], scope["path"]):
            headers = Headers(scope=scope)
            scheme, _, token = headers.get("authorization", "").partition(" ")
            presented = [token.strip()] if scheme.lower() == "bearer" else []
            if not self._api_keys.is_valid([*presented, *headers.getlist("x-api-key")]):
                raise UnauthorizedError('missing or invalid API key (send "Authorization: Bearer KEY")')
        await self._app(scope, receive, send)

    def _is_open(self, method: str, path: str) -> bool:
        if path == PAGE_ROUTE and method != "GET":
            return False  # the path is also a protocol route
        return path in self._open or path.startswith(_OPEN_ASSETS)

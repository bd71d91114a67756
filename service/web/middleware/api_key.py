"""API keys of requests."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.core.errors import UnauthorizedError
from service.web.api_keys import ApiKeys
from service.web.middleware.routes import HEALTH_ROUTES, METRICS_ROUTE, PAGE_ROUTE

# A browser that follows a link sends no key, and these describe the API only.
_OPEN_PAGES = frozenset({"/docs", "/openapi.json"})
_OPEN_ASSETS = ("/docs/assets/", "/page/")


class ApiKeyMiddleware:
    """Lets in only who presents a key, where keys are set: `Authorization: Bearer …` or `X-API-Key`.

    Args:
        app: The rest.
        ring: Knows the keys.
        open_routes: Paths that ask for none, beside the pages that describe the API.
    """

    def __init__(
        self, app: ASGIApp, api_keys: ApiKeys, open_routes: frozenset[str] = HEALTH_ROUTES | {METRICS_ROUTE}
    ) -> None:
        self._app, self._api_keys = app, api_keys
        self._open = open_routes | _OPEN_PAGES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http" and self._api_keys.required and not self._is_open(scope["method"], scope["path"]):
            headers = Headers(scope=scope)
            scheme, _, token = headers.get("authorization", "").partition(" ")
            presented = [token.strip()] if scheme.lower() == "bearer" else []
            if not self._api_keys.is_valid([*presented, *headers.getlist("x-api-key")]):
                raise UnauthorizedError('missing or invalid API key (send "Authorization: Bearer KEY")')
        await self._app(scope, receive, send)

    def _is_open(self, method: str, path: str) -> bool:
        if path == PAGE_ROUTE and method != "GET":
            return False  # a protocol's route as well
        return path in self._open or path.startswith(_OPEN_ASSETS)

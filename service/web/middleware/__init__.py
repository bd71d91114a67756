"""ASGI middleware, outermost first.

`HeadMiddleware`, `RequestContextMiddleware`, `CorsMiddleware`, `ErrorMiddleware`, `DeadlineMiddleware`,
`ApiKeyMiddleware`, `RequestBodyMiddleware`, `DisconnectMiddleware`. Each is plain ASGI: none reads a body or buffers a
response.
"""

from service.web.middleware.api_key import ApiKeyMiddleware
from service.web.middleware.body import RequestBodyMiddleware
from service.web.middleware.context import RequestContextMiddleware
from service.web.middleware.cors import CorsMiddleware
from service.web.middleware.deadline import DeadlineMiddleware
from service.web.middleware.disconnect import DisconnectMiddleware
from service.web.middleware.errors import ErrorMiddleware
from service.web.middleware.head import HeadMiddleware
from service.web.middleware.routes import HEALTH_ROUTES, METRICS_ROUTE, PAGE_ROUTE

__all__ = [
    "HEALTH_ROUTES",
    "METRICS_ROUTE",
    "PAGE_ROUTE",
    "ApiKeyMiddleware",
    "CorsMiddleware",
    "DeadlineMiddleware",
    "DisconnectMiddleware",
    "ErrorMiddleware",
    "HeadMiddleware",
    "RequestBodyMiddleware",
    "RequestContextMiddleware",
]

"""The web application: routes, middleware and error handlers around one engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Match

from service import __version__
from service.core.engine import Engine
from service.core.errors import (
    DeadlineExceededError,
    InternalError,
    MethodNotAllowedError,
    NotFoundError,
    ServiceError,
)
from service.core.events import Event, RequestCancelled, RequestRejected
from service.protocols import native, oip, openai, tei
from service.protocols import tokenization as tokens
from service.protocols.base import Protocol
from service.settings import Settings, engine_options
from service.telemetry.metrics import MODEL_LABELS, Metrics
from service.web.api_keys import ApiKeys
from service.web.encoding import json_bytes
from service.web.middleware import (
    HEALTH_ROUTES,
    METRICS_ROUTE,
    PAGE_ROUTE,
    ApiKeyMiddleware,
    CorsMiddleware,
    DeadlineMiddleware,
    DisconnectMiddleware,
    ErrorMiddleware,
    HeadMiddleware,
    RequestBodyMiddleware,
    RequestContextMiddleware,
)
from service.web.middleware.context import route_of
from service.web.middleware.deadline import timed_out
from service.web.middleware.errors import RenderError
from service.web.problem import PROBLEM_CONTENT, error_responses
from service.web.statuses import STATUSES, headers
from service.web.ui import add_docs, add_page

if TYPE_CHECKING:
    from service.telemetry.tracing import Tracing

DESCRIPTION = """Embeddings from Fourier encoders (FNet), exact and padding-free.

The outputs of a sequence depend on its ids, the preset and the dtype, and not on other requests in the same batch."""


def create_app(settings: Settings, on_failure: Callable[[BaseException], None] = lambda _error: None) -> FastAPI:
    """Create the application. Its engine starts loading when the application starts.

    Args:
        settings: All settings.
        on_failure: Called once, from another thread, if the engine fails.

    Returns:
        The application; `app.state.engine` is its engine and `app.state.metrics` its metrics.
    """
    metrics = Metrics(
        queue_tokens=lambda: engine.queue_tokens,
        queue_requests=lambda: engine.queue_requests,
        ready=lambda: engine.state == "ready",
        result_bytes=lambda: engine.result_bytes,
    )
    tracing = _tracing(settings)

    def observe(event: Event) -> None:
        metrics.observe(event)
        if tracing is not None:
            tracing.observe(event)

    engine = Engine(engine_options(settings), observe, on_failure)

    def routes() -> list[BaseRoute]:
        return [*(route for protocol in protocols for route in protocol.routes.routes), *app.routes]

    protocols = [module.protocol(engine, settings.max_sequences) for module in (native, openai, oip, tei, tokens)]
    render = _renderer(protocols)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        # Closing may wait for a run. On another thread, it does not delay responses to pending requests.
        await asyncio.to_thread(engine.close)
        if tracing is not None:
            await asyncio.to_thread(tracing.close)

    app = FastAPI(
        title="FNet Encode",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        # A redirect would contain the internal address, without the TLS of a proxy.
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        middleware=_middleware(
            settings,
            metrics,
            render,
            routes,
            lambda: engine.state in ("draining", "failed"),
            tracing,
        ),
        exception_handlers={
            ServiceError: _on_service_error(metrics.observe, render),
            HTTPException: _on_http_exception(metrics.observe, render, routes),
        },
    )
    app.state.engine, app.state.metrics = engine, metrics
    for protocol in protocols:
        # Including the router would match each path twice.
        app.router.routes.extend(protocol.routes.routes)
    _add_health(app, engine)
    _add_descriptions(app, engine, metrics, settings)
    add_docs(app)
    if settings.ui:
        add_page(app)
    _describe_wire_types(app, [wire_type for protocol in protocols for wire_type in protocol.wire_types])
    return app


def _tracing(settings: Settings) -> Tracing | None:
    if settings.otlp_endpoint is None:
        return None
    from service.telemetry.tracing import Tracing  # noqa: PLC0415 - an optional dependency

    return Tracing(settings.otlp_endpoint)


def _middleware(
    settings: Settings,
    metrics: Metrics,
    render: RenderError,
    routes: Callable[[], Iterable[BaseRoute]],
    is_draining: Callable[[], bool],
    tracing: Tracing | None,
) -> list[Middleware]:
    def refuse(path: str, error: ServiceError) -> Response:
        metrics.observe(RequestRejected(error.code))
        return render(path, error)

    api_keys = ApiKeys((key.get_secret_value() for key in settings.api_keys), settings.api_keys_file)
    open_routes = frozenset[str]() if settings.health_requires_key else HEALTH_ROUTES
    if not settings.metrics_require_key:
        open_routes |= {METRICS_ROUTE}
    if settings.ui:
        open_routes |= {PAGE_ROUTE}
    untraced = HEALTH_ROUTES | {METRICS_ROUTE}
    cors = Middleware(
        CorsMiddleware,
        refuse,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "HEAD", "POST"],
        allow_headers=["*"],
        expose_headers=["X-Request-Id", "Server-Timing", "Retry-After", "Inference-Header-Content-Length"],
    )
    return [
        Middleware(HeadMiddleware),
        Middleware(RequestContextMiddleware, metrics.observe_response, routes, is_draining),
        *([tracing.middleware(lambda scope: route_of(scope, routes), untraced)] if tracing is not None else []),
        *([cors] if settings.cors_origins else []),
        Middleware(ErrorMiddleware, refuse, is_draining),
        Middleware(DeadlineMiddleware, settings.request_timeout),
        Middleware(ApiKeyMiddleware, api_keys, open_routes),
        Middleware(RequestBodyMiddleware, settings.max_body_bytes),
        Middleware(DisconnectMiddleware, lambda: metrics.observe(RequestCancelled())),
    ]


def _renderer(protocols: Sequence[Protocol]) -> RenderError:
    """Render errors in the format of the protocol that owns the path; the first protocol is the default."""

    def render(path: str, error: ServiceError) -> Response:
        owner = next((protocol for protocol in protocols if protocol.owns(path)), protocols[0])
        return owner.render_error(error)

    return render


def _on_service_error(observe: Callable[[Event], None], render: RenderError) -> Any:
    async def handle(request: Request, error: ServiceError) -> Response:
        if isinstance(error, DeadlineExceededError):  # the engine knows the remaining time only
            error = timed_out(request.state.timeout)
        observe(RequestRejected(error.code))
        return render(request.url.path, error)

    return handle


def _on_http_exception(
    observe: Callable[[Event], None], render: RenderError, routes: Callable[[], Iterable[BaseRoute]]
) -> Any:
    async def handle(request: Request, error: HTTPException) -> Response:
        """Convert an error of the framework into a `ServiceError`."""
        errors: dict[int, ServiceError] = {
            STATUSES["not_found"]: NotFoundError(f"unknown route {request.method} {request.scope['path']}; see /docs"),
            STATUSES["method_not_allowed"]: MethodNotAllowedError(
                f"method {request.method} is not allowed for this route; see /docs"
            ),
        }
        converted = errors.get(error.status_code, InternalError("an unexpected error occurred"))
        observe(RequestRejected(converted.code))
        response = render(request.url.path, converted)
        response.headers.update(error.headers or {})
        if isinstance(converted, MethodNotAllowedError):
            # The framework lists the methods of the first matching route only.
            matching = (route for route in routes() if route.matches(request.scope)[0] is not Match.NONE)
            methods = {method for route in matching for method in getattr(route, "methods", None) or ()}
            methods |= {"HEAD"} if "GET" in methods else set()  # see `HeadMiddleware`
            response.headers["Allow"] = ", ".join(sorted(methods))
        return response

    return handle


def _add_health(app: FastAPI, engine: Engine) -> None:
    options: dict[str, Any] = {
        "tags": ["health"],
        "responses": {
            503: {"description": "Not alive or not ready, with the same body"},
            **error_responses(400, 413, 500, 504),
        },
    }

    @app.get("/health/live", summary="Liveness: whether the process has not failed", **options)
    async def live() -> Response:
        return _probe_response(engine, {"alive": engine.alive}, success=engine.alive)

    @app.get("/health", summary="Readiness, as /health/ready", **options)
    @app.get("/health/ready", summary="Readiness: whether all programs are compiled and verified", **options)
    async def ready() -> Response:
        done, total = engine.progress
        content = {"state": engine.state, "done": done, "of": total}
        return _probe_response(engine, content, success=engine.state == "ready")


def _add_descriptions(app: FastAPI, engine: Engine, metrics: Metrics, settings: Settings) -> None:
    responses = error_responses(400, 401, 413, 500, 503, 504)

    @app.get(
        "/v1/info", tags=["description"], summary="Description of the served model and its limits", responses=responses
    )
    async def info() -> Response:
        return _json(_info(engine, settings))

    @app.get(
        "/v1/card",
        tags=["description"],
        summary="Model card of the preset (Markdown)",
        response_class=Response,
        responses={
            200: {"content": {"text/markdown": {"schema": {"type": "string"}}}},
            404: {"description": "The preset has no model card", "content": PROBLEM_CONTENT},
            **responses,
        },
    )
    async def card() -> Response:
        preset = engine.require_ready().preset if engine.loaded is None else engine.loaded.preset
        if not preset.has_card:
            raise NotFoundError(f"the preset {preset.name} has no model card")
        return Response(await engine.run_in_worker(preset.card), media_type="text/markdown")

    @app.get(
        "/metrics",
        tags=["description"],
        summary="Metrics in the Prometheus text format or OpenMetrics",
        response_class=Response,
        responses={
            200: {
                "content": {
                    "text/plain": {"schema": {"type": "string"}},
                    "application/openmetrics-text": {"schema": {"type": "string"}},
                }
            },
            **error_responses(400, 413, 500, 504),
        },
    )
    async def exposition(request: Request) -> Response:
        if engine.loaded is not None:
            description = _info(engine, settings)
            metrics.describe(**{name: str(description[name]) for name in MODEL_LABELS})
        content, content_type = metrics.exposition(request.headers.get("accept", ""))
        return Response(content, headers={"Vary": "Accept"}, media_type=content_type)


def _json(content: dict[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json_bytes(content), status, headers, media_type="application/json")


def _probe_response(engine: Engine, content: dict[str, Any], *, success: bool) -> Response:
    """Return status 200, or 503 with a `Retry-After` header."""
    if success:
        return _json(content)
    try:
        engine.check_ready()
    except ServiceError as error:
        return _json(content, 503, headers(error))
    return _json(content, 503, {"Retry-After": "1"})  # the engine became ready in the meantime


def _info(engine: Engine, settings: Settings) -> dict[str, Any]:
    loaded = engine.require_ready() if engine.loaded is None else engine.loaded
    preset, test = loaded.preset, loaded.test
    architecture = preset.architecture
    return {
        "version": __version__,
        "preset": preset.name,
        "preset_version": preset.version,
        "description": preset.description,
        "card": "/v1/card" if preset.has_card else None,
        "digest": f"sha256:{loaded.digest}" if loaded.digest else None,
        "trained": preset.trained and settings.load_weights,
        "dtype": settings.dtype,
        "backend": settings.backend,
        "devices": loaded.encoder.devices,
        "architecture": {name: getattr(architecture, name) for name in type(architecture).__dataclass_fields__},
        "parameters": architecture.parameter_count,
        "hidden_dim": architecture.hidden_dim,
        "tokenizer": preset.has_tokenizer,
        "pooling": settings.pooling or preset.pooling,
        "padding": preset.padding,
        "limits": {
            "max_sequence_length": architecture.max_sequence_length,
            "max_sequences": settings.max_sequences,
            "max_body_bytes": settings.max_body_bytes,
            "max_queue_tokens": settings.max_queue_tokens,
            "max_batch_tokens": test.row_lengths[-1],
            "request_timeout": settings.request_timeout,
        },
        "shapes": list(test.row_lengths),
        "shapes_dropped": [{"shape": length, "reason": reason} for length, reason in test.disabled.items()],
        "batch_invariant": test.batch_invariant,
        "numerics": f"sha256:{test.numerics}",
        "largest_error": test.largest_error,
        "ready_seconds": round(loaded.seconds, 3),
    }


def _describe_wire_types(app: FastAPI, wire_types: Iterable[type[BaseModel]]) -> None:
    """Add the types that routes parse and render without FastAPI to the OpenAPI document."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            description = generate()
            schemas = description.setdefault("components", {}).setdefault("schemas", {})
            for wire_type in wire_types:
                schema = wire_type.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas |= schema.pop("$defs", {})
                schemas[wire_type.__name__] = schema
            app.openapi_schema = description
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # documented extension point

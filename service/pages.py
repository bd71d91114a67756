"""Pages for people: the description of the API at `/docs`, with scripts and styles that come from here."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

ASSETS = "/docs/assets"


def add_docs(app: FastAPI) -> None:
    """Serve `/docs`; its addresses are relative, so that it works behind a path of somebody else's too."""
    package = find_spec("fastapi_offline")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("fastapi-offline is not installed; it carries the scripts of /docs")
    app.mount(ASSETS, StaticFiles(directory=Path(package.origin).parent / "static"), name="docs")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        assets = ASSETS.lstrip("/")
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=f"{app.title} {app.version}",
            swagger_js_url=f"{assets}/swagger-ui-bundle.js",
            swagger_css_url=f"{assets}/swagger-ui.css",
            swagger_favicon_url=f"{assets}/favicon.png",
            # It would ask a validator elsewhere about the description.
            swagger_ui_parameters={"validatorUrl": None},
        )

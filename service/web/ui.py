"""Browser pages: the page at `/` and the API description at `/docs`.

All scripts and styles are served by this service, and the content security policy allows no others. URLs are relative,
so that the pages work behind a path prefix.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles
from starlette.types import Scope

ASSETS = "/page"
DOCS_ASSETS = "/docs/assets"

_STATIC_DIRECTORY = Path(__file__).parents[1] / "static"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# For the page at `/` only: Swagger UI assigns markup as strings.
_TRUSTED_TYPES_POLICY = "; require-trusted-types-for 'script'; trusted-types 'none'"
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Browsers revalidate cached files on each use, so that an upgrade takes effect immediately.
    "Cache-Control": "no-cache",
}
_PAGE_HEADERS = {**_HEADERS, "Content-Security-Policy": _POLICY + _TRUSTED_TYPES_POLICY}


class _StaticFilesWithHeaders(StaticFiles):
    """Static files with additional response headers.

    Args:
        headers: Headers to add to each response.
        directory: Directory of the files.
        packages: Python packages with further files, each optionally with a directory in the package.
    """

    def __init__(
        self, headers: Mapping[str, str], directory: Path, packages: Sequence[str | tuple[str, str]] = ()
    ) -> None:
        super().__init__(directory=directory, packages=list(packages))
        self._headers = headers

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """Return a file, or 304 where the client has its current version."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(self._headers)
        return response


def add_page(app: FastAPI) -> None:
    """Add the page at `/` and its assets to an application."""
    files = _StaticFilesWithHeaders(_PAGE_HEADERS, _STATIC_DIRECTORY)
    app.mount(ASSETS, _StaticFilesWithHeaders(_PAGE_HEADERS, _STATIC_DIRECTORY / "assets"), name="page")

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)


def add_docs(app: FastAPI) -> None:
    """Add Swagger UI at `/docs` to an application; its scripts and styles are part of fastapi-offline."""
    files = _StaticFilesWithHeaders(_HEADERS, _STATIC_DIRECTORY)
    assets = _StaticFilesWithHeaders(_HEADERS, _STATIC_DIRECTORY / "docs", [("fastapi_offline", "static")])
    app.mount(DOCS_ASSETS, assets, name="docs")

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return await files.get_response("docs.html", request.scope)

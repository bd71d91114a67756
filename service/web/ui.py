"""Pages for people: the one at `/`, and the description of the API at `/docs`.

Scripts and styles come from here, and a policy lets nothing else in. Addresses are relative, so that all of it works
behind a path of somebody else's too.
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

_PAGE = Path(__file__).parents[1] / "static"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Swagger's own code writes markup as strings; that of the page at `/` never does.
_NO_MARKUP_FROM_SCRIPTS = "; require-trusted-types-for 'script'; trusted-types 'none'"
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Kept, but asked for again each time: an upgrade is seen at once.
    "Cache-Control": "no-cache",
}
_PAGE_HEADERS = {**_HEADERS, "Content-Security-Policy": _POLICY + _NO_MARKUP_FROM_SCRIPTS}


class _Files(StaticFiles):
    """Files of directories, with headers.

    Args:
        headers: What each answer says beside.
        directory: Where they are.
        packages: Packages that have more, each with the directory in it.
    """

    def __init__(
        self, headers: Mapping[str, str], directory: Path, packages: Sequence[str | tuple[str, str]] = ()
    ) -> None:
        super().__init__(directory=directory, packages=list(packages))
        self._headers = headers

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """Answer with a file, or that it is still the same."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(self._headers)
        return response


def add_page(app: FastAPI) -> None:
    """Serve the page at `/`."""
    pages = _Files(_PAGE_HEADERS, _PAGE)
    app.mount(ASSETS, _Files(_PAGE_HEADERS, _PAGE / "assets"), name="page")

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return await pages.get_response("index.html", request.scope)


def add_docs(app: FastAPI) -> None:
    """Serve `/docs`, for which fastapi-offline has the scripts."""
    pages = _Files(_HEADERS, _PAGE)
    app.mount(DOCS_ASSETS, _Files(_HEADERS, _PAGE / "docs", [("fastapi_offline", "static")]), name="docs")

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return await pages.get_response("docs.html", request.scope)

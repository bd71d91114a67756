"""The browser pages use assets of this service only, and their policy allows no others."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

from service.web import ui

STATIC_DIRECTORY = Path(ui.__file__).parents[1] / "static"
SOURCES = sorted(path for path in STATIC_DIRECTORY.rglob("*") if path.suffix in {".html", ".css", ".js", ".svg"})
ASSETS = [f"/page/{path.name}" for path in SOURCES if path.parent.name == "assets"]
# A namespace has the form of a URL, but is not requested.
SVG_NAMESPACE = "http://www.w3.org/2000/svg"


def parse_policy(response: Any) -> dict[str, str]:
    """Return the content security policy of a response by directive."""
    parts = (part.strip().partition(" ") for part in response.headers["content-security-policy"].split(";"))
    return {name: value for name, _, value in parts}


def linked_urls(html: str) -> list[str]:
    """Return the URLs that a page loads or links to, without fragments."""
    return [url for url in re.findall(r"(?:src|href)=\"([^\"]+)\"", html) if not url.startswith("#")]


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_are_html(service: Any, path: str) -> None:
    """The pages declare their language and a viewport of the width of the device."""
    response = service.get(path)
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert response.text.startswith('<!doctype html>\n<html lang="en">')
    assert "width=device-width" in response.text


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_linked_urls_are_relative_and_served(service: Any, path: str) -> None:
    """Relative URLs work behind a path prefix."""
    urls = linked_urls(service.get(path).text)
    assert len(urls) >= 5
    for url in urls:
        assert not url.startswith(("/", "http:", "https:")), url
        response = service.get(urljoin(path, url))
        assert response.status_code == 200, url
        assert response.content


def test_imported_modules_are_served(service: Any) -> None:
    """Each imported module is served as JavaScript, and each module is imported."""
    modules = {"main.js"}
    for _ in ASSETS:
        for name in tuple(modules):
            response = service.get(f"/page/{name}")
            assert (response.status_code, response.headers["content-type"]) == (200, "text/javascript; charset=utf-8")
            modules |= set(re.findall(r"(?:from|import\()\s*\"\./([\w.]+)\"", response.text))
    assert modules == {path.name for path in SOURCES if path.parent.name == "assets" and path.suffix == ".js"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_sources_contain_no_absolute_urls(path: Path) -> None:
    """The pages work offline."""
    text = path.read_text("utf-8").replace(SVG_NAMESPACE, "")
    assert not re.search(r"https?:|[\"'(]//|@import|\burl\(", text)


@pytest.mark.parametrize("path", [path for path in SOURCES if path.suffix == ".html"], ids=lambda path: path.name)
def test_markup_has_no_inline_script_or_style(path: Path) -> None:
    """The content security policy forbids both."""
    text = path.read_text("utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", text)
    assert re.findall(r"<script(?![^>]*src=)", text) == []


@pytest.mark.parametrize("path", [path for path in SOURCES if path.suffix == ".js"], ids=lambda path: path.name)
def test_scripts_do_not_parse_strings_as_markup_or_code(path: Path) -> None:
    """User input cannot become markup or code."""
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", path.read_text("utf-8")
    )


@pytest.mark.parametrize("path", ["/", *ASSETS, "/docs", "/docs/assets/swagger-ui.css", "/docs/assets/start.js"])
def test_security_headers_allow_this_origin_only(service: Any, path: str) -> None:
    """The policy allows scripts, styles and connections of this origin; framing and referrers are disabled."""
    response = service.get(path)
    assert response.status_code == 200
    policy = parse_policy(response)
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["img-src"] == "'self' data:"
    assert "unsafe" not in response.headers["content-security-policy"]
    assert ("require-trusted-types-for" in policy) is not path.startswith("/docs")
    assert response.headers["x-frame-options"] == "DENY"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cross-origin-opener-policy"] == "same-origin"
    assert response.headers["cross-origin-resource-policy"] == "same-origin"
    assert response.headers["x-content-type-options"] == "nosniff"


def test_page_visits_have_their_own_route_label(service: Any) -> None:
    """The page and the Text Embeddings Inference route share the path `/`; GET is counted as `index`, POST as `/`."""

    def request_count(route: str, status: str) -> float:
        labels = {"route": route, "status": status}
        return service.app.state.metrics.registry.get_sample_value("fnet_requests_total", labels) or 0.0

    visits, encodes = request_count("index", "200"), request_count("/", "200")
    assert service.get("/").status_code == 200
    assert (request_count("index", "200"), request_count("/", "200")) == (visits + 1, encodes)
    assert service.post("/", json={"inputs": "a"}).status_code == 200
    assert (request_count("index", "200"), request_count("/", "200")) == (visits + 1, encodes + 1)


@pytest.mark.parametrize("path", ["/", "/docs", "/page/main.js"])
def test_unchanged_files_return_304(service: Any, path: str) -> None:
    """Browsers revalidate cached files on each use."""
    first = service.get(path)
    assert first.headers["cache-control"] == "no-cache"
    revalidated = service.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (revalidated.status_code, revalidated.content) == (304, b"")
    assert revalidated.headers["content-security-policy"] == first.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path", ["/page/missing.js", "/page/", "/page/../ui.py", "/page/%2e%2e/index.html", "/docs/assets/missing.css"]
)
def test_unknown_files_return_404(service: Any, path: str) -> None:
    """Missing files and files outside of the asset directories return a problem document."""
    response = service.get(path)
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "not_found"


def test_page_supports_head(service: Any) -> None:
    """HEAD returns the headers of GET."""
    response = service.run(service.http.head("/"))
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")


def test_post_to_root_encodes(service: Any) -> None:
    """POST `/` belongs to the Text Embeddings Inference protocol."""
    response = service.post("/", json={"inputs": "a text"})
    assert response.status_code == 200
    assert len(response.json()[0]) == 32
    assert set(service.post("/", json={}).json()) == {"error", "error_type"}


def test_page_can_be_disabled(make_blocked_service: Callable[..., Any]) -> None:
    """`/docs` and POST `/` remain available."""
    blocked, _ = make_blocked_service(ui=False)
    assert blocked.get("/").status_code == 405
    assert blocked.get("/page/main.js").status_code == 404
    assert blocked.get("/docs").status_code == 200
    assert blocked.post("/", json={}).status_code == 422


def test_pages_require_no_api_key(make_blocked_service: Callable[..., Any]) -> None:
    """Pages and assets are public; API routes require a key."""
    blocked, _ = make_blocked_service(api_keys=["first"])
    for path in ("/", *ASSETS, "/docs", "/openapi.json", "/docs/assets/swagger-ui.css", "/docs/assets/start.js"):
        assert blocked.get(path).status_code == 200, path
    for path in ("/docs/assets/../../v1/info", "/page/../v1/info", "/page/%2e%2e/v1/info"):
        assert blocked.get(path).status_code in {401, 404}, path
    assert blocked.get("/v1/info").status_code == 401
    assert blocked.post("/", json={"inputs": "a text"}).status_code == 401
    assert blocked.post("/v1/tokenize", json={"texts": "a text"}).status_code == 401


def test_disabled_page_requires_api_key(make_blocked_service: Callable[..., Any]) -> None:
    """Without the page, `/` is an API route."""
    blocked, _ = make_blocked_service(api_keys=["first"], ui=False)
    assert blocked.get("/").status_code == 401

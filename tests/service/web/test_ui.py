"""What a person sees in a browser comes from this service alone, and lets in nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

from service.web import ui

HERE = Path(ui.__file__).parents[1] / "static"
SOURCES = sorted(path for path in HERE.rglob("*") if path.suffix in {".html", ".css", ".js", ".svg"})
ASSETS = [f"/page/{path.name}" for path in SOURCES if path.parent.name == "assets"]
# Names of namespaces look like addresses, and nobody asks for them.
NAMESPACE = "http://www.w3.org/2000/svg"


def policy_of(response: Any) -> dict[str, str]:
    """Return the content security policy by directive."""
    parts = (part.strip().partition(" ") for part in response.headers["content-security-policy"].split(";"))
    return {name: value for name, _, value in parts}


def linked(text: str) -> list[str]:
    """Return what a page asks for or leads to, fragments apart."""
    return [found for found in re.findall(r"(?:src|href)=\"([^\"]+)\"", text) if not found.startswith("#")]


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_are_html(service: Any, path: str) -> None:
    """In a language that is named, for screens of any width."""
    response = service.get(path)
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert response.text.startswith('<!doctype html>\n<html lang="en">')
    assert "width=device-width" in response.text


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_find_what_they_ask_for(service: Any, path: str) -> None:
    """Scripts, styles and the description itself are served at the addresses in the page, which are relative."""
    wanted = linked(service.get(path).text)
    assert len(wanted) >= 5
    for address in wanted:
        assert not address.startswith(("/", "http:", "https:")), "a page may stand behind somebody else's path"
        response = service.get(urljoin(path, address))
        assert response.status_code == 200, address
        assert response.content


def test_scripts_find_each_other(service: Any) -> None:
    """Every module that another imports is there, as a script; none is left over."""
    reached = {"main.js"}
    for _ in ASSETS:
        for name in tuple(reached):
            response = service.get(f"/page/{name}")
            assert (response.status_code, response.headers["content-type"]) == (200, "text/javascript; charset=utf-8")
            reached |= set(re.findall(r"(?:from|import\()\s*\"\./([\w.]+)\"", response.text))
    assert reached == {path.name for path in SOURCES if path.parent.name == "assets" and path.suffix == ".js"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_source_names_another_host(path: Path) -> None:
    """Offline it all looks as online."""
    text = path.read_text("utf-8").replace(NAMESPACE, "")
    assert not re.search(r"https?:|[\"'(]//|@import|\burl\(", text)


@pytest.mark.parametrize("path", [path for path in SOURCES if path.suffix == ".html"], ids=lambda path: path.name)
def test_markup_holds_neither_script_nor_style(path: Path) -> None:
    """The policy would keep it from working."""
    text = path.read_text("utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", text)
    assert re.findall(r"<script(?![^>]*src=)", text) == []


@pytest.mark.parametrize("path", [path for path in SOURCES if path.suffix == ".js"], ids=lambda path: path.name)
def test_scripts_write_no_markup(path: Path) -> None:
    """What a text says is never taken for markup or code."""
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", path.read_text("utf-8")
    )


@pytest.mark.parametrize("path", ["/", *ASSETS, "/docs", "/docs/assets/swagger-ui.css", "/docs/assets/start.js"])
def test_headers_let_nothing_else_in(service: Any, path: str) -> None:
    """Scripts and styles of this service only, in no frame, and no address told to others."""
    response = service.get(path)
    assert response.status_code == 200
    policy = policy_of(response)
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


def test_the_page_is_not_counted_as_work(service: Any) -> None:
    """It and a protocol's route share a template: each has a label of its own, so that a visit is no embedding."""

    def counted(route: str, status: str) -> float:
        labels = {"route": route, "status": status}
        return service.app.state.metrics.registry.get_sample_value("fnet_requests_total", labels) or 0.0

    visits, works = counted("index", "200"), counted("/", "200")
    assert service.get("/").status_code == 200
    assert (counted("index", "200"), counted("/", "200")) == (visits + 1, works)
    assert service.post("/", json={"inputs": "a"}).status_code == 200
    assert (counted("index", "200"), counted("/", "200")) == (visits + 1, works + 1)


@pytest.mark.parametrize("path", ["/", "/docs", "/page/main.js"])
def test_what_is_unchanged_is_not_sent_again(service: Any, path: str) -> None:
    """A browser asks each time, so that an upgrade is seen at once, and costs a line."""
    first = service.get(path)
    assert first.headers["cache-control"] == "no-cache"
    again = service.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"] == first.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path", ["/page/nothing.js", "/page/", "/page/../ui.py", "/page/%2e%2e/index.html", "/docs/assets/nothing.css"]
)
def test_nothing_else_is_served(service: Any, path: str) -> None:
    """Neither what is not there nor what lies beside; refused in the service's own words."""
    response = service.get(path)
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "not_found"


def test_the_page_answers_head(service: Any) -> None:
    """As whatever has a GET does."""
    response = service.run(service.http.head("/"))
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")


def test_posts_to_the_root_are_no_page(service: Any) -> None:
    """They are of Text Embeddings Inference's protocol, page or none."""
    answer = service.post("/", json={"inputs": "a text"})
    assert answer.status_code == 200
    assert len(answer.json()[0]) == 32
    assert set(service.post("/", json={}).json()) == {"error", "error_type"}


def test_the_page_can_be_switched_off(make_blocked_service: Callable[..., Any]) -> None:
    """Then there is nothing of it, the description stays, and the protocol at the same address as well."""
    held, _ = make_blocked_service(page=False)
    assert held.get("/").status_code == 405
    assert held.get("/page/main.js").status_code == 404
    assert held.get("/docs").status_code == 200
    assert held.post("/", json={}).status_code == 422


def test_pages_are_open_where_keys_are_set(make_blocked_service: Callable[..., Any]) -> None:
    """A browser that follows a link has no key; what it may then call still asks for one."""
    held, _ = make_blocked_service(api_keys=["first"])
    for path in ("/", *ASSETS, "/docs", "/openapi.json", "/docs/assets/swagger-ui.css", "/docs/assets/start.js"):
        assert held.get(path).status_code == 200, path
    for beside in ("/docs/assets/../../v1/info", "/page/../v1/info", "/page/%2e%2e/v1/info"):
        assert held.get(beside).status_code in {401, 404}, beside
    assert held.get("/v1/info").status_code == 401
    assert held.post("/", json={"inputs": "a text"}).status_code == 401
    assert held.post("/v1/tokenize", json={"texts": "a text"}).status_code == 401


def test_a_page_that_is_off_is_not_open(make_blocked_service: Callable[..., Any]) -> None:
    """Where it would be, a key is asked for like everywhere."""
    held, _ = make_blocked_service(api_keys=["first"], page=False)
    assert held.get("/").status_code == 401

"""What a person sees in a browser comes from this service alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urljoin

import pytest

Asked = Callable[..., Any]


@pytest.fixture
def page(service: Any) -> str:
    """The page at /docs."""
    response = service.get("/docs")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    return str(response.text)


def test_docs_need_no_other_host(page: str) -> None:
    """Offline they look as online: no address in the page leads elsewhere."""
    assert "//" not in re.sub(r"<!--.*?-->|//[^\n\"']*\n", "", page.replace("window.location.origin", ""))


def test_docs_find_what_they_ask_for(service: Any, page: str) -> None:
    """Scripts, styles and the description itself are served at the addresses in the page."""
    wanted = re.findall(r"(?:src|href)=\"([^\"]+)\"", page) + re.findall(r"url: '([^']+)'", page)
    assert len(wanted) == 4
    for address in wanted:
        response = service.get(urljoin("/docs", address))
        assert response.status_code == 200, address
        assert response.content


def test_docs_are_open_where_keys_are_set(make_held: Callable[..., Any]) -> None:
    """A browser that follows a link has no key; what it may then call still asks for one."""
    held, _ = make_held(api_keys=["first"])
    assert held.get("/docs").status_code == held.get("/openapi.json").status_code == 200
    assert held.get("/docs/assets/swagger-ui.css").status_code == 200
    assert held.get("/docs/assets/../../v1/info").status_code != 200
    assert held.get("/v1/info").status_code == 401

"""Fixtures: headless Chromium and server processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.timeouts import TIMEOUT

ROOT = Path(__file__).parents[3]
CHROMIUM = os.environ.get("CHROMIUM") or "/usr/bin/chromium"
EXPECT_TIMEOUT_MS = 30_000

# Chromium logs each response with an error status; the page shows these errors.
_HTTP_ERROR_MESSAGE = "Failed to load resource"
_LOG_POLICY_VIOLATIONS = """
  addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) =>
    console.error(`policy: ${violatedDirective} ${blockedURI}`));
"""


@dataclass(frozen=True)
class Process:
    """A running `fnet-service serve`.

    Attributes:
        address: Host and port.
        process: The process.
    """

    address: str
    process: subprocess.Popen[bytes]

    def post(self, path: str, **body: Any) -> Any:
        """POST JSON and return the JSON body of the response."""
        response = httpx.post(f"http://{self.address}/{path}", json=body, timeout=TIMEOUT)
        assert response.status_code == 200, response.text
        return response.json()


@contextmanager
def _start_server(*options: str) -> Iterator[Process]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [f"{sys.prefix}/bin/fnet-service", "serve", "--port", str(port), *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + TIMEOUT
            while not _responds(f"http://127.0.0.1:{port}/health/live"):
                assert process.poll() is None, "the server exited before its first response"
                assert time.monotonic() < deadline, "the server did not respond in time"
                time.sleep(0.05)
            yield Process(f"127.0.0.1:{port}", process)
        finally:
            process.terminate()
            process.wait(timeout=TIMEOUT)


def _responds(url: str) -> bool:
    try:
        httpx.get(url)
    except httpx.TransportError:
        return False
    return True


@pytest.fixture(scope="session")
def start_server() -> Callable[..., AbstractContextManager[Process]]:
    """Start the service with the bundled preset and options; it responds, but may not be ready."""
    return _start_server


@pytest.fixture(scope="session")
def server() -> Iterator[Process]:
    """A server with default settings."""
    with _start_server() as process:
        yield process


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    expect.set_options(timeout=EXPECT_TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Open a page; fail on requests to other hosts, policy violations, exceptions and console errors."""
    contexts = []
    problems: list[str] = []

    def open_url(address: str, path: str = "/", *, width: int = 1280, dark: bool = False, ready: bool = True) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            permissions=["clipboard-read", "clipboard-write"],
        )
        contexts.append(context)
        context.set_default_timeout(EXPECT_TIMEOUT_MS)
        context.add_init_script(_LOG_POLICY_VIOLATIONS)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(f"exception: {error}"))
        page.on(
            "console",
            lambda message: (
                problems.append(f"{message.type}: {message.text}")
                if message.type in {"error", "warning"} and not message.text.startswith(_HTTP_ERROR_MESSAGE)
                else None
            ),
        )
        page.on(
            "request",
            lambda request: (
                problems.append(f"another host: {request.url}")
                if urlsplit(request.url).netloc not in {address, ""}
                else None
            ),
        )
        page.goto(f"http://{address}{path}")
        if path == "/" and ready:
            expect(page.locator("#badge")).to_have_attribute("data-state", "ready")
            expect(page.locator("#model-info")).not_to_be_empty()
        return page

    yield open_url
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture(scope="session")
def encode_texts() -> Callable[..., None]:
    """Enter texts into a page, encode them and wait for the results."""

    def encode(page: Page, *lines: str, pairs: bool = False) -> None:
        if pairs:
            page.get_by_label("Text pairs").check()
        page.locator("#texts").fill("\n".join(lines))
        page.locator("#encode").click()
        expect(page.locator("#summary")).to_contain_text(f"{len(lines)} text")

    return encode

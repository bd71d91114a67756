"""A real browser, and real processes for it to look at."""

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
PATIENCE_MS = 30_000

# What the browser itself says of an answer that is no 2xx; whoever asked shows it to the reader.
_REFUSAL = "Failed to load resource"
_NOTE_VIOLATIONS = """
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

    def ask(self, path: str, **body: Any) -> Any:
        """POST JSON and return the JSON that is answered."""
        answer = httpx.post(f"http://{self.address}/{path}", json=body, timeout=TIMEOUT)
        assert answer.status_code == 200, answer.text
        return answer.json()


@contextmanager
def _started(*options: str) -> Iterator[Process]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [f"{sys.prefix}/bin/fnet-service", "serve", "--port", str(port), *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + TIMEOUT
            while not _answers(f"http://127.0.0.1:{port}/health/live"):
                assert process.poll() is None, "the server ended before it answered"
                assert time.monotonic() < deadline, "the server did not answer in time"
                time.sleep(0.05)
            yield Process(f"127.0.0.1:{port}", process)
        finally:
            process.terminate()
            process.wait(timeout=TIMEOUT)


def _answers(url: str) -> bool:
    try:
        httpx.get(url)
    except httpx.TransportError:
        return False
    return True


@pytest.fixture(scope="session")
def started() -> Callable[..., AbstractContextManager[Process]]:
    """Start the bundled preset's service with options; it listens, and need not be ready."""
    return _started


@pytest.fixture(scope="session")
def running() -> Iterator[Process]:
    """A service without any option."""
    with _started() as process:
        yield process


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


Open = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser) -> Iterator[Open]:
    """Open a page of a service; nothing may be asked of another host, violate the policy or be an error in the log."""
    contexts = []
    wrong: list[str] = []

    def open_page(address: str, path: str = "/", *, width: int = 1280, dark: bool = False, ready: bool = True) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            permissions=["clipboard-read", "clipboard-write"],
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        context.add_init_script(_NOTE_VIOLATIONS)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(f"thrown: {error}"))
        page.on(
            "console",
            lambda message: (
                wrong.append(f"{message.type}: {message.text}")
                if message.type in {"error", "warning"} and not message.text.startswith(_REFUSAL)
                else None
            ),
        )
        page.on(
            "request",
            lambda request: (
                wrong.append(f"another host: {request.url}")
                if urlsplit(request.url).netloc not in {address, ""}
                else None
            ),
        )
        page.goto(f"http://{address}{path}")
        if path == "/" and ready:
            expect(page.locator("#badge")).to_have_attribute("data-state", "ready")
            expect(page.locator("#facts")).not_to_be_empty()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture(scope="session")
def encoded() -> Callable[..., None]:
    """Write texts into a page and send them; gives back once the results are there."""

    def encode(page: Page, *lines: str, pairs: bool = False) -> None:
        if pairs:
            page.get_by_label("a pair of texts").check()
        page.locator("#texts").fill("\n".join(lines))
        page.locator("#encode").click()
        expect(page.locator("#summary")).to_contain_text(f"{len(lines)} text")

    return encode

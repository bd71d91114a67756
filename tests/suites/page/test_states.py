"""Notices for loading, errors, overload and API keys, and how the page recovers."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

EncodeTexts = Callable[..., None]
OpenPage = Callable[..., Page]
# Exceeds the maximum sequence length.
LONG = "word " * 600


def test_initial_state_offers_examples(server: Any, open_page: OpenPage) -> None:
    """The page describes itself, and reports an empty input."""
    page = open_page(server.address)
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#results")).to_be_hidden()
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator("#badge")).to_have_text("Ready")
    expect(page.locator("#model-info")).to_contain_text("fnet_mini_en")
    page.locator("#encode").click()
    expect(page.locator("#notice")).to_contain_text("No input")
    expect(page.locator("#texts")).to_be_focused()


@pytest.mark.parametrize(("example", "rows"), [("Try eight sentences", 8), ("Try five pairs", 5)])
def test_example_buttons_encode_examples(server: Any, open_page: OpenPage, example: str, rows: int) -> None:
    """One click enters and encodes the texts, and moves focus to the results."""
    page = open_page(server.address)
    page.get_by_role("button", name=example).click()
    expect(page.locator("#summary")).to_contain_text(f"{rows} texts")
    expect(page.locator("#empty")).to_be_hidden()
    expect(page.locator("#summary")).to_be_focused()
    assert page.locator("#list li").count() == rows


def test_narrow_screen_scrolls_to_results_and_errors(server: Any, open_page: OpenPage) -> None:
    """Results and notices scroll into view where the form fills the screen."""
    page = open_page(server.address, width=360)
    page.locator("#texts").fill(LONG)
    page.locator("#encode").click()
    expect(page.locator("#notice")).to_be_in_viewport(ratio=0.9)
    page.locator("#texts").fill("a text")
    page.locator("#encode").click()
    expect(page.locator("#summary")).to_be_in_viewport(ratio=0.9)


def test_texts_sent_while_loading_are_encoded_when_ready(
    start_server: Callable[..., Any], open_page: OpenPage, tmp_path: Path, server: Any
) -> None:
    """The notice shows the progress of loading."""
    with start_server("--cache-dir", str(tmp_path)) as process:
        page = open_page(process.address, ready=False)
        notice = page.locator("#notice")
        expect(notice).to_have_attribute("data-kind", "loading")
        expect(notice.get_by_role("progressbar")).to_be_visible()
        page.locator("#texts").fill("first\nsecond")
        page.locator("#encode").click()
        expect(notice).to_contain_text("are sent as soon as the service is ready")
        expect(page.locator("#badge-text")).to_have_text(re.compile(r"^Compiling, \d+ of \d+$"))
        expect(notice).to_contain_text(re.compile(r"\d+ of \d+ shapes"))
        expect(page.locator("#summary")).to_contain_text("2 texts", timeout=100_000)
        expect(notice).to_be_hidden()
        expect(page.locator("#badge")).to_have_text("Ready")
        expect(page.locator("#model-info")).to_contain_text("fnet_mini_en")


def test_error_of_one_text_links_to_its_line(server: Any, open_page: OpenPage) -> None:
    """The notice shows the message, the line, the status and the code of the error."""
    page = open_page(server.address)
    page.locator("#texts").fill(f"short\n\n{LONG}\nshort too")
    page.locator("#encode").click()
    notice = page.locator("#notice")
    expect(notice).to_have_attribute("data-kind", "error")
    response = httpx.post(f"http://{server.address}/v1/encode", json={"texts": ["short", LONG.strip(), "short too"]})
    (error,) = response.json()["errors"]
    expect(notice.locator("p").first).to_have_text(f"Line 3: {error['msg']}")
    expect(notice).to_contain_text("422 invalid_input")
    notice.get_by_role("button", name="Line 3").click()
    expect(page.locator("#texts")).to_be_focused()
    selected = page.locator("#texts").evaluate("box => box.value.slice(box.selectionStart, box.selectionEnd)")
    assert selected == LONG
    page.get_by_label("Truncate to 512 tokens").check()
    page.locator("#encode").click()
    expect(page.locator("#summary")).to_contain_text("3 texts")
    expect(notice).to_be_hidden()


def test_several_errors_are_listed_by_line(server: Any, open_page: OpenPage) -> None:
    """The notice shows the detail and one item per error; the input is unchanged."""
    page = open_page(server.address)
    page.locator("#texts").fill(f"{LONG}\nshort\n{LONG}")
    page.locator("#encode").click()
    notice = page.locator("#notice")
    expect(notice.get_by_role("listitem")).to_have_count(2)
    response = httpx.post(f"http://{server.address}/v1/encode", json={"texts": [LONG.strip(), "short", LONG.strip()]})
    expect(notice.locator("p").first).to_have_text(response.json()["detail"])
    expect(notice.get_by_role("listitem").last).to_contain_text("Line 3")
    expect(page.locator("#texts")).to_have_value(f"{LONG}\nshort\n{LONG}")


def test_errors_and_results_are_announced(server: Any, open_page: OpenPage, encode_texts: EncodeTexts) -> None:
    """Errors use the alert region, results the status region."""
    page = open_page(server.address)
    page.locator("#encode").click()
    expect(page.get_by_role("alert")).to_contain_text("No input")
    encode_texts(page, "a", "b")
    expect(page.locator("#status-message")).to_contain_text("Encoded: 2 texts")


def test_overloaded_request_is_retried(start_server: Callable[..., Any], open_page: OpenPage) -> None:
    """The notice counts down to the retry."""
    with start_server("--max-queue-tokens", "600") as process:
        page = open_page(process.address)
        stop = threading.Event()
        threads = [threading.Thread(target=_flood, args=(process.address, stop, seed)) for seed in range(6)]
        for thread in threads:
            thread.start()
        notice = page.locator("#notice")
        try:
            # A request between those of the other clients may be accepted.
            for _ in range(20):
                page.locator("#texts").fill("a word " * 150)
                page.locator("#encode").click()
                expect(page.locator("#cancel")).to_be_hidden()
                if notice.is_visible():
                    break
            expect(notice).to_have_attribute("data-kind", "overload")
            expect(page.locator("#countdown")).to_have_text(re.compile(r"^\d+ s$"))
            expect(notice.get_by_role("button", name="Retry now")).to_be_visible()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        expect(notice).to_be_hidden(timeout=100_000)
        expect(page.locator("#summary")).to_contain_text("1 text")
        expect(page.locator("#metric-rejected-note")).to_contain_text("overloaded")


def _flood(address: str, stop: threading.Event, seed: int) -> None:
    number = 0
    while not stop.is_set():
        number += 1
        with suppress(httpx.TransportError):
            ids = [[4, *((seed * 997 + number * 31 + position) % 19_000 + 10 for position in range(500)), 5]]
            httpx.post(f"http://{address}/v1/encode", json={"token_ids": ids, "outputs": ["pooled_output"]}, timeout=60)


def test_api_key_is_stored_for_the_tab_only(start_server: Callable[..., Any], open_page: OpenPage) -> None:
    """The key is sent as a bearer token, survives a reload, is in no persistent storage, and can be removed."""
    with start_server("--api-keys", "right") as process:
        page = open_page(process.address, ready=False)
        authorizations: list[str] = []
        page.on("request", lambda request: authorizations.append(request.headers.get("authorization", "")))
        notice = page.locator("#notice")
        expect(notice).to_have_attribute("data-kind", "key")
        expect(page.get_by_label("API key", exact=True)).to_be_focused()
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(notice).to_contain_text("The API key is invalid")
        page.locator("#key").fill("not \u00e9ven ascii")
        page.keyboard.press("Enter")
        expect(notice).to_contain_text("The API key is invalid")

        page.locator("#texts").fill("a text\nand another")
        page.locator("#encode").click()
        expect(notice).to_contain_text("API key required")
        page.locator("#key").fill("right")
        page.keyboard.press("Enter")
        expect(page.locator("#summary")).to_contain_text("2 texts")
        expect(page.locator("#model-info")).to_contain_text("fnet_mini_en")
        assert authorizations[-1] == "Bearer right"
        assert "$FNET_API_KEY" in page.locator("#snippet").inner_text()
        assert "right" not in page.locator("#snippet").inner_text()

        page.reload()
        expect(page.locator("#model-info")).to_contain_text("fnet_mini_en")
        expect(notice).to_be_hidden()
        assert page.evaluate("localStorage.length") == 0
        assert page.context.cookies() == []
        page.get_by_role("button", name="Remove key").click()
        expect(notice).to_have_attribute("data-kind", "key")
        assert page.evaluate("sessionStorage.length") == 0
        page.locator("#encode").click()
        expect(notice).to_have_attribute("data-kind", "error")


def test_health_and_metrics_with_api_key(start_server: Callable[..., Any], open_page: OpenPage) -> None:
    """The page reports that health and metrics require a key, and uses the entered key for them."""
    with start_server(
        "--api-keys", "right", "--metrics-require-key", "true", "--health-requires-key", "true"
    ) as process:
        page = open_page(process.address, ready=False)
        expect(page.locator("#badge")).to_have_text("API key required")
        expect(page.locator("#status-error")).to_contain_text("require an API key")
        page.locator("#key").fill("right")
        page.keyboard.press("Enter")
        expect(page.locator("#badge")).to_have_text("Ready")
        expect(page.locator("#status-error")).to_be_hidden()
        expect(page.locator("#metric-process")).to_contain_text("MiB")


def test_shutdown_is_reported(start_server: Callable[..., Any], open_page: OpenPage) -> None:
    """First as draining, then as unreachable; the metrics are marked as outdated."""
    with start_server("--shutdown-delay", "6") as process:
        page = open_page(process.address)
        expect(page.locator("#metric-process")).to_contain_text("MiB")
        process.process.send_signal(signal.SIGTERM)
        expect(page.locator("#badge")).to_have_text("Shutting down")
        expect(page.locator("#badge")).to_have_text("Unreachable")
        page.locator("#texts").fill("a text")
        page.locator("#encode").click()
        expect(page.locator("#notice")).to_contain_text("Cannot reach the server")
        expect(page.locator("#status-error")).to_contain_text("outdated")


def test_running_request_can_be_canceled(server: Any, open_page: OpenPage) -> None:
    """The next request is independent of the canceled one."""
    page = open_page(server.address)
    page.route("**/v1/encode", lambda _route: None)
    page.locator("#texts").fill("a text")
    page.locator("#encode").click()
    expect(page.locator("main")).to_have_attribute("aria-busy", "true")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("main")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#texts")).to_be_focused()
    page.unroute_all()
    page.locator("#encode").click()
    expect(page.locator("#summary")).to_contain_text("1 text")

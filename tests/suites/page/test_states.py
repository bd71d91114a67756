"""What the page says while things are not as they should be, and how it goes on by itself."""

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

Encoded = Callable[..., None]
Open = Callable[..., Page]
# More than a sequence may have.
LONG = "word " * 600


def test_nothing_is_there_at_first(running: Any, opened: Open) -> None:
    """The page says what it is for, and has something to begin with."""
    page = opened(running.address)
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#results")).to_be_hidden()
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator("#badge")).to_have_text("Ready")
    expect(page.locator("#facts")).to_contain_text("fnet_mini_en")
    page.locator("#encode").click()
    expect(page.locator("#notice")).to_contain_text("Nothing to encode")
    expect(page.locator("#texts")).to_be_focused()


@pytest.mark.parametrize(("example", "rows"), [("Try eight sentences", 8), ("Try five pairs", 5)])
def test_an_example_is_one_press(running: Any, opened: Open, example: str, rows: int) -> None:
    """Texts to look at, and what becomes of them."""
    page = opened(running.address)
    page.get_by_role("button", name=example).click()
    expect(page.locator("#summary")).to_contain_text(f"{rows} texts")
    expect(page.locator("#empty")).to_be_hidden()
    expect(page.locator("#summary")).to_be_focused()
    assert page.locator("#list li").count() == rows


def test_what_comes_is_seen_on_a_small_screen(running: Any, opened: Open) -> None:
    """The form fills it: results, and what is wrong, come to where the reader is."""
    page = opened(running.address, width=360)
    page.locator("#texts").fill(LONG)
    page.locator("#encode").click()
    expect(page.locator("#notice")).to_be_in_viewport(ratio=0.9)
    page.locator("#texts").fill("a text")
    page.locator("#encode").click()
    expect(page.locator("#summary")).to_be_in_viewport(ratio=0.9)


def test_loading_is_told_and_waited_for(
    started: Callable[..., Any], opened: Open, tmp_path: Path, running: Any
) -> None:
    """How far it is, live; texts that are sent meanwhile are answered when it is there."""
    with started("--cache-dir", str(tmp_path)) as process:
        page = opened(process.address, ready=False)
        notice = page.locator("#notice")
        expect(notice).to_have_attribute("data-kind", "loading")
        expect(notice.get_by_role("progressbar")).to_be_visible()
        page.locator("#texts").fill("first\nsecond")
        page.locator("#encode").click()
        expect(notice).to_contain_text("as soon as it is")
        expect(page.locator("#badge-text")).to_contain_text("of 10")
        expect(notice).to_contain_text("of 10 programs")
        expect(page.locator("#summary")).to_contain_text("2 texts", timeout=100_000)
        expect(notice).to_be_hidden()
        expect(page.locator("#badge")).to_have_text("Ready")
        expect(page.locator("#facts")).to_contain_text("fnet_mini_en")


def test_a_refusal_names_the_line(running: Any, opened: Open) -> None:
    """The service's own words, which line they are about, and the request's id in the log."""
    page = opened(running.address)
    page.locator("#texts").fill(f"short\n\n{LONG}\nshort too")
    page.locator("#encode").click()
    notice = page.locator("#notice")
    expect(notice).to_have_attribute("data-kind", "error")
    refusal = httpx.post(f"http://{running.address}/v1/encode", json={"texts": ["short", LONG.strip(), "short too"]})
    (problem,) = refusal.json()["errors"]
    expect(notice.locator("p").first).to_have_text(f"Line 3 {problem['msg']}")
    expect(notice).to_contain_text("422 invalid_input")
    notice.get_by_role("button", name="Line 3").click()
    expect(page.locator("#texts")).to_be_focused()
    selected = page.locator("#texts").evaluate("box => box.value.slice(box.selectionStart, box.selectionEnd)")
    assert selected == LONG
    page.get_by_label("Cut what is too long").check()
    page.locator("#encode").click()
    expect(page.locator("#summary")).to_contain_text("3 texts")
    expect(notice).to_be_hidden()


def test_several_problems_are_a_list(running: Any, opened: Open) -> None:
    """The detail above, each with its line below; what is written is never lost."""
    page = opened(running.address)
    page.locator("#texts").fill(f"{LONG}\nshort\n{LONG}")
    page.locator("#encode").click()
    notice = page.locator("#notice")
    expect(notice.get_by_role("listitem")).to_have_count(2)
    refusal = httpx.post(f"http://{running.address}/v1/encode", json={"texts": [LONG.strip(), "short", LONG.strip()]})
    expect(notice.locator("p").first).to_have_text(refusal.json()["detail"])
    expect(notice.get_by_role("listitem").last).to_contain_text("Line 3")
    expect(page.locator("#texts")).to_have_value(f"{LONG}\nshort\n{LONG}")


def test_an_urgent_word_is_said(running: Any, opened: Open, encoded: Encoded) -> None:
    """Errors are an alert, results a status: who cannot see hears of both."""
    page = opened(running.address)
    page.locator("#encode").click()
    expect(page.get_by_role("alert")).to_contain_text("Nothing to encode")
    encoded(page, "a", "b")
    expect(page.locator("#said")).to_contain_text("Encoded: 2 texts")


def test_overload_is_waited_out(started: Callable[..., Any], opened: Open) -> None:
    """A full queue names its time; it counts down, and the texts are sent again."""
    with started("--max-queue-tokens", "600") as process:
        page = opened(process.address)
        over = threading.Event()
        threads = [threading.Thread(target=_flood, args=(process.address, over, seed)) for seed in range(6)]
        for thread in threads:
            thread.start()
        notice = page.locator("#notice")
        try:
            # Between two of the others there may be room for once.
            for _ in range(20):
                page.locator("#texts").fill("a word " * 150)
                page.locator("#encode").click()
                expect(page.locator("#stop")).to_be_hidden()
                if notice.is_visible():
                    break
            expect(notice).to_have_attribute("data-kind", "overload")
            expect(page.locator("#countdown")).to_have_text(re.compile(r"^\d+ s$"))
            expect(notice.get_by_role("button", name="Try now")).to_be_visible()
        finally:
            over.set()
            for thread in threads:
                thread.join()
        expect(notice).to_be_hidden(timeout=100_000)
        expect(page.locator("#summary")).to_contain_text("1 text")
        expect(page.locator("#figure-refused-more")).to_contain_text("overloaded")


def _flood(address: str, over: threading.Event, seed: int) -> None:
    number = 0
    while not over.is_set():
        number += 1
        with suppress(httpx.TransportError):
            ids = [[4, *((seed * 997 + number * 31 + place) % 19_000 + 10 for place in range(500)), 5]]
            httpx.post(f"http://{address}/v1/encode", json={"token_ids": ids, "outputs": ["pooled_output"]}, timeout=60)


def test_a_key_is_asked_for_and_kept_for_the_tab(started: Callable[..., Any], opened: Open) -> None:
    """It is sent as a bearer's, survives a reload, is in no storage that outlives the tab, and can be forgotten."""
    with started("--api-keys", "right") as process:
        page = opened(process.address, ready=False)
        sent: list[str] = []
        page.on("request", lambda request: sent.append(request.headers.get("authorization", "")))
        notice = page.locator("#notice")
        expect(notice).to_have_attribute("data-kind", "key")
        expect(page.get_by_label("Key", exact=True)).to_be_focused()
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(notice).to_contain_text("does not know this key")
        page.locator("#key").fill("not \u00e9ven ascii")
        page.keyboard.press("Enter")
        expect(notice).to_contain_text("does not know this key")

        page.locator("#texts").fill("a text\nand another")
        page.locator("#encode").click()
        expect(notice).to_contain_text("A key is needed")
        page.locator("#key").fill("right")
        page.keyboard.press("Enter")
        expect(page.locator("#summary")).to_contain_text("2 texts")
        expect(page.locator("#facts")).to_contain_text("fnet_mini_en")
        assert sent[-1] == "Bearer right"
        assert "$FNET_API_KEY" in page.locator("#snippet").inner_text()
        assert "right" not in page.locator("#snippet").inner_text()

        page.reload()
        expect(page.locator("#facts")).to_contain_text("fnet_mini_en")
        expect(notice).to_be_hidden()
        assert page.evaluate("localStorage.length") == 0
        assert page.context.cookies() == []
        page.get_by_role("button", name="Forget the key").click()
        expect(notice).to_have_attribute("data-kind", "key")
        assert page.evaluate("sessionStorage.length") == 0
        page.locator("#encode").click()
        expect(notice).to_have_attribute("data-kind", "error")


def test_keyed_figures_ask_for_the_key(started: Callable[..., Any], opened: Open) -> None:
    """Where health and metrics are behind the lock as well, the page says so, and one key opens all."""
    with started("--api-keys", "right", "--keyed-metrics", "true", "--keyed-health", "true") as process:
        page = opened(process.address, ready=False)
        expect(page.locator("#badge")).to_have_text("Key needed")
        expect(page.locator("#status-trouble")).to_contain_text("ask for a key")
        page.locator("#key").fill("right")
        page.keyboard.press("Enter")
        expect(page.locator("#badge")).to_have_text("Ready")
        expect(page.locator("#status-trouble")).to_be_hidden()
        expect(page.locator("#figure-process")).to_contain_text("MiB")


def test_a_service_that_ends_is_told(started: Callable[..., Any], opened: Open) -> None:
    """First that it is about to, then that there is no answer; figures say that they are old."""
    with started("--shutdown-delay", "6") as process:
        page = opened(process.address)
        expect(page.locator("#figure-process")).to_contain_text("MiB")
        process.process.send_signal(signal.SIGTERM)
        expect(page.locator("#badge")).to_have_text("About to end")
        expect(page.locator("#badge")).to_have_text("No answer")
        page.locator("#texts").fill("a text")
        page.locator("#encode").click()
        expect(page.locator("#notice")).to_contain_text("No answer")
        expect(page.locator("#status-trouble")).to_contain_text("no answer")


def test_what_runs_can_be_stopped(running: Any, opened: Open) -> None:
    """Its answer is not waited for, and the next one is another's."""
    page = opened(running.address)
    page.route("**/v1/encode", lambda _route: None)
    page.locator("#texts").fill("a text")
    page.locator("#encode").click()
    expect(page.locator("main")).to_have_attribute("aria-busy", "true")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("main")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#texts")).to_be_focused()
    page.unroute_all()
    page.locator("#encode").click()
    expect(page.locator("#summary")).to_contain_text("1 text")

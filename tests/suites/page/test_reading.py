"""The page can be read and used by everybody: by keyboard, by ear, on small and large screens, in light and dark."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import Page, expect

Encoded = Callable[..., None]
Open = Callable[..., Page]

TEXTS = ["A dog runs along the beach.", "A puppy plays by the sea.", "Shares fell on Tuesday.", "w" * 300, "x y z"]
NAMED = {
    "button",
    "link",
    "textbox",
    "combobox",
    "checkbox",
    "radio",
    "slider",
    "listbox",
    "option",
    "tab",
    "tabpanel",
    "application",
    "region",
    "image",
    "img",
    "progressbar",
    "table",
    "navigation",
    "radiogroup",
}
# Colours of text against what lies behind it (WCAG 2), places of all that is too pale.
CONTRAST = """() => {
  const parse = (colour) => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d");
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.data.trim();
    if (!text || !element.checkVisibility() || element.closest(".unseen, svg, noscript")) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${element.tagName}.${element.className}: ${text.slice(0, 30)}`);
  }
  return found;
}"""


@pytest.fixture(params=["empty", "texts", "pairs", "picture", "error", "key"])
def shown(request: pytest.FixtureRequest, running: Any, encoded: Encoded) -> Callable[[Page], None]:
    """Bring a page into a state."""

    def show(page: Page) -> None:
        match request.param:
            case "texts":
                encoded(page, *TEXTS)
            case "pairs":
                encoded(page, "a question | an answer", "another | and its own", pairs=True)
            case "picture":
                encoded(page, *(f"text {index}" for index in range(40)))
            case "error":
                page.locator("#texts").fill("word " * 600)
                page.locator("#encode").click()
                expect(page.locator("#notice")).to_be_visible()
            case "key":
                # A lock that was put in after the page was opened.
                page.route(
                    "**/v1/encode",
                    lambda route: route.fulfill(status=401, json={"code": "unauthorized", "detail": "a key"}),
                )
                page.locator("#texts").fill("a text")
                page.locator("#encode").click()
                expect(page.locator("#key")).to_be_visible()

    return show


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_and_can_be_read(running: Any, opened: Open, shown: Callable[[Page], None], *, dark: bool) -> None:
    """From 320 to 1,920 pixels nothing is wider than the screen; text stands out 4.5 to 1 from what is behind it."""
    page = opened(running.address, width=1280, dark=dark)
    shown(page)
    assert page.evaluate(CONTRAST) == []
    for width in (320, 360, 768, 1024, 1280, 1376, 1600, 1920):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(100)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        outside = page.evaluate(
            """(width) => [...document.querySelectorAll("section, .notice, textarea, pre, canvas, svg, button")]
              .filter((e) => e.checkVisibility() && !e.closest(".scroller"))
              .filter((e) => e.getBoundingClientRect().right > width + 0.5)
              .map((e) => e.outerHTML.slice(0, 80))""",
            width,
        )
        assert outside == [], width


def test_everything_has_a_name(running: Any, opened: Open, shown: Callable[[Page], None]) -> None:
    """Whatever can be used or is a part of its own tells an assistive program what it is."""
    page = opened(running.address)
    shown(page)
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    nameless = []
    for node in tree:
        if node.get("ignored"):
            continue
        role, name = node["role"]["value"], node.get("name", {}).get("value", "")
        focusable = any(each["name"] == "focusable" and each["value"]["value"] for each in node.get("properties", []))
        if (role in NAMED or (focusable and role != "RootWebArea")) and not name.strip():
            nameless.append(node)
    assert nameless == []


def test_the_outline_is_whole(running: Any, opened: Open, encoded: Encoded) -> None:
    """One h1, no level left out, one main, no id twice, and every reference leads somewhere."""
    page = opened(running.address)
    encoded(page, *TEXTS)
    levels = page.evaluate(
        "[...document.querySelectorAll('h1,h2,h3,h4')].filter(e => e.checkVisibility()).map(e => +e.tagName[1])"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.locator("main").count() == 1
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    named = page.evaluate(
        """['aria-labelledby', 'aria-describedby', 'aria-controls', 'aria-activedescendant', 'for'].flatMap(name =>
          [...document.querySelectorAll(`[${name}]`)].flatMap(e => e.getAttribute(name).split(' ')))"""
    )
    assert set(named) <= set(ids)


def test_the_keyboard_reaches_everything(running: Any, opened: Open, encoded: Encoded) -> None:
    """From the first stop to the last by Tab alone, each to be seen, none a trap; what a mouse can choose, keys can."""
    page = opened(running.address)
    encoded(page, *TEXTS)
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    page.locator("h1").click()
    stops: list[str] = []
    for _ in range(80):
        page.keyboard.press("Tab")
        stop, marked = page.evaluate(
            """() => {
              const at = document.activeElement;
              if (at === document.body) return [null, true];
              const seen = (e) => {
                const { outlineStyle, outlineWidth } = getComputedStyle(e);
                return outlineStyle !== "none" && parseFloat(outlineWidth) >= 1;
              };
              const name = at.id || at.getAttribute("aria-label") || at.name || at.className || at.textContent;
              return [name, seen(at) || seen(at.parentElement)];
            }"""
        )
        if stop is None or (stops and stop == stops[0]):
            break
        assert marked, f"nothing shows that focus is at {stop}"
        stops.append(stop)
    wanted = [
        "texts",
        "output",
        "truncate",
        "normalize",
        "encode",
        "stretch",
        "Texts",
        "strip",
        "tab-0",
        "copy",
        "Code",
    ]
    assert [stop for stop in stops if stop in wanted] == wanted


def test_the_first_stop_skips_the_head(running: Any, opened: Open) -> None:
    """A link to the texts, seen when it has the focus."""
    page = opened(running.address)
    page.keyboard.press("Tab")
    link = page.get_by_role("link", name="Skip to the texts")
    expect(link).to_be_focused()
    assert page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
    page.keyboard.press("Enter")
    page.keyboard.type("typed")
    expect(page.locator("#texts")).to_have_value("typed")


def test_it_is_used_without_a_mouse(running: Any, opened: Open) -> None:
    """Write, send, choose a text, walk along its vector, take the request in another language."""
    page = opened(running.address)
    page.locator("#texts").focus()
    page.keyboard.type("one text")
    page.keyboard.press("Enter")
    page.keyboard.type("another text")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#summary")).to_contain_text("2 texts")
    page.get_by_role("listbox", name="Texts").focus()
    page.keyboard.press("End")
    expect(page.get_by_role("listbox", name="Texts").get_by_role("option", selected=True)).to_contain_text(
        "another text"
    )
    expect(page.locator("#one-title")).to_have_text("Text 2")
    strip = page.get_by_role("slider")
    strip.focus()
    page.keyboard.press("PageUp")
    page.keyboard.press("ArrowRight")
    expect(strip).to_have_attribute("aria-valuenow", "17")
    page.get_by_role("tab", name="curl").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Python", exact=True)).to_be_focused()
    expect(page.locator("#snippet")).to_contain_text("from service.client import Client")


def test_colours_follow_the_scheme_at_once(running: Any, opened: Open, encoded: Encoded) -> None:
    """Drawings too, without a reload."""
    page = opened(running.address)
    encoded(page, *(f"text {index}" for index in range(30)))
    paint = (
        """() => ["canvas.picture", "canvas.strip", ".ramp"].map((name) => document.querySelector(name).toDataURL())"""
    )
    before = page.evaluate(paint)
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(200)
    assert all(new != old for new, old in zip(page.evaluate(paint), before, strict=True))


def test_numbers_can_be_read_on_every_colour(running: Any, opened: Open) -> None:
    """The scale's lightness runs one way, and its ink is 4.5 to 1 on each of its steps."""
    page = opened(running.address)
    steps = page.evaluate(
        """async () => {
          const { scale, inkOn, luminance } = await import("./page/colours.js");
          return [false, true].map((dark) => scale(dark).map((c) => [luminance(c), inkOn(c) === "#000" ? 0 : 1]));
        }"""
    )
    for scheme, direction in zip(steps, (-1, 1), strict=True):
        lights = [light for light, _ in scheme]
        assert all(direction * (after - before) >= -0.004 for before, after in pairwise(lights))
        for light, ink in scheme:
            high, low = max(light, ink), min(light, ink)
            assert (high + 0.05) / (low + 0.05) >= 4.5


def test_quantiles_are_prometheus(running: Any, opened: Open) -> None:
    """Between bounds in equal parts; beyond the last there is nothing but the bound; of nothing there is none."""
    page = opened(running.address)
    found = page.evaluate(
        r"""async () => {
          const { parse, buckets, between, quantile, sum } = await import("./page/prometheus.js");
          const line = (bound, count) => `h_bucket{r="a\\"}{",le="${bound}"} ${count}\n`;
          const lines = (a, b, c) => `# HELP x y\n${line("0.1", a)}${line("1.0", b)}${line("+Inf", c)}v 1.5e3\n`;
          const [one, two] = [parse(lines(1, 2, 2)), parse(lines(5, 10, 12))];
          const counts = between(buckets(one, "h"), buckets(two, "h"));
          return {
            counts: counts.map(([, count]) => count),
            label: two.get("h_bucket")[0].labels.r,
            plain: sum(two, "v"),
            half: quantile(0.5, counts),
            most: quantile(0.99, counts),
            none: quantile(0.5, between(buckets(two, "h"), buckets(two, "h"))),
          };
        }"""
    )
    assert found["counts"] == [4, 8, 10]
    assert (found["label"], found["plain"]) == ('a"}{', 1500)
    assert found["half"]["value"] == pytest.approx(0.1 + 0.9 * 1 / 4)
    assert found["most"] == {"value": 1, "beyond": True}
    assert found["none"] is None


def test_the_description_works_under_the_policy(running: Any, opened: Open) -> None:
    """/docs draws itself, opens a route and asks it, without a word from the browser."""
    page = opened(running.address, "/docs")
    expect(page.locator(".opblock").first).to_be_visible()
    page.locator("#operations-health-live_health_live_get .opblock-summary-control").click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table")).to_contain_text('"alive": true')


def test_nothing_moves_without_a_script(running: Any, browser: Any) -> None:
    """Who lets none run is told where the rest is."""
    context = browser.new_context(java_script_enabled=False)
    try:
        page = context.new_page()
        page.goto(f"http://{running.address}/")
        expect(page.locator(".notice").first).to_contain_text("drawn by a script")
    finally:
        context.close()

"""The page is accessible: keyboard, screen readers, narrow and wide viewports, light and dark color schemes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import Page, expect

EncodeTexts = Callable[..., None]
OpenPage = Callable[..., Page]

TEXTS = ["A dog runs along the beach.", "A puppy plays by the sea.", "Shares fell on Tuesday.", "w" * 300, "x y z"]
ROLES_WITH_NAMES = {
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
# Returns the elements whose text has a contrast below 4.5 to 1 with its background (WCAG 2).
LOW_CONTRAST = """() => {
  const toRgb = (color) => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d");
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const background = (element) => {
    for (let ancestor = element; ancestor; ancestor = ancestor.parentElement) {
      const color = toRgb(getComputedStyle(ancestor).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255, 255];
  };
  const failures = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.data.trim();
    if (!text || !element.checkVisibility() || element.closest(".visually-hidden, svg, noscript")) continue;
    const pair = [luminance(toRgb(getComputedStyle(element).color)), luminance(background(element))];
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (ratio < 4.5) failures.push(`${ratio.toFixed(2)} ${element.tagName}.${element.className}: ${text.slice(0, 30)}`);
  }
  return failures;
}"""


@pytest.fixture(params=["empty", "texts", "pairs", "heatmap", "error", "key"])
def show_state(request: pytest.FixtureRequest, server: Any, encode_texts: EncodeTexts) -> Callable[[Page], None]:
    """Bring a page into one of its states."""

    def show(page: Page) -> None:
        match request.param:
            case "texts":
                encode_texts(page, *TEXTS)
            case "pairs":
                encode_texts(page, "a question | an answer", "another question | its answer", pairs=True)
            case "heatmap":
                encode_texts(page, *(f"text {index}" for index in range(40)))
            case "error":
                page.locator("#texts").fill("word " * 600)
                page.locator("#encode").click()
                expect(page.locator("#notice")).to_be_visible()
            case "key":
                # API keys were enabled after the page was loaded.
                page.route(
                    "**/v1/encode",
                    lambda route: route.fulfill(
                        status=401, json={"code": "unauthorized", "detail": "missing or invalid API key"}
                    ),
                )
                page.locator("#texts").fill("a text")
                page.locator("#encode").click()
                expect(page.locator("#key")).to_be_visible()

    return show


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_layout_fits_viewport_and_text_has_sufficient_contrast(
    server: Any, open_page: OpenPage, show_state: Callable[[Page], None], *, dark: bool
) -> None:
    """No element exceeds a viewport of 320 to 1,920 pixels, and the contrast of text is at least 4.5 to 1."""
    page = open_page(server.address, width=1280, dark=dark)
    show_state(page)
    assert page.evaluate(LOW_CONTRAST) == []
    for width in (320, 360, 768, 1024, 1280, 1376, 1600, 1920):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(100)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        overflowing = page.evaluate(
            """(width) => [...document.querySelectorAll("section, .notice, textarea, pre, canvas, svg, button")]
              .filter((e) => e.checkVisibility() && !e.closest(".scroll-region"))
              .filter((e) => e.getBoundingClientRect().right > width + 0.5)
              .map((e) => e.outerHTML.slice(0, 80))""",
            width,
        )
        assert overflowing == [], width


def test_controls_and_landmarks_have_accessible_names(
    server: Any, open_page: OpenPage, show_state: Callable[[Page], None]
) -> None:
    """Each focusable element and each element with such a role has a name."""
    page = open_page(server.address)
    show_state(page)
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    unnamed = []
    for node in tree:
        if node.get("ignored"):
            continue
        role, name = node["role"]["value"], node.get("name", {}).get("value", "")
        focusable = any(item["name"] == "focusable" and item["value"]["value"] for item in node.get("properties", []))
        if (role in ROLES_WITH_NAMES or (focusable and role != "RootWebArea")) and not name.strip():
            unnamed.append(node)
    assert unnamed == []


def test_document_structure_is_valid(server: Any, open_page: OpenPage, encode_texts: EncodeTexts) -> None:
    """One h1, no skipped heading level, one main, unique ids, and all references to ids resolve."""
    page = open_page(server.address)
    encode_texts(page, *TEXTS)
    levels = page.evaluate(
        "[...document.querySelectorAll('h1,h2,h3,h4')].filter(e => e.checkVisibility()).map(e => +e.tagName[1])"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.locator("main").count() == 1
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    references = page.evaluate(
        """['aria-labelledby', 'aria-describedby', 'aria-controls', 'aria-activedescendant', 'for'].flatMap(name =>
          [...document.querySelectorAll(`[${name}]`)].flatMap(e => e.getAttribute(name).split(' ')))"""
    )
    assert set(references) <= set(ids)


def test_tab_key_reaches_all_controls(server: Any, open_page: OpenPage, encode_texts: EncodeTexts) -> None:
    """Tab visits all controls in order, each with a visible focus indicator, without a keyboard trap."""
    page = open_page(server.address)
    encode_texts(page, *TEXTS)
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    page.locator("h1").click()
    stops: list[str] = []
    for _ in range(80):
        page.keyboard.press("Tab")
        stop, has_indicator = page.evaluate(
            """() => {
              const focused = document.activeElement;
              if (focused === document.body) return [null, true];
              const hasOutline = (e) => {
                const { outlineStyle, outlineWidth } = getComputedStyle(e);
                return outlineStyle !== "none" && parseFloat(outlineWidth) >= 1;
              };
              const names = [focused.id, focused.getAttribute("aria-label"), focused.name, focused.className];
              const label = names.find(Boolean) || focused.textContent;
              return [label, hasOutline(focused) || hasOutline(focused.parentElement)];
            }"""
        )
        if stop is None or (stops and stop == stops[0]):
            break
        assert has_indicator, f"{stop} has no visible focus indicator"
        stops.append(stop)
    expected = [
        "texts",
        "output",
        "truncate",
        "normalize",
        "encode",
        "stretch",
        "Texts",
        "heat-strip",
        "tab-0",
        "copy",
        "Code",
    ]
    assert [stop for stop in stops if stop in expected] == expected


def test_first_tab_stop_skips_to_input(server: Any, open_page: OpenPage) -> None:
    """The skip link is visible while it has focus, and moves focus to the text box."""
    page = open_page(server.address)
    page.keyboard.press("Tab")
    link = page.get_by_role("link", name="Skip to input")
    expect(link).to_be_focused()
    assert page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
    page.keyboard.press("Enter")
    page.keyboard.type("typed")
    expect(page.locator("#texts")).to_have_value("typed")


def test_page_is_usable_by_keyboard_alone(server: Any, open_page: OpenPage) -> None:
    """Enter and encode texts, select one, read its vector and switch the language of the code by keyboard."""
    page = open_page(server.address)
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
    expect(page.locator("#detail-title")).to_have_text("Text 2")
    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("PageUp")
    page.keyboard.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuenow", "17")
    page.get_by_role("tab", name="curl").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Python", exact=True)).to_be_focused()
    expect(page.locator("#snippet")).to_contain_text("from service.client import Client")


def test_drawings_follow_color_scheme_changes(server: Any, open_page: OpenPage, encode_texts: EncodeTexts) -> None:
    """Canvases are redrawn without a reload."""
    page = open_page(server.address)
    encode_texts(page, *(f"text {index}" for index in range(30)))
    read_pixels = """() => ["canvas.heatmap", "canvas.heat-strip", ".color-bar"].map(
      (selector) => document.querySelector(selector).toDataURL())"""
    before = page.evaluate(read_pixels)
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(200)
    assert all(new != old for new, old in zip(page.evaluate(read_pixels), before, strict=True))


def test_color_scales_are_monotonic_with_readable_text(server: Any, open_page: OpenPage) -> None:
    """Luminance is monotonic, and the contrast of the text color is at least 4.5 to 1 on each step."""
    page = open_page(server.address)
    scales = page.evaluate(
        """async () => {
          const { colorScale, textColorOn, luminance } = await import("./page/colors.js");
          const toPair = (color) => [luminance(color), textColorOn(color) === "#000" ? 0 : 1];
          return [false, true].map((dark) => colorScale(dark).map(toPair));
        }"""
    )
    for scale, direction in zip(scales, (-1, 1), strict=True):
        luminances = [luminance for luminance, _ in scale]
        assert all(direction * (after - before) >= -0.004 for before, after in pairwise(luminances))
        for luminance, text in scale:
            high, low = max(luminance, text), min(luminance, text)
            assert (high + 0.05) / (low + 0.05) >= 4.5


def test_quantiles_match_prometheus(server: Any, open_page: OpenPage) -> None:
    """Interpolated within buckets; the last finite bound above it; null for an empty histogram."""
    page = open_page(server.address)
    result = page.evaluate(
        r"""async () => {
          const { parseMetrics, buckets, bucketIncreases, quantile, sum } = await import("./page/prometheus.js");
          const line = (bound, count) => `h_bucket{r="a\\"}{",le="${bound}"} ${count}\n`;
          const lines = (a, b, c) => `# HELP x y\n${line("0.1", a)}${line("1.0", b)}${line("+Inf", c)}v 1.5e3\n`;
          const [before, after] = [parseMetrics(lines(1, 2, 2)), parseMetrics(lines(5, 10, 12))];
          const counts = bucketIncreases(buckets(before, "h"), buckets(after, "h"));
          return {
            counts: counts.map(([, count]) => count),
            label: after.get("h_bucket")[0].labels.r,
            untyped: sum(after, "v"),
            median: quantile(0.5, counts),
            p99: quantile(0.99, counts),
            empty: quantile(0.5, bucketIncreases(buckets(after, "h"), buckets(after, "h"))),
          };
        }"""
    )
    assert result["counts"] == [4, 8, 10]
    assert (result["label"], result["untyped"]) == ('a"}{', 1500)
    assert result["median"]["value"] == pytest.approx(0.1 + 0.9 * 1 / 4)
    assert result["p99"] == {"value": 1, "exceeded": True}
    assert result["empty"] is None


def test_docs_work_under_content_security_policy(server: Any, open_page: OpenPage) -> None:
    """/docs renders and sends a request, without console errors or policy violations."""
    page = open_page(server.address, "/docs")
    expect(page.locator(".opblock").first).to_be_visible()
    page.locator("#operations-health-live_health_live_get .opblock-summary-control").click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table")).to_contain_text('"alive": true')


def test_page_without_javascript_links_to_api(server: Any, browser: Any) -> None:
    """A notice states that JavaScript is required."""
    context = browser.new_context(java_script_enabled=False)
    try:
        page = context.new_page()
        page.goto(f"http://{server.address}/")
        expect(page.locator(".notice").first).to_contain_text("requires JavaScript")
    finally:
        context.close()

"""What the page shows is what the service gives, to the digits that are written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect

TEXTS = [
    "A dog runs along the beach.",
    "A puppy plays in the sand by the sea.",
    "Share prices fell sharply on Tuesday.",
    "Stocks lost much of their value.",
    "How do I cancel my subscription?",
    "Wie geht es dir heute?",
    "a",
]
# What a shell, JSON, Python or markup could take for something else.
NASTY = [
    'it\'s "quoted" and $HOME `date` !! \\n \\ %s {x}',
    '<img src=x onerror="document.body.dataset.hurt=1"><script>1</script>',
    "emoji \N{PILE OF POO}, \u05e9\u05dc\u05d5\u05dd, a\u0301, tab\there",
    "' || true; echo 'x",
]

Encoded = Callable[..., None]
Open = Callable[..., Page]


def rows_of(table: Locator) -> list[list[str]]:
    """Return the cells of a table's body as they are read, a true minus as a plain one."""
    cells = table.locator("tbody tr").evaluate_all("rows => rows.map(r => [...r.cells].map(c => c.textContent.trim()))")
    return [[cell.replace("\u2212", "-") for cell in row] for row in cells]


def unfolded(section: Locator) -> Locator:
    """Open a section's last fold and return the table in it."""
    fold = section.locator("details").last
    fold.locator("summary").click()
    expect(fold.locator("table")).to_be_visible()
    return fold.locator("table")


def vectors_of(running: Any, texts: list[Any], **fields: Any) -> Any:
    """Return unit vectors of texts as the service gives them, in float64."""
    answer = running.ask("v1/encode", texts=texts, outputs=["pooled_output"], normalize=True, **fields)
    return np.asarray(answer["pooled_output"])


@pytest.fixture
def page(running: Any, opened: Open, encoded: Encoded) -> Page:
    """The page with `TEXTS` encoded."""
    page = opened(running.address)
    encoded(page, *TEXTS)
    return page


def test_every_two_texts_have_their_cosine(page: Page, running: Any) -> None:
    """A table of numbers with colours behind, symmetric, ones on its diagonal."""
    vectors = vectors_of(running, TEXTS)
    shown = np.array([row[1:] for row in rows_of(page.locator("#similarity table.matrix"))], float)
    np.testing.assert_allclose(shown, vectors @ vectors.T, atol=0.0051)


def test_the_map_has_the_principal_axes(page: Page, running: Any) -> None:
    """Places and shares are those of a singular value decomposition, up to an axis' direction."""
    vectors = vectors_of(running, TEXTS)
    left, values, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    expected = left[:, :2] * values[:2]
    shown = np.array([row[1:] for row in rows_of(unfolded(page.locator("section.map")))], float)
    for axis in range(2):
        assert min(abs(shown[:, axis] - sign * expected[:, axis]).max() for sign in (1, -1)) < 1e-3
    shares = values**2 / (values**2).sum()
    expect(page.locator("#map > p.hint")).to_contain_text(f"{shares[0] * 100:.0f} % of what")
    assert page.locator("#map circle").count() == len(TEXTS)


def test_each_text_has_its_neighbours(page: Page, running: Any) -> None:
    """The most alike first; all of them on demand."""
    vectors = vectors_of(running, TEXTS)
    cosines = vectors @ vectors.T
    page.locator("#text-2").click()
    page.locator("#all-neighbours").click()
    shown = rows_of(page.locator("table.neighbours"))
    order = [other for other in np.argsort(-cosines[2]) if other != 2]
    assert [row[2] for row in shown] == [f"{other + 1} {TEXTS[other]}" for other in order]
    np.testing.assert_allclose([float(row[1]) for row in shown], cosines[2][order], atol=0.00051)


def test_a_text_has_its_tokens(page: Page, running: Any) -> None:
    """Pieces, ids, segments and places as /v1/tokenize has them, as chips and as a table."""
    page.locator("#text-5").click()
    answer = running.ask("v1/tokenize", texts=[TEXTS[5]])
    chips = page.locator("ol.tokens li")
    assert chips.locator(".piece").all_text_contents() == answer["pieces"][0]
    assert [int(text) for text in chips.locator(".id").all_text_contents()] == answer["token_ids"][0]
    table = rows_of(unfolded(page.locator("#one > div").nth(1)))
    assert [row[1:4] for row in table] == [
        [piece, str(number), str(segment)]
        for piece, number, segment in zip(
            answer["pieces"][0], answer["token_ids"][0], answer["segment_ids"][0], strict=True
        )
    ]


def test_pairs_have_two_segments(running: Any, opened: Open, encoded: Encoded) -> None:
    """A tab or a bar parts them; the second's tokens say so, and the vector is the pair's."""
    page = opened(running.address)
    encoded(page, "a question | its answer", "one\tother | third", "alone", pairs=True)
    sent: list[Any] = [["a question", "its answer"], ["one", "other | third"], "alone"]
    answer = running.ask("v1/tokenize", texts=sent)
    for index, segments in enumerate(answer["segment_ids"]):
        page.locator(f"#text-{index}").click()
        assert page.locator("ol.tokens li.segment-1").count() == sum(segments)
    vectors = vectors_of(running, sent)
    shown = np.array([row[1:] for row in rows_of(page.locator("#similarity table.matrix"))], float)
    np.testing.assert_allclose(shown, vectors @ vectors.T, atol=0.0051)


@pytest.mark.parametrize("output", ["pooled_output", "mean_output"])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_vector_is_the_services(
    running: Any, opened: Open, encoded: Encoded, output: str, *, normalize: bool
) -> None:
    """Every number of it, of either output, scaled or not."""
    page = opened(running.address)
    page.locator("#output").select_option(output)
    page.locator("#normalize").set_checked(normalize)
    encoded(page, *TEXTS[:2])
    page.locator("#text-1").click()
    answer = running.ask("v1/encode", texts=TEXTS[:2], outputs=[output], normalize=normalize)
    shown = [float(row[1]) for row in rows_of(unfolded(page.locator("#one > div").last))]
    np.testing.assert_allclose(shown, answer[output][1], atol=6e-7)


def test_the_vector_can_be_copied(page: Page, running: Any) -> None:
    """As JSON, every bit of it."""
    page.get_by_role("button", name="Copy as JSON").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    np.testing.assert_array_equal(np.asarray(copied, np.float32), np.asarray(vectors_of(running, TEXTS)[0], np.float32))


@pytest.mark.parametrize(
    ("lines", "pairs"), [(NASTY, False), ([f"{a} | {a}" for a in NASTY[::3]], True), (["a"], False)]
)
def test_the_request_can_be_copied(
    running: Any, opened: Open, encoded: Encoded, tmp_path: Path, *, lines: list[str], pairs: bool
) -> None:
    """What is copied runs as it is, whatever the texts hold, and asks for the same."""
    page = opened(running.address)
    encoded(page, *lines, pairs=pairs)
    sent = [line.split(" | ", 1) if pairs else line for line in lines]
    expected = np.asarray(vectors_of(running, sent), np.float32)

    def copied(language: str) -> str:
        page.get_by_role("tab", name=language, exact=True).click()
        page.locator("#copy").click()
        expect(page.locator("#copy")).to_have_text("Copied")
        return str(page.evaluate("navigator.clipboard.readText()"))

    command = subprocess.run(["bash", "-c", copied("curl")], check=True, capture_output=True, text=True, timeout=60)  # noqa: S607 - found on the path, as the reader's shell is
    np.testing.assert_array_equal(np.asarray(json.loads(command.stdout)["pooled_output"], np.float32), expected)
    (tmp_path / "program.py").write_text(
        copied("Python") + f"\nimport numpy\nnumpy.save({str(tmp_path / 'v.npy')!r}, vectors)"
    )
    said = subprocess.run(
        [sys.executable, tmp_path / "program.py"], check=True, capture_output=True, text=True, timeout=60
    )
    assert said.stdout.strip() == f"({len(lines)}, {len(expected[0])})"
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), expected)

    page.get_by_role("tab", name="openai-python").click()
    if pairs:
        expect(page.locator("#snippet")).to_contain_text("no pairs")
        expect(page.locator("#copy")).to_be_hidden()
        return
    # The library itself is tried in tests/suites/clients: here it is replaced by what it sends.
    program = copied("openai-python").replace("from openai import OpenAI", _OPENAI)
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert said.stdout.strip() == f"{len(lines)} {len(expected[0])}"


_OPENAI = """
import httpx
from types import SimpleNamespace as Plain
def OpenAI(base_url, api_key):
    def create(**body):
        answer = httpx.post(f"{base_url}/embeddings", json=body).raise_for_status().json()
        return Plain(data=[Plain(**item) for item in answer["data"]])
    return Plain(embeddings=Plain(create=create))
"""


def test_texts_are_never_markup(running: Any, opened: Open, encoded: Encoded) -> None:
    """They are read, wherever they stand."""
    page = opened(running.address)
    encoded(page, *NASTY)
    for index in range(len(NASTY)):
        page.locator(f"#text-{index}").click()
        expect(page.locator("#one .whole")).to_have_text(NASTY[index].strip())
    assert page.locator("main img").count() == 0
    assert page.evaluate("document.body.dataset.hurt") is None


def test_one_text_is_enough(running: Any, opened: Open, encoded: Encoded) -> None:
    """It has tokens and a vector, and no neighbours."""
    page = opened(running.address)
    encoded(page, "alone")
    assert page.locator("#map circle").count() == 1
    assert page.locator("table.neighbours").count() == 0
    expect(page.locator("#map > p.hint")).to_contain_text("two make a map")


def test_equal_texts_are_one_point(running: Any, opened: Open, encoded: Encoded) -> None:
    """There is nothing to divide by."""
    page = opened(running.address)
    encoded(page, "same", "same", "same")
    expect(page.locator("#map > p.hint")).to_contain_text("nothing to tell them apart")
    assert "NaN" not in page.locator("main").inner_text()


def test_many_texts_are_a_picture(running: Any, opened: Open, encoded: Encoded) -> None:
    """With a number for whatever is pointed at, by the keyboard too, and a table where one can be read."""
    texts = [f"text number {index} of some" for index in range(60)]
    page = opened(running.address)
    encoded(page, *texts)
    vectors = vectors_of(running, texts)
    cosines = vectors @ vectors.T
    page.locator("canvas.picture").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    expect(page.locator("#similarity-value b")).to_have_text(f"{cosines[2, 1]:.3f}")
    page.keyboard.press("Enter")
    expect(page.locator("#one-title")).to_have_text("Text 3")
    shown = np.array([row[1:] for row in rows_of(unfolded(page.locator("section.similarity")))], float)
    np.testing.assert_allclose(shown, cosines, atol=0.0051)
    assert page.locator("#map circle").count() == 60


def test_the_most_texts_are_shown(running: Any, opened: Open, encoded: Encoded) -> None:
    """Three hundred; a line more is told before it is sent."""
    page = opened(running.address)
    encoded(page, *(f"text {index}" for index in range(300)))
    assert page.locator("#list li").count() == 300
    page.locator("#texts").fill("\n".join(f"text {index}" for index in range(301)))
    page.locator("#encode").click()
    expect(page.locator("#notice")).to_contain_text("up to 300 texts")


def test_a_choice_is_one_everywhere(page: Page) -> None:
    """List, matrix, map and neighbours speak of the same text."""
    page.locator("#map circle[data-index='3']").click()
    expect(page.locator("#one-title")).to_have_text("Text 4")
    expect(page.locator("#text-3")).to_have_attribute("aria-selected", "true")
    expect(page.locator("table.matrix tr.chosen th")).to_contain_text("4")
    page.locator("table.neighbours button.name").first.click()
    expect(page.locator("#one-title")).to_have_text("Text 3")
    expect(page.locator("#one-title")).to_be_focused()
    page.locator("table.matrix tbody tr").nth(5).locator("td").first.click()
    expect(page.locator("#one-title")).to_have_text("Text 6")


def test_figures_are_live(page: Page, running: Any) -> None:
    """What is sent by anybody shows up: throughput, quantiles, batches, memory."""
    for _ in range(5):
        running.ask("v1/encode", texts=TEXTS)
    expect(page.locator("#figure-rate-more")).to_contain_text("requests/s")
    expect(page.locator("#figure-rate")).to_have_text(re.compile(r"^[1-9][\d,.]* tokens/s$"))
    expect(page.locator("#figure-fill-more")).to_contain_text(re.compile(r"\d batch"))
    times = page.locator("table.times tbody tr")
    expect(times).to_have_count(4)
    expect(page.locator("table.times td").first).to_have_text(re.compile(r"^[\d.]+ m?s$"))
    expect(page.locator("#figure-process")).to_contain_text("MiB")
    expect(page.locator(".sparkline svg")).to_have_attribute("aria-label", re.compile("Tokens a second"))


def test_figures_rest_while_nobody_looks(running: Any, opened: Open) -> None:
    """A page in the background asks for nothing."""
    page = opened(running.address)
    page.evaluate("Object.defineProperty(document, 'hidden', {get: () => true})")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_timeout(1000)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(3000)
    assert asked == []

"""The page shows the values that the service returns, to the displayed precision."""

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
# Special characters of shells, JSON, Python and HTML.
SPECIAL_CHARACTERS = [
    'it\'s "quoted" and $HOME `date` !! \\n \\ %s {x}',
    '<img src=x onerror="document.body.dataset.injected=1"><script>1</script>',
    "emoji \N{PILE OF POO}, \u05e9\u05dc\u05d5\u05dd, a\u0301, tab\there",
    "' || true; echo 'x",
]

EncodeTexts = Callable[..., None]
OpenPage = Callable[..., Page]


def table_rows(table: Locator) -> list[list[str]]:
    """Return the cell texts of a table body, with U+2212 replaced by a hyphen-minus."""
    cells = table.locator("tbody tr").evaluate_all("rows => rows.map(r => [...r.cells].map(c => c.textContent.trim()))")
    return [[cell.replace("\u2212", "-") for cell in row] for row in cells]


def expand_table(section: Locator) -> Locator:
    """Expand the last disclosure of a section and return its table."""
    disclosure = section.locator("details").last
    disclosure.locator("summary").click()
    expect(disclosure.locator("table")).to_be_visible()
    return disclosure.locator("table")


def encode_directly(server: Any, texts: list[Any], **fields: Any) -> Any:
    """Return the normalized pooled output of texts from the API, in float64."""
    response = server.post("v1/encode", texts=texts, outputs=["pooled_output"], normalize=True, **fields)
    return np.asarray(response["pooled_output"])


@pytest.fixture
def page(server: Any, open_page: OpenPage, encode_texts: EncodeTexts) -> Page:
    """A page with `TEXTS` encoded."""
    page = open_page(server.address)
    encode_texts(page, *TEXTS)
    return page


def test_similarity_table_shows_cosines(page: Page, server: Any) -> None:
    """The matrix equals the products of the normalized vectors."""
    vectors = encode_directly(server, TEXTS)
    shown = np.array([row[1:] for row in table_rows(page.locator("#similarity table.matrix"))], float)
    np.testing.assert_allclose(shown, vectors @ vectors.T, atol=0.0051)


def test_map_shows_principal_components(page: Page, server: Any) -> None:
    """Coordinates and explained variance match a singular value decomposition, up to sign."""
    vectors = encode_directly(server, TEXTS)
    left, values, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    expected = left[:, :2] * values[:2]
    shown = np.array([row[1:] for row in table_rows(expand_table(page.locator("section.map")))], float)
    for axis in range(2):
        assert min(abs(shown[:, axis] - sign * expected[:, axis]).max() for sign in (1, -1)) < 1e-3
    explained = values**2 / (values**2).sum()
    expect(page.locator("#map > p.hint")).to_contain_text(f"x explains {explained[0] * 100:.0f} % of the variance")
    assert page.locator("#map circle").count() == len(TEXTS)


def test_neighbors_are_sorted_by_cosine(page: Page, server: Any) -> None:
    """A button shows all neighbors."""
    vectors = encode_directly(server, TEXTS)
    cosines = vectors @ vectors.T
    page.locator("#text-2").click()
    page.locator("#all-neighbors").click()
    shown = table_rows(page.locator("table.neighbors"))
    order = [other for other in np.argsort(-cosines[2]) if other != 2]
    assert [row[2] for row in shown] == [f"{other + 1} {TEXTS[other]}" for other in order]
    np.testing.assert_allclose([float(row[1]) for row in shown], cosines[2][order], atol=0.00051)


def test_tokens_match_tokenize_route(page: Page, server: Any) -> None:
    """The list and the table show the pieces, ids and segments of /v1/tokenize."""
    page.locator("#text-5").click()
    response = server.post("v1/tokenize", texts=[TEXTS[5]])
    items = page.locator("ol.tokens li")
    assert items.locator(".piece").all_text_contents() == response["pieces"][0]
    assert [int(text) for text in items.locator(".id").all_text_contents()] == response["token_ids"][0]
    table = table_rows(expand_table(page.locator("#detail > div").nth(1)))
    assert [row[1:4] for row in table] == [
        [piece, str(number), str(segment)]
        for piece, number, segment in zip(
            response["pieces"][0], response["token_ids"][0], response["segment_ids"][0], strict=True
        )
    ]


def test_pairs_have_two_segments(server: Any, open_page: OpenPage, encode_texts: EncodeTexts) -> None:
    """A tab or " | " separates a pair; tokens of the second text have segment 1, and the vector is that of the pair."""
    page = open_page(server.address)
    encode_texts(page, "a question | its answer", "one\tother | third", "alone", pairs=True)
    payload: list[Any] = [["a question", "its answer"], ["one", "other | third"], "alone"]
    response = server.post("v1/tokenize", texts=payload)
    for index, segments in enumerate(response["segment_ids"]):
        page.locator(f"#text-{index}").click()
        assert page.locator("ol.tokens li.segment-1").count() == sum(segments)
    vectors = encode_directly(server, payload)
    shown = np.array([row[1:] for row in table_rows(page.locator("#similarity table.matrix"))], float)
    np.testing.assert_allclose(shown, vectors @ vectors.T, atol=0.0051)


@pytest.mark.parametrize("output", ["pooled_output", "mean_output"])
@pytest.mark.parametrize("normalize", [True, False])
def test_vector_matches_encode_route(
    server: Any, open_page: OpenPage, encode_texts: EncodeTexts, output: str, *, normalize: bool
) -> None:
    """All components of each output, normalized or not."""
    page = open_page(server.address)
    page.locator("#output").select_option(output)
    page.locator("#normalize").set_checked(normalize)
    encode_texts(page, *TEXTS[:2])
    page.locator("#text-1").click()
    response = server.post("v1/encode", texts=TEXTS[:2], outputs=[output], normalize=normalize)
    shown = [float(row[1]) for row in table_rows(expand_table(page.locator("#detail > div").last))]
    np.testing.assert_allclose(shown, response[output][1], atol=6e-7)


def test_vector_is_copied_as_json(page: Page, server: Any) -> None:
    """The copy is bit-identical to the float32 vector."""
    page.get_by_role("button", name="Copy as JSON").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    expected = np.asarray(encode_directly(server, TEXTS)[0], np.float32)
    np.testing.assert_array_equal(np.asarray(copied, np.float32), expected)


@pytest.mark.parametrize(
    ("lines", "pairs"),
    [(SPECIAL_CHARACTERS, False), ([f"{a} | {a}" for a in SPECIAL_CHARACTERS[::3]], True), (["a"], False)],
)
def test_copied_code_runs_and_reproduces_the_vectors(
    server: Any, open_page: OpenPage, encode_texts: EncodeTexts, tmp_path: Path, *, lines: list[str], pairs: bool
) -> None:
    """The copied programs run unchanged, also with special characters, and return the same vectors."""
    page = open_page(server.address)
    encode_texts(page, *lines, pairs=pairs)
    payload = [line.split(" | ", 1) if pairs else line for line in lines]
    expected = np.asarray(encode_directly(server, payload), np.float32)

    def copied(language: str) -> str:
        page.get_by_role("tab", name=language, exact=True).click()
        page.locator("#copy").click()
        expect(page.locator("#copy")).to_have_text("Copied")
        return str(page.evaluate("navigator.clipboard.readText()"))

    command = subprocess.run(["bash", "-c", copied("curl")], check=True, capture_output=True, text=True, timeout=60)  # noqa: S607 - bash is looked up in PATH, as by a user
    np.testing.assert_array_equal(np.asarray(json.loads(command.stdout)["pooled_output"], np.float32), expected)
    (tmp_path / "program.py").write_text(
        copied("Python") + f"\nimport numpy\nnumpy.save({str(tmp_path / 'v.npy')!r}, vectors)"
    )
    completed = subprocess.run(
        [sys.executable, tmp_path / "program.py"], check=True, capture_output=True, text=True, timeout=60
    )
    assert completed.stdout.strip() == f"({len(lines)}, {len(expected[0])})"
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), expected)

    page.get_by_role("tab", name="openai-python").click()
    if pairs:
        expect(page.locator("#snippet")).to_contain_text("does not support text pairs")
        expect(page.locator("#copy")).to_be_hidden()
        return
    # tests/suites/clients tests the library itself; here a stub sends its request.
    program = copied("openai-python").replace("from openai import OpenAI", _OPENAI_STUB)
    completed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert completed.stdout.strip() == f"{len(lines)} {len(expected[0])}"


_OPENAI_STUB = """
import httpx
from types import SimpleNamespace as Namespace
def OpenAI(base_url, api_key):
    def create(**body):
        response = httpx.post(f"{base_url}/embeddings", json=body).raise_for_status().json()
        return Namespace(data=[Namespace(**item) for item in response["data"]])
    return Namespace(embeddings=Namespace(create=create))
"""


def test_texts_are_not_interpreted_as_markup(server: Any, open_page: OpenPage, encode_texts: EncodeTexts) -> None:
    """HTML in a text is displayed as text."""
    page = open_page(server.address)
    encode_texts(page, *SPECIAL_CHARACTERS)
    for index in range(len(SPECIAL_CHARACTERS)):
        page.locator(f"#text-{index}").click()
        expect(page.locator("#detail .full-text")).to_have_text(SPECIAL_CHARACTERS[index].strip())
    assert page.locator("main img").count() == 0
    assert page.evaluate("document.body.dataset.injected") is None


def test_single_text_has_no_neighbors(server: Any, open_page: OpenPage, encode_texts: EncodeTexts) -> None:
    """The projection has one point, and a hint instead of the explained variance."""
    page = open_page(server.address)
    encode_texts(page, "alone")
    assert page.locator("#map circle").count() == 1
    assert page.locator("table.neighbors").count() == 0
    expect(page.locator("#map > p.hint")).to_contain_text("at least two texts")


def test_equal_texts_have_no_variance(server: Any, open_page: OpenPage, encode_texts: EncodeTexts) -> None:
    """A hint replaces the explained variance, and no value is NaN."""
    page = open_page(server.address)
    encode_texts(page, "same", "same", "same")
    expect(page.locator("#map > p.hint")).to_contain_text("All vectors are equal")
    assert "NaN" not in page.locator("main").inner_text()


def test_many_texts_are_shown_as_heat_map(server: Any, open_page: OpenPage, encode_texts: EncodeTexts) -> None:
    """The keyboard moves the cursor of the heat map and selects texts; a table shows the same values."""
    texts = [f"text number {index} of some" for index in range(60)]
    page = open_page(server.address)
    encode_texts(page, *texts)
    vectors = encode_directly(server, texts)
    cosines = vectors @ vectors.T
    page.locator("canvas.heatmap").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    expect(page.locator("#similarity-value b")).to_have_text(f"{cosines[2, 1]:.3f}")
    page.keyboard.press("Enter")
    expect(page.locator("#detail-title")).to_have_text("Text 3")
    shown = np.array([row[1:] for row in table_rows(expand_table(page.locator("section.similarity")))], float)
    np.testing.assert_allclose(shown, cosines, atol=0.0051)
    assert page.locator("#map circle").count() == 60


def test_number_of_texts_is_limited_to_300(server: Any, open_page: OpenPage, encode_texts: EncodeTexts) -> None:
    """The page reports more texts without sending a request."""
    page = open_page(server.address)
    encode_texts(page, *(f"text {index}" for index in range(300)))
    assert page.locator("#list li").count() == 300
    page.locator("#texts").fill("\n".join(f"text {index}" for index in range(301)))
    page.locator("#encode").click()
    expect(page.locator("#notice")).to_contain_text("301 texts exceed the maximum of 300")


def test_selection_is_synchronized_across_views(page: Page) -> None:
    """List, matrix, map and neighbors select the same text."""
    page.locator("#map circle[data-index='3']").click()
    expect(page.locator("#detail-title")).to_have_text("Text 4")
    expect(page.locator("#text-3")).to_have_attribute("aria-selected", "true")
    expect(page.locator("table.matrix tr.selected th")).to_contain_text("4")
    page.locator("table.neighbors button.name").first.click()
    expect(page.locator("#detail-title")).to_have_text("Text 3")
    expect(page.locator("#detail-title")).to_be_focused()
    page.locator("table.matrix tbody tr").nth(5).locator("td").first.click()
    expect(page.locator("#detail-title")).to_have_text("Text 6")


def test_metrics_update_live(page: Page, server: Any) -> None:
    """Requests of other clients change throughput, latency and batch metrics."""
    for _ in range(5):
        server.post("v1/encode", texts=TEXTS)
    expect(page.locator("#metric-throughput-note")).to_contain_text("requests/s")
    expect(page.locator("#metric-throughput")).to_have_text(re.compile(r"^[1-9][\d,.]* tokens/s$"))
    expect(page.locator("#metric-batch-fill-note")).to_contain_text(re.compile(r"\d batch"))
    phases = page.locator("table.latency tbody tr")
    expect(phases).to_have_count(4)
    expect(page.locator("table.latency td").first).to_have_text(re.compile(r"^[\d.]+ m?s$"))
    expect(page.locator("#metric-process")).to_contain_text("MiB")
    expect(page.locator(".sparkline svg")).to_have_attribute("aria-label", re.compile("Tokens per second"))


def test_hidden_page_sends_no_requests(server: Any, open_page: OpenPage) -> None:
    """Polling stops while the document is hidden."""
    page = open_page(server.address)
    page.evaluate("Object.defineProperty(document, 'hidden', {get: () => true})")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_timeout(1000)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.wait_for_timeout(3000)
    assert requests == []

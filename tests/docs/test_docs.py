"""The documentation holds: what it tells to type works, the reference is as the code, links lead somewhere."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "model/bundled").rglob("*.md")])
GENERATE = runpy.run_path(str(DOCS / "reference/generate.py"))
# Pages whose snippets are run here; each of the others has a test of its own, named beside it.
TYPED = ["tutorial.md", "presets.md", "packing.md", "bulk.md"]
ELSEWHERE = {
    "finetune.md": "tests/docs/test_finetune.py",
    "clients.md": "tests/suites/clients/test_snippets.py",
    "docker.md": "tests/suites/image/test_image.py",
    "kubernetes.md": "tests/suites/deploy_tools/test_manifests.py",
}

Typed = Callable[[str, str, Path], str]


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", GENERATE["PAGES"])
def test_the_reference_is_as_the_code(page: str) -> None:
    """`docs/reference/generate.py` would write what is there: no setting, metric, error or command is missing."""
    assert (DOCS / "reference" / page).read_text("utf-8") == GENERATE["text"](page)


@pytest.mark.parametrize(("page", "command"), [(page, each) for page in TYPED for each in blocks(page, "sh")])
def test_every_command_succeeds(page: str, command: str, served: str, run_shell: Typed, tmp_path: Path) -> None:
    """As its reader would type it, beside a running service."""
    assert run_shell(command.strip(), served, tmp_path), page


@pytest.mark.parametrize(("page", "program"), [(page, each) for page in TYPED for each in blocks(page, "python")])
def test_every_program_prints_what_it_says(
    page: str, program: str, served: str, run_program: Callable[[str, str, Path], None], tmp_path: Path
) -> None:
    """In the comment behind its `print`."""
    assert "print(" in program, page
    run_program(program, served, tmp_path)


def test_the_search_finds_what_the_tutorial_says(served: str, run_shell: Typed, tmp_path: Path) -> None:
    """The nearest paragraph stands in the page that it names."""
    (command,) = [each for each in blocks("tutorial.md", "sh") if "search.py" in each]
    assert "finetune.md: " in run_shell(command.strip(), served, tmp_path).splitlines()[0]


def test_no_snippet_is_left_out() -> None:
    """A page with something to type is tried here, or where the table above says."""
    found = {page.name for page in DOCS.glob("*.md") if blocks(page.name, "sh") or blocks(page.name, "python")}
    assert found == {*TYPED, *ELSEWHERE}
    for test in ELSEWHERE.values():
        assert (ROOT / test).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """To a file that is there, and to a heading that it has."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        file, _, heading = link.partition("#")
        target = (page.parent / file) if file else page
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", each).strip().lower().replace(" ", "-") for each in headings}
            assert heading in slugs, link


def test_paths_in_reliability_page_exist() -> None:
    """Each guarantee names a test file of this repository."""
    paths = re.findall(r"`(tests/[^`]+)`", (DOCS / "RELIABILITY.md").read_text("utf-8"))
    assert paths
    assert [path for path in paths if not (ROOT / path).is_file()] == []

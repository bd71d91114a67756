"""The documentation is correct: commands and programs run, the reference is current, and links are valid."""

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
# Pages whose snippets run here; ELSEWHERE lists the tests of other pages.
TESTED_HERE = ["tutorial.md", "presets.md", "packing.md", "bulk.md"]
ELSEWHERE = {
    "finetune.md": "tests/docs/test_finetune.py",
    "clients.md": "tests/suites/clients/test_snippets.py",
    "docker.md": "tests/suites/image/test_image.py",
    "kubernetes.md": "tests/suites/deploy_tools/test_manifests.py",
}

RunShell = Callable[[str, str, Path], str]


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", GENERATE["PAGES"])
def test_reference_is_current(page: str) -> None:
    """The pages equal the output of `docs/reference/generate.py`."""
    assert (DOCS / "reference" / page).read_text("utf-8") == GENERATE["text"](page)


@pytest.mark.parametrize(("page", "command"), [(page, item) for page in TESTED_HERE for item in blocks(page, "sh")])
def test_every_command_succeeds(page: str, command: str, served: str, run_shell: RunShell, tmp_path: Path) -> None:
    """The command succeeds with a running service."""
    assert run_shell(command.strip(), served, tmp_path), page


@pytest.mark.parametrize(("page", "program"), [(page, item) for page in TESTED_HERE for item in blocks(page, "python")])
def test_every_program_prints_its_comment(
    page: str, program: str, served: str, run_program: Callable[[str, str, Path], None], tmp_path: Path
) -> None:
    """The output equals the comment after `print`."""
    assert "print(" in program, page
    run_program(program, served, tmp_path)


def test_search_returns_the_paragraph_of_the_tutorial(served: str, run_shell: RunShell, tmp_path: Path) -> None:
    """The nearest paragraph is from the documented page."""
    (command,) = [item for item in blocks("tutorial.md", "sh") if "search.py" in item]
    assert "finetune.md: " in run_shell(command.strip(), served, tmp_path).splitlines()[0]


def test_every_page_with_snippets_is_tested() -> None:
    """A page with commands or programs is tested here or in the listed file."""
    pages = {page.name for page in DOCS.glob("*.md") if blocks(page.name, "sh") or blocks(page.name, "python")}
    assert pages == {*TESTED_HERE, *ELSEWHERE}
    for test in ELSEWHERE.values():
        assert (ROOT / test).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_are_valid(page: Path) -> None:
    """Files and headings of links exist."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        file, _, heading = link.partition("#")
        target = (page.parent / file) if file else page
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", item).strip().lower().replace(" ", "-") for item in headings}
            assert heading in slugs, link


def test_paths_in_reliability_page_exist() -> None:
    """Each guarantee names a test file of this repository."""
    paths = re.findall(r"`(tests/[^`]+)`", (DOCS / "RELIABILITY.md").read_text("utf-8"))
    assert paths
    assert [path for path in paths if not (ROOT / path).is_file()] == []

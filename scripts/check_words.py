"""Report words of prose that have a standard name, and British spellings; part of `make lint`.

Prose is Markdown, HTML, and the comments and strings of Python, JavaScript, YAML and shell files. The words are in
`scripts/rejected_words.txt`, one regular expression and its replacement per line.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORDS = Path(__file__).with_name("rejected_words.txt")
# Texts that are data, and what others wrote.
EXCLUDED = (
    "distill/data/",
    "model/bundled/",
    "tests/golden/",
    "requirements/",
    "scripts/rejected_words.txt",
    "service/bench/texts.py",
)
COMMENT = {".js": "//", ".yml": "#", ".yaml": "#", ".sh": "#", ".toml": "#", ".css": "*"}
PROSE = {".md", ".html"}


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file that are prose, with their numbers."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type in (tokenize.COMMENT, tokenize.STRING):
                for offset, line in enumerate(token.string.splitlines()):
                    yield token.start[0] + offset, line
        return
    mark = COMMENT.get(path.suffix, "")
    for number, line in enumerate(text.splitlines(), start=1):
        if path.suffix in PROSE or (mark and mark in line):
            yield number, line


def main() -> int:
    """Print every rejected word with its place and a replacement; return the exit status."""
    rules: list[tuple[re.Pattern[str], str]] = []
    for line in WORDS.read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            expression, _, replacement = line.partition("\t")
            rules.append((re.compile(rf"\b(?:{expression})\b", re.IGNORECASE), replacement.strip()))
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    count = 0
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if name.startswith(EXCLUDED) or path.suffix not in {".py", *PROSE, *COMMENT} or not path.is_file():
            continue
        for number, line in prose(path):
            for pattern, replacement in rules:
                for match in pattern.finditer(line):
                    print(f"{name}:{number}: {match.group(0)!r}: {replacement}")
                    count += 1
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())

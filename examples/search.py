"""Find the paragraphs of a folder that are nearest to a question: `search.py FOLDER QUESTION`."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from service.client import Client

URL = "http://127.0.0.1:8000"
BATCH_TEXTS = 256
MIN_WORDS = 6
CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def paragraphs(folder: Path) -> list[tuple[Path, str]]:
    """Return the paragraphs of all text files in a folder, without code, each with its file."""
    files = sorted(file for file in folder.rglob("*") if file.suffix in (".md", ".txt"))
    prose = ((file, CODE.sub("", file.read_text("utf-8"))) for file in files)
    parts = ((file, part.split()) for file, text in prose for part in text.split("\n\n"))
    return [(file, " ".join(words)) for file, words in parts if len(words) >= MIN_WORDS]


def main(folder: Path, question: str) -> None:
    """Embed every paragraph and the question, and print the nearest paragraphs."""
    passages = paragraphs(folder)
    with Client(os.environ.get("SERVICE_URL", URL)) as client:

        def embed(texts: list[str]) -> Any:
            return client.encode(texts, outputs=["pooled_output"], normalize=True, truncate=True).pooled_output

        texts = [text for _, text in passages]
        vectors = np.concatenate([embed(texts[i : i + BATCH_TEXTS]) for i in range(0, len(texts), BATCH_TEXTS)])
        scores = vectors @ embed([question])[0]
    for i in np.argsort(-scores)[:3]:
        file, text = passages[i]
        print(f"{scores[i]:.2f}  {file.relative_to(folder)}: {text[:80]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

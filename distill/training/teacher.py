"""The teacher, all-MiniLM-L6-v2 from a package of a public registry, and its stored vectors.

Its embedding is the mean of the last hidden states over the tokens, normalized to length 1. Texts are truncated to 512
pieces, the number of the network's positions.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from distill.corpus.groups import is_sampled, read_groups
from distill.corpus.sources import unseen_names
from distill.corpus.teacher_package import package_directory
from distill.recipe import Recipe

DIMENSIONS = 384
TEACHER_VECTORS = "teacher_vectors"

_MAX_PIECES = 512
_BATCH_PIECES = 4096

Vectors = npt.NDArray[np.float32]


class Teacher:
    """Embeds texts.

    Args:
        directory: The Hugging Face model; the model of the installed package by default.
        precision: Precision of its matrix products: `bf16` has a cosine of 0.99998 to `f32` and twice its speed.
    """

    def __init__(self, directory: Path | None = None, precision: str = "bf16") -> None:
        # The model is on disk; the libraries must not access the network.
        os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
        import openvino  # noqa: PLC0415 - slow to import, and only this class uses it
        from tokenizers import Tokenizer  # noqa: PLC0415

        model_directory = directory or package_directory()
        self._tokenizer = Tokenizer.from_file(str(model_directory / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(_MAX_PIECES)
        hints = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        self._run = openvino.Core().compile_model(_converted(model_directory), "CPU", hints)

    def embed(self, texts: Sequence[str], progress: str | None = None) -> Vectors:
        """Return one vector of length 1 for each text.

        Args:
            texts: Any number of texts.
            progress: Label of the progress bar; no bar if None.

        Returns:
            `[len(texts), 384]` float32.
        """
        pieces = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        vectors = np.empty((len(texts), DIMENSIONS), np.float32)
        with tqdm(total=len(texts), desc=progress, unit="text", disable=progress is None) as bar:
            for indices in _batches([len(piece) for piece in pieces]):
                max_length = max(len(pieces[index]) for index in indices)
                ids = np.zeros((len(indices), max_length), np.int64)
                mask = np.zeros_like(ids)
                for row, index in enumerate(indices):
                    ids[row, : len(pieces[index])] = pieces[index]
                    mask[row, : len(pieces[index])] = 1
                means = self._run((ids, mask))[0]
                vectors[indices] = means / np.linalg.norm(means, axis=1, keepdims=True)
                bar.update(len(indices))
        return vectors


def embed_teacher(recipe: Recipe, work: Path, share: float = 1.0, complete: Collection[str] = ()) -> None:
    """Write `teacher_vectors/NAME.npy` for every `corpus/NAME.tsv`; existing vectors are kept.

    Each file holds float16 `[texts, 384]`. The vectors of texts outside the sample are 0, and training skips these
    texts; a later call with a larger share embeds the missing ones.

    Args:
        recipe: Determines the held-out groups, which are always embedded.
        work: The recipe's working directory.
        share: Share of each file's groups to embed.
        complete: Names of files to embed completely, regardless of `share`.
    """
    directory = work / TEACHER_VECTORS
    directory.mkdir(parents=True, exist_ok=True)
    unseen = unseen_names()
    teacher: Teacher | None = None
    for file in sorted((work / "corpus").glob("*.tsv")):
        name = file.stem
        groups = read_groups(file)
        texts = [text for group in groups for text in group]
        sampled = np.repeat(
            [name in unseen or name in complete or is_sampled(group, recipe, share) for group in groups],
            [len(group) for group in groups],
        )
        vectors = np.zeros((len(texts), DIMENSIONS), np.float16)
        if (directory / f"{name}.npy").exists() and len(existing := teacher_vectors(work, name)) == len(texts):
            vectors[:] = existing
        missing = np.flatnonzero(sampled & ~vectors.any(axis=1))
        if not missing.size:
            continue
        teacher = teacher or Teacher()
        vectors[missing] = teacher.embed([texts[row] for row in missing], progress=name)
        temporary = directory / f"{name}.tmp.npy"
        np.save(temporary, vectors)
        temporary.replace(directory / f"{name}.npy")


def teacher_vectors(work: Path, name: str) -> npt.NDArray[np.float16]:
    """Return the teacher's vectors of a corpus file's texts, memory-mapped, `[texts, 384]` float16.

    The vector of a text that was not embedded is 0.
    """
    vectors: npt.NDArray[np.float16] = np.load(work / TEACHER_VECTORS / f"{name}.npy", mmap_mode="r")
    return vectors


def _converted(model_directory: Path) -> Any:
    """Return the model with its pooling as one OpenVINO graph."""
    import openvino  # noqa: PLC0415
    import torch  # noqa: PLC0415
    from transformers import AutoModel  # noqa: PLC0415

    class MeanOfStates(torch.nn.Module):  # type: ignore[misc] # torch is Any where it is not installed
        def __init__(self) -> None:
            super().__init__()
            self.encoder = AutoModel.from_pretrained(model_directory, dtype=torch.float32).eval()

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            weights = mask[..., None].float()
            return (states * weights).sum(1) / weights.sum(1)

    example = (torch.ones(2, 8, dtype=torch.long), torch.ones(2, 8, dtype=torch.long))
    return openvino.convert_model(MeanOfStates(), example_input=example)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield batches of indices of texts of similar lengths, to reduce padding."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and lengths[index] * (len(batch) + 1) > _BATCH_PIECES:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch

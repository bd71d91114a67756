"""Fine-tune a preset on labeled pairs of texts, and save the result as a preset.

    .venv/bin/python examples/finetune.py pairs.tsv --out my_fnet

The file has the columns text_a, text_b and score, from 0 (unrelated) to 1 (same meaning). See docs/finetune.md.
"""

from __future__ import annotations

import csv
import json
import random
import re
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from model import FNetBackbone, FNetTokenizer, load_preset

# isort: split
import keras  # after `model`, which selects the Keras backend

TOKENIZER_FILES = ("tokenizer.json", "preprocessor.json", "assets/tokenizer/vocabulary.spm")


@dataclass(frozen=True, slots=True)
class Pair:
    """The token ids of two texts, the shorter text first, and their similarity."""

    first: list[int]
    second: list[int]
    score: float


def read_pairs(file: Path, tokenizer: FNetTokenizer, longest: int) -> list[Pair]:
    """Read and tokenize a .csv or .tsv file, and truncate texts to `longest` tokens."""
    dialect: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if file.suffix == ".tsv" else {}
    pairs = []
    with file.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(lines, **dialect)
        for row in rows:
            try:
                score = float(row["score"])
                ids = [tokenizer.encode_truncated(row[name], None, longest).token_ids for name in ("text_a", "text_b")]
            except (KeyError, TypeError, ValueError):
                score = np.nan
            if not 0 <= score <= 1:
                raise click.ClickException(f"{file}:{rows.line_num}: expected text_a, text_b and a score from 0 to 1")
            # The cosine is symmetric, and sorted pairs have half as many combinations of lengths.
            first, second = sorted(ids, key=len)
            pairs.append(Pair(first, second, score))
    return pairs


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of pairs whose first texts have equal lengths, and whose second texts do, so that no padding is needed.

    A group of such pairs has at most two batch sizes: full batches and one remainder. The shapes are the same in every
    epoch, so each is compiled once, while the pairs are shuffled.
    """

    def __init__(self, pairs: Sequence[Pair], size: int) -> None:
        super().__init__()
        groups = defaultdict(list)
        for pair in pairs:
            groups[len(pair.first), len(pair.second)].append(pair)
        self._groups, self._size = list(groups.values()), size
        self.on_epoch_end()

    @property
    def shapes(self) -> int:
        """Number of different batch shapes."""
        return len({(len(batch), len(batch[0].first), len(batch[0].second)) for batch in self._batches})

    def on_epoch_end(self) -> None:
        """Shuffle the pairs of each group; `fit` shuffles the order of the batches."""
        self._batches = []
        for group in self._groups:
            random.shuffle(group)
            self._batches += [group[start : start + self._size] for start in range(0, len(group), self._size)]

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Any]:
        batch = self._batches[index]
        ids = {side: np.array([getattr(pair, side) for pair in batch], np.int32) for side in ("first", "second")}
        return ids, np.array([[pair.score] for pair in batch], np.float32)


def similarity_model(backbone: FNetBackbone) -> Any:
    """Return a model that maps two batches of token ids to the cosines of their embeddings."""
    ids = {side: keras.Input((None,), dtype="int32", name=side) for side in ("first", "second")}
    inputs = [{"token_ids": batch, "segment_ids": keras.ops.zeros_like(batch)} for batch in ids.values()]
    embeddings = [backbone(batch)["pooled_output"] for batch in inputs]
    return keras.Model(ids, keras.layers.Dot(axes=1, normalize=True, name="cosine")(embeddings))


def save(backbone: FNetBackbone, source: Path, out: Path, description: str) -> None:
    """Write a preset directory that the service and keras-hub can load."""
    backbone.save_to_preset(out)  # config.json, metadata.json, model.weights.h5
    for file in TOKENIZER_FILES:  # the vocabulary does not change
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, out / file)
    metadata = json.loads((out / "metadata.json").read_text())
    metadata["fnet_service"] = {
        "name": re.sub(r"[^A-Za-z0-9._-]+", "-", out.resolve().name).strip("-._")[:100] or "preset",
        "version": "1",
        "trained": True,
        "padding": "none",
        "pooling": "pooled",
        "description": description,
    }
    (out / "metadata.json").write_text(json.dumps(metadata, indent=4) + "\n")
    load_preset(str(out))  # raises if a file is missing or invalid


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--preset", default="fnet_mini_en", show_default=True, help="Preset to start from.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Directory to create.")
@click.option("--epochs", default=3, show_default=True, type=click.IntRange(1), help="Passes over the pairs.")
@click.option("--learning-rate", default=5e-5, show_default=True, help="Learning rate of Adam.")
@click.option("--batch", default=16, show_default=True, type=click.IntRange(1), help="Maximum pairs per step.")
@click.option("--held-out", default=0.1, show_default=True, type=click.FloatRange(0, 0.9), help="Held-out share.")
@click.option("--seed", default=0, show_default=True, help="Random seed.")
def main(
    *, file: Path, preset: str, out: Path, epochs: int, learning_rate: float, batch: int, held_out: float, seed: int
) -> None:
    """Fine-tune PRESET on the labeled pairs of FILE, and save it to OUT."""
    if out.exists():
        raise click.BadParameter(f"{out} already exists", param_hint="--out")
    keras.utils.set_random_seed(seed)
    source = load_preset(preset)
    if missing := [name for name in TOKENIZER_FILES if not (source.directory / name).is_file()]:
        raise click.BadParameter(f"{preset} lacks {', '.join(missing)}", param_hint="--preset")
    pairs = read_pairs(file, FNetTokenizer.from_preset(source), source.architecture.max_sequence_length)
    random.shuffle(pairs)
    split = round(held_out * len(pairs))
    held_out_pairs, training_pairs = pairs[:split], pairs[split:]
    if not training_pairs:
        raise click.ClickException(f"{file}: contains too few pairs")
    backbone = FNetBackbone.from_preset(preset)
    model = similarity_model(backbone)
    model.compile(keras.optimizers.Adam(learning_rate), loss="mean_squared_error")
    training, validation = Batches(training_pairs, batch), Batches(held_out_pairs, batch)
    count = len(training_pairs)
    click.echo(f"{count} pairs in {training.shapes} shapes. Each shape compiles once, in the first epoch.")
    model.fit(training, validation_data=validation if held_out_pairs else None, epochs=epochs)
    save(backbone, source.directory, out, f"{source.name}, fine-tuned on {count} pairs of {file.name}.")
    click.echo(f"{out} is ready: fnet-service serve --preset {out}")


if __name__ == "__main__":
    main()

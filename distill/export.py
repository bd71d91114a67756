"""The export: a trained student becomes a preset directory, the one that keras-hub writes and the service loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from distill.recipe import Recipe
from distill.train import CHECKPOINT, PIECE_ROWS
from distill.vocabulary import VOCABULARY
from model.backbone import FNetBackbone
from model.presets import keras_config
from model.presets.preset import VOCABULARY_FILE, read_preset
from model.presets.weights import WEIGHTS_FILE, write_weights
from model.verify import fingerprint


def export(recipe: Recipe, work: Path) -> Path:
    """Write the preset `preset/NAME` from the last checkpoint and the vocabulary, and return its directory.

    Where training went on from a preset, the weights are the mean of those before it, with the rows of new and rare
    words as they began, and those after (Wortsman et al. 2022, "Model soups"): a short run learns what it is shown and
    forgets a little of the rest, and the mean does not.

    The weights are kept as float16 with their last bits 0, which compress to little more than a quarter of float32's
    size; a row's cosine to the unrounded one is about 0.9997.

    Raises:
        FileNotFoundError: Nothing was trained yet.
        ValueError: A weight is no finite float16.
    """
    state = torch.load(work / CHECKPOINT, weights_only=True)
    # Of a run from scratch there is nothing before.
    ends = {name: [value, state["before"].get(name, value)] for name, value in state["variables"].items()}
    weights = {
        name: shortened(
            torch.stack(both).mean(dim=0).numpy(), recipe.token_bits if name == PIECE_ROWS else recipe.kept_bits
        )
        for name, both in ends.items()
    }
    segments = weights["segment_embedding/embeddings"]
    # Only segment 0 is trained: a pair is read as one text.
    segments[1:] = segments[0]
    directory = work / "preset" / recipe.name
    shutil.rmtree(directory, ignore_errors=True)
    (directory / VOCABULARY_FILE).parent.mkdir(parents=True)
    backbone = FNetBackbone.from_architecture(recipe.architecture, name="f_net_backbone", dtype="float32")
    backbone.save_to_preset(directory)
    write_weights(directory / WEIGHTS_FILE, weights, np.float16, compressed=True)
    shutil.copy(work / VOCABULARY, directory / VOCABULARY_FILE)
    keras_config.write(directory / "tokenizer.json", keras_config.tokenizer())
    preprocessor = keras_config.preprocessor(recipe.architecture.max_sequence_length)
    keras_config.write(directory / "preprocessor.json", preprocessor)
    metadata = json.loads((directory / "metadata.json").read_text())
    metadata["fnet_service"] = {
        "name": recipe.name,
        "version": recipe.version,
        "trained": True,
        "padding": "none",
        "pooling": "pooled",
        "description": f"{recipe.architecture.num_layers}-layer FNet sentence encoder distilled from all-MiniLM-L6-v2; "
        "English, case-folded.",
    }
    keras_config.write(directory / "metadata.json", metadata)
    # What `fnet-service preset verify` holds it to.
    metadata["fnet_service"] |= fingerprint(directory)
    keras_config.write(directory / "metadata.json", metadata)
    read_preset(directory)
    return directory


def shortened(values: npt.NDArray[np.float32], bits: int) -> npt.NDArray[np.float16]:
    """Return values rounded to float16, and those to `bits` of fraction, at most 9.

    Raises:
        ValueError: A value is not finite, or not in float16.
    """
    dropped = 10 - bits
    half, kept = np.uint16(1 << (dropped - 1)), np.uint16(0xFFFF >> dropped << dropped)
    # A carry into the exponent is what rounding up means there.
    with np.errstate(over="ignore"):
        rounded: npt.NDArray[np.float16] = ((values.astype(np.float16).view(np.uint16) + half) & kept).view(np.float16)
    if not (np.isfinite(values) & np.isfinite(rounded)).all():
        raise ValueError("a weight is not finite, or too large for float16: training has diverged")
    return rounded

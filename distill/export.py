"""The export: write a trained student as a preset directory in the layout of keras-hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from distill.recipe import Recipe
from distill.training.train import CHECKPOINT, PIECE_EMBEDDINGS
from distill.training.vocabulary import VOCABULARY
from model.backbone import FNetBackbone
from model.presets import keras_config
from model.presets.preset import VOCABULARY_FILE, read_preset
from model.presets.weights import WEIGHTS_FILE, write_weights
from model.verify import fingerprint

_FLOAT16_FRACTION_BITS = 10


def export(recipe: Recipe, work: Path) -> Path:
    """Write the preset `preset/NAME` from the last checkpoint and the vocabulary, and return its directory.

    If the training continued from a preset, the weights are the average of the initial weights (with the predicted
    rows of new and rare words) and the final ones (Wortsman et al. 2022, "Model soups"): a short run forgets a part of
    what the preset knew, and the average does not.

    The weights are stored as float16 with trailing fraction bits of 0, which compress to little more than a quarter of
    the size of float32. The cosine of a rounded row to the original is about 0.9997.

    Args:
        recipe: Gives the names, the architecture and the fraction bits.
        work: The recipe's working directory, with the checkpoint and the vocabulary.

    Returns:
        The preset's directory.

    Raises:
        FileNotFoundError: The checkpoint does not exist.
        ValueError: A weight is not a finite float16.
    """
    state = torch.load(work / CHECKPOINT, weights_only=True)
    # A run from scratch stores no initial variables.
    endpoints = {name: [value, state["initial"].get(name, value)] for name, value in state["variables"].items()}
    weights = {
        name: round_to_bits(
            torch.stack(values).mean(dim=0).numpy(),
            recipe.token_fraction_bits if name == PIECE_EMBEDDINGS else recipe.other_fraction_bits,
        )
        for name, values in endpoints.items()
    }
    segments = weights["segment_embedding/embeddings"]
    # Only segment 0 is trained: a pair is embedded as one text.
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
    # `fnet-service preset verify` compares with this fingerprint.
    metadata["fnet_service"] |= fingerprint(directory)
    keras_config.write(directory / "metadata.json", metadata)
    read_preset(directory)
    return directory


def round_to_bits(values: npt.NDArray[np.float32], bits: int) -> npt.NDArray[np.float16]:
    """Return values rounded to float16 with `bits` fraction bits.

    Args:
        values: Any shape, float32.
        bits: Number of fraction bits, at most 9.

    Returns:
        The rounded values, in the shape of `values`.

    Raises:
        ValueError: A value is not finite or exceeds the range of float16.
    """
    dropped_bits = _FLOAT16_FRACTION_BITS - bits
    half, mask = np.uint16(1 << (dropped_bits - 1)), np.uint16(0xFFFF >> dropped_bits << dropped_bits)
    # A carry into the exponent is a correct rounding up.
    with np.errstate(over="ignore"):
        rounded: npt.NDArray[np.float16] = ((values.astype(np.float16).view(np.uint16) + half) & mask).view(np.float16)
    if not (np.isfinite(values) & np.isfinite(rounded)).all():
        raise ValueError("a weight is not finite or exceeds the range of float16; the training has diverged")
    return rounded

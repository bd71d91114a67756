"""The export: a trained student becomes a preset directory, the one that keras-hub writes and the service loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch

from model import keras_documents
from model.backbone import FNetBackbone
from model.checkpoints import WEIGHTS_FILE, write_weights
from model.distill.recipe import Recipe
from model.distill.train import CHECKPOINT
from model.distill.vocabulary import VOCABULARY
from model.presets import VOCABULARY_FILE, read_preset
from model.verify import fingerprint


def export(recipe: Recipe, work: Path) -> Path:
    """Write the preset `preset/NAME` from the last checkpoint and the vocabulary, and return its directory.

    The weights are kept as float16, which changes a vector by less than one part in a thousand and halves the file.

    Raises:
        FileNotFoundError: Nothing was trained yet.
    """
    state = torch.load(work / CHECKPOINT, weights_only=True)
    weights = {name: value.numpy() for name, value in state["variables"].items()}
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
    keras_documents.write(directory / "tokenizer.json", keras_documents.tokenizer())
    preprocessor = keras_documents.preprocessor(recipe.architecture.max_sequence_length)
    keras_documents.write(directory / "preprocessor.json", preprocessor)
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
    keras_documents.write(directory / "metadata.json", metadata)
    # What `fnet-service preset verify` holds it to.
    metadata["fnet_service"] |= fingerprint(directory)
    keras_documents.write(directory / "metadata.json", metadata)
    read_preset(directory)
    return directory

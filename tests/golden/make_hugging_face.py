"""Write a tiny checkpoint of transformers and its outputs next to this script.

The script needs transformers and torch: `.venv-peers/bin/python tests/golden/make_hugging_face.py [DIRECTORY]`. The
vocabulary is that of the golden preset `even`.

`checkpoint` holds `config.json`, the weights as `model.safetensors` and as `pytorch_model.bin`, and `tokenizer.json`.
`outputs.npz` holds inputs and outputs, named `length/array`. `tokens.json` holds texts and their ids without special
tokens.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

LENGTHS = (1, 2, 7, 32)
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "token",
    "",
    "  two  spaces  ",
    "caf\u00e9 cr\u00e8me, na\u00efve",
    "\ufb01ne \u2460 \u00bd \u2122 \uff26\uff35\uff2c\uff2c width",
    "\U0001f98a \u5085\u91cc\u53f6 unknown",
    "In 1822 Joseph Fourier wrote about the flow of heat through solid bodies; \u00a35.",
]


def main(out: Path) -> None:
    """Write all files to a directory, and replace existing ones."""
    shutil.rmtree(out, ignore_errors=True)
    directory = out / "checkpoint"
    directory.mkdir(parents=True)
    network = randomized(
        transformers.FNetForPreTraining(
            transformers.FNetConfig(
                vocab_size=260,
                hidden_size=16,
                num_hidden_layers=2,
                intermediate_size=24,
                max_position_embeddings=32,
                tpu_short_seq_length=32,
            )
        )
    )
    network.save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    # Older releases saved position ids with the weights, and mixed parameters and tensors.
    state = dict(network.state_dict()) | {"fnet.embeddings.position_ids": torch.arange(32)[None]}
    state["fnet.pooler.dense.bias"] = torch.nn.Parameter(state["fnet.pooler.dense.bias"])
    # A view that is not contiguous.
    state["fnet.pooler.dense.weight"] = state["fnet.pooler.dense.weight"].T.contiguous().T
    torch.save(state, directory / "pytorch_model.bin")

    arrays: dict[str, Any] = {}
    random = np.random.default_rng(12)
    for length in LENGTHS:
        ids, segments = random.integers(0, 260, (1, length)), random.integers(0, 4, (1, length))
        with torch.no_grad():
            outputs = network.fnet(input_ids=torch.from_numpy(ids), token_type_ids=torch.from_numpy(segments))
        arrays |= {
            f"{length}/token_ids": ids[0].astype(np.int32),
            f"{length}/segment_ids": segments[0].astype(np.int32),
            f"{length}/sequence_output": outputs.last_hidden_state[0].numpy(),
            f"{length}/pooled_output": outputs.pooler_output[0].numpy(),
        }
    np.savez_compressed(out / "outputs.npz", **arrays)

    tokenizer = tokenizer_of(Path(__file__).parent / "even" / "assets" / "tokenizer" / "vocabulary.spm")
    tokenizer.save_pretrained(directory)
    cases = [{"text": text, "token_ids": tokenizer(text, add_special_tokens=False).input_ids} for text in TEXTS]
    (out / "tokens.json").write_text("[\n" + ",\n".join(map(json.dumps, cases)) + "\n]\n")


def randomized(network: Any) -> Any:
    """Set random weights that differ from the initial ones in every variable."""
    generator = torch.Generator().manual_seed(2105)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            scale = parameter.shape[1] ** -0.5 if parameter.ndim == 2 and "embeddings." not in name else 0.3
            parameter.normal_(std=scale, generator=generator)
            if name.endswith("LayerNorm.weight"):
                parameter.add_(1)
    return network.eval()


def tokenizer_of(vocabulary: Path) -> Any:
    """Return transformers' tokenizer of a SentencePiece vocabulary, with case and accents, as in the published one."""
    with tempfile.TemporaryDirectory() as directory:
        shutil.copy(vocabulary, Path(directory) / "spiece.model")
        options = {"tokenizer_class": "FNetTokenizer", "do_lower_case": False, "keep_accents": True}
        (Path(directory) / "tokenizer_config.json").write_text(json.dumps(options))
        return transformers.FNetTokenizer.from_pretrained(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "hugging_face")

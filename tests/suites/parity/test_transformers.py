"""Comparison with transformers: its FNet checkpoints are read, with equal outputs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers

from model.architecture import Architecture
from model.backbone import FNetBackbone
from model.conversion.convert import convert
from model.conversion.hugging_face import read_hugging_face
from model.dtypes import Dtype
from model.encoder import Encoding, PackedEncoder, TokenSequence
from model.presets.hub import load_preset
from model.presets.weights import read_weights

Float32s = npt.NDArray[np.float32]

TOLERANCE = 1e-4
BFLOAT16_COSINE = 0.999

# The default FNetConfig is the published base size.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "base": {},
    "odd": {
        "vocab_size": 53,
        "hidden_size": 7,
        "num_hidden_layers": 3,
        "intermediate_size": 11,
        "max_position_embeddings": 33,
        "tpu_short_seq_length": 33,
        "type_vocab_size": 1,
    },
}
SMALL = {"vocab_size": 40, "hidden_size": 12, "num_hidden_layers": 2, "intermediate_size": 20}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A network of transformers, and its checkpoint as read by this package."""

    network: Any
    architecture: Architecture
    weights: dict[str, Float32s]


def randomized(network: Any) -> Any:
    """Set random weights that differ from the initial ones in every variable."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            scale = parameter.shape[1] ** -0.5 if parameter.ndim == 2 and "embeddings." not in name else 0.2
            parameter.normal_(std=scale, generator=generator)
            if name.endswith("LayerNorm.weight"):
                parameter.add_(1)
    return network.eval()


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    """A network and its checkpoint, which is deleted early, since base has 330 MB."""
    network = randomized(transformers.FNetModel(transformers.FNetConfig(**CONFIGURATIONS[request.param])))
    with TemporaryDirectory() as directory:
        network.save_pretrained(directory)
        architecture, weights = read_hugging_face(Path(directory))
    return Checkpoint(network, architecture, weights)


def sequences(architecture: Architecture) -> list[TokenSequence]:
    """Return random sequences of several lengths, including one token and the maximum."""
    dice = np.random.default_rng(12)
    longest = architecture.max_sequence_length
    return [
        TokenSequence(
            dice.integers(0, architecture.vocabulary_size, length).astype(np.int32),
            dice.integers(0, architecture.num_segments, length).astype(np.int32),
        )
        for length in (1, 2, 7, longest // 4, longest * 2 // 3, longest)
    ]


def expected(network: Any, tokens: TokenSequence) -> tuple[Float32s, Float32s]:
    """Return `last_hidden_state` and `pooler_output` of one sequence."""
    with torch.no_grad():
        outputs = network(
            input_ids=torch.from_numpy(tokens.token_ids[None].astype(np.int64)),
            token_type_ids=torch.from_numpy(tokens.segment_ids[None].astype(np.int64)),
        )
    return outputs.last_hidden_state[0].numpy(), outputs.pooler_output[0].numpy()


def encoded(checkpoint: Checkpoint, dtype: Dtype) -> list[Encoding]:
    """Return the packed encoder's encodings of all sequences: short ones share a row, and long ones run in chunks."""
    encoder = PackedEncoder(checkpoint.architecture, checkpoint.weights, dtype=dtype, max_batch_tokens=256)
    encoder.retain_row_lengths([32, 256])
    encoder.compile()
    return encoder.encode(sequences(checkpoint.architecture))


def test_configuration_is_read(checkpoint: Checkpoint) -> None:
    """Every size and the dropout are the checkpoint's, and all its weights but those of heads are used."""
    config, architecture = checkpoint.network.config, checkpoint.architecture
    assert architecture == Architecture(
        vocabulary_size=config.vocab_size,
        num_layers=config.num_hidden_layers,
        hidden_dim=config.hidden_size,
        intermediate_dim=config.intermediate_size,
        dropout=config.hidden_dropout_prob,
        max_sequence_length=config.max_position_embeddings,
        num_segments=config.type_vocab_size,
    )
    assert architecture.parameter_count == sum(parameter.numel() for parameter in checkpoint.network.parameters())


def test_backbone_outputs_equal_transformers(checkpoint: Checkpoint) -> None:
    """`last_hidden_state` and `pooler_output` are equal for sequences of every length."""
    backbone = FNetBackbone.from_architecture(checkpoint.architecture)
    backbone.assign_weights(checkpoint.weights)
    for tokens in sequences(checkpoint.architecture):
        actual = backbone.encode_one(*tokens)
        for ours, theirs in zip(actual, expected(checkpoint.network, tokens), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


def test_packed_encoder_outputs_equal_transformers(checkpoint: Checkpoint) -> None:
    """Outputs of sequences that share a row equal those of each sequence alone."""
    for tokens, encoding in zip(sequences(checkpoint.architecture), encoded(checkpoint, "float32"), strict=True):
        hidden, pooled = expected(checkpoint.network, tokens)
        np.testing.assert_allclose(encoding.sequence_output, hidden, rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(encoding.pooled_output, pooled, rtol=0, atol=TOLERANCE)


def test_bfloat16_keeps_every_direction(checkpoint: Checkpoint) -> None:
    """In bfloat16, all token and pooled vectors have the direction of the float32 vectors of transformers."""
    for tokens, encoding in zip(sequences(checkpoint.architecture), encoded(checkpoint, "bfloat16"), strict=True):
        hidden, pooled = expected(checkpoint.network, tokens)
        for ours, theirs in ((encoding.sequence_output, hidden), (encoding.pooled_output, pooled)):
            norms = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
            assert ((ours * theirs).sum(axis=-1) >= BFLOAT16_COSINE * norms).all()


@pytest.mark.parametrize(
    "head", ["FNetForPreTraining", "FNetForSequenceClassification", "FNetForNextSentencePrediction"]
)
def test_checkpoint_with_a_head_gives_its_encoder(head: str, tmp_path: Path) -> None:
    """A checkpoint of a model with a head is read without the head."""
    network = randomized(getattr(transformers, head)(transformers.FNetConfig(**SMALL)))
    network.save_pretrained(tmp_path)
    architecture, weights = read_hugging_face(tmp_path)
    backbone = FNetBackbone.from_architecture(architecture)
    backbone.assign_weights(weights)
    for tokens in sequences(architecture):
        for ours, theirs in zip(backbone.encode_one(*tokens), expected(network.fnet, tokens), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_checkpoints_are_read(dtype: Any, tmp_path: Path) -> None:
    """A half-precision checkpoint is converted to float32."""
    network = randomized(transformers.FNetModel(transformers.FNetConfig(**SMALL))).to(dtype)
    network.save_pretrained(tmp_path)
    _, weights = read_hugging_face(tmp_path)
    assert np.array_equal(
        weights["token_embedding/embeddings"], network.embeddings.word_embeddings.weight.float().detach().numpy()
    )
    assert np.array_equal(
        weights["layers/1/output_dense/kernel"],
        network.encoder.layer[1].output.dense.weight.float().detach().numpy().T,
    )


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_converted_checkpoint_outputs_equal_transformers(tmp_path: Path, kind: str) -> None:
    """A preset converted from either weight format has equal outputs."""
    network = randomized(transformers.FNetForPreTraining(transformers.FNetConfig(**SMALL)))
    network.save_pretrained(tmp_path / "checkpoint")
    if kind == "pytorch_model.bin":
        (tmp_path / "checkpoint" / "model.safetensors").unlink()
        torch.save(network.state_dict(), tmp_path / "checkpoint" / kind)
    convert(tmp_path / "checkpoint", tmp_path / "preset", tokenizer=False)
    preset = load_preset(str(tmp_path / "preset"))
    weights = read_weights(preset.directory, preset.architecture)
    encoder = PackedEncoder(preset.architecture, weights, max_batch_tokens=64)
    encoder.compile()
    given = sequences(preset.architecture)
    for tokens, actual in zip(given, encoder.encode(given), strict=True):
        sequence_output, pooled_output = expected(network.fnet, tokens)
        np.testing.assert_allclose(actual.sequence_output, sequence_output, rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(actual.pooled_output, pooled_output, rtol=0, atol=TOLERANCE)

"""Outputs and token ids of the golden presets equal those of keras-hub.

`tests/golden/make.py` writes the presets and documents their files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from model import FNetBackbone, FNetTokenizer, PackedEncoder
from model.dtypes import BackendName, Dtype
from model.encoder import Encoding, TokenSequence
from model.presets.hub import load_preset
from model.presets.preset import Preset
from model.presets.weights import read_weights
from model.reference import encode_one
from model.selftest import compile_and_verify
from tests.support.encoders import BACKENDS_AND_DTYPES

GOLDEN = Path(__file__).parents[1] / "golden"
NETWORKS = sorted(path.parent.name for path in GOLDEN.glob("*/expected.npz"))
FLOAT32_NETWORKS = [name for name in NETWORKS if name != "bfloat16"]
TOKENIZERS = sorted(path.parent.name for path in GOLDEN.glob("*/texts.json"))
OUTPUTS = ("sequence_output", "pooled_output")

Arrays = dict[str, npt.NDArray[Any]]


def expected(name: str) -> Iterator[Arrays]:
    """Yield inputs and outputs of a golden preset, one batch per length."""
    with np.load(GOLDEN / name / "expected.npz") as stored:
        arrays = dict(stored)
    lengths = sorted({int(key.split("/")[0]) for key in arrays})
    for length in lengths:
        prefix = f"{length}/"
        yield {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}


def computed(backbone: FNetBackbone, arrays: Arrays) -> Arrays:
    """Return the outputs of the network for a batch, as float32."""
    actual = backbone.predict_on_batch({name: arrays[name] for name in ("token_ids", "segment_ids")})
    return {name: actual[name].astype(np.float32) for name in OUTPUTS}


def packed(encoder: PackedEncoder, arrays: Arrays) -> Arrays:
    """Return the outputs of the packed encoder for a batch whose sequences share rows."""
    pairs = zip(arrays["token_ids"], arrays["segment_ids"], strict=True)
    encodings: list[Encoding] = encoder.encode([TokenSequence(ids, segments) for ids, segments in pairs])
    return {name: np.stack([getattr(encoding, name) for encoding in encodings]) for name in OUTPUTS}


def assert_close(actual: Arrays, arrays: Arrays, tolerance: float, prefix: str = "") -> None:
    """Compare values and shapes of both outputs."""
    for name in OUTPUTS:
        expected_outputs = arrays[prefix + name]
        assert actual[name].dtype == np.float32
        assert actual[name].shape == expected_outputs.shape
        np.testing.assert_allclose(actual[name], expected_outputs, rtol=0, atol=tolerance, err_msg=name)


def assert_same_direction(actual: Arrays, arrays: Arrays, min_cosine: float) -> None:
    """Compare the cosine of every vector of both outputs with a minimum."""
    for name in OUTPUTS:
        a, b = actual[name], arrays[name]
        assert a.shape == b.shape
        norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        assert ((a * b).sum(axis=-1) >= min_cosine * norms).all(), name


def texts(name: str, kind: str) -> list[dict[str, Any]]:
    """Return the cases of a golden preset: texts `tokenized`, or texts and pairs `packed`."""
    cases: list[dict[str, Any]] = json.loads((GOLDEN / name / "texts.json").read_text())[kind]
    return cases


def verified(preset: Preset, backend: BackendName, dtype: Dtype = "float32") -> PackedEncoder:
    """Return the packed encoder of a preset after its self-test."""
    weights = read_weights(preset.directory, preset.architecture)
    encoder = PackedEncoder(preset.architecture, weights, dtype=dtype, backend=backend, max_batch_tokens=16)
    compile_and_verify(encoder, lambda tokens: encode_one(preset.architecture, weights, *tokens))
    return encoder


# --- The network ---


def test_every_kind_of_preset_is_present() -> None:
    """The golden presets cover even and odd sizes, shards, older paths, bfloat16 and two tokenizers."""
    assert NETWORKS == ["bfloat16", "even", "odd", "older_paths", "sharded", "waterfall"]
    assert TOKENIZERS == ["even", "waterfall"]
    assert len(list((GOLDEN / "sharded").glob("model_*.weights.h5"))) > 1


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", FLOAT32_NETWORKS)
def test_backbone_outputs_equal_keras_hub(name: str) -> None:
    """Outputs are within float32 rounding for every length, from one token on."""
    backbone = FNetBackbone.from_preset(GOLDEN / name)
    for arrays in expected(name):
        assert_close(computed(backbone, arrays), arrays, 1e-5)


@pytest.mark.parametrize(
    ("backend", "name"), [("jax", "even"), ("jax", "odd"), *(("openvino", name) for name in FLOAT32_NETWORKS)]
)
def test_packed_encoder_outputs_equal_keras_hub(name: str, backend: BackendName) -> None:
    """Sequences that share a row, and sequences of several chunks, are accurate."""
    encoder = verified(load_preset(str(GOLDEN / name)), backend)
    for arrays in expected(name):
        assert_close(packed(encoder, arrays), arrays, 1e-4)


@pytest.mark.usefixtures("quick_compilation")
def test_bfloat16_weights_run_in_float32() -> None:
    """A bfloat16 preset loads in float32 by default, with the outputs of keras-hub."""
    backbone = FNetBackbone.from_preset(GOLDEN / "bfloat16")
    assert backbone.dtype_policy.name == "float32"
    for arrays in expected("bfloat16"):
        assert_close(computed(backbone, arrays), arrays, 1e-5, "float32_")


@pytest.mark.usefixtures("quick_compilation")
def test_bfloat16_preset_runs_in_bfloat16() -> None:
    """In bfloat16, outputs equal those of keras-hub within bfloat16 rounding."""
    backbone = FNetBackbone.from_preset(GOLDEN / "bfloat16", dtype="bfloat16")
    for arrays in expected("bfloat16"):
        actual = computed(backbone, arrays)
        assert_same_direction(actual, arrays, 0.999)
        assert_close(actual, arrays, 0.1)


@pytest.mark.parametrize("backend_and_dtype", BACKENDS_AND_DTYPES)
def test_packed_encoder_runs_bfloat16_presets(backend_and_dtype: tuple[BackendName, Dtype]) -> None:
    """Every dtype agrees with the float32 outputs of keras-hub for the same weights."""
    backend, dtype = backend_and_dtype
    encoder = verified(load_preset(str(GOLDEN / "bfloat16")), backend, dtype)
    for arrays in expected("bfloat16"):
        expected_outputs = {name: arrays[f"float32_{name}"] for name in OUTPUTS}
        if dtype == "float32":
            assert_close(packed(encoder, arrays), expected_outputs, 1e-4)
        assert_same_direction(packed(encoder, arrays), expected_outputs, 0.999)


# --- The tokenizer ---


@pytest.mark.parametrize("name", TOKENIZERS)
def test_token_ids_equal_keras_hub(name: str) -> None:
    """Token ids are equal for all scripts, spaces and special characters."""
    tokenizer = FNetTokenizer.from_preset(GOLDEN / name)
    for case in texts(name, "tokenized"):
        assert tokenizer.tokenize(case["text"]) == case["token_ids"], case["text"]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_packed_texts_and_pairs_equal_keras_hub(name: str) -> None:
    """Special tokens, segments, truncation and padding equal those of the keras-hub preprocessor."""
    tokenizer = FNetTokenizer.from_preset(GOLDEN / name)
    for case in texts(name, "packed"):
        length = len(case["token_ids"])
        tokens = tokenizer.pad(tokenizer.encode_truncated(case["text"], case["pair"], length), length)
        assert (tokens.token_ids, tokens.segment_ids) == (case["token_ids"], case["segment_ids"]), case


@pytest.mark.parametrize("name", TOKENIZERS)
def test_texts_within_the_length_are_not_truncated(name: str) -> None:
    """Texts within the length are only padded."""
    tokenizer = FNetTokenizer.from_preset(GOLDEN / name)
    untruncated = [case for case in texts(name, "packed") if case["token_ids"][-1] == tokenizer.pad_token_id]
    assert untruncated
    for case in untruncated:
        tokens = tokenizer.pad(tokenizer.encode(case["text"], case["pair"]), len(case["token_ids"]))
        assert (tokens.token_ids, tokens.segment_ids) == (case["token_ids"], case["segment_ids"]), case


def test_description_equals_the_saved_one() -> None:
    """Sizes, dtype, truncation, and the preprocessor length as default padding are read."""
    even, waterfall = (load_preset(str(GOLDEN / name)) for name in TOKENIZERS)
    assert (even.has_tokenizer, even.truncate, even.padding, even.dtype) == (True, "round_robin", 24, "float32")
    assert (even.architecture.hidden_dim, even.architecture.num_segments) == (16, 4)
    assert (waterfall.truncate, waterfall.padding) == ("waterfall", 24)
    odd, sharded, bfloat16 = (load_preset(str(GOLDEN / name)) for name in ("odd", "sharded", "bfloat16"))
    assert (odd.has_tokenizer, odd.architecture.hidden_dim, odd.architecture.num_segments) == (False, 7, 1)
    assert (odd.padding, sharded.architecture.num_layers, bfloat16.dtype) == (20, 3, "bfloat16")

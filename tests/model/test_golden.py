"""The golden presets, which keras-hub itself wrote, give here what they gave there.

`tests/golden/make.py` wrote them, and says what the files hold.
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
from model.encoder import Encoding, Tokens
from model.presets.preset import Preset, load_preset
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
    """Yield a golden preset's inputs and outputs, one batch for every length."""
    with np.load(GOLDEN / name / "expected.npz") as stored:
        arrays = dict(stored)
    lengths = sorted({int(key.split("/")[0]) for key in arrays})
    for length in lengths:
        prefix = f"{length}/"
        yield {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}


def computed(backbone: FNetBackbone, arrays: Arrays) -> Arrays:
    """Return what the network computes for a batch, as float32."""
    found = backbone.predict_on_batch({name: arrays[name] for name in ("token_ids", "segment_ids")})
    return {name: found[name].astype(np.float32) for name in OUTPUTS}


def packed(encoder: PackedEncoder, arrays: Arrays) -> Arrays:
    """Return what the packed encoder computes for a batch whose sequences share rows."""
    pairs = zip(arrays["token_ids"], arrays["segment_ids"], strict=True)
    encodings: list[Encoding] = encoder.encode([Tokens(ids, segments) for ids, segments in pairs])
    return {name: np.stack([getattr(encoding, name) for encoding in encodings]) for name in OUTPUTS}


def assert_close(found: Arrays, arrays: Arrays, tolerance: float, prefix: str = "") -> None:
    """Compare both outputs, shapes included."""
    for name in OUTPUTS:
        wanted = arrays[prefix + name]
        assert found[name].dtype == np.float32
        assert found[name].shape == wanted.shape
        np.testing.assert_allclose(found[name], wanted, rtol=0, atol=tolerance, err_msg=name)


def assert_same_direction(found: Arrays, arrays: Arrays, least_cosine: float) -> None:
    """Compare every vector of both outputs by its cosine."""
    for name in OUTPUTS:
        ours, theirs = found[name], arrays[name]
        assert ours.shape == theirs.shape
        norms = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
        assert ((ours * theirs).sum(axis=-1) >= least_cosine * norms).all(), name


def texts(name: str, kind: str) -> list[dict[str, Any]]:
    """Return a golden preset's cases: texts `tokenized`, or texts and pairs `packed`."""
    cases: list[dict[str, Any]] = json.loads((GOLDEN / name / "texts.json").read_text())[kind]
    return cases


def verified(preset: Preset, backend: BackendName, dtype: Dtype = "float32") -> PackedEncoder:
    """Return a preset's packed encoder, self-tested."""
    weights = read_weights(preset.directory, preset.architecture)
    encoder = PackedEncoder(preset.architecture, weights, dtype=dtype, backend=backend, max_batch_tokens=16)
    compile_and_verify(encoder, lambda tokens: encode_one(preset.architecture, weights, *tokens))
    return encoder


# --- The network ---


def test_every_kind_of_preset_is_here() -> None:
    """No file was lost on the way: an even and an odd size, shards, older paths, bfloat16, and two tokenizers."""
    assert NETWORKS == ["bfloat16", "even", "odd", "older_paths", "sharded", "waterfall"]
    assert TOKENIZERS == ["even", "waterfall"]
    assert len(list((GOLDEN / "sharded").glob("model_*.weights.h5"))) > 1


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", FLOAT32_NETWORKS)
def test_the_backbone_computes_what_keras_hub_computes(name: str) -> None:
    """A preset of keras-hub gives its outputs within float32's rounding, for every length from one token on."""
    backbone = FNetBackbone.from_preset(GOLDEN / name)
    for arrays in expected(name):
        assert_close(computed(backbone, arrays), arrays, 1e-5)


@pytest.mark.parametrize(
    ("backend", "name"), [("jax", "even"), ("jax", "odd"), *(("openvino", name) for name in FLOAT32_NETWORKS)]
)
def test_packed_encoder_computes_what_keras_hub_computes(name: str, backend: BackendName) -> None:
    """Several sequences in a row, and those that run in several chunks."""
    encoder = verified(load_preset(str(GOLDEN / name)), backend)
    for arrays in expected(name):
        assert_close(packed(encoder, arrays), arrays, 1e-4)


@pytest.mark.usefixtures("quick_compilation")
def test_bfloat16_weights_are_computed_with_in_float32() -> None:
    """A preset saved in bfloat16 is loaded in float32 by default, and computes as keras-hub does then."""
    backbone = FNetBackbone.from_preset(GOLDEN / "bfloat16")
    assert backbone.dtype_policy.name == "float32"
    for arrays in expected("bfloat16"):
        assert_close(computed(backbone, arrays), arrays, 1e-5, "float32_")


@pytest.mark.usefixtures("quick_compilation")
def test_a_bfloat16_preset_is_computed_in_bfloat16() -> None:
    """Asked for bfloat16, it computes what keras-hub's bfloat16 network does, as far as eight bits go."""
    backbone = FNetBackbone.from_preset(GOLDEN / "bfloat16", dtype="bfloat16")
    for arrays in expected("bfloat16"):
        found = computed(backbone, arrays)
        assert_same_direction(found, arrays, 0.999)
        assert_close(found, arrays, 0.1)


@pytest.mark.parametrize("backend_and_dtype", BACKENDS_AND_DTYPES)
def test_packed_encoder_runs_bfloat16_presets(backend_and_dtype: tuple[BackendName, Dtype]) -> None:
    """Every dtype agrees with keras-hub's float32 outputs of the same weights."""
    backend, dtype = backend_and_dtype
    encoder = verified(load_preset(str(GOLDEN / "bfloat16")), backend, dtype)
    for arrays in expected("bfloat16"):
        wanted = {name: arrays[f"float32_{name}"] for name in OUTPUTS}
        if dtype == "float32":
            assert_close(packed(encoder, arrays), wanted, 1e-4)
        assert_same_direction(packed(encoder, arrays), wanted, 0.999)


# --- The tokenizer ---


@pytest.mark.parametrize("name", TOKENIZERS)
def test_texts_become_the_same_ids(name: str) -> None:
    """Whatever the script, the spaces and the special characters."""
    tokenizer = FNetTokenizer.from_preset(GOLDEN / name)
    for case in texts(name, "tokenized"):
        assert tokenizer.tokenize(case["text"]) == case["token_ids"], case["text"]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_texts_and_pairs_are_packed_the_same(name: str) -> None:
    """Special tokens, segments, truncation and padding are those of keras-hub's preprocessor."""
    tokenizer = FNetTokenizer.from_preset(GOLDEN / name)
    for case in texts(name, "packed"):
        length = len(case["token_ids"])
        tokens = tokenizer.pad(tokenizer.encode_truncated(case["text"], case["pair"], length), length)
        assert (tokens.token_ids, tokens.segment_ids) == (case["token_ids"], case["segment_ids"]), case


@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_is_not_cut_is_packed_whole(name: str) -> None:
    """Where the length sufficed, nothing is cut and only padding was added."""
    tokenizer = FNetTokenizer.from_preset(GOLDEN / name)
    whole = [case for case in texts(name, "packed") if case["token_ids"][-1] == tokenizer.pad_token_id]
    assert whole
    for case in whole:
        tokens = tokenizer.pad(tokenizer.encode(case["text"], case["pair"]), len(case["token_ids"]))
        assert (tokens.token_ids, tokens.segment_ids) == (case["token_ids"], case["segment_ids"]), case


def test_the_description_is_the_one_that_was_saved() -> None:
    """Sizes, dtype, way of truncation, and the preprocessor's length as the default padding are read."""
    even, waterfall = (load_preset(str(GOLDEN / name)) for name in TOKENIZERS)
    assert (even.has_tokenizer, even.truncate, even.padding, even.dtype) == (True, "round_robin", 24, "float32")
    assert (even.architecture.hidden_dim, even.architecture.num_segments) == (16, 4)
    assert (waterfall.truncate, waterfall.padding) == ("waterfall", 24)
    odd, sharded, bfloat16 = (load_preset(str(GOLDEN / name)) for name in ("odd", "sharded", "bfloat16"))
    assert (odd.has_tokenizer, odd.architecture.hidden_dim, odd.architecture.num_segments) == (False, 7, 1)
    assert (odd.padding, sharded.architecture.num_layers, bfloat16.dtype) == (20, 3, "bfloat16")

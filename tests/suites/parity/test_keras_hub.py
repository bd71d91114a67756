"""Live against keras-hub: presets go both ways, networks compute the same, and texts become the same ids."""

from __future__ import annotations

import inspect
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import h5py
import keras
import keras_hub
import numpy as np
import numpy.typing as npt
import pytest

from model.architecture import Architecture
from model.backbone import FNetBackbone
from model.presets.preset import BUNDLED_DIRECTORY, DEFAULT_PRESET, VOCABULARY_FILE
from model.tokenizer import FNetTokenizer, Tokens, Truncation

Arrays = dict[str, npt.NDArray[Any]]

TOLERANCE = 1e-4

# The published base size, and small ones that are odd in every way.
ARCHITECTURES = {
    "base": Architecture(vocabulary_size=32_000, num_layers=12, hidden_dim=768, intermediate_dim=3072),
    "even": Architecture(
        vocabulary_size=64, num_layers=3, hidden_dim=16, intermediate_dim=24, max_sequence_length=48, num_segments=2
    ),
    "odd": Architecture(
        vocabulary_size=53, num_layers=2, hidden_dim=7, intermediate_dim=11, max_sequence_length=33, num_segments=1
    ),
    "no layers": Architecture(vocabulary_size=11, num_layers=0, hidden_dim=5, intermediate_dim=3, dropout=0.0),
}

BUNDLED = BUNDLED_DIRECTORY / DEFAULT_PRESET

WORDS = "Fourier transforms mix tokens; nothing else does. "
TEXTS = [
    "",
    " ",
    "a",
    "The quick brown fox jumps over the lazy dog.",
    "  many   spaces\tand\r\nlines  ",
    "caf\u00e9 cafe\u0301 na\u00efve stra\u00dfe \u1e9e \u0130stanbul",
    "\ufb01ne \u2460\u00bd\u2122 \uff26\uff2e\uff45\uff54 \u1d2c",
    "no\u00a0break zero\u200bwidth soft\u00adhyphen \ufeffmark \u202eright to left",
    "\U0001f98a\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1eb\U0001f1f7 \u2764\ufe0f \U0001f44d\U0001f3fd",
    "\u5085\u91cc\u53f6\u53d8\u6362 \u30d5\u30fc\u30ea\u30a8\u5909\u63db \ud478\ub9ac\uc5d0",
    "\u062a\u062d\u0648\u064a\u0644 \u0641\u0648\u0631\u064a\u064a\u0647 \u05e4\u05d5\u05e8\u05d9\u05d9\u05d4",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "[CLS] literal [SEP] specials [MASK] <pad> <unk> <s> </s> \u2581\u2581",
    "control \x00 \x01 \x1b \x7f \x85 \ufffd \ue000 \U0010ffff",
    "https://example.org/a?b=c&d=%20#e 1,234.56 1e-12 0x7f ``quoted''",
    "a" * 3000,
    WORDS * 400,
]
PAIRS = [
    ("", ""),
    ("a", ""),
    ("", "a"),
    ("short", "shorter"),
    ("short", WORDS * 90),
    (WORDS * 90, "short"),
    (WORDS * 90, WORDS * 70),
    (WORDS * 5, WORDS * 6),
    (TEXTS[8], TEXTS[9]),
    (TEXTS[12], TEXTS[13]),
]


def strange_texts() -> list[str]:
    """Return texts of random characters from all of Unicode but its surrogates, which are no text."""
    dice = random.Random(1)
    planes = [
        range(1, 0x80),
        range(0x80, 0x800),
        range(0x800, 0xD800),
        range(0xE000, 0x10000),
        range(0x10000, 0x110000),
    ]
    return ["".join(chr(dice.choice(dice.choice(planes))) for _ in range(dice.randint(1, 40))) for _ in range(300)]


def random_weights(architecture: Architecture) -> dict[str, npt.NDArray[np.float32]]:
    """Return weights in which no two variables and no variable's usual start are alike."""
    dice = np.random.default_rng(7)
    weights = {}
    for name, shape in architecture.variable_shapes().items():
        scale = shape[0] ** -0.5 if name.endswith("kernel") else 0.2
        weights[name] = (dice.normal(scale=scale, size=shape) + name.endswith("gamma")).astype(np.float32)
    return weights


def batches(architecture: Architecture) -> Iterator[Arrays]:
    """Yield random sequences of several lengths, one token and the longest among them."""
    dice = np.random.default_rng(8)
    longest = architecture.max_sequence_length
    for length in sorted({1, 2, 11, longest * 2 // 3, longest}):
        shape = (1 if length > 64 else 3, length)
        yield {
            "token_ids": dice.integers(0, architecture.vocabulary_size, shape).astype(np.int32),
            "segment_ids": dice.integers(0, architecture.num_segments, shape).astype(np.int32),
        }


def computed(network: Any, inputs: Arrays) -> Arrays:
    """Return what a network of either side computes, as float32."""
    outputs = network(inputs)
    return {name: keras.ops.convert_to_numpy(keras.ops.cast(array, "float32")) for name, array in outputs.items()}


def largest_difference(ours: Any, theirs: Any, inputs: Arrays) -> float:
    """Return how far apart two networks are."""
    found, wanted = computed(ours, inputs), computed(theirs, inputs)
    assert found.keys() == wanted.keys() == {"sequence_output", "pooled_output"}
    assert all(found[name].shape == wanted[name].shape for name in found)
    return max(float(np.abs(found[name] - wanted[name]).max()) for name in found)


def packed(preprocessor: Any, text: str, pair: str | None) -> Tokens:
    """Return what keras-hub's preprocessor makes of a text or a pair."""
    # Without a label, it would take the second text for it.
    arrays = preprocessor(text if pair is None else ([text], [pair]), y=None)
    ids, segments = (np.asarray(arrays[name]).ravel().tolist() for name in ("token_ids", "segment_ids"))
    return Tokens(ids, segments)


# --- Interface ---


def test_constructor_takes_the_same_arguments() -> None:
    """Names, order and defaults are the same."""

    def arguments(network: type[Any]) -> list[tuple[str, Any]]:
        return [(parameter.name, parameter.default) for parameter in inspect.signature(network).parameters.values()]

    assert arguments(FNetBackbone) == arguments(keras_hub.models.FNetBackbone)


@pytest.mark.parametrize("dtype", [None, "bfloat16", "mixed_bfloat16"])
def test_configuration_is_the_same(dtype: str | None) -> None:
    """`get_config` returns the same, so either side can build the other's network."""
    arguments: dict[str, Any] = {
        "vocabulary_size": 9,
        "num_layers": 1,
        "hidden_dim": 4,
        "intermediate_dim": 5,
        "name": "mine",
    }
    ours = FNetBackbone(**arguments, dtype=dtype)
    theirs = keras_hub.models.FNetBackbone(**arguments, dtype=dtype)
    assert ours.get_config() == theirs.get_config()
    assert FNetBackbone.from_config(theirs.get_config()).get_config() == theirs.get_config()
    assert keras_hub.models.FNetBackbone.from_config(ours.get_config()).get_config() == ours.get_config()


def test_built_in_presets_are_the_same() -> None:
    """Names, handles and sizes are keras-hub's."""

    def facts(presets: dict[str, Any]) -> dict[str, tuple[str, int]]:
        return {name: (entry["kaggle_handle"], entry["metadata"]["params"]) for name, entry in presets.items()}

    assert facts(FNetBackbone.presets) == facts(keras_hub.models.FNetBackbone.presets)


# --- Presets, both ways ---


@pytest.fixture(scope="module", params=ARCHITECTURES)
def saved(request: pytest.FixtureRequest) -> Iterator[tuple[FNetBackbone, Path]]:
    """Our network of one of the sizes, and the preset that it wrote; removed at once, for base takes 330 MB."""
    architecture = ARCHITECTURES[request.param]
    network = FNetBackbone.from_architecture(architecture)
    network.assign_weights(random_weights(architecture))
    with TemporaryDirectory() as directory:
        network.save_to_preset(directory)
        yield network, Path(directory)


@pytest.fixture(scope="module")
def theirs(saved: tuple[FNetBackbone, Path]) -> Any:
    """The same network as keras-hub loads it."""
    return keras_hub.models.Backbone.from_preset(str(saved[1]))


def test_keras_hub_loads_what_we_save(saved: tuple[FNetBackbone, Path], theirs: Any) -> None:
    """A preset written here is keras-hub's FNetBackbone there, with the same outputs."""
    network, _ = saved
    assert type(theirs) is keras_hub.models.FNetBackbone
    assert theirs.count_params() == network.count_params() == network.architecture.parameter_count
    for inputs in batches(network.architecture):
        assert largest_difference(network, theirs, inputs) <= TOLERANCE


def test_we_load_what_keras_hub_saves(saved: tuple[FNetBackbone, Path], theirs: Any) -> None:
    """A preset written by keras-hub is our network, with the same outputs; ours and theirs describe it alike."""
    network, ours = saved
    with TemporaryDirectory() as directory:
        theirs.save_to_preset(directory)
        loaded = FNetBackbone.from_preset(directory)
        descriptions = [json.loads((folder / "config.json").read_text()) for folder in (ours, Path(directory))]
    assert loaded.architecture == network.architecture
    assert descriptions[0] == descriptions[1]
    for inputs in batches(network.architecture):
        assert largest_difference(loaded, theirs, inputs) <= TOLERANCE


def test_tokens_are_scored_alike(saved: tuple[FNetBackbone, Path], theirs: Any) -> None:
    """`token_embedding(…, reverse=True)`, which masked language models end with, gives the same scores."""
    network, _ = saved
    vectors = np.random.default_rng(9).normal(size=(2, 3, network.hidden_dim)).astype(np.float32)
    scores = [np.asarray(side.token_embedding(vectors, reverse=True)) for side in (network, theirs)]
    assert scores[0].shape == (2, 3, network.vocabulary_size)
    np.testing.assert_allclose(scores[0], scores[1], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "mixed_bfloat16"])
def test_narrow_networks_go_both_ways(dtype: str, tmp_path: Path) -> None:
    """A network of another dtype policy is saved and loaded with equal weights, and computes alike."""
    architecture = ARCHITECTURES["even"]
    network = FNetBackbone.from_architecture(architecture, dtype=dtype)
    network.assign_weights(random_weights(architecture))
    network.save_to_preset(tmp_path / "ours")
    there = keras_hub.models.FNetBackbone.from_preset(str(tmp_path / "ours"), dtype=dtype)
    there.save_to_preset(str(tmp_path / "theirs"))
    back = FNetBackbone.from_preset(tmp_path / "theirs", dtype=dtype)
    assert back.dtype_policy.name == there.dtype_policy.name == dtype
    kept = back.named_weights()
    for name, array in network.named_weights().items():
        assert np.array_equal(array, kept[name]), name
    for inputs in batches(architecture):
        for other in (there, back):
            found, wanted = computed(network, inputs), computed(other, inputs)
            for name, array in found.items():
                norms = np.linalg.norm(array, axis=-1) * np.linalg.norm(wanted[name], axis=-1)
                assert ((array * wanted[name]).sum(axis=-1) >= 0.999 * norms).all()


# --- The bundled preset ---


def test_bundled_network_computes_alike() -> None:
    """keras-hub loads the bundled preset, and both compute the same from the ids of real texts."""
    network = FNetBackbone.from_preset(DEFAULT_PRESET)
    theirs = keras_hub.models.FNetBackbone.from_preset(str(BUNDLED))
    tokenizer = FNetTokenizer.from_preset(DEFAULT_PRESET)
    for text, pair in [("", None), (TEXTS[3], None), (TEXTS[8], TEXTS[9]), (WORDS * 90, WORDS * 70)]:
        tokens = tokenizer.encode_truncated(text, pair, network.max_sequence_length)
        inputs = {
            "token_ids": np.asarray([tokens.token_ids], np.int32),
            "segment_ids": np.asarray([tokens.segment_ids], np.int32),
        }
        assert largest_difference(network, theirs, inputs) <= TOLERANCE


@pytest.mark.parametrize("task", ["TextClassifier", "MaskedLM"])
def test_bundled_preset_starts_keras_hubs_tasks(task: str) -> None:
    """The tasks that its metadata names begin from it."""
    arguments = {"num_classes": 3} if task == "TextClassifier" else {}
    model = getattr(keras_hub.models, task).from_preset(str(BUNDLED), **arguments)
    ours = FNetBackbone.from_preset(DEFAULT_PRESET).named_weights()
    theirs = np.asarray(model.backbone.token_embedding.embeddings)
    assert np.array_equal(theirs, ours["token_embedding/embeddings"])
    assert model.preprocessor.tokenizer.vocabulary_size() == FNetTokenizer.from_preset(DEFAULT_PRESET).vocabulary_size()


def test_texts_become_the_same_ids() -> None:
    """The tokenizers agree on every text, and on what ids stand for."""
    ours = FNetTokenizer.from_preset(DEFAULT_PRESET)
    theirs = keras_hub.models.FNetTokenizer.from_preset(str(BUNDLED))
    for text in TEXTS + strange_texts():
        ids = ours.tokenize(text)
        assert ids == list(theirs(text)), text
        assert ours.detokenize(ids) == theirs.detokenize(ids), text


def test_vocabularies_are_the_same() -> None:
    """Size, every piece, every id, and the special tokens' ids are the same."""
    ours = FNetTokenizer.from_preset(DEFAULT_PRESET)
    theirs = keras_hub.models.FNetTokenizer.from_preset(str(BUNDLED))
    assert ours.vocabulary_size() == theirs.vocabulary_size()
    for token_id, token in enumerate(theirs.get_vocabulary()):
        assert ours.id_to_token(token_id) == token
        assert ours.token_to_id(token) == theirs.token_to_id(token)
    assert ours.token_to_id("no such piece") == theirs.token_to_id("no such piece")
    for name in ("cls_token_id", "sep_token_id", "pad_token_id", "mask_token_id"):
        assert getattr(ours, name) == getattr(theirs, name)


@pytest.mark.parametrize("truncate", ["round_robin", "waterfall"])
@pytest.mark.parametrize("length", [512, 33, 16, 5, 3])
def test_texts_and_pairs_are_packed_the_same(length: int, truncate: Truncation) -> None:
    """Special tokens, segments, truncation and padding agree for every text and pair."""
    ours = FNetTokenizer((BUNDLED / VOCABULARY_FILE).read_bytes(), truncate)
    preprocessor = keras_hub.models.FNetTextClassifierPreprocessor.from_preset(
        str(BUNDLED), sequence_length=length, truncate=truncate
    )
    cases: list[tuple[str, str | None]] = [*((text, None) for text in TEXTS + strange_texts()[:50]), *PAIRS]
    for text, pair in cases:
        tokens = ours.pad(ours.encode_truncated(text, pair, length), length)
        assert tokens == packed(preprocessor, text, pair), (text, pair)


def test_preprocessor_is_configured_as_ours() -> None:
    """Length and way of truncation come from the same file."""
    preprocessor = keras_hub.models.TextClassifierPreprocessor.from_preset(str(BUNDLED))
    assert type(preprocessor) is keras_hub.models.FNetTextClassifierPreprocessor
    assert preprocessor.truncate == FNetTokenizer.from_preset(DEFAULT_PRESET).truncate
    assert (
        preprocessor.sequence_length == FNetBackbone.from_preset(DEFAULT_PRESET, load_weights=False).max_sequence_length
    )


# --- The golden presets ---


def test_golden_presets_are_what_keras_hub_writes(tmp_path: Path) -> None:
    """Their script, run anew, writes the same files with the same content."""
    golden = Path(__file__).parents[2] / "golden"
    subprocess.run([sys.executable, golden / "make.py", tmp_path], check=True, timeout=600)
    files = sorted(path.relative_to(golden) for path in golden.rglob("*") if path.is_file())
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    # What transformers wrote has a script of its own.
    made = [file for file in files if file.parts[0] != "hugging_face" and file.suffix not in (".py", ".pyc")]
    assert written == made
    for file in written:
        ours, theirs = golden / file, tmp_path / file
        if file.suffix in (".json", ".spm"):
            assert ours.read_bytes() == theirs.read_bytes(), file
        elif file.suffix == ".npz":
            with np.load(ours) as before, np.load(theirs) as after:
                assert before.files == after.files
                for name in before.files:
                    # Sums round differently on another processor.
                    np.testing.assert_allclose(
                        before[name], after[name], rtol=0, atol=0.1 if "bfloat16" in str(file) else 1e-5
                    )
        else:
            assert h5_arrays(ours).keys() == h5_arrays(theirs).keys()
            for name, array in h5_arrays(ours).items():
                assert array == h5_arrays(theirs)[name], (file, name)


def h5_arrays(path: Path) -> dict[str, bytes]:
    """Return every array of a weights file, as bytes."""
    found: dict[str, bytes] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = np.asarray(item[()]).tobytes()

    with h5py.File(path) as file:
        file.visititems(visit)
    return found

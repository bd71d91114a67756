"""Comparison with keras-hub: presets are exchanged in both directions, and outputs and token ids are equal."""

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
from model.presets.hub import BUNDLED_DIRECTORY, DEFAULT_PRESET
from model.presets.preset import VOCABULARY_FILE
from model.tokenizer import FNetTokenizer, TokenizedText, Truncation

Arrays = dict[str, npt.NDArray[Any]]

TOLERANCE = 1e-4

# The published base size, and small networks with odd sizes.
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
    """Return texts of random Unicode characters, without surrogates."""
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
    """Return random weights that differ from the initial ones in every variable."""
    dice = np.random.default_rng(7)
    weights = {}
    for name, shape in architecture.variable_shapes().items():
        scale = shape[0] ** -0.5 if name.endswith("kernel") else 0.2
        weights[name] = (dice.normal(scale=scale, size=shape) + name.endswith("gamma")).astype(np.float32)
    return weights


def batches(architecture: Architecture) -> Iterator[Arrays]:
    """Yield random sequences of several lengths, including one token and the maximum."""
    dice = np.random.default_rng(8)
    longest = architecture.max_sequence_length
    for length in sorted({1, 2, 11, longest * 2 // 3, longest}):
        shape = (1 if length > 64 else 3, length)
        yield {
            "token_ids": dice.integers(0, architecture.vocabulary_size, shape).astype(np.int32),
            "segment_ids": dice.integers(0, architecture.num_segments, shape).astype(np.int32),
        }


def computed(network: Any, inputs: Arrays) -> Arrays:
    """Return the outputs of a network, as float32."""
    outputs = network(inputs)
    return {name: keras.ops.convert_to_numpy(keras.ops.cast(array, "float32")) for name, array in outputs.items()}


def largest_difference(own: Any, reference: Any, inputs: Arrays) -> float:
    """Return the largest difference between the outputs of two networks."""
    actual, expected = computed(own, inputs), computed(reference, inputs)
    assert actual.keys() == expected.keys() == {"sequence_output", "pooled_output"}
    assert all(actual[name].shape == expected[name].shape for name in actual)
    return max(float(np.abs(actual[name] - expected[name]).max()) for name in actual)


def packed(preprocessor: Any, text: str, pair: str | None) -> TokenizedText:
    """Return the tokens of a text or pair from the keras-hub preprocessor."""
    # Without a label, keras-hub uses the second text as the label.
    arrays = preprocessor(text if pair is None else ([text], [pair]), y=None)
    ids, segments = (np.asarray(arrays[name]).ravel().tolist() for name in ("token_ids", "segment_ids"))
    return TokenizedText(ids, segments)


# --- Interface ---


def test_constructor_takes_the_same_arguments() -> None:
    """Names, order and defaults are equal."""

    def arguments(network: type[Any]) -> list[tuple[str, Any]]:
        return [(parameter.name, parameter.default) for parameter in inspect.signature(network).parameters.values()]

    assert arguments(FNetBackbone) == arguments(keras_hub.models.FNetBackbone)


@pytest.mark.parametrize("dtype", [None, "bfloat16", "mixed_bfloat16"])
def test_configuration_is_the_same(dtype: str | None) -> None:
    """`get_config` returns equal configurations, which both libraries accept."""
    arguments: dict[str, Any] = {
        "vocabulary_size": 9,
        "num_layers": 1,
        "hidden_dim": 4,
        "intermediate_dim": 5,
        "name": "own",
    }
    own = FNetBackbone(**arguments, dtype=dtype)
    reference = keras_hub.models.FNetBackbone(**arguments, dtype=dtype)
    assert own.get_config() == reference.get_config()
    assert FNetBackbone.from_config(reference.get_config()).get_config() == reference.get_config()
    assert keras_hub.models.FNetBackbone.from_config(own.get_config()).get_config() == own.get_config()


def test_built_in_presets_are_the_same() -> None:
    """Names, handles and sizes equal those of keras-hub."""

    def facts(presets: dict[str, Any]) -> dict[str, tuple[str, int]]:
        return {name: (entry["kaggle_handle"], entry["metadata"]["params"]) for name, entry in presets.items()}

    assert facts(FNetBackbone.presets) == facts(keras_hub.models.FNetBackbone.presets)


# --- Presets in both directions ---


@pytest.fixture(scope="module", params=ARCHITECTURES)
def saved(request: pytest.FixtureRequest) -> Iterator[tuple[FNetBackbone, Path]]:
    """A network of each size and its saved preset, which is deleted early, since base has 330 MB."""
    architecture = ARCHITECTURES[request.param]
    network = FNetBackbone.from_architecture(architecture)
    network.assign_weights(random_weights(architecture))
    with TemporaryDirectory() as directory:
        network.save_to_preset(directory)
        yield network, Path(directory)


@pytest.fixture(scope="module")
def reference(saved: tuple[FNetBackbone, Path]) -> Any:
    """The same network, loaded by keras-hub."""
    return keras_hub.models.Backbone.from_preset(str(saved[1]))


def test_keras_hub_loads_saved_presets(saved: tuple[FNetBackbone, Path], reference: Any) -> None:
    """keras-hub loads a saved preset as its FNetBackbone, with equal outputs."""
    network, _ = saved
    assert type(reference) is keras_hub.models.FNetBackbone
    assert reference.count_params() == network.count_params() == network.architecture.parameter_count
    for inputs in batches(network.architecture):
        assert largest_difference(network, reference, inputs) <= TOLERANCE


def test_presets_of_keras_hub_load(saved: tuple[FNetBackbone, Path], reference: Any) -> None:
    """A preset written by keras-hub loads with equal outputs and an equal configuration."""
    network, own = saved
    with TemporaryDirectory() as directory:
        reference.save_to_preset(directory)
        loaded = FNetBackbone.from_preset(directory)
        descriptions = [json.loads((folder / "config.json").read_text()) for folder in (own, Path(directory))]
    assert loaded.architecture == network.architecture
    assert descriptions[0] == descriptions[1]
    for inputs in batches(network.architecture):
        assert largest_difference(loaded, reference, inputs) <= TOLERANCE


def test_vocabulary_logits_are_equal(saved: tuple[FNetBackbone, Path], reference: Any) -> None:
    """`token_embedding(…, reverse=True)`, the head of masked language models, returns equal logits."""
    network, _ = saved
    vectors = np.random.default_rng(9).normal(size=(2, 3, network.hidden_dim)).astype(np.float32)
    scores = [np.asarray(side.token_embedding(vectors, reverse=True)) for side in (network, reference)]
    assert scores[0].shape == (2, 3, network.vocabulary_size)
    np.testing.assert_allclose(scores[0], scores[1], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "mixed_bfloat16"])
def test_narrow_dtypes_are_exchanged_in_both_directions(dtype: str, tmp_path: Path) -> None:
    """A network of another dtype policy is saved and loaded with equal weights and close outputs."""
    architecture = ARCHITECTURES["even"]
    network = FNetBackbone.from_architecture(architecture, dtype=dtype)
    network.assign_weights(random_weights(architecture))
    network.save_to_preset(tmp_path / "own")
    there = keras_hub.models.FNetBackbone.from_preset(str(tmp_path / "own"), dtype=dtype)
    there.save_to_preset(str(tmp_path / "reference"))
    back = FNetBackbone.from_preset(tmp_path / "reference", dtype=dtype)
    assert back.dtype_policy.name == there.dtype_policy.name == dtype
    loaded_weights = back.named_weights()
    for name, array in network.named_weights().items():
        assert np.array_equal(array, loaded_weights[name]), name
    for inputs in batches(architecture):
        for other in (there, back):
            actual, expected = computed(network, inputs), computed(other, inputs)
            for name, array in actual.items():
                norms = np.linalg.norm(array, axis=-1) * np.linalg.norm(expected[name], axis=-1)
                assert ((array * expected[name]).sum(axis=-1) >= 0.999 * norms).all()


# --- The bundled preset ---


def test_bundled_network_has_equal_outputs() -> None:
    """keras-hub loads the bundled preset, with equal outputs for real texts."""
    network = FNetBackbone.from_preset(DEFAULT_PRESET)
    reference = keras_hub.models.FNetBackbone.from_preset(str(BUNDLED))
    tokenizer = FNetTokenizer.from_preset(DEFAULT_PRESET)
    for text, pair in [("", None), (TEXTS[3], None), (TEXTS[8], TEXTS[9]), (WORDS * 90, WORDS * 70)]:
        tokens = tokenizer.encode_truncated(text, pair, network.max_sequence_length)
        inputs = {
            "token_ids": np.asarray([tokens.token_ids], np.int32),
            "segment_ids": np.asarray([tokens.segment_ids], np.int32),
        }
        assert largest_difference(network, reference, inputs) <= TOLERANCE


@pytest.mark.parametrize("task", ["TextClassifier", "MaskedLM"])
def test_bundled_preset_starts_keras_hubs_tasks(task: str) -> None:
    """Tasks of keras-hub load the bundled preset."""
    arguments = {"num_classes": 3} if task == "TextClassifier" else {}
    model = getattr(keras_hub.models, task).from_preset(str(BUNDLED), **arguments)
    own = FNetBackbone.from_preset(DEFAULT_PRESET).named_weights()
    reference = np.asarray(model.backbone.token_embedding.embeddings)
    assert np.array_equal(reference, own["token_embedding/embeddings"])
    assert model.preprocessor.tokenizer.vocabulary_size() == FNetTokenizer.from_preset(DEFAULT_PRESET).vocabulary_size()


def test_token_ids_are_equal() -> None:
    """Tokenization and detokenization of every text are equal."""
    own = FNetTokenizer.from_preset(DEFAULT_PRESET)
    reference = keras_hub.models.FNetTokenizer.from_preset(str(BUNDLED))
    for text in TEXTS + strange_texts():
        ids = own.tokenize(text)
        assert ids == list(reference(text)), text
        assert own.detokenize(ids) == reference.detokenize(ids), text


def test_vocabularies_are_the_same() -> None:
    """Size, pieces, ids and special token ids are equal."""
    own = FNetTokenizer.from_preset(DEFAULT_PRESET)
    reference = keras_hub.models.FNetTokenizer.from_preset(str(BUNDLED))
    assert own.vocabulary_size() == reference.vocabulary_size()
    for token_id, token in enumerate(reference.get_vocabulary()):
        assert own.id_to_token(token_id) == token
        assert own.token_to_id(token) == reference.token_to_id(token)
    assert own.token_to_id("no such piece") == reference.token_to_id("no such piece")
    for name in ("cls_token_id", "sep_token_id", "pad_token_id", "mask_token_id"):
        assert getattr(own, name) == getattr(reference, name)


@pytest.mark.parametrize("truncate", ["round_robin", "waterfall"])
@pytest.mark.parametrize("length", [512, 33, 16, 5, 3])
def test_packed_texts_and_pairs_are_equal(length: int, truncate: Truncation) -> None:
    """Special tokens, segments, truncation and padding are equal for every text and pair."""
    own = FNetTokenizer((BUNDLED / VOCABULARY_FILE).read_bytes(), truncate)
    preprocessor = keras_hub.models.FNetTextClassifierPreprocessor.from_preset(
        str(BUNDLED), sequence_length=length, truncate=truncate
    )
    cases: list[tuple[str, str | None]] = [*((text, None) for text in TEXTS + strange_texts()[:50]), *PAIRS]
    for text, pair in cases:
        tokens = own.pad(own.encode_truncated(text, pair, length), length)
        assert tokens == packed(preprocessor, text, pair), (text, pair)


def test_preprocessor_configuration_is_equal() -> None:
    """Length and truncation are read from the same file."""
    preprocessor = keras_hub.models.TextClassifierPreprocessor.from_preset(str(BUNDLED))
    assert type(preprocessor) is keras_hub.models.FNetTextClassifierPreprocessor
    assert preprocessor.truncate == FNetTokenizer.from_preset(DEFAULT_PRESET).truncate
    assert (
        preprocessor.sequence_length == FNetBackbone.from_preset(DEFAULT_PRESET, load_weights=False).max_sequence_length
    )


# --- The golden presets ---


def test_golden_presets_are_reproducible(tmp_path: Path) -> None:
    """The script writes equal files again."""
    golden = Path(__file__).parents[2] / "golden"
    subprocess.run([sys.executable, golden / "make.py", tmp_path], check=True, timeout=600)
    files = sorted(path.relative_to(golden) for path in golden.rglob("*") if path.is_file())
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    # Files of transformers have another script.
    made = [file for file in files if file.parts[0] != "hugging_face" and file.suffix not in (".py", ".pyc")]
    assert written == made
    for file in written:
        own, reference = golden / file, tmp_path / file
        if file.suffix in (".json", ".spm"):
            assert own.read_bytes() == reference.read_bytes(), file
        elif file.suffix == ".npz":
            with np.load(own) as before, np.load(reference) as after:
                assert before.files == after.files
                for name in before.files:
                    # Rounding of sums depends on the processor.
                    np.testing.assert_allclose(
                        before[name], after[name], rtol=0, atol=0.1 if "bfloat16" in str(file) else 1e-5
                    )
        else:
            assert h5_arrays(own).keys() == h5_arrays(reference).keys()
            for name, array in h5_arrays(own).items():
                assert array == h5_arrays(reference)[name], (file, name)


def h5_arrays(path: Path) -> dict[str, bytes]:
    """Return the bytes of every array of a weights file."""
    actual: dict[str, bytes] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            actual[name] = np.asarray(item[()]).tobytes()

    with h5py.File(path) as file:
        file.visititems(visit)
    return actual

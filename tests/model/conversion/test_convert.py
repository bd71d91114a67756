"""A converted Hugging Face checkpoint has the outputs of transformers, and a failed conversion leaves no files.

`tests/golden/make_hugging_face.py` writes the checkpoint and documents its files.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from model import FNetBackbone, FNetTokenizer
from model.conversion.convert import convert
from model.errors import PresetError
from model.presets.hub import load_preset
from model.presets.preset import VOCABULARY_FILE, Preset
from model.presets.weights import WEIGHTS_FILE, read_weights, weights_digest
from model.reference import encode_one
from model.verify import verify

GOLDEN = Path(__file__).parents[2] / "golden"
HUGGING_FACE = GOLDEN / "hugging_face"
VOCABULARY = GOLDEN / "even" / VOCABULARY_FILE
TOLERANCE = 2e-5
NARROW_TOLERANCES = {"bfloat16": 0.2, "float16": 0.02}

Outputs = dict[int, dict[str, Any]]


@pytest.fixture(scope="module")
def expected() -> Outputs:
    """The outputs of transformers, keyed by length."""
    actual: Outputs = {}
    with np.load(HUGGING_FACE / "outputs.npz") as stored:
        for key, array in stored.items():
            length, name = key.split("/")
            actual.setdefault(int(length), {})[name] = array
    return actual


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A writable copy of the checkpoint, with both weight formats and `tokenizer.json`."""
    return Path(shutil.copytree(HUGGING_FACE / "checkpoint", tmp_path / "checkpoint"))


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    """The destination of the preset."""
    return tmp_path / "made" / "tiny_en"


def edit(path: Path, **fields: Any) -> None:
    """Set fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def refusal(call: Callable[[], object]) -> str:
    """Return the one-line message of the PresetError that a call raises."""
    with pytest.raises(PresetError) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def assert_outputs(preset: Preset, expected: Outputs, tolerance: float = TOLERANCE) -> None:
    """Compare the outputs of a preset with those of transformers."""
    weights = read_weights(preset.directory, preset.architecture)
    for arrays in expected.values():
        actual = encode_one(preset.architecture, weights, arrays["token_ids"], arrays["segment_ids"])
        for array, name in zip(actual, ("sequence_output", "pooled_output"), strict=True):
            np.testing.assert_allclose(array, arrays[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_outputs_equal_transformers(checkpoint: Path, destination: Path, expected: Outputs, kind: str) -> None:
    """Outputs are equal for both weight formats."""
    for file in {"model.safetensors", "pytorch_model.bin"} - {kind}:
        (checkpoint / file).unlink()
    convert(checkpoint, destination)
    assert_outputs(load_preset(str(destination)), expected)


def test_backbone_loads_converted_presets(checkpoint: Path, destination: Path, expected: Outputs) -> None:
    """`FNetBackbone.from_preset` loads the preset with equal outputs."""
    convert(checkpoint, destination)
    backbone = FNetBackbone.from_preset(destination)
    arrays = expected[7]
    actual = backbone.encode_one(arrays["token_ids"], arrays["segment_ids"])
    np.testing.assert_allclose(actual[0], arrays["sequence_output"], rtol=0, atol=TOLERANCE)


def test_files_equal_those_of_keras_hub(checkpoint: Path, destination: Path) -> None:
    """The JSON files equal those of the golden preset `even`, which keras-hub wrote."""
    convert(checkpoint, destination)
    for file in ("config.json", "tokenizer.json", "preprocessor.json"):
        converted, golden = (json.loads((directory / file).read_text()) for directory in (destination, GOLDEN / "even"))
        if file == "preprocessor.json":
            assert converted["config"].pop("sequence_length") == 32
            del golden["config"]["sequence_length"]
        assert converted == golden
    metadata, golden = (
        json.loads((directory / "metadata.json").read_text()) for directory in (destination, GOLDEN / "even")
    )
    assert metadata["parameter_count"] == golden["parameter_count"]
    assert metadata["keras_hub_version"] == golden["keras_hub_version"]


@pytest.mark.parametrize("file", ["spiece.model", "tokenizer.json"])
def test_token_ids_equal_transformers(checkpoint: Path, destination: Path, file: str) -> None:
    """Ids are equal for `spiece.model` and for a conversion of `tokenizer.json`."""
    if file == "spiece.model":
        (checkpoint / "tokenizer.json").unlink()
        shutil.copy(VOCABULARY, checkpoint / file)
    convert(checkpoint, destination)
    tokenizer = FNetTokenizer.from_preset(destination)
    for case in json.loads((HUGGING_FACE / "tokens.json").read_text()):
        assert tokenizer.tokenize(case["text"]) == case["token_ids"], case["text"]
    assert (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id) == (
        4,
        5,
        3,
        6,
    )
    # A special token in a text is ordinary text.
    assert not {4, 5, 6} & set(tokenizer.tokenize("[CLS] a [SEP] b [MASK]"))


def test_sentencepiece_model_is_copied_unchanged(checkpoint: Path, destination: Path) -> None:
    """The copy has equal bytes."""
    shutil.copy(VOCABULARY, checkpoint / "spiece.model")
    convert(checkpoint, destination)
    assert (destination / VOCABULARY_FILE).read_bytes() == VOCABULARY.read_bytes()


@pytest.mark.parametrize("dtype", NARROW_TOLERANCES)
def test_weights_can_be_stored_in_narrow_dtypes(
    checkpoint: Path, destination: Path, expected: Outputs, dtype: Any
) -> None:
    """The file has half the size, and outputs are close."""
    convert(checkpoint, destination, dtype=dtype)
    with h5py.File(destination / WEIGHTS_FILE) as file:
        assert file["layers/dense/vars/0"].dtype.itemsize == 2
    assert_outputs(load_preset(str(destination)), expected, NARROW_TOLERANCES[dtype])


def test_preset_has_options_digests_and_card(checkpoint: Path, destination: Path) -> None:
    """The preset has the requested padding and pooling, digests and a golden row, and the model card."""
    (checkpoint / "README.md").write_text("# A card")
    convert(checkpoint, destination, padding="none", pooling="mean", description="Converted.")
    preset = load_preset(str(destination))
    assert (preset.name, preset.padding, preset.pooling, preset.description) == (
        "tiny_en",
        "none",
        "mean",
        "Converted.",
    )
    assert preset.card() == "# A card"
    assert [check.name for check in verify(destination)][-1] == "golden row"
    assert not any(check.faults for check in verify(destination))


def test_default_padding_is_that_of_keras_hub(checkpoint: Path, destination: Path) -> None:
    """Texts are padded to the number of positions by default."""
    convert(checkpoint, destination)
    assert load_preset(str(destination)).padding == 32


def test_checkpoint_without_tokenizer_needs_an_option(checkpoint: Path, destination: Path) -> None:
    """It can be converted for token ids only."""
    (checkpoint / "tokenizer.json").unlink()
    assert "neither spiece.model nor tokenizer.json" in refusal(lambda: convert(checkpoint, destination))
    convert(checkpoint, destination, tokenizer=False)
    assert not load_preset(str(destination)).has_tokenizer


@pytest.mark.parametrize(("field", "value"), [("do_lower_case", True), ("keep_accents", False)])
def test_unsupported_tokenizer_options_are_rejected(
    checkpoint: Path, destination: Path, field: str, *, value: bool
) -> None:
    """Case and accent folding would be lost without an error."""
    edit(checkpoint / "tokenizer_config.json", **{field: value})
    assert refusal(lambda: convert(checkpoint, destination)).startswith(f"tokenizer_config.json: {field} is {value}")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"model": {"type": "BPE", "vocab": {}, "merges": []}}, "expected 'Unigram' without byte_fallback"),
        ({"normalizer": {"type": "Lowercase"}}, "the normalizer is 'Lowercase'"),
        ({"pre_tokenizer": {"type": "Digits"}}, "the pre-tokenizer is 'Digits'"),
        ({"added_tokens": [], "model": {"unk_id": 0, "vocab": [["<unk>", 0], ["a", -1]]}}, "lacks the token"),
        ({"model": None}, "not a unigram tokenizer"),
        ({"model": {"type": "Unigram", "unk_id": 9, "vocab": [["<unk>", 0.0]]}}, "not a unigram tokenizer"),
        ({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", "b"]]}}, "not a unigram tokenizer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_kind_of_tokenizer_is_rejected(
    checkpoint: Path, destination: Path, fields: dict[str, Any], reason: str
) -> None:
    """The error is one line with the file name, and nothing is written."""
    edit(checkpoint / "tokenizer.json", **fields)
    message = refusal(lambda: convert(checkpoint, destination))
    assert message.startswith("tokenizer.json: ")
    assert reason in message
    assert not destination.exists()


def test_failed_conversion_leaves_no_files(checkpoint: Path, destination: Path) -> None:
    """Neither a preset nor temporary files remain."""
    edit(checkpoint / "config.json", hidden_size=17)
    refusal(lambda: convert(checkpoint, destination))
    edit(checkpoint / "config.json", hidden_size=16)
    assert "padding" in refusal(lambda: convert(checkpoint, destination, padding=33))
    assert list(destination.parent.iterdir()) == []


def test_preset_is_replaced_only_with_force(checkpoint: Path, destination: Path) -> None:
    """The old preset stays valid until the new one is complete."""
    convert(checkpoint, destination)
    before = weights_digest(destination)
    assert "--force" in refusal(lambda: convert(checkpoint, destination, dtype="float16"))
    assert weights_digest(destination) == before
    convert(checkpoint, destination, dtype="float16", force=True)
    assert weights_digest(destination) != before
    assert [path.name for path in destination.parent.iterdir()] == ["tiny_en"]


@pytest.mark.parametrize("force", [False, True])
def test_other_files_are_never_replaced(checkpoint: Path, destination: Path, *, force: bool) -> None:
    """A directory with other files, or a file, is not replaced; an empty directory is used."""
    destination.mkdir(parents=True)
    (destination / "thesis.txt").write_text("years of work")
    assert "is not a preset; choose another destination" in refusal(
        lambda: convert(checkpoint, destination, force=force)
    )
    assert (destination / "thesis.txt").read_text() == "years of work"
    (destination / "thesis.txt").unlink()
    convert(checkpoint, destination, force=force)


def test_vocabulary_larger_than_the_network_is_rejected(checkpoint: Path, destination: Path) -> None:
    """Its last ids would have no embeddings."""
    document = json.loads((checkpoint / "tokenizer.json").read_text())
    document["model"]["vocab"].append(["one too many", -20.0])
    edit(checkpoint / "tokenizer.json", model=document["model"])
    assert "has 261 tokens, more than" in refusal(lambda: convert(checkpoint, destination))
    assert not destination.exists()


def test_values_beyond_float16_are_rejected(checkpoint: Path, destination: Path) -> None:
    """Values above 65,504 raise an error instead of becoming infinite."""
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["fnet.pooler.dense.bias"] = np.full(16, 1e6, np.float32)
    save_file(tensors, checkpoint / "model.safetensors")
    assert "exceed the range of float16" in refusal(lambda: convert(checkpoint, destination, dtype="float16"))
    convert(checkpoint, destination, dtype="bfloat16")

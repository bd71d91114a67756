"""A checkpoint of Hugging Face becomes a preset that computes what transformers computes, or nothing is left behind.

`tests/golden/make_hugging_face.py` wrote the checkpoint, and says what the files hold.
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
from model.presets.preset import VOCABULARY_FILE, Preset, load_preset
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
    """What transformers computes, by length."""
    found: Outputs = {}
    with np.load(HUGGING_FACE / "outputs.npz") as stored:
        for key, array in stored.items():
            length, name = key.split("/")
            found.setdefault(int(length), {})[name] = array
    return found


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The checkpoint, to be changed, with both kinds of weights and `tokenizer.json`."""
    return Path(shutil.copytree(HUGGING_FACE / "checkpoint", tmp_path / "checkpoint"))


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    """Where the preset is to be made."""
    return tmp_path / "made" / "tiny_en"


def edit(path: Path, **fields: Any) -> None:
    """Set fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def refusal(call: Callable[[], object]) -> str:
    """Return the one line that a call is refused with."""
    with pytest.raises(PresetError) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def assert_computes(preset: Preset, expected: Outputs, tolerance: float = TOLERANCE) -> None:
    """Hold a preset's network to transformers', sequence by sequence."""
    weights = read_weights(preset.directory, preset.architecture)
    for arrays in expected.values():
        found = encode_one(preset.architecture, weights, arrays["token_ids"], arrays["segment_ids"])
        for ours, name in zip(found, ("sequence_output", "pooled_output"), strict=True):
            np.testing.assert_allclose(ours, arrays[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_preset_computes_what_transformers_computes(
    checkpoint: Path, destination: Path, expected: Outputs, kind: str
) -> None:
    """From either kind of weights."""
    for file in {"model.safetensors", "pytorch_model.bin"} - {kind}:
        (checkpoint / file).unlink()
    convert(checkpoint, destination)
    assert_computes(load_preset(str(destination)), expected)


def test_backbone_loads_it(checkpoint: Path, destination: Path, expected: Outputs) -> None:
    """`FNetBackbone.from_preset` takes what was made, as keras-hub's does."""
    convert(checkpoint, destination)
    backbone = FNetBackbone.from_preset(destination)
    arrays = expected[7]
    found = backbone.encode_one(arrays["token_ids"], arrays["segment_ids"])
    np.testing.assert_allclose(found[0], arrays["sequence_output"], rtol=0, atol=TOLERANCE)


def test_it_is_laid_out_as_keras_hub_lays_out_its_own(checkpoint: Path, destination: Path) -> None:
    """The JSON files say what those of the golden preset `even` say, which keras-hub wrote."""
    convert(checkpoint, destination)
    for file in ("config.json", "tokenizer.json", "preprocessor.json"):
        ours, theirs = (json.loads((directory / file).read_text()) for directory in (destination, GOLDEN / "even"))
        if file == "preprocessor.json":
            assert ours["config"].pop("sequence_length") == 32
            del theirs["config"]["sequence_length"]
        assert ours == theirs
    metadata, theirs = (
        json.loads((directory / "metadata.json").read_text()) for directory in (destination, GOLDEN / "even")
    )
    assert metadata["parameter_count"] == theirs["parameter_count"]
    assert metadata["keras_hub_version"] == theirs["keras_hub_version"]


@pytest.mark.parametrize("file", ["spiece.model", "tokenizer.json"])
def test_tokenizer_gives_the_ids_of_transformers(checkpoint: Path, destination: Path, file: str) -> None:
    """From the SentencePiece model, or put together from `tokenizer.json` where there is no other."""
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
    # A special token that is only written out is text.
    assert not {4, 5, 6} & set(tokenizer.tokenize("[CLS] a [SEP] b [MASK]"))


def test_sentencepiece_model_is_kept_as_it_is(checkpoint: Path, destination: Path) -> None:
    """To the byte."""
    shutil.copy(VOCABULARY, checkpoint / "spiece.model")
    convert(checkpoint, destination)
    assert (destination / VOCABULARY_FILE).read_bytes() == VOCABULARY.read_bytes()


@pytest.mark.parametrize("dtype", NARROW_TOLERANCES)
def test_weights_can_be_kept_narrow(checkpoint: Path, destination: Path, expected: Outputs, dtype: Any) -> None:
    """In half the bytes; what is computed is near."""
    convert(checkpoint, destination, dtype=dtype)
    with h5py.File(destination / WEIGHTS_FILE) as file:
        assert file["layers/dense/vars/0"].dtype.itemsize == 2
    assert_computes(load_preset(str(destination)), expected, NARROW_TOLERANCES[dtype])


def test_it_tells_of_itself(checkpoint: Path, destination: Path) -> None:
    """Padding and pooling as asked, digests and a golden row for `verify`, and the checkpoint's card."""
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


def test_texts_are_padded_as_keras_hub_pads_them(checkpoint: Path, destination: Path) -> None:
    """To the most positions, unless something else is asked for."""
    convert(checkpoint, destination)
    assert load_preset(str(destination)).padding == 32


def test_checkpoint_without_tokenizer_is_told(checkpoint: Path, destination: Path) -> None:
    """And can be converted for ids alone."""
    (checkpoint / "tokenizer.json").unlink()
    assert "neither spiece.model nor tokenizer.json" in refusal(lambda: convert(checkpoint, destination))
    convert(checkpoint, destination, tokenizer=False)
    assert not load_preset(str(destination)).has_tokenizer


@pytest.mark.parametrize(("field", "value"), [("do_lower_case", True), ("keep_accents", False)])
def test_what_a_vocabulary_cannot_be_told_is_refused(
    checkpoint: Path, destination: Path, field: str, *, value: bool
) -> None:
    """Folding texts before they are tokenized would silently be lost."""
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
def test_another_kind_of_tokenizer_is_refused(
    checkpoint: Path, destination: Path, fields: dict[str, Any], reason: str
) -> None:
    """In one line that names the file, and nothing is written."""
    edit(checkpoint / "tokenizer.json", **fields)
    message = refusal(lambda: convert(checkpoint, destination))
    assert message.startswith("tokenizer.json: ")
    assert reason in message
    assert not destination.exists()


def test_nothing_is_left_of_what_failed(checkpoint: Path, destination: Path) -> None:
    """Neither a preset nor a part of one."""
    edit(checkpoint / "config.json", hidden_size=17)
    refusal(lambda: convert(checkpoint, destination))
    edit(checkpoint / "config.json", hidden_size=16)
    assert "padding" in refusal(lambda: convert(checkpoint, destination, padding=33))
    assert list(destination.parent.iterdir()) == []


def test_preset_is_replaced_only_when_asked(checkpoint: Path, destination: Path) -> None:
    """The old one stays whole until the new one is."""
    convert(checkpoint, destination)
    before = weights_digest(destination)
    assert "--force" in refusal(lambda: convert(checkpoint, destination, dtype="float16"))
    assert weights_digest(destination) == before
    convert(checkpoint, destination, dtype="float16", force=True)
    assert weights_digest(destination) != before
    assert [path.name for path in destination.parent.iterdir()] == ["tiny_en"]


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_preset_is_never_replaced(checkpoint: Path, destination: Path, *, force: bool) -> None:
    """A folder of something else, or a file, is not for us to remove; an empty folder may be filled."""
    destination.mkdir(parents=True)
    (destination / "thesis.txt").write_text("years of work")
    assert "is not a preset; choose another destination" in refusal(
        lambda: convert(checkpoint, destination, force=force)
    )
    assert (destination / "thesis.txt").read_text() == "years of work"
    (destination / "thesis.txt").unlink()
    convert(checkpoint, destination, force=force)


def test_vocabulary_larger_than_the_network_is_refused(checkpoint: Path, destination: Path) -> None:
    """Its last ids would have no vectors."""
    document = json.loads((checkpoint / "tokenizer.json").read_text())
    document["model"]["vocab"].append(["one too many", -20.0])
    edit(checkpoint / "tokenizer.json", model=document["model"])
    assert "has 261 tokens, more than" in refusal(lambda: convert(checkpoint, destination))
    assert not destination.exists()


def test_values_beyond_a_narrow_type_are_refused(checkpoint: Path, destination: Path) -> None:
    """float16 ends at 65,504: what it cannot hold is told, not made infinite."""
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["fnet.pooler.dense.bias"] = np.full(16, 1e6, np.float32)
    save_file(tensors, checkpoint / "model.safetensors")
    assert "exceed the range of float16" in refusal(lambda: convert(checkpoint, destination, dtype="float16"))
    convert(checkpoint, destination, dtype="bfloat16")

"""Handles resolve to directories, directories to validated presets, and errors are one line."""

from __future__ import annotations

import json
import os
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model.architecture import Architecture
from model.errors import PresetError
from model.presets.hub import (
    BUILT_IN_PRESETS,
    BUNDLED_DIRECTORY,
    DEFAULT_PRESET,
    bundled_presets,
    check_handle,
    default_cache_dir,
    load_preset,
    locate,
    preset_name,
)
from model.presets.preset import Preset, read_preset

WriteJson = Callable[[Path, Any], None]

# Invalid values for a positive integer.
NO_INTEGERS: list[Any] = [True, False, "12", 12.0, [], {}, -1, 10**30, float("nan")]


def refusal(call: Callable[[], object]) -> str:
    """Return the one-line message of the PresetError that `call` raises."""
    with pytest.raises(PresetError) as caught:
        call()
    message = str(caught.value)
    assert message
    assert len(message.splitlines()) == 1
    assert len(message) < 600
    return message


def edit(path: Path, keys: str, value: Any) -> None:
    """Set the field at a dotted path of a JSON file, or remove it with `...`."""
    document = json.loads(path.read_text())
    *blocks, last = keys.split(".")
    inner = document
    for block in blocks:
        inner = inner.setdefault(block, {})
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    path.write_text(json.dumps(document))


# --- Handles ---


def test_default_preset_is_bundled() -> None:
    """The default preset is complete and needs no download."""
    assert DEFAULT_PRESET in bundled_presets()
    preset = load_preset(DEFAULT_PRESET)
    assert preset.name == DEFAULT_PRESET
    assert preset.directory == BUNDLED_DIRECTORY / DEFAULT_PRESET
    assert preset.has_tokenizer


@pytest.mark.parametrize(
    ("handle", "name"),
    [
        ("fnet_mini_en", "fnet_mini_en"),
        ("f_net_base_en", "f_net_base_en"),
        ("kaggle://keras/f_net/keras/f_net_base_en/3", "f_net_base_en"),
        ("kaggle://keras/f_net/keras/f_net_base_en", "f_net_base_en"),
        ("hf://someone/some-fnet", "some-fnet"),
        ("hf://someone/some-fnet@v1.0", "some-fnet"),
        ("/somewhere/my_preset", "my_preset"),
        ("/somewhere/my_preset/", "my_preset"),
    ],
)
def test_handle_has_a_short_name(handle: str, name: str) -> None:
    """The name is the variation, the repository or the last part of the directory."""
    assert preset_name(handle) == name


@pytest.mark.parametrize(
    "handle",
    [
        *BUILT_IN_PRESETS,
        "fnet_mini_en",
        "kaggle://keras/f_net/keras/f_net_base_en",
        "kaggle://keras/f_net/keras/f_net_base_en/3",
        "hf://someone/some-fnet",
        "hf://someone/some-fnet@refs/pr/1",
    ],
)
def test_known_forms_are_valid_without_a_lookup(handle: str) -> None:
    """A handle of a known form is valid until it is used."""
    check_handle(handle)


def test_directory_is_a_valid_handle(preset_directory: Path) -> None:
    """A local preset is used in place, and has the name of its directory."""
    check_handle(str(preset_directory))
    preset = load_preset(str(preset_directory))
    assert (preset.directory, preset.name) == (preset_directory, "tiny_en")


@pytest.mark.parametrize("handle", ["nonsense", "gs://bucket/preset", "/no/such/directory", "x" * 400, "\0", "a\nb"])
def test_unknown_handle_is_rejected_with_the_known_names(handle: str) -> None:
    """The error for an unknown handle lists the valid names."""
    message = refusal(lambda: check_handle(handle))
    assert repr(handle) in message
    for name in ("fnet_mini_en", "f_net_base_en", "f_net_large_en", "kaggle://", "hf://", "directory"):
        assert name in message


@pytest.mark.parametrize(
    ("handle", "form"),
    [
        ("kaggle://", "kaggle://owner/model/keras/variation"),
        ("kaggle://keras/f_net/pytorch/f_net_base_en", "kaggle://owner/model/keras/variation"),
        ("kaggle://keras/f_net/keras/f_net_base_en/latest", "kaggle://owner/model/keras/variation"),
        ("kaggle://keras/f_net/keras/../../etc", "kaggle://owner/model/keras/variation"),
        ("hf://", "hf://owner/name"),
        ("hf://only-a-name", "hf://owner/name"),
        ("hf://owner/name@", "hf://owner/name"),
        ("hf://owner/name/deeper", "hf://owner/name"),
        ("hf://owner/na me", "hf://owner/name"),
    ],
)
def test_malformed_handle_is_rejected_with_the_expected_form(handle: str, form: str) -> None:
    """The error for a known scheme contains the expected form."""
    assert form in refusal(lambda: locate(handle))


def test_file_is_not_a_preset(tmp_path: Path) -> None:
    """A handle with a path has to be a directory."""
    (tmp_path / "file").write_text("")
    assert "no such preset or directory" in refusal(lambda: check_handle(str(tmp_path / "file")))


def test_cache_directory_follows_the_xdg_specification(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Downloads are stored in XDG_CACHE_HOME, or in ~/.cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "fnet-encode"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache_dir() == tmp_path / "home" / ".cache" / "fnet-encode"


# --- The description ---


def test_preset_without_service_block_has_defaults(preset_directory: Path, tiny: Architecture) -> None:
    """Without `fnet_service`, padding is that of the keras-hub preprocessor, and pooling is `pooled`."""
    assert read_preset(preset_directory) == Preset(
        name="tiny_en",
        directory=preset_directory,
        architecture=tiny,
        dtype="float32",
        has_tokenizer=True,
        truncate="round_robin",
        version="",
        trained=True,
        padding=16,
        pooling="pooled",
        description="",
        matryoshka=False,
    )


def test_default_padding_never_exceeds_the_positions(preset_directory: Path) -> None:
    """A preprocessor length of 512 with 24 positions gives a padding of 24."""
    edit(preset_directory / "preprocessor.json", "config.sequence_length", 512)
    assert read_preset(preset_directory).padding == 24


def test_service_block_is_read(preset_directory: Path) -> None:
    """All fields of `fnet_service` are read."""
    block = {
        "name": "sentences-1.0",
        "version": "1.2",
        "trained": False,
        "padding": "none",
        "pooling": "mean",
        "description": "For tests.",
        "matryoshka": True,
    }
    edit(preset_directory / "metadata.json", "fnet_service", block)
    edit(preset_directory / "preprocessor.json", "config.truncate", "waterfall")
    preset = read_preset(preset_directory)
    assert {key: getattr(preset, key) for key in block} == block
    assert preset.truncate == "waterfall"


@pytest.mark.parametrize("padding", ["none", "max_length", 1, 24])
def test_every_documented_padding_is_accepted(preset_directory: Path, padding: str | int) -> None:
    """Padding is `none`, `max_length`, or a length up to the number of positions."""
    edit(preset_directory / "metadata.json", "fnet_service", {"padding": padding})
    assert read_preset(preset_directory).padding == padding


def test_only_the_configuration_is_required(preset_directory: Path) -> None:
    """A directory with only config.json is a preset for token ids."""
    for name in ("metadata.json", "tokenizer.json", "preprocessor.json"):
        (preset_directory / name).unlink()
    preset = read_preset(preset_directory)
    assert not preset.has_tokenizer
    assert preset.padding == 24


def test_missing_fields_have_the_defaults_of_the_constructor(preset_directory: Path) -> None:
    """Dropout, positions, segments and dtype are optional in config.json."""
    for field in ("dropout", "max_sequence_length", "num_segments", "dtype"):
        edit(preset_directory / "config.json", f"config.{field}", ...)
    preset = read_preset(preset_directory)
    assert (preset.architecture.dropout, preset.architecture.max_sequence_length) == (0.1, 512)
    assert (preset.architecture.num_segments, preset.dtype) == (4, "float32")


@pytest.mark.parametrize(
    ("written", "dtype"),
    [
        ("bfloat16", "bfloat16"),
        ({"class_name": "DTypePolicy", "config": {"name": "mixed_bfloat16"}}, "mixed_bfloat16"),
        (
            {
                "class_name": "DTypePolicyMap",
                "config": {"default_policy": {"class_name": "DTypePolicy", "config": {"name": "float16"}}},
            },
            "float16",
        ),
    ],
)
def test_dtype_is_read_in_every_format_of_keras(preset_directory: Path, written: Any, dtype: str) -> None:
    """A policy may be a name, a serialized policy, or a map with a default policy."""
    edit(preset_directory / "config.json", "config.dtype", written)
    assert read_preset(preset_directory).dtype == dtype


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_json_may_begin_with_a_byte_order_mark(preset_directory: Path, encoding: str) -> None:
    """A byte order mark is accepted."""
    path = preset_directory / "config.json"
    path.write_bytes(path.read_text().encode(encoding))
    assert read_preset(preset_directory).architecture.hidden_dim == 12


# --- Damage ---


def test_directory_without_configuration_is_not_a_preset(tmp_path: Path) -> None:
    """The error contains the missing file."""
    assert refusal(lambda: read_preset(tmp_path)).startswith("config.json: missing")


@pytest.mark.parametrize("name", ["FNetPreprocessor", "FNetTextClassifierPreprocessor", "FNetMaskedLMPreprocessor"])
def test_every_class_name_of_the_preprocessor_is_accepted(preset_directory: Path, name: str) -> None:
    """The class has had two names, and masked language modeling has another one."""
    edit(preset_directory / "preprocessor.json", "class_name", name)
    assert read_preset(preset_directory).has_tokenizer


def test_cache_directory_can_be_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`FNET_CACHE_DIR` also applies to the library."""
    monkeypatch.setenv("FNET_CACHE_DIR", str(tmp_path))
    assert default_cache_dir() == tmp_path


@pytest.mark.parametrize("file", ["config.json", "metadata.json", "preprocessor.json", "tokenizer.json"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"not json",
        b"\xff\xfe\xff",
        b"\x80\x81\x82",
        b"[]",
        b"[1]",
        b"7",
        b'"text"',
        b"null",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"config": ' + b"9" * 10_000 + b"}",
        b" " * (4 << 20) + b"{}",
    ],
    ids=lambda content: repr(content[:12]),
)
def test_damaged_json_is_reported(preset_directory: Path, file: str, content: bytes) -> None:
    """The error for a file that is not a JSON object of limited size starts with the file name."""
    (preset_directory / file).write_bytes(content)
    assert refusal(lambda: read_preset(preset_directory)).startswith(f"{file}: ")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("config.json", "'FNetBackbone'"),
        ("tokenizer.json", "'FNetTokenizer'"),
        ("preprocessor.json", "'FNetTextClassifierPreprocessor'"),
    ],
)
@pytest.mark.parametrize("class_name", ["BertBackbone", "", None, 7, ["FNetBackbone"], {}])
def test_another_class_is_rejected(preset_directory: Path, file: str, expected: str, class_name: Any) -> None:
    """The error for another class contains the expected class."""
    edit(preset_directory / file, "class_name", class_name)
    message = refusal(lambda: read_preset(preset_directory))
    assert message.startswith(f"{file}: class_name is ")
    assert expected in message


def test_hugging_face_checkpoint_is_rejected_with_the_remedy(tmp_path: Path, write_json: WriteJson) -> None:
    """The error for a configuration of transformers contains its type and the remedy."""
    write_json(tmp_path / "config.json", {"model_type": "fnet", "hidden_size": 768})
    message = refusal(lambda: read_preset(tmp_path))
    assert message.startswith("config.json: ")
    assert "Hugging Face" in message
    assert "convert" in message


@pytest.mark.parametrize("field", ["vocabulary_size", "num_layers", "hidden_dim", "intermediate_dim"])
def test_missing_size_is_reported(preset_directory: Path, field: str) -> None:
    """Sizes without a default are required."""
    edit(preset_directory / "config.json", f"config.{field}", ...)
    assert refusal(lambda: read_preset(preset_directory)).startswith(f"config.json: config.{field} is missing")


@pytest.mark.parametrize(
    "field",
    ["vocabulary_size", "num_layers", "hidden_dim", "intermediate_dim", "max_sequence_length", "num_segments"],
)
@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
def test_size_is_an_integer_in_range(preset_directory: Path, field: str, value: Any) -> None:
    """Booleans, strings, fractions, negative and very large numbers are rejected."""
    edit(preset_directory / "config.json", f"config.{field}", value)
    assert refusal(lambda: read_preset(preset_directory)).startswith(f"config.json: config.{field} is ")


@pytest.mark.parametrize(
    "field", ["vocabulary_size", "hidden_dim", "intermediate_dim", "max_sequence_length", "num_segments"]
)
def test_only_the_number_of_layers_may_be_zero(preset_directory: Path, field: str) -> None:
    """A network may have zero layers, and no other size may be zero."""
    edit(preset_directory / "config.json", "config.num_layers", 0)
    assert read_preset(preset_directory).architecture.num_layers == 0
    edit(preset_directory / "config.json", f"config.{field}", 0)
    assert f"config.{field} is 0, expected" in refusal(lambda: read_preset(preset_directory))


@pytest.mark.parametrize("changes", [{"num_layers": 10_001}, {"num_layers": 2**31}, {"hidden_dim": 10**6}])
def test_network_that_exceeds_the_limits_is_rejected(preset_directory: Path, changes: dict[str, int]) -> None:
    """Sizes that would exhaust memory are rejected before allocation."""
    for field, value in changes.items():
        edit(preset_directory / "config.json", f"config.{field}", value)
    assert refusal(lambda: read_preset(preset_directory)).startswith("config.json: describes more than ")


@pytest.mark.parametrize("value", [True, "0.1", -0.1, 1, 1.0, 10**400, float("nan"), float("inf"), []], ids=repr)
def test_dropout_is_below_one(preset_directory: Path, value: Any) -> None:
    """Dropout is a number in [0, 1)."""
    edit(preset_directory / "config.json", "config.dropout", value)
    message = refusal(lambda: read_preset(preset_directory))
    assert message.startswith("config.json: config.dropout is ")
    assert "[0, 1)" in message


@pytest.mark.parametrize(
    "value", ["int8", "", 16, True, [], {}, {"config": 7}, {"config": {"name": ["float32"]}}, "float32\n"], ids=repr
)
def test_dtype_is_a_floating_point_policy(preset_directory: Path, value: Any) -> None:
    """The error for other dtypes, also quantized ones, lists the known dtypes."""
    edit(preset_directory / "config.json", "config.dtype", value)
    assert refusal(lambda: read_preset(preset_directory)).startswith("config.json: config.dtype")


@pytest.mark.parametrize("block", ["text", 7, True, []], ids=repr)
@pytest.mark.parametrize(
    ("file", "key"), [("config.json", "config"), ("preprocessor.json", "config"), ("metadata.json", "fnet_service")]
)
def test_block_is_an_object(preset_directory: Path, file: str, key: str, block: Any) -> None:
    """A block that is not an object is rejected."""
    edit(preset_directory / file, key, block)
    assert refusal(lambda: read_preset(preset_directory)).startswith(f"{file}: {key} is ")


WRONG_IN_BLOCK: dict[str, list[Any]] = {
    "name": [7, True, [], "", "a/b", "../x", ".hidden", "a b", "a\nb", "é", "n" * 101],
    "version": [1.0, 1, True, []],
    "trained": [0, 1, "true", []],
    "padding": [True, False, 0, -1, 1.5, "longest", [], {}, 25, 10**30],
    "pooling": ["cls", True, 0, [], {}],
    "description": [7, [], {}],
    "matryoshka": [1, "yes", []],
}
WRONG_IN_PREPROCESSOR: dict[str, list[Any]] = {
    "sequence_length": [0, -1, True, "16", 1.5, 10**30],
    "truncate": ["left", True, 0, [], {}],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in WRONG_IN_BLOCK.items() for value in values],
    ids=repr,
)
def test_invalid_field_of_the_block_is_reported(preset_directory: Path, field: str, value: Any) -> None:
    """The error is one line with metadata.json and the field, for any value."""
    edit(preset_directory / "metadata.json", "fnet_service", {field: value})
    assert refusal(lambda: read_preset(preset_directory)).startswith(f"metadata.json: fnet_service.{field} is ")


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in WRONG_IN_PREPROCESSOR.items() for value in values],
    ids=repr,
)
def test_invalid_field_of_the_preprocessor_is_reported(preset_directory: Path, field: str, value: Any) -> None:
    """The error contains preprocessor.json and the field."""
    edit(preset_directory / "preprocessor.json", f"config.{field}", value)
    assert refusal(lambda: read_preset(preset_directory)).startswith(f"preprocessor.json: config.{field} is ")


def test_tokenizer_needs_its_vocabulary(preset_directory: Path) -> None:
    """A preset with tokenizer.json and without a vocabulary is damaged."""
    (preset_directory / "assets" / "tokenizer" / "vocabulary.spm").unlink()
    assert refusal(lambda: read_preset(preset_directory)).startswith("assets/tokenizer/vocabulary.spm: missing")


# --- Downloads, with fake clients that copy a local directory ---


class Kaggle(types.ModuleType):
    """A fake `kagglehub` that copies one directory to KAGGLEHUB_CACHE."""

    def __init__(self, source: Path) -> None:
        super().__init__("kagglehub")
        self.source, self.requests, self.failure = source, list[str](), None

    source: Path
    requests: list[str]
    failure: BaseException | None

    def model_download(self, handle: str) -> str:
        """Copy the model, or raise the failure."""
        self.requests.append(handle)
        if self.failure:
            raise self.failure
        target = Path(os.environ["KAGGLEHUB_CACHE"]) / "models" / handle
        shutil.copytree(self.source, target)
        return str(target)


class HuggingFace(types.ModuleType):
    """A fake `huggingface_hub` that copies one directory to the given cache."""

    def __init__(self, source: Path) -> None:
        super().__init__("huggingface_hub")
        self.source, self.requests, self.failure = source, list[dict[str, Any]](), None

    source: Path
    requests: list[dict[str, Any]]
    failure: BaseException | None

    def snapshot_download(
        self, *, repo_id: str, revision: str | None, cache_dir: str, allow_patterns: list[str]
    ) -> str:
        """Copy the repository, or raise the failure."""
        self.requests.append({"repo_id": repo_id, "revision": revision, "allow_patterns": allow_patterns})
        if self.failure:
            raise self.failure
        target = Path(cache_dir) / repo_id / (revision or "main")
        shutil.copytree(self.source, target)
        return str(target)


@pytest.fixture
def kaggle(monkeypatch: pytest.MonkeyPatch, preset_directory: Path) -> Kaggle:
    """The installed fake client; changes of the environment are reverted."""
    monkeypatch.setenv("KAGGLEHUB_CACHE", "set by the user")
    hub = Kaggle(preset_directory)
    monkeypatch.setitem(sys.modules, "kagglehub", hub)
    return hub


@pytest.fixture
def hugging_face(monkeypatch: pytest.MonkeyPatch, preset_directory: Path) -> HuggingFace:
    """The installed fake client."""
    hub = HuggingFace(preset_directory)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    return hub


@pytest.mark.parametrize(
    ("handle", "expected"),
    [
        ("f_net_base_en", "keras/f_net/keras/f_net_base_en/3"),
        ("f_net_large_en", "keras/f_net/keras/f_net_large_en/3"),
        ("kaggle://keras/f_net/keras/f_net_base_en", "keras/f_net/keras/f_net_base_en"),
        ("kaggle://someone/model/keras/mine/7", "someone/model/keras/mine/7"),
    ],
)
def test_kaggle_downloads_the_handle(kaggle: Kaggle, tmp_path: Path, handle: str, expected: str) -> None:
    """A built-in name or a Kaggle handle with its version is downloaded to the cache directory."""
    preset = load_preset(handle, tmp_path / "cache")
    assert kaggle.requests == [expected]
    assert preset.directory.is_relative_to(tmp_path / "cache")
    assert preset.name == preset_name(handle)
    assert preset.architecture.hidden_dim == 12


@pytest.mark.parametrize(
    ("handle", "revision"),
    [("hf://someone/fnet", None), ("hf://someone/fnet@v1", "v1"), ("hf://someone/fnet@a/b", "a/b")],
)
def test_hugging_face_downloads_the_revision(
    hugging_face: HuggingFace, tmp_path: Path, handle: str, revision: str | None
) -> None:
    """Only preset files of the revision are downloaded."""
    preset = load_preset(handle, tmp_path / "cache")
    (request,) = hugging_face.requests
    assert (request["repo_id"], request["revision"]) == ("someone/fnet", revision)
    assert preset.directory.is_relative_to(tmp_path / "cache")
    assert preset.name == "fnet"
    assert {"config.json", "model.weights.h5", "assets/tokenizer/vocabulary.spm"} <= set(request["allow_patterns"])
    assert not any(pattern.endswith((".py", ".bin", ".pkl", "*")) for pattern in request["allow_patterns"])


@pytest.mark.parametrize("handle", ["f_net_base_en", "hf://someone/fnet@v1"])
def test_second_load_works_offline(kaggle: Kaggle, hugging_face: HuggingFace, tmp_path: Path, handle: str) -> None:
    """A downloaded preset is loaded again without a request to the hub."""
    first = load_preset(handle, tmp_path / "cache")
    kaggle.failure = hugging_face.failure = OSError("no network")
    assert load_preset(handle, tmp_path / "cache") == first
    assert len(kaggle.requests) + len(hugging_face.requests) == 1


def test_each_revision_is_a_separate_download(hugging_face: HuggingFace, tmp_path: Path) -> None:
    """Revisions of one repository are never confused, also with similar names."""
    handles = ["hf://someone/fnet", "hf://someone/fnet@a/b", "hf://someone/fnet@a--b", "hf://someone/fnet--a--b"]
    directories = [locate(handle, tmp_path / "cache") for handle in handles]
    assert len(set(directories)) == len(hugging_face.requests) == len(handles)


def test_deleted_download_is_repeated(kaggle: Kaggle, tmp_path: Path) -> None:
    """If cached files are missing or their record is damaged, the preset is downloaded again."""
    directory = locate("f_net_base_en", tmp_path / "cache")
    shutil.rmtree(directory)
    assert locate("f_net_base_en", tmp_path / "cache") == directory
    (record,) = (tmp_path / "cache" / "presets").iterdir()
    for damage in ("", "[]", "{}", '{"directory": 7}', "7"):
        shutil.rmtree(directory)
        record.write_text(damage)
        assert locate("f_net_base_en", tmp_path / "cache") == directory
    assert len(kaggle.requests) == 7


@pytest.mark.parametrize("handle", ["f_net_base_en", "hf://someone/fnet@v1"])
@pytest.mark.parametrize(
    "failure", [OSError("no network\nsecond line"), RuntimeError(""), ValueError("  \n"), KeyError("version")], ids=repr
)
def test_failed_download_is_reported_in_one_line(
    kaggle: Kaggle, hugging_face: HuggingFace, tmp_path: Path, handle: str, failure: Exception
) -> None:
    """Any error of the client becomes a PresetError with its first line, and the next call retries."""
    kaggle.failure = hugging_face.failure = failure
    message = refusal(lambda: locate(handle, tmp_path / "cache"))
    assert message.startswith(f"preset {handle!r}: download failed: ")
    assert message.removeprefix(f"preset {handle!r}: download failed: ").strip()
    kaggle.failure = hugging_face.failure = None
    assert (locate(handle, tmp_path / "cache") / "config.json").is_file()
    assert len(kaggle.requests) + len(hugging_face.requests) == 2


@pytest.mark.parametrize("handle", ["f_net_base_en", "hf://someone/fnet@v1"])
def test_read_only_cache_is_reported(kaggle: Kaggle, hugging_face: HuggingFace, tmp_path: Path, handle: str) -> None:
    """A cache directory that cannot be created raises PresetError."""
    (tmp_path / "file").write_text("")
    message = refusal(lambda: locate(handle, tmp_path / "file" / "cache"))
    assert message.startswith(f"preset {handle!r}: download failed: ")


def test_keyboard_interrupt_is_propagated(kaggle: Kaggle, tmp_path: Path) -> None:
    """Ctrl-C during a download raises KeyboardInterrupt."""
    kaggle.failure = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        locate("f_net_base_en", tmp_path / "cache")


def test_downloaded_preset_is_validated(kaggle: Kaggle, tmp_path: Path) -> None:
    """Files of a hub are validated like local files."""
    edit(kaggle.source / "config.json", "class_name", "BertBackbone")
    assert refusal(lambda: load_preset("f_net_base_en", tmp_path / "cache")).startswith("config.json: class_name")


def test_built_in_presets_equal_those_of_keras_hub() -> None:
    """Both presets have description, size and Kaggle handle."""
    assert set(BUILT_IN_PRESETS) == {"f_net_base_en", "f_net_large_en"}
    for name, preset in BUILT_IN_PRESETS.items():
        assert preset["kaggle_handle"] == f"kaggle://keras/f_net/keras/{name}/3"
        assert set(preset["metadata"]) == {"description", "params", "path"}

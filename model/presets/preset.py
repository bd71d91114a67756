"""Presets: a handle becomes a local directory, and the directory a checked, typed description.

A preset is the directory that keras-hub writes: `config.json`, `metadata.json`, `tokenizer.json`, `preprocessor.json`,
`assets/tokenizer/vocabulary.spm` and the weights. A block `fnet_service` in `metadata.json` may set how it is served.
Nothing in a preset is executed: JSON is read with bounds, and no pickle is ever opened.
"""

from __future__ import annotations

import json
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from model.architecture import MOST_LAYERS, Architecture
from model.errors import PresetError, shown

BUNDLED_DIRECTORY = Path(__file__).parents[1] / "bundled"
DEFAULT_PRESET = "fnet_mini_en"

# Names, descriptions and sizes as keras-hub publishes them.
BUILT_IN_PRESETS: dict[str, dict[str, Any]] = {
    "f_net_base_en": {
        "metadata": {
            "description": "12 layers, hidden size 768, cased, pre-trained on the English C4 corpus.",
            "params": 82_861_056,
            "path": "f_net",
        },
        "kaggle_handle": "kaggle://keras/f_net/keras/f_net_base_en/3",
    },
    "f_net_large_en": {
        "metadata": {
            "description": "24 layers, hidden size 1024, cased, pre-trained on the English C4 corpus.",
            "params": 236_945_408,
            "path": "f_net",
        },
        "kaggle_handle": "kaggle://keras/f_net/keras/f_net_large_en/3",
    },
}

BUILT_IN_ARCHITECTURES = {
    "f_net_base_en": Architecture(vocabulary_size=32_000, num_layers=12, hidden_dim=768, intermediate_dim=3072),
    "f_net_large_en": Architecture(vocabulary_size=32_000, num_layers=24, hidden_dim=1024, intermediate_dim=4096),
}

# What a preset consists of: a hub's repository may hold more, and none of that is wanted here.
PRESET_FILES = [
    "config.json",
    "metadata.json",
    "tokenizer.json",
    "preprocessor.json",
    "assets/tokenizer/vocabulary.spm",
    "model.weights.h5",
    "model.weights.json",
    "model_*.weights.h5",
    "README.md",
]

VOCABULARY_FILE = "assets/tokenizer/vocabulary.spm"
CARD_FILE = "README.md"

Pooling = Literal["pooled", "mean"]
Padding = Literal["none", "max_length"] | int

# The first is what releases before keras-hub called the second.
_PREPROCESSORS = ("FNetPreprocessor", "FNetTextClassifierPreprocessor", "FNetMaskedLMPreprocessor")
_DTYPES = ("float32", "bfloat16", "float16", "mixed_bfloat16", "mixed_float16", "float64")
_MAX_JSON_BYTES = 4 << 20
_MAX_CARD_BYTES = 1 << 20
_MAX_PARAMETERS = 20_000_000_000
# A name becomes part of URLs, labels and log lines.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_KAGGLE = re.compile(r"[\w.-]+/[\w.-]+/keras/[\w.-]+(/\d+)?", re.ASCII)
_HUGGING_FACE = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A preset directory, read and checked; the weights are still on disk.

    Attributes:
        name: Short name that clients see.
        directory: Where the files are.
        architecture: The network.
        dtype: Name of the Keras dtype policy that the network was saved with.
        has_tokenizer: Whether texts can be encoded, or only token ids.
        truncate: How pairs are cut, `round_robin` or `waterfall`.
        version: The preset's own version, empty where it has none.
        trained: Whether its weights are said to be trained.
        padding: Default padding of texts: `none`, or the length to pad to.
        pooling: Which output is the text's embedding.
        description: One sentence for people.
        matryoshka: Whether it was trained so that the leading components of an embedding are one by themselves
            (Kusupati et al. 2022, arXiv 2205.13147).
    """

    name: str
    directory: Path
    architecture: Architecture
    dtype: str
    has_tokenizer: bool
    truncate: Literal["round_robin", "waterfall"]
    version: str
    trained: bool
    padding: Padding
    pooling: Pooling
    description: str
    matryoshka: bool

    @property
    def has_card(self) -> bool:
        """Whether there is a model card, of a length that people read."""
        path = self.directory / CARD_FILE
        return path.is_file() and path.stat().st_size <= _MAX_CARD_BYTES

    def card(self) -> str:
        """Return the model card, Markdown for people."""
        return (self.directory / CARD_FILE).read_text("utf-8", errors="replace")


def load_preset(handle: str, cache_dir: Path | None = None) -> Preset:
    """Return the preset that `handle` names, downloading it first where it must be.

    Args:
        handle: Bundled or built-in name, `kaggle://owner/model/keras/variation[/version]`, `hf://owner/name[@revision]`
            or a directory.
        cache_dir: Where downloads are kept; see `default_cache_dir`.

    Raises:
        PresetError: The handle names nothing, the download failed, or a file of the preset is missing or damaged.
    """
    return read_preset(locate(handle, cache_dir), preset_name(handle))


def bundled_presets() -> list[str]:
    """Names of the presets that this package carries."""
    return sorted(path.parent.name for path in BUNDLED_DIRECTORY.glob("*/config.json"))


def default_cache_dir() -> Path:
    """Return where downloads are kept: `FNET_CACHE_DIR`, else the user's cache directory (XDG Base Directory)."""
    if chosen := os.environ.get("FNET_CACHE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fnet-encode"


def preset_name(handle: str) -> str:
    """Return the short name that a handle gives, without a look at the disk."""
    if handle.startswith("kaggle://"):
        return handle.removeprefix("kaggle://").split("/")[3]
    if handle.startswith("hf://"):
        return handle.removeprefix("hf://").split("@")[0].split("/")[1]
    return Path(handle).resolve().name


def check_handle(handle: str) -> None:
    """Refuse at once a handle that can name nothing.

    Raises:
        PresetError: It has no known form, and no directory is there.
    """
    if handle in BUILT_IN_PRESETS or handle in bundled_presets():
        return
    for scheme, form, wanted in (
        ("kaggle://", _KAGGLE, "kaggle://owner/model/keras/variation[/version]"),
        ("hf://", _HUGGING_FACE, "hf://owner/name[@revision]"),
    ):
        if handle.startswith(scheme):
            if not form.fullmatch(handle.removeprefix(scheme)):
                raise PresetError(f"preset {handle!r}: expected the form {wanted}")
            return
    if not os.path.isdir(handle):  # noqa: PTH112 - pathlib raises where a name is too long for a path
        names = ", ".join([*bundled_presets(), *BUILT_IN_PRESETS])
        raise PresetError(
            f"preset {handle!r}: no such preset or directory; known names are {names}, "
            "other forms are kaggle://…, hf://… and a directory's path"
        )


def locate(handle: str, cache_dir: Path | None = None) -> Path:
    """Return the local directory of a preset, downloading it where it is not yet here.

    A finished download is recorded in the cache, and later calls neither import the hub's client nor use the network.
    An interrupted one is resumed by the hub's client.

    Raises:
        PresetError: The handle names nothing, or the download failed.
    """
    if (known := find(handle, cache_dir)) is not None:
        return known
    source, cache = hub_handle(handle), cache_dir or default_cache_dir()
    directory = _download(handle, source, cache, PRESET_FILES)
    record = _record(source, cache)
    record.parent.mkdir(parents=True, exist_ok=True)
    unfinished = record.with_suffix(".tmp")
    unfinished.write_text(json.dumps({"handle": source, "directory": str(directory)}))
    unfinished.replace(record)
    return directory


def find(handle: str, cache_dir: Path | None = None) -> Path | None:
    """Return the local directory of a preset as `locate` does, or nothing where it would have to be downloaded.

    Raises:
        PresetError: The handle names nothing.
    """
    check_handle(handle)
    if handle in bundled_presets():
        return BUNDLED_DIRECTORY / handle
    source = hub_handle(handle)
    if "://" not in source:
        return Path(handle)
    return _recorded(_record(source, cache_dir or default_cache_dir()), source)


def hub_handle(handle: str) -> str:
    """Return where a built-in name's files are published; another handle as it is."""
    return str(BUILT_IN_PRESETS[handle]["kaggle_handle"]) if handle in BUILT_IN_PRESETS else handle


def downloaded_presets(cache_dir: Path | None = None) -> dict[str, Path]:
    """Return the presets that were downloaded: the hub's handle of each, and its directory."""
    found: dict[str, Path] = {}
    for record in sorted(((cache_dir or default_cache_dir()) / "presets").glob("*.json")):
        try:
            source = str(json.loads(record.read_text())["handle"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if (directory := _recorded(record, source)) is not None:
            found[source] = directory
    return found


def download_files(handle: str, files: list[str], cache_dir: Path | None = None) -> Path:
    """Download a repository's files from Hugging Face, whatever they are; the client resumes and keeps them.

    Args:
        handle: `hf://owner/name[@revision]`.
        files: Patterns of the names that are wanted.
        cache_dir: Where downloads are kept; see `default_cache_dir`.

    Raises:
        PresetError: The handle is malformed, or the download failed.
    """
    if not handle.startswith("hf://"):
        raise PresetError(f"{handle!r}: expected the form hf://owner/name[@revision]")
    check_handle(handle)
    return _download(handle, handle, cache_dir or default_cache_dir(), files)


def _record(source: str, cache: Path) -> Path:
    """Return the file that tells of a finished download."""
    return cache / "presets" / (re.sub(r"[^\w.-]+", "--", source) + ".json")


def _download(handle: str, source: str, cache: Path, files: list[str]) -> Path:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        scheme, name = source.split("://", 1)
        return _download_kaggle(name, cache) if scheme == "kaggle" else _download_hugging_face(name, cache, files)
    except Exception as error:
        # The clients raise dozens of types; all mean that the preset could not be had.
        raise PresetError(f"preset {handle!r}: download failed: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Return the first line of what a client says; what the system says, where that is beneath it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (socket.gaierror, ConnectionError, TimeoutError)) and cause.strerror:
            return f"the hub cannot be reached: {cause.strerror}"
        cause = cause.__cause__ or cause.__context__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _recorded(record: Path, source: str) -> Path | None:
    try:
        known = json.loads(record.read_text())
        directory = Path(known["directory"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # Two handles may share a record's name.
    return directory if known.get("handle") == source and (directory / "config.json").is_file() else None


def _download_kaggle(handle: str, cache: Path) -> Path:
    # kagglehub takes its cache from this variable alone, and reads it at each call.
    os.environ["KAGGLEHUB_CACHE"] = str(cache / "kaggle")
    import kagglehub  # noqa: PLC0415 - half a second, needed for downloads only

    return Path(kagglehub.model_download(handle))


def _download_hugging_face(handle: str, cache: Path, files: list[str]) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - needed for downloads only

    name, _, revision = handle.partition("@")
    return Path(
        snapshot_download(repo_id=name, revision=revision or None, cache_dir=str(cache / "hf"), allow_patterns=files)
    )


def read_preset(directory: Path, name: str | None = None) -> Preset:
    """Read and check a preset directory's description.

    Args:
        directory: The preset directory.
        name: What to call it, unless its metadata names it; the directory's own name by default.

    Raises:
        PresetError: A file is missing, is no JSON, is of another class, or a field has a wrong value.
    """
    architecture, dtype = _read_network(directory)
    preprocessor = _read_preprocessor(directory)
    block = _Fields("metadata.json", _read_json(directory, "metadata.json", required=False)).block("fnet_service")
    length = preprocessor.integer("sequence_length", default=architecture.max_sequence_length, least=1)
    preset = Preset(
        name=block.text("name", default=_fit_name(name or directory.resolve().name)),
        directory=directory,
        architecture=architecture,
        dtype=dtype,
        has_tokenizer=_has_tokenizer(directory),
        truncate=preprocessor.choice("truncate", ("round_robin", "waterfall"), default="round_robin"),
        version=block.text("version", default=""),
        trained=block.boolean("trained", default=True),
        # keras-hub's default of 512 may stand beside a backbone of fewer positions.
        padding=_read_padding(block, default=min(length, architecture.max_sequence_length)),
        pooling=block.choice("pooling", ("pooled", "mean"), default="pooled"),
        description=block.text("description", default=""),
        matryoshka=block.boolean("matryoshka", default=False),
    )
    if not _NAME.fullmatch(preset.name):
        wanted = "letters, digits, dots, dashes and underscores"
        raise PresetError(f"metadata.json: fnet_service.name is {shown(preset.name)}, expected {wanted}")
    if isinstance(preset.padding, int) and preset.padding > architecture.max_sequence_length:
        raise PresetError(
            f"metadata.json: fnet_service.padding is {preset.padding}, "
            f"above config.json's max_sequence_length of {architecture.max_sequence_length}"
        )
    return preset


def service_block(directory: Path) -> dict[str, Any]:
    """Return the block `fnet_service` of a preset's metadata, unchecked but for being an object; empty without one.

    Raises:
        PresetError: `metadata.json` is no JSON, or the block no object.
    """
    document = _read_json(directory, "metadata.json", required=False)
    return _Fields("metadata.json", document).block("fnet_service").values


def _read_network(directory: Path) -> tuple[Architecture, str]:
    document = _read_json(directory, "config.json")
    if "class_name" not in document and "model_type" in document:
        theirs = shown(document["model_type"])
        todo = "not a Keras preset; fnet-service preset convert makes one"
        raise PresetError(f"config.json: a Hugging Face model of type {theirs}, {todo}")
    _check_class(document, "config.json", ("FNetBackbone",))
    fields = _Fields("config.json", document).block("config")
    architecture = Architecture(
        vocabulary_size=fields.integer("vocabulary_size", least=1),
        num_layers=fields.integer("num_layers", least=0),
        hidden_dim=fields.integer("hidden_dim", least=1),
        intermediate_dim=fields.integer("intermediate_dim", least=1),
        dropout=fields.share("dropout", default=0.1),
        max_sequence_length=fields.integer("max_sequence_length", default=512, least=1),
        num_segments=fields.integer("num_segments", default=4, least=1),
    )
    # Layers first: parameters are counted layer by layer.
    if architecture.num_layers > MOST_LAYERS or architecture.parameter_count > _MAX_PARAMETERS:
        raise PresetError(f"config.json: describes more than {_MAX_PARAMETERS:,} parameters or {MOST_LAYERS:,} layers")
    return architecture, _read_dtype(fields)


def _read_dtype(fields: _Fields) -> str:
    """Return the name of the dtype policy, which Keras writes as a name or as a serialised object."""
    value = fields.get("dtype", "float32")
    if isinstance(value, dict):
        policy = fields.block("dtype").block("config")
        value = policy.get("name", None) or policy.block("default_policy").block("config").get("name", None)
    if value not in _DTYPES:
        raise PresetError(f"{fields.place('dtype')} is {shown(value)}, expected {' or '.join(map(repr, _DTYPES))}")
    return str(value)


def _read_preprocessor(directory: Path) -> _Fields:
    document = _read_json(directory, "preprocessor.json", required=False)
    if document:
        _check_class(document, "preprocessor.json", _PREPROCESSORS)
    return _Fields("preprocessor.json", document).block("config")


def _has_tokenizer(directory: Path) -> bool:
    document = _read_json(directory, "tokenizer.json", required=False)
    if not document:
        return False
    _check_class(document, "tokenizer.json", ("FNetTokenizer",))
    if not (directory / VOCABULARY_FILE).is_file():
        raise PresetError(f"{VOCABULARY_FILE}: missing, although tokenizer.json is there")
    return True


def _fit_name(name: str) -> str:
    """Return a directory's or repository's name with what a name may not hold replaced."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:100] or "preset"


def _read_padding(block: _Fields, default: int) -> Padding:
    value = block.get("padding", default)
    if value in ("none", "max_length") or (type(value) is int and value > 0):
        padding: Padding = value
        return padding
    raise PresetError(
        f"{block.place('padding')} is {shown(value)}, expected 'none', 'max_length' or a positive integer"
    )


def _check_class(document: dict[str, Any], file: str, expected: tuple[str, ...]) -> None:
    found = document.get("class_name")
    if found not in expected:
        raise PresetError(f"{file}: class_name is {shown(found)}, expected {' or '.join(map(repr, expected))}")


def _read_json(directory: Path, file: str, *, required: bool = True) -> dict[str, Any]:
    path = directory / file
    if not path.is_file():
        if required:
            raise PresetError(f"{file}: missing from the preset directory {directory}")
        return {}
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise PresetError(f"{file}: larger than {_MAX_JSON_BYTES:,} bytes")
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, PresetError):
            raise
        raise PresetError(f"{file}: not readable as JSON: {str(error).splitlines()[0]}") from error
    if not isinstance(document, dict):
        raise PresetError(f"{file}: expected a JSON object, found {type(document).__name__}")
    return document


@dataclass(frozen=True, slots=True)
class _Fields:
    """One JSON object of a preset's file, whose fields are read with their type checked."""

    where: str
    values: dict[str, Any]

    def get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        return default if value is None else value

    def place(self, key: str) -> str:
        return f"{self.where}.{key}" if ":" in self.where else f"{self.where}: {key}"

    def block(self, key: str) -> _Fields:
        return _Fields(self.place(key), self._typed(key, dict, {}, "an object"))

    def text(self, key: str, *, default: str) -> str:
        return str(self._typed(key, str, default, "a string"))

    def boolean(self, key: str, *, default: bool) -> bool:
        return bool(self._typed(key, bool, default, "true or false"))

    def integer(self, key: str, *, least: int, default: int | None = None) -> int:
        value = self._typed(key, int, default, "an integer")
        if not least <= value <= 1 << 31:
            raise PresetError(f"{self.place(key)} is {shown(value)}, expected an integer from {least} to {1 << 31}")
        return int(value)

    def share(self, key: str, *, default: float) -> float:
        value = self.get(key, default)
        if type(value) not in (int, float) or not 0 <= value < 1:
            raise PresetError(f"{self.place(key)} is {shown(value)}, expected a number in [0, 1)")
        return float(value)

    def choice(self, key: str, choices: tuple[Any, ...], *, default: Any) -> Any:
        value = self.get(key, default)
        if value not in choices:
            raise PresetError(f"{self.place(key)} is {shown(value)}, expected {' or '.join(map(repr, choices))}")
        return value

    def _typed(self, key: str, kind: type, default: Any, wanted: str) -> Any:
        value = self.get(key, default)
        if value is None:
            raise PresetError(f"{self.place(key)} is missing, expected {wanted}")
        if type(value) is not kind:
            raise PresetError(f"{self.place(key)} is {shown(value)}, expected {wanted}")
        return value

"""Presets: reading and validation of their JSON files.

A preset is a directory in the format of keras-hub: `config.json`, `metadata.json`, `tokenizer.json`,
`preprocessor.json`, `assets/tokenizer/vocabulary.spm` and the weights. A block `fnet_service` in `metadata.json` may
set serving options. Files are untrusted: sizes are bounded, and nothing is unpickled or executed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from model.architecture import MAX_LAYERS, Architecture
from model.errors import PresetError, short_repr

# File patterns of a preset; other files of a repository are not downloaded.
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

# Releases before keras-hub name the second class FNetPreprocessor.
_PREPROCESSORS = ("FNetPreprocessor", "FNetTextClassifierPreprocessor", "FNetMaskedLMPreprocessor")
_DTYPES = ("float32", "bfloat16", "float16", "mixed_bfloat16", "mixed_float16", "float64")
_MAX_JSON_BYTES = 4 << 20
_MAX_CARD_BYTES = 1 << 20
_MAX_PARAMETERS = 20_000_000_000
# Names are part of URLs, labels and log lines.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """The validated description of a preset directory, without its weights.

    Attributes:
        name: Short name that clients see.
        directory: The preset directory.
        architecture: The network.
        dtype: Name of the saved Keras dtype policy.
        has_tokenizer: Whether the preset has a tokenizer; without one, it accepts only token ids.
        truncate: Truncation of pairs, `round_robin` or `waterfall`.
        version: Version of the preset, or empty.
        trained: Whether the metadata states that the weights are trained.
        padding: Default padding of texts: `none`, `max_length`, or a number of tokens.
        pooling: Output that is the embedding of a text.
        description: One sentence for people.
        matryoshka: Whether the leading components of an embedding are trained to be an embedding (Kusupati et al.
            2022, arXiv 2205.13147).
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
        """Whether the preset has a model card of at most 1 MiB."""
        path = self.directory / CARD_FILE
        return path.is_file() and path.stat().st_size <= _MAX_CARD_BYTES

    def card(self) -> str:
        """Return the model card, in Markdown."""
        return (self.directory / CARD_FILE).read_text("utf-8", errors="replace")


def read_preset(directory: Path, name: str | None = None) -> Preset:
    """Read and validate the description of a preset directory.

    Args:
        directory: The preset directory.
        name: Name of the preset if its metadata has none; the name of the directory by default.

    Raises:
        PresetError: A file is missing, is not JSON or is of another class, or a field has an invalid value.
    """
    architecture, dtype = _read_network(directory)
    preprocessor = _read_preprocessor(directory)
    block = _Fields("metadata.json", _read_json(directory, "metadata.json", required=False)).block("fnet_service")
    length = preprocessor.integer("sequence_length", default=architecture.max_sequence_length, minimum=1)
    preset = Preset(
        name=block.text("name", default=_sanitize_name(name or directory.resolve().name)),
        directory=directory,
        architecture=architecture,
        dtype=dtype,
        has_tokenizer=_has_tokenizer(directory),
        truncate=preprocessor.choice("truncate", ("round_robin", "waterfall"), default="round_robin"),
        version=block.text("version", default=""),
        trained=block.boolean("trained", default=True),
        # The default length of keras-hub, 512, may exceed the positions of the network.
        padding=_read_padding(block, default=min(length, architecture.max_sequence_length)),
        pooling=block.choice("pooling", ("pooled", "mean"), default="pooled"),
        description=block.text("description", default=""),
        matryoshka=block.boolean("matryoshka", default=False),
    )
    if not _NAME.fullmatch(preset.name):
        allowed = "letters, digits, dots, dashes and underscores"
        raise PresetError(f"metadata.json: fnet_service.name is {short_repr(preset.name)}, expected {allowed}")
    if isinstance(preset.padding, int) and preset.padding > architecture.max_sequence_length:
        raise PresetError(
            f"metadata.json: fnet_service.padding is {preset.padding}, "
            f"expected at most the max_sequence_length of config.json, {architecture.max_sequence_length}"
        )
    return preset


def service_block(directory: Path) -> dict[str, Any]:
    """Return the block `fnet_service` of the metadata of a preset without validating its fields, or an empty block.

    Raises:
        PresetError: `metadata.json` is not JSON, or the block is not an object.
    """
    document = _read_json(directory, "metadata.json", required=False)
    return _Fields("metadata.json", document).block("fnet_service").values


def _read_network(directory: Path) -> tuple[Architecture, str]:
    document = _read_json(directory, "config.json")
    if "class_name" not in document and "model_type" in document:
        model_type = short_repr(document["model_type"])
        remedy = "convert it with fnet-service preset convert"
        raise PresetError(f"config.json: a Hugging Face model of type {model_type}, not a Keras preset; {remedy}")
    _check_class(document, "config.json", ("FNetBackbone",))
    fields = _Fields("config.json", document).block("config")
    architecture = Architecture(
        vocabulary_size=fields.integer("vocabulary_size", minimum=1),
        num_layers=fields.integer("num_layers", minimum=0),
        hidden_dim=fields.integer("hidden_dim", minimum=1),
        intermediate_dim=fields.integer("intermediate_dim", minimum=1),
        dropout=fields.fraction("dropout", default=0.1),
        max_sequence_length=fields.integer("max_sequence_length", default=512, minimum=1),
        num_segments=fields.integer("num_segments", default=4, minimum=1),
    )
    # Layers first: parameters are counted layer by layer.
    if architecture.num_layers > MAX_LAYERS or architecture.parameter_count > _MAX_PARAMETERS:
        raise PresetError(f"config.json: describes more than {_MAX_PARAMETERS:,} parameters or {MAX_LAYERS:,} layers")
    return architecture, _read_dtype(fields)


def _read_dtype(fields: _Fields) -> str:
    """Return the name of the dtype policy, which Keras stores as a name or as a serialized object."""
    value = fields.get("dtype", "float32")
    if isinstance(value, dict):
        policy = fields.block("dtype").block("config")
        value = policy.get("name", None) or policy.block("default_policy").block("config").get("name", None)
    if value not in _DTYPES:
        raise PresetError(f"{fields.loc('dtype')} is {short_repr(value)}, expected {' or '.join(map(repr, _DTYPES))}")
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
        raise PresetError(f"{VOCABULARY_FILE}: missing, but tokenizer.json is present")
    return True


def _sanitize_name(name: str) -> str:
    """Return the name of a directory or repository with invalid characters replaced."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:100] or "preset"


def _read_padding(block: _Fields, default: int) -> Padding:
    value = block.get("padding", default)
    if value in ("none", "max_length") or (type(value) is int and value > 0):
        padding: Padding = value
        return padding
    raise PresetError(
        f"{block.loc('padding')} is {short_repr(value)}, expected 'none', 'max_length' or a positive integer"
    )


def _check_class(document: dict[str, Any], file: str, expected: tuple[str, ...]) -> None:
    class_name = document.get("class_name")
    if class_name not in expected:
        raise PresetError(
            f"{file}: class_name is {short_repr(class_name)}, expected {' or '.join(map(repr, expected))}"
        )


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
        raise PresetError(f"{file}: expected a JSON object, not {type(document).__name__}")
    return document


@dataclass(frozen=True, slots=True)
class _Fields:
    """A JSON object of a preset file, with type-checked access to its fields."""

    prefix: str
    values: dict[str, Any]

    def get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        return default if value is None else value

    def loc(self, key: str) -> str:
        return f"{self.prefix}.{key}" if ":" in self.prefix else f"{self.prefix}: {key}"

    def block(self, key: str) -> _Fields:
        return _Fields(self.loc(key), self._typed(key, dict, {}, "an object"))

    def text(self, key: str, *, default: str) -> str:
        return str(self._typed(key, str, default, "a string"))

    def boolean(self, key: str, *, default: bool) -> bool:
        return bool(self._typed(key, bool, default, "true or false"))

    def integer(self, key: str, *, minimum: int, default: int | None = None) -> int:
        value = self._typed(key, int, default, "an integer")
        if not minimum <= value <= 1 << 31:
            raise PresetError(
                f"{self.loc(key)} is {short_repr(value)}, expected an integer from {minimum} to {1 << 31}"
            )
        return int(value)

    def fraction(self, key: str, *, default: float) -> float:
        value = self.get(key, default)
        if type(value) not in (int, float) or not 0 <= value < 1:
            raise PresetError(f"{self.loc(key)} is {short_repr(value)}, expected a number in [0, 1)")
        return float(value)

    def choice(self, key: str, choices: tuple[Any, ...], *, default: Any) -> Any:
        value = self.get(key, default)
        if value not in choices:
            raise PresetError(f"{self.loc(key)} is {short_repr(value)}, expected {' or '.join(map(repr, choices))}")
        return value

    def _typed(self, key: str, kind: type, default: Any, expected: str) -> Any:
        value = self.get(key, default)
        if value is None:
            raise PresetError(f"{self.loc(key)} is missing, expected {expected}")
        if type(value) is not kind:
            raise PresetError(f"{self.loc(key)} is {short_repr(value)}, expected {expected}")
        return value

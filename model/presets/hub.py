"""Preset handles: resolution to local directories, downloads from Kaggle and Hugging Face, and the cache."""

from __future__ import annotations

import json
import os
import re
import socket
from pathlib import Path
from typing import Any

from model.architecture import Architecture
from model.errors import PresetError
from model.presets.preset import PRESET_FILES, Preset, read_preset

BUNDLED_DIRECTORY = Path(__file__).parents[1] / "bundled"
DEFAULT_PRESET = "fnet_mini_en"

# Names, descriptions and sizes that keras-hub publishes.
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

_KAGGLE = re.compile(r"[\w.-]+/[\w.-]+/keras/[\w.-]+(/\d+)?", re.ASCII)
_HUGGING_FACE = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", re.ASCII)


def load_preset(handle: str, cache_dir: Path | None = None) -> Preset:
    """Return the preset of a handle, downloading it if needed.

    Args:
        handle: Bundled or built-in name, `kaggle://owner/model/keras/variation[/version]`, `hf://owner/name[@revision]`
            or a directory.
        cache_dir: Directory of downloads; see `default_cache_dir`.

    Raises:
        PresetError: The handle is unknown, the download failed, or a file of the preset is missing or damaged.
    """
    return read_preset(locate(handle, cache_dir), preset_name(handle))


def bundled_presets() -> list[str]:
    """Return the names of the presets that are bundled with this package."""
    return sorted(path.parent.name for path in BUNDLED_DIRECTORY.glob("*/config.json"))


def default_cache_dir() -> Path:
    """Return the directory of downloads: `FNET_CACHE_DIR`, or the user's cache directory (XDG Base Directory)."""
    if directory := os.environ.get("FNET_CACHE_DIR"):
        return Path(directory)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fnet-encode"


def preset_name(handle: str) -> str:
    """Return the short name of a handle."""
    if handle.startswith("kaggle://"):
        return handle.removeprefix("kaggle://").split("/")[3]
    if handle.startswith("hf://"):
        return handle.removeprefix("hf://").split("@")[0].split("/")[1]
    return Path(handle).resolve().name


def check_handle(handle: str) -> None:
    """Validate the form of a handle, without a download.

    Raises:
        PresetError: The handle has no known form and is not a directory.
    """
    if handle in BUILT_IN_PRESETS or handle in bundled_presets():
        return
    for scheme, pattern, form in (
        ("kaggle://", _KAGGLE, "kaggle://owner/model/keras/variation[/version]"),
        ("hf://", _HUGGING_FACE, "hf://owner/name[@revision]"),
    ):
        if handle.startswith(scheme):
            if not pattern.fullmatch(handle.removeprefix(scheme)):
                raise PresetError(f"preset {handle!r}: expected {form}")
            return
    if not os.path.isdir(handle):  # noqa: PTH112 - pathlib raises for too long names
        names = ", ".join([*bundled_presets(), *BUILT_IN_PRESETS])
        raise PresetError(
            f"preset {handle!r}: no such preset or directory; known names are {names}; "
            "other forms are kaggle://…, hf://… and the path of a directory"
        )


def locate(handle: str, cache_dir: Path | None = None) -> Path:
    """Return the local directory of a preset, downloading it if needed.

    A completed download is recorded in the cache, so that later calls neither import the client of the hub nor use the
    network. The client of the hub resumes an interrupted download.

    Raises:
        PresetError: The handle is unknown, or the download failed.
    """
    if (local := find(handle, cache_dir)) is not None:
        return local
    source, cache = hub_handle(handle), cache_dir or default_cache_dir()
    directory = _download(handle, source, cache, PRESET_FILES)
    record = _record_path(source, cache)
    record.parent.mkdir(parents=True, exist_ok=True)
    unfinished = record.with_suffix(".tmp")
    unfinished.write_text(json.dumps({"handle": source, "directory": str(directory)}))
    unfinished.replace(record)
    return directory


def find(handle: str, cache_dir: Path | None = None) -> Path | None:
    """Return the local directory of a preset, or None if it is not downloaded.

    Raises:
        PresetError: The handle is unknown.
    """
    check_handle(handle)
    if handle in bundled_presets():
        return BUNDLED_DIRECTORY / handle
    source = hub_handle(handle)
    if "://" not in source:
        return Path(handle)
    return _recorded_directory(_record_path(source, cache_dir or default_cache_dir()), source)


def hub_handle(handle: str) -> str:
    """Return the hub handle of a built-in name, or another handle unchanged."""
    return str(BUILT_IN_PRESETS[handle]["kaggle_handle"]) if handle in BUILT_IN_PRESETS else handle


def downloaded_presets(cache_dir: Path | None = None) -> dict[str, Path]:
    """Return the directories of downloaded presets, keyed by hub handle."""
    presets: dict[str, Path] = {}
    for record in sorted(((cache_dir or default_cache_dir()) / "presets").glob("*.json")):
        try:
            source = str(json.loads(record.read_text())["handle"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if (directory := _recorded_directory(record, source)) is not None:
            presets[source] = directory
    return presets


def download_files(handle: str, files: list[str], cache_dir: Path | None = None) -> Path:
    """Download files of a Hugging Face repository; the client resumes and caches downloads.

    Args:
        handle: `hf://owner/name[@revision]`.
        files: Patterns of file names.
        cache_dir: Directory of downloads; see `default_cache_dir`.

    Raises:
        PresetError: The handle is invalid, or the download failed.
    """
    if not handle.startswith("hf://"):
        raise PresetError(f"{handle!r}: expected hf://owner/name[@revision]")
    check_handle(handle)
    return _download(handle, handle, cache_dir or default_cache_dir(), files)


def _record_path(source: str, cache: Path) -> Path:
    """Return the file that records a completed download."""
    return cache / "presets" / (re.sub(r"[^\w.-]+", "--", source) + ".json")


def _download(handle: str, source: str, cache: Path, files: list[str]) -> Path:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        scheme, name = source.split("://", 1)
        return _download_kaggle(name, cache) if scheme == "kaggle" else _download_hugging_face(name, cache, files)
    except Exception as error:
        # The clients raise dozens of types for a failed download.
        raise PresetError(f"preset {handle!r}: download failed: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Return the first line of an error message, or the network error that caused it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (socket.gaierror, ConnectionError, TimeoutError)) and cause.strerror:
            return f"cannot reach the hub: {cause.strerror}"
        cause = cause.__cause__ or cause.__context__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _recorded_directory(record: Path, source: str) -> Path | None:
    try:
        entry = json.loads(record.read_text())
        directory = Path(entry["directory"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # Two handles may have the same record path.
    return directory if entry.get("handle") == source and (directory / "config.json").is_file() else None


def _download_kaggle(handle: str, cache: Path) -> Path:
    # kagglehub reads its cache directory from this variable only, at each call.
    os.environ["KAGGLEHUB_CACHE"] = str(cache / "kaggle")
    import kagglehub  # noqa: PLC0415 - slow to import, and only for downloads

    return Path(kagglehub.model_download(handle))


def _download_hugging_face(handle: str, cache: Path, files: list[str]) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only for downloads

    name, _, revision = handle.partition("@")
    return Path(
        snapshot_download(repo_id=name, revision=revision or None, cache_dir=str(cache / "hf"), allow_patterns=files)
    )

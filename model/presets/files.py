"""The files of a preset: names, sizes, digests and copying."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from model.errors import PresetError
from model.presets.preset import PRESET_FILES

# Copied last: a directory without it is not a preset, so an interrupted copy is detected.
_LAST_FILE = "config.json"


def preset_files(directory: Path) -> list[str]:
    """Return the names of the files of a preset, relative to its directory; other files are ignored."""
    paths = {path for pattern in PRESET_FILES for path in directory.glob(pattern) if path.is_file()}
    return sorted(path.relative_to(directory).as_posix() for path in paths)


def size_of(directory: Path) -> int:
    """Return the size of the files of a preset, in bytes."""
    return sum((directory / name).stat().st_size for name in preset_files(directory))


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def copy_preset(source: Path, destination: Path, *, force: bool = False) -> list[str]:
    """Copy the files of a preset to a directory, as plain files.

    Equal files are not copied again, so that an interrupted copy resumes. Each file is replaced atomically, and
    `config.json` is written last.

    Args:
        source: The preset directory.
        destination: The directory, created if it is missing; files that are not preset files are not changed.
        force: Whether to replace files of another preset.

    Returns:
        The names of the written files.

    Raises:
        PresetError: A file cannot be written, or the directory has files of another preset and `force` is false.
    """
    names = sorted(preset_files(source), key=lambda name: (name == _LAST_FILE, name))
    try:
        if destination.exists() and destination.samefile(source):
            return []
        changed = [name for name in names if not _equal(source / name, destination / name)]
        foreign = [name for name in preset_files(destination) if name in changed or name not in names]
        if foreign and not force:
            raise PresetError(
                f"{destination / foreign[0]}: already exists and belongs to another preset; use --force to replace it"
            )
        for name in foreign:
            (destination / name).unlink()
        for name in changed:
            target = destination / name
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished = target.with_name(f"{target.name}.part")
            shutil.copyfile(source / name, unfinished)
            unfinished.replace(target)
    except OSError as error:
        raise PresetError(f"{error.filename2 or error.filename or destination}: {error.strerror}") from error
    return changed


def _equal(one: Path, other: Path) -> bool:
    if not other.is_file() or one.stat().st_size != other.stat().st_size:
        return False
    return file_digest(one) == file_digest(other)

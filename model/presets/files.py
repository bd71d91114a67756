"""The files of a preset: which they are, what they weigh in SHA-256, and how they are copied."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from model.errors import PresetError
from model.presets.preset import PRESET_FILES

# A directory without it is no preset: it comes last, so that a copy that broke off is told.
_LAST = "config.json"


def preset_files(directory: Path) -> list[str]:
    """Return the names of a preset's files, relative to its directory; others that lie there are none of it."""
    found = {path for pattern in PRESET_FILES for path in directory.glob(pattern) if path.is_file()}
    return sorted(path.relative_to(directory).as_posix() for path in found)


def size_of(directory: Path) -> int:
    """Return the bytes of a preset's files."""
    return sum((directory / name).stat().st_size for name in preset_files(directory))


def file_digest(path: Path) -> str:
    """Return a file's SHA-256, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def copy_preset(source: Path, destination: Path, *, force: bool = False) -> list[str]:
    """Make a directory hold a preset's files, as plain files.

    A file that is there already and equal stays, so that to copy again, or after a copy broke off, costs little. No
    file is ever seen half written, and `config.json` comes last.

    Args:
        source: The preset directory.
        destination: The directory, made where it is missing; files of no preset in it are left alone.
        force: Whether files of another preset are replaced.

    Returns:
        The names of the files that were written.

    Raises:
        PresetError: A file cannot be written, or files of another preset are there and `force` is not given.
    """
    names = sorted(preset_files(source), key=lambda name: (name == _LAST, name))
    try:
        if destination.exists() and destination.samefile(source):
            return []
        wanted = [name for name in names if not _equal(source / name, destination / name)]
        foreign = [name for name in preset_files(destination) if name in wanted or name not in names]
        if foreign and not force:
            raise PresetError(
                f"{destination / foreign[0]}: is there already, and of another preset; --force replaces it"
            )
        for name in foreign:
            (destination / name).unlink()
        for name in wanted:
            target = destination / name
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished = target.with_name(f"{target.name}.part")
            shutil.copyfile(source / name, unfinished)
            unfinished.replace(target)
    except OSError as error:
        raise PresetError(f"{error.filename2 or error.filename or destination}: {error.strerror}") from error
    return wanted


def _equal(one: Path, other: Path) -> bool:
    if not other.is_file() or one.stat().st_size != other.stat().st_size:
        return False
    return file_digest(one) == file_digest(other)

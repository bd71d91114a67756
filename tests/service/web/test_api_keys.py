"""API keys of settings and of a key file, and its reload."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.web.api_keys import ApiKeys, read_keys


class Clock:
    """A clock that tests advance."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A stopped clock."""
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with one key."""
    path = tmp_path / "keys"
    path.write_text("# ours\n\nfirst\n")
    return path


def valid_after_reload(api_keys: ApiKeys, clock: Clock, *values: str) -> list[bool]:
    """Advance the clock by two seconds and return which keys are valid."""
    clock.now += 2.0
    return [api_keys.is_valid([key]) for key in values]


def test_comments_and_empty_lines_are_ignored(file: Path) -> None:
    """White space around a key is ignored as well."""
    file.write_text("# first\n\n  second  \nthird\n")
    assert read_keys(file) == {"second", "third"}


def test_no_keys_means_not_required() -> None:
    """No keys means not required."""
    assert not ApiKeys().required
    assert ApiKeys(["one"]).required


def test_one_valid_key_is_sufficient(file: Path) -> None:
    """A client may send several keys, and keys come from both sources."""
    keys = ApiKeys(["fixed"], file)
    assert keys.is_valid(["wrong", "fixed"])
    assert keys.is_valid(["first"])
    assert not keys.is_valid(["wrong", "", "# ours"])
    assert not keys.is_valid([])
    assert not keys.is_valid(["schlüssel", "\u4e2d"])


def test_changed_file_is_reloaded(file: Path, clock: Clock) -> None:
    """The previous keys become invalid within two seconds."""
    keys = ApiKeys((), file, clock)
    assert valid_after_reload(keys, clock, "first", "second") == [True, False]
    file.write_text("second\n")
    assert valid_after_reload(keys, clock, "first", "second") == [False, True]


def test_replaced_file_is_reloaded(file: Path, clock: Clock, tmp_path: Path) -> None:
    """Kubernetes replaces the file of a mounted secret."""
    keys = ApiKeys((), file, clock)
    (tmp_path / "new").write_text("other\n")
    (tmp_path / "new").replace(file)
    assert valid_after_reload(keys, clock, "first", "other") == [False, True]


@pytest.mark.parametrize("slip", [b"", b"# nothing\n", b"\xff\xfe", None], ids=["empty", "comment", "no text", "gone"])
def test_invalid_file_keeps_the_previous_keys(file: Path, clock: Clock, slip: bytes | None) -> None:
    """The previous keys remain valid until the file contains keys again."""
    keys = ApiKeys((), file, clock)
    if slip is None:
        file.unlink()
    else:
        file.write_bytes(slip)
    assert valid_after_reload(keys, clock, "first", "") == [True, False]
    assert keys.required
    file.write_text("second\n")
    assert valid_after_reload(keys, clock, "first", "second") == [False, True]


def test_file_is_checked_at_most_once_per_second(file: Path, clock: Clock) -> None:
    """File is checked at most once per second."""
    keys = ApiKeys((), file, clock)
    file.write_text("second\n")
    assert [keys.is_valid([key]) for key in ("first", "second")] == [True, False]

"""Keys of a file can be exchanged while the service runs, and a slip of the hand neither opens nor locks the door."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.web.api_keys import ApiKeys, read_keys


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the seconds."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with one key."""
    path = tmp_path / "keys"
    path.write_text("# ours\n\nfirst\n")
    return path


def let_in(ring: ApiKeys, clock: Clock, *keys: str) -> list[bool]:
    """Return who of the given is let in, two seconds later."""
    clock.now += 2.0
    return [ring.is_valid([key]) for key in keys]


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
    ring = ApiKeys(["fixed"], file)
    assert ring.is_valid(["wrong", "fixed"])
    assert ring.is_valid(["first"])
    assert not ring.is_valid(["wrong", "", "# ours"])
    assert not ring.is_valid([])
    assert not ring.is_valid(["schlüssel", "\u4e2d"])


def test_changed_file_is_reloaded(file: Path, clock: Clock) -> None:
    """The previous keys become invalid within two seconds."""
    ring = ApiKeys((), file, clock)
    assert let_in(ring, clock, "first", "second") == [True, False]
    file.write_text("second\n")
    assert let_in(ring, clock, "first", "second") == [False, True]


def test_replaced_file_is_reloaded(file: Path, clock: Clock, tmp_path: Path) -> None:
    """Kubernetes replaces the file of a mounted secret."""
    ring = ApiKeys((), file, clock)
    (tmp_path / "new").write_text("other\n")
    (tmp_path / "new").replace(file)
    assert let_in(ring, clock, "first", "other") == [False, True]


@pytest.mark.parametrize("slip", [b"", b"# nothing\n", b"\xff\xfe", None], ids=["empty", "comment", "no text", "gone"])
def test_invalid_file_keeps_the_previous_keys(file: Path, clock: Clock, slip: bytes | None) -> None:
    """The previous keys remain valid until the file contains keys again."""
    ring = ApiKeys((), file, clock)
    if slip is None:
        file.unlink()
    else:
        file.write_bytes(slip)
    assert let_in(ring, clock, "first", "") == [True, False]
    assert ring.required
    file.write_text("second\n")
    assert let_in(ring, clock, "first", "second") == [False, True]


def test_file_is_checked_at_most_once_per_second(file: Path, clock: Clock) -> None:
    """File is checked at most once per second."""
    ring = ApiKeys((), file, clock)
    file.write_text("second\n")
    assert [ring.is_valid([key]) for key in ("first", "second")] == [True, False]

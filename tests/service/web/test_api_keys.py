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


def test_comments_and_empty_lines_are_no_keys(file: Path) -> None:
    """Nor is white space around a key part of it."""
    file.write_text("# first\n\n  second  \nthird\n")
    assert read_keys(file) == {"second", "third"}


def test_without_keys_everybody_is_let_in() -> None:
    """The ring says so, and is then not asked."""
    assert not ApiKeys().required
    assert ApiKeys(["one"]).required


def test_any_key_presented_is_enough(file: Path) -> None:
    """A client may present several, and keys come from both places."""
    ring = ApiKeys(["fixed"], file)
    assert ring.is_valid(["wrong", "fixed"])
    assert ring.is_valid(["first"])
    assert not ring.is_valid(["wrong", "", "# ours"])
    assert not ring.is_valid([])
    assert not ring.is_valid(["schlüssel", "\u4e2d"])


def test_a_file_that_changes_is_read_anew(file: Path, clock: Clock) -> None:
    """Within a second or two; the old keys are no keys then."""
    ring = ApiKeys((), file, clock)
    assert let_in(ring, clock, "first", "second") == [True, False]
    file.write_text("second\n")
    assert let_in(ring, clock, "first", "second") == [False, True]


def test_a_file_that_is_replaced_is_read_anew(file: Path, clock: Clock, tmp_path: Path) -> None:
    """As Kubernetes does with mounted secrets: another file of the same name."""
    ring = ApiKeys((), file, clock)
    (tmp_path / "new").write_text("other\n")
    (tmp_path / "new").replace(file)
    assert let_in(ring, clock, "first", "other") == [False, True]


@pytest.mark.parametrize("slip", [b"", b"# nothing\n", b"\xff\xfe", None], ids=["empty", "comment", "no text", "gone"])
def test_a_slip_of_the_hand_changes_nothing(file: Path, clock: Clock, slip: bytes | None) -> None:
    """The keys that held go on to hold, until there are others."""
    ring = ApiKeys((), file, clock)
    if slip is None:
        file.unlink()
    else:
        file.write_bytes(slip)
    assert let_in(ring, clock, "first", "") == [True, False]
    assert ring.required
    file.write_text("second\n")
    assert let_in(ring, clock, "first", "second") == [False, True]


def test_the_file_is_not_looked_at_for_every_request(file: Path, clock: Clock) -> None:
    """Once a second at most."""
    ring = ApiKeys((), file, clock)
    file.write_text("second\n")
    assert [ring.is_valid([key]) for key in ("first", "second")] == [True, False]

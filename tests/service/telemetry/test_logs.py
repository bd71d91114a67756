"""Log lines have one style, and hold nothing of an input."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator

import pytest
import structlog

from service.telemetry import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    logging.captureWarnings(capture=False)
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def fail_on(text: str) -> None:
    """Fail with a client's text in a local variable."""
    held_in_a_local = text * 2
    raise RuntimeError(f"{len(held_in_a_local)} characters")


@pytest.mark.parametrize("style", ["console", "json"])
def test_a_logged_error_has_its_trace_but_no_input(style: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Local variables hold texts, ids and keys: no trace shows them."""
    logs.configure("json" if style == "json" else "console", "info")
    text = "open-sesame"
    try:
        fail_on(text)
    except RuntimeError as error:
        structlog.get_logger("fnet.test").exception("unexpected error")
        structlog.get_logger("fnet.test").error("failed", exc_info=error)
    written = capsys.readouterr().err
    assert written.count("22 characters") == 2
    assert "fail_on" in written
    assert text not in written


def test_json_lines_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    """One object a line, with time, level, logger and the bound request id; the libraries' lines, too."""
    logs.configure("json", "info")
    structlog.contextvars.clear_contextvars()
    with structlog.contextvars.bound_contextvars(request_id="mine"):
        structlog.get_logger("fnet.test").info("ready", rows=[16, 32])
        logging.getLogger("elsewhere").warning("a library says %s", "this")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logs.configure("json", "info")
        warnings.warn("a library warns", stacklevel=1)
    ours, theirs, warned = map(json.loads, capsys.readouterr().err.splitlines())
    assert (warned["level"], warned["logger"]) == ("warning", "py.warnings")
    assert "a library warns" in warned["event"]
    assert {key: ours[key] for key in ("event", "level", "logger", "request_id", "rows")} == {
        "event": "ready",
        "level": "info",
        "logger": "fnet.test",
        "request_id": "mine",
        "rows": [16, 32],
    }
    assert ours["timestamp"].endswith("Z")
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("a library says this", "warning", "elsewhere")


@pytest.mark.parametrize(("level", "lines"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_decides_what_is_logged(level: str, lines: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing below it, everything from it on."""
    logs.configure("console", level)
    log = structlog.get_logger("fnet.test")
    for write in (log.debug, log.info, log.warning, log.error):
        write("an event")
    assert len(capsys.readouterr().err.splitlines()) == lines


def test_libraries_that_chat_are_quiet_but_their_errors_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A server's start-up lines and a client's requests are nobody's news."""
    logs.configure("console", "debug")
    for name in ("uvicorn.error", "httpx", "jax._src.dispatch"):
        logging.getLogger(name).info("chatter")
        logging.getLogger(name).error("trouble")
    written = capsys.readouterr().err
    assert "chatter" not in written
    assert written.count("trouble") == 3

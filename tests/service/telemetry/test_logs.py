"""Log lines have one format and contain no input."""

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
    """Restore the logging configuration after each test."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    logging.captureWarnings(capture=False)
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def fail_on(text: str) -> None:
    """Raise with a text of a client in a local variable."""
    local_text = text * 2
    raise RuntimeError(f"{len(local_text)} characters")


@pytest.mark.parametrize("style", ["console", "json"])
def test_logged_error_has_a_stack_trace_without_inputs(style: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Stack traces contain no local variables, which may hold texts, ids and keys."""
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


def test_json_lines_have_all_fields(capsys: pytest.CaptureFixture[str]) -> None:
    """Each line is an object with time, level, logger and request id, also for events of libraries."""
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
def test_level_filters_events(level: str, lines: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Events below the level are dropped."""
    logs.configure("console", level)
    log = structlog.get_logger("fnet.test")
    for write in (log.debug, log.info, log.warning, log.error):
        write("an event")
    assert len(capsys.readouterr().err.splitlines()) == lines


def test_libraries_log_warnings_and_errors_only(capsys: pytest.CaptureFixture[str]) -> None:
    """Info events of libraries are dropped even at level debug."""
    logs.configure("console", "debug")
    for name in ("uvicorn.error", "httpx", "jax._src.dispatch"):
        logging.getLogger(name).info("chatter")
        logging.getLogger(name).error("trouble")
    written = capsys.readouterr().err
    assert "chatter" not in written
    assert written.count("trouble") == 3

"""Write the reference from the code that it describes: settings, metrics, errors, commands.

    .venv/bin/python docs/reference/generate.py

A test fails while a page differs from what this would write, so that no page is behind.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import click

from service.cli.main import main as command
from service.core import errors
from service.settings import Settings, option, variable
from service.telemetry.metrics import Metrics
from service.web.statuses import STATUSES

HERE = Path(__file__).parent
_WIDTH = 100
_KINDS = {str: "text", bool: "`true`, `false`", Path: "path", int: "whole number", float: "number"}
_SETTINGS = """# Settings

Each is an environment variable and an option of `fnet-service serve`; options win. An unknown `FNET_…` name or a bad
value stops the start with one line and exit code 2; an empty variable counts as unset.
"""
_METRICS = """# Metrics

`GET /metrics` gives them as Prometheus text, or as OpenMetrics to whoever asks for it. Durations are in seconds.
Labels are bounded: `route` is a route's template and never a path, `status` and `reason` are in [a table](errors.md).
Beside these are the client library's own `process_…` and `python_info`.
"""
_QUERIES = """
What an operator asks most, as queries:

```promql
# requests a second, by route and status
sum by (route, status) (rate(fnet_requests_total[5m]))
# the 99th percentile of what clients of a route waited
histogram_quantile(0.99, sum by (le) (rate(fnet_request_duration_seconds_bucket{route="/v1/encode"}[5m])))
# tokens a second through the network
sum(rate(fnet_batch_tokens_sum[5m]))
# share of a row that its tokens take
sum(rate(fnet_batch_fill_ratio_sum[5m])) / sum(rate(fnet_batch_fill_ratio_count[5m]))
```"""
_ERRORS = """# Errors

The code stays the same whatever the protocol; the status follows from it. Routes of our own answer
`application/problem+json` (RFC 9457) with the code in `code` and each wrong place in `errors`. The other protocols have
bodies of their own: `{"error": {message, type, param, code}}` for OpenAI's, `{"error": …}` for the Open Inference
Protocol, `{"error", "error_type"}` for Text Embeddings Inference. `fnet_rejected_total` counts them by code.
"""
_CONNECTIONS = """
Before a request is one, the connection may be refused: 400 `bad_request` for what is no HTTP request, 408
`head_timeout` for a head that does not come within 10 seconds, 431 `head_too_large` for one of more than 64 KiB, 503
`too_many_connections` where 2,000 are open already. Each is a problem document with an id of its own, and counted in
`fnet_rejected_total`."""

_WHEN = {
    "bad_request": "The body is no JSON, is in another encoding than it says, or a header makes no sense.",
    "unauthorized": "Keys are set, and the request has none of them.",
    "not_found": "There is no such route, model or version; or the preset has no card.",
    "method_not_allowed": "The route has other methods; `Allow` names them.",
    "body_too_large": "More bytes than `FNET_MAX_BODY_BYTES`, as sent, in chunks or inflated.",
    "too_many_sequences": "More sequences than `FNET_MAX_SEQUENCES` in one request.",
    "invalid_input": "JSON that describes no input of this model; `errors` names each place.",
    "overloaded": "The queue is full. `Retry-After` is measured from how fast it empties.",
    "non_finite_output": "The network gave NaN or infinity for this input, and for nobody else's.",
    "internal_error": "A defect of the service; the log has it under the request's id.",
    "not_ready": "The preset is loading or its programs are being compiled. `Retry-After` is set.",
    "draining": "The process is about to end. `Retry-After` is set, and the connection closed.",
    "worker_failed": "The model thread died; the process is ending. `Retry-After` is set.",
    "deadline_exceeded": "`FNET_REQUEST_TIMEOUT` or the request's own `X-Request-Timeout` has passed.",
}


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    head = list(head)
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def _values(annotation: Any, limits: Iterable[Any]) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, UnionType):
        return _values(next(each for each in inner if each is not NoneType), limits)
    if origin is list:
        return "list, separated by commas"
    bounds = {name: getattr(limit, name) for limit in limits for name in ("ge", "gt", "le") if hasattr(limit, name)}
    words = {"ge": "at least", "gt": "above", "le": "at most"}
    told = [f"{words[name]} {bound:,}" for name, bound in bounds.items()]
    return ", ".join([_KINDS[annotation], *told])


def settings() -> Iterator[str]:
    """Write the page of all settings."""
    yield _SETTINGS
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, []) else f"`{field.default}`".lower()
        values = _values(field.annotation, field.metadata)
        rows.append((f"`{variable(name)}`<br>`{option(name)}`", values, default, str(field.description)))
    yield from _table(("setting", "values", "default", "meaning"), rows)


def metrics() -> Iterator[str]:
    """Write the page of all metrics."""
    yield _METRICS
    rows = (
        (f"`{each.name}`", each.kind, ", ".join(f"`{label}`" for label in each.labels), each.help)
        for each in sorted(Metrics().descriptions, key=lambda each: each.name)
    )
    yield from _table(("metric", "kind", "labels", "meaning"), rows)
    yield _QUERIES


def failures() -> Iterator[str]:
    """Write the page of all errors."""
    classes = (each for _, each in inspect.getmembers(errors, inspect.isclass))
    codes = {each.code for each in classes if issubclass(each, errors.ServiceError) and hasattr(each, "code")}
    if not codes == set(STATUSES) == set(_WHEN):
        raise SystemExit(f"codes without a sentence, or sentences without a code: {codes ^ set(_WHEN)}")
    yield _ERRORS
    yield from _table(("status", "code", "when"), ((str(STATUSES[c]), f"`{c}`", _WHEN[c]) for c in STATUSES))
    yield _CONNECTIONS


def commands() -> Iterator[str]:
    """Write the page of all commands, as they describe themselves."""
    yield "# Commands"
    yield ""
    yield "What each says with `--help`."

    def walk(found: click.Command, name: str, depth: int) -> Iterator[str]:
        context = click.Context(
            found, info_name=name, max_content_width=_WIDTH, terminal_width=_WIDTH, help_option_names=["-h", "--help"]
        )
        yield ""
        yield f"{'#' * depth} `{name}`"
        yield ""
        yield "```text"
        yield from (line.rstrip() for line in found.get_help(context).splitlines())
        yield "```"
        for verb, inner in sorted(getattr(found, "commands", {}).items()):
            yield from walk(inner, f"{name} {verb}", depth + 1)

    yield from walk(command, "fnet-service", 2)


PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "settings.md": settings,
    "metrics.md": metrics,
    "errors.md": failures,
    "commands.md": commands,
}


def text(page: str) -> str:
    """Return what a page should hold."""
    return "\n".join(PAGES[page]()) + "\n"


def main() -> None:
    """Write every page beside this file."""
    for page in PAGES:
        (HERE / page).write_text(text(page), "utf-8")


if __name__ == "__main__":
    main()

"""Generate the reference pages from the code: settings, metrics, errors and commands.

    .venv/bin/python docs/reference/generate.py

A test fails if a page differs from the output of this script.
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
_WIDTH_CHARACTERS = 100
_KINDS = {str: "text", bool: "`true`, `false`", Path: "path", int: "integer", float: "number"}
_SETTINGS = """# Settings

Each setting is an environment variable and an option of `fnet-service serve`. Options take precedence. The server exits
with code 2 and one line for an unknown `FNET_…` name or an invalid value. An empty variable is treated as unset.
"""
_METRICS = """# Metrics

`GET /metrics` returns Prometheus text, or OpenMetrics on request. Durations are in seconds. Labels are bounded: `route`
is a route template and never a path, and [the table of errors](errors.md) lists `status` and `reason`. The Prometheus
client library adds `process_…` and `python_info`.
"""
_QUERIES = """
Common queries:

```promql
# requests per second, by route and status
sum by (route, status) (rate(fnet_requests_total[5m]))
# 99th percentile of the request duration of a route
histogram_quantile(0.99, sum by (le) (rate(fnet_request_duration_seconds_bucket{route="/v1/encode"}[5m])))
# tokens per second
sum(rate(fnet_batch_tokens_sum[5m]))
# mean fill ratio of rows
sum(rate(fnet_batch_fill_ratio_sum[5m])) / sum(rate(fnet_batch_fill_ratio_count[5m]))
```"""
_ERRORS = """# Errors

The code is the same for every protocol and determines the status. Native routes answer `application/problem+json`
(RFC 9457), with the code in `code` and each invalid location in `errors`. The other protocols have their own bodies:
`{"error": {message, type, param, code}}` for OpenAI, `{"error": …}` for the Open Inference Protocol, and
`{"error", "error_type"}` for Text Embeddings Inference. `fnet_rejected_total` counts errors by code.
"""
_CONNECTIONS = """
The server rejects connections with 400 `bad_request` for a malformed HTTP request, 408 `head_timeout` for a request
head that takes more than 10 seconds, 431 `head_too_large` for a head of more than 64 KiB, and 503
`too_many_connections` above 2,000 open connections. Each response is a problem document with a request id, and counts
in `fnet_rejected_total`."""

_WHEN = {
    "bad_request": "The body is not JSON or not in the stated encoding, or a header is invalid.",
    "unauthorized": "API keys are set, and the request has no valid key.",
    "not_found": "The route, model or version is unknown, or the preset has no model card.",
    "method_not_allowed": "The route does not support the method; `Allow` lists the supported ones.",
    "body_too_large": "The body exceeds `FNET_MAX_BODY_BYTES`, as sent, in chunks or decompressed.",
    "too_many_sequences": "The request exceeds `FNET_MAX_SEQUENCES`.",
    "invalid_input": "The JSON is not a valid input of the model; `errors` lists each location.",
    "overloaded": "The queue is full. `Retry-After` is computed from the measured throughput.",
    "non_finite_output": "The output of this input is NaN or infinite. Other requests are not affected.",
    "internal_error": "A defect of the service; the log has an entry with the request id.",
    "not_ready": "The preset is loading or its programs are being compiled. `Retry-After` is set.",
    "draining": "The process is shutting down. `Retry-After` is set, and the connection is closed.",
    "worker_failed": "The model worker failed, and the process exits. `Retry-After` is set.",
    "deadline_exceeded": "`FNET_REQUEST_TIMEOUT` or the `X-Request-Timeout` of the request has passed.",
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
        return _values(next(member for member in inner if member is not NoneType), limits)
    if origin is list:
        return "list, separated by commas"
    bounds = {name: getattr(limit, name) for limit in limits for name in ("ge", "gt", "le") if hasattr(limit, name)}
    words = {"ge": "at least", "gt": "above", "le": "at most"}
    bounds_text = [f"{words[name]} {bound:,}" for name, bound in bounds.items()]
    return ", ".join([_KINDS[annotation], *bounds_text])


def settings() -> Iterator[str]:
    """Generate the page of all settings."""
    yield _SETTINGS
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, []) else f"`{field.default}`".lower()
        values = _values(field.annotation, field.metadata)
        rows.append((f"`{variable(name)}`<br>`{option(name)}`", values, default, str(field.description)))
    yield from _table(("setting", "values", "default", "meaning"), rows)


def metrics() -> Iterator[str]:
    """Generate the page of all metrics."""
    yield _METRICS
    rows = (
        (f"`{metric.name}`", metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.help)
        for metric in sorted(Metrics().descriptions, key=lambda metric: metric.name)
    )
    yield from _table(("metric", "kind", "labels", "meaning"), rows)
    yield _QUERIES


def failures() -> Iterator[str]:
    """Generate the page of all errors."""
    classes = (member for _, member in inspect.getmembers(errors, inspect.isclass))
    codes = {error.code for error in classes if issubclass(error, errors.ServiceError) and hasattr(error, "code")}
    if not codes == set(STATUSES) == set(_WHEN):
        raise SystemExit(f"codes without a description, or descriptions without a code: {codes ^ set(_WHEN)}")
    yield _ERRORS
    yield from _table(("status", "code", "when"), ((str(STATUSES[c]), f"`{c}`", _WHEN[c]) for c in STATUSES))
    yield _CONNECTIONS


def commands() -> Iterator[str]:
    """Generate the page of all commands, with their help texts."""
    yield "# Commands"
    yield ""
    yield "The output of `--help` for each command."

    def walk(group: click.Command, name: str, depth: int) -> Iterator[str]:
        context = click.Context(
            group,
            info_name=name,
            max_content_width=_WIDTH_CHARACTERS,
            terminal_width=_WIDTH_CHARACTERS,
            help_option_names=["-h", "--help"],
        )
        yield ""
        yield f"{'#' * depth} `{name}`"
        yield ""
        yield "```text"
        yield from (line.rstrip() for line in group.get_help(context).splitlines())
        yield "```"
        for verb, inner in sorted(getattr(group, "commands", {}).items()):
            yield from walk(inner, f"{name} {verb}", depth + 1)

    yield from walk(command, "fnet-service", 2)


PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "settings.md": settings,
    "metrics.md": metrics,
    "errors.md": failures,
    "commands.md": commands,
}


def text(page: str) -> str:
    """Return the content of a page."""
    return "\n".join(PAGES[page]()) + "\n"


def main() -> None:
    """Write every page next to this file."""
    for page in PAGES:
        (HERE / page).write_text(text(page), "utf-8")


if __name__ == "__main__":
    main()

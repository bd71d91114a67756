"""Events update the metrics of the contract."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from service.app import create_app
from service.core.errors import CONNECTION_CODES, ServiceError
from service.core.events import (
    BatchRan,
    Event,
    OutputNotFinite,
    ProgramCompiled,
    RequestCancelled,
    RequestComputed,
    RequestRejected,
    ResultsLookedUp,
    TextsTokenized,
)
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.web.statuses import STATUSES

# Metrics of the contract with their labels.
CONTRACT = {
    "fnet_requests_total": {"route", "status"},
    "fnet_request_duration_seconds": {"route"},
    "fnet_queue_duration_seconds": set[str](),
    "fnet_compute_duration_seconds": set[str](),
    "fnet_tokenize_duration_seconds": set[str](),
    "fnet_sequence_length_tokens": set[str](),
    "fnet_batch_tokens": set[str](),
    "fnet_batch_sequences": set[str](),
    "fnet_batch_fill_ratio": set[str](),
    "fnet_queue_tokens": set[str](),
    "fnet_queue_requests": set[str](),
    "fnet_rejected_total": {"reason"},
    "fnet_cancelled_total": set[str](),
    "fnet_compilations_total": set[str](),
    "fnet_non_finite_total": set[str](),
    "fnet_ready": set[str](),
    "fnet_model_info": {"preset", "dtype"},
}


@pytest.fixture
def metrics() -> Metrics:
    """Metrics with at least one observation each."""
    metrics = Metrics(queue_tokens=lambda: 7, queue_requests=lambda: 2, ready=lambda: True, result_bytes=lambda: 4096)
    events: list[Event] = [
        BatchRan(tokens=48, sequences=3, row_tokens=64, seconds=0.1),
        RequestComputed(lengths=(40, 8), queue_seconds=0.25, compute_seconds=0.5),
        TextsTokenized(seconds=0.125),
        ResultsLookedUp(hits=3, misses=2),
        RequestRejected("overloaded"),
        RequestCancelled(),
        OutputNotFinite(),
        ProgramCompiled(),
    ]
    for event in events:
        metrics.observe(event)
    metrics.observe_response("/v1/encode", 200, 2.0)
    metrics.describe(preset="tiny", dtype="float32")
    return metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Return the value of a sample."""
    return metrics.registry.get_sample_value(name, labels)


@pytest.mark.parametrize("name", CONTRACT)
def test_metrics_have_the_names_and_labels_of_the_contract(metrics: Metrics, name: str) -> None:
    """Each metric of the contract has samples with its labels."""
    samples = [
        sample
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name in (name, f"{name}_bucket")
    ]
    assert samples
    assert {label for sample in samples for label in sample.labels} - {"le"} == CONTRACT[name]


def test_events_update_their_metrics(metrics: Metrics) -> None:
    """Each event changes its metrics by its values."""
    expected = {
        "fnet_batch_tokens_sum": 48,
        "fnet_batch_sequences_sum": 3,
        "fnet_batch_fill_ratio_sum": 0.75,
        "fnet_queue_duration_seconds_sum": 0.25,
        "fnet_compute_duration_seconds_sum": 0.5,
        "fnet_tokenize_duration_seconds_sum": 0.125,
        "fnet_sequence_length_tokens_count": 2,
        "fnet_sequence_length_tokens_sum": 48,
        "fnet_result_cache_hits_total": 3,
        "fnet_result_cache_misses_total": 2,
        "fnet_result_cache_bytes": 4096,
        "fnet_cancelled_total": 1,
        "fnet_compilations_total": 1,
        "fnet_non_finite_total": 1,
        "fnet_queue_tokens": 7,
        "fnet_queue_requests": 2,
        "fnet_ready": 1,
    }
    assert {name: value(metrics, name) for name in expected} == expected
    assert value(metrics, "fnet_rejected_total", reason="overloaded") == 1
    assert value(metrics, "fnet_requests_total", route="/v1/encode", status="200") == 1
    assert value(metrics, "fnet_request_duration_seconds_sum", route="/v1/encode") == 2
    assert value(metrics, "fnet_model_info", preset="tiny", dtype="float32") == 1


def test_counters_of_alerts_start_at_zero() -> None:
    """An alert on the rate of a counter detects the first event."""
    metrics = Metrics()
    for name in ("fnet_compilations_total", "fnet_non_finite_total", "fnet_cancelled_total", "fnet_ready"):
        assert value(metrics, name) == 0


def test_all_rejection_reasons_start_at_zero() -> None:
    """`/metrics` has exactly the codes of errors and of rejected connections before loading."""

    async def exposed() -> str:
        transport = httpx.ASGITransport(create_app(Settings.load({})))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
            return (await http.get("/metrics")).text

    samples = [sample for family in parse_text(asyncio.run(exposed())) for sample in family.samples]
    rejected = {sample.labels["reason"]: sample.value for sample in samples if sample.name == "fnet_rejected_total"}
    assert rejected == dict.fromkeys([*STATUSES, *CONNECTION_CODES.values()], 0)


def test_labeled_counters_are_known() -> None:
    """Only rejections start at 0; routes and statuses have too many combinations."""
    descriptions = Metrics().descriptions
    counters = {item.name: item.labels for item in descriptions if item.kind == "counter" and item.labels}
    assert counters == {"fnet_requests_total": ("route", "status"), "fnet_rejected_total": ("reason",)}


def test_reasons_are_error_codes() -> None:
    """The number of reasons is bounded by the status table."""
    assert set(STATUSES) == {kind.code for kind in ServiceError.__subclasses__()}


def test_metrics_of_two_services_are_separate(metrics: Metrics) -> None:
    """Two services in one process have separate registries."""
    assert value(Metrics(), "fnet_cancelled_total") == 0
    assert value(metrics, "fnet_cancelled_total") == 1


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain;version=0.0.4", "application/json"])
def test_text_format_is_the_default(metrics: Metrics, accept: str) -> None:
    """Without a request for OpenMetrics, the exposition is valid Prometheus text."""
    content, content_type = metrics.exposition(accept)
    assert content_type.startswith("text/plain; version=")
    names = {sample.name for family in parse_text(content.decode()) for sample in family.samples}
    assert {"fnet_requests_total", "fnet_queue_tokens", "process_cpu_seconds_total"} <= names


def test_openmetrics_is_rendered_on_request(metrics: Metrics) -> None:
    """The exposition is valid OpenMetrics with an end marker."""
    content, content_type = metrics.exposition("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert content.endswith(b"# EOF\n")
    parsed = parse_openmetrics(content.decode())  # type: ignore[no-untyped-call] # prometheus_client has no annotation
    families = {family.name: family for family in parsed}
    assert families["fnet_requests"].type == "counter"
    assert families["fnet_model"].type == "info"

"""Records become the numbers that the contract names."""

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

# As the contract writes them, with the labels that they have.
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
    """Metrics of which every one has been touched."""
    metrics = Metrics(queue_tokens=lambda: 7, queue_requests=lambda: 2, ready=lambda: True, result_bytes=lambda: 4096)
    records: list[Event] = [
        BatchRan(tokens=48, sequences=3, row_tokens=64, seconds=0.1),
        RequestComputed(lengths=(40, 8), queue_seconds=0.25, compute_seconds=0.5),
        TextsTokenized(seconds=0.125),
        ResultsLookedUp(hits=3, misses=2),
        RequestRejected("overloaded"),
        RequestCancelled(),
        OutputNotFinite(),
        ProgramCompiled(),
    ]
    for record in records:
        metrics.observe(record)
    metrics.observe_response("/v1/encode", 200, 2.0)
    metrics.describe(preset="tiny", dtype="float32")
    return metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Return a sample."""
    return metrics.registry.get_sample_value(name, labels)


@pytest.mark.parametrize("name", CONTRACT)
def test_every_name_of_the_contract_is_there_with_its_labels(metrics: Metrics, name: str) -> None:
    """Dashboards and alerts rely on them."""
    samples = [
        sample
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name in (name, f"{name}_bucket")
    ]
    assert samples
    assert {label for sample in samples for label in sample.labels} - {"le"} == CONTRACT[name]


def test_records_are_counted_where_they_belong(metrics: Metrics) -> None:
    """Each record moves its own metrics by its own amounts."""
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


def test_alarms_start_at_zero() -> None:
    """A counter that no event has touched is 0, not absent: an alert on its rate works from the first event on."""
    metrics = Metrics()
    for name in ("fnet_compilations_total", "fnet_non_finite_total", "fnet_cancelled_total", "fnet_ready"):
        assert value(metrics, name) == 0


def test_every_reason_starts_at_zero() -> None:
    """Before a model is there, `/metrics` has the codes of the table and of refused connections, and no others."""

    async def exposed() -> str:
        transport = httpx.ASGITransport(create_app(Settings.load({})))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
            return (await http.get("/metrics")).text

    samples = [sample for family in parse_text(asyncio.run(exposed())) for sample in family.samples]
    rejected = {each.labels["reason"]: each.value for each in samples if each.name == "fnet_rejected_total"}
    assert rejected == dict.fromkeys([*STATUSES, *CONNECTION_CODES.values()], 0)


def test_no_other_counter_could_start_at_zero() -> None:
    """Routes and statuses make too many series; those appear with their first answer."""
    counters = {each.name: each.labels for each in Metrics().descriptions if each.kind == "counter" and each.labels}
    assert counters == {"fnet_requests_total": ("route", "status"), "fnet_rejected_total": ("reason",)}


def test_reasons_are_the_codes() -> None:
    """A refusal's label is one of the table's codes, so there are only so many."""
    assert set(STATUSES) == {kind.code for kind in ServiceError.__subclasses__()}


def test_every_service_counts_for_itself(metrics: Metrics) -> None:
    """Two services in one process do not add up."""
    assert value(Metrics(), "fnet_cancelled_total") == 0
    assert value(metrics, "fnet_cancelled_total") == 1


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain;version=0.0.4", "application/json"])
def test_the_text_format_is_the_default(metrics: Metrics, accept: str) -> None:
    """Whatever does not ask for OpenMetrics gets Prometheus's text, which its parser reads."""
    content, content_type = metrics.exposition(accept)
    assert content_type.startswith("text/plain; version=")
    names = {sample.name for family in parse_text(content.decode()) for sample in family.samples}
    assert {"fnet_requests_total", "fnet_queue_tokens", "process_cpu_seconds_total"} <= names


def test_openmetrics_is_given_on_request(metrics: Metrics) -> None:
    """Its stricter parser reads it, end mark included."""
    content, content_type = metrics.exposition("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert content.endswith(b"# EOF\n")
    parsed = parse_openmetrics(content.decode())  # type: ignore[no-untyped-call] # prometheus_client leaves it out
    families = {family.name: family for family in parsed}
    assert families["fnet_requests"].type == "counter"
    assert families["fnet_model"].type == "info"

"""Rules and alerts ask for what there is, as far as no Prometheus is needed; `make test-deploy` tries the rest."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.app import create_app
from service.settings import Settings
from service.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy/prometheus"
CONFIG: dict[str, Any] = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text("utf-8"))
GROUPS: list[dict[str, Any]] = [
    group
    for file in sorted((PROMETHEUS / "rules").glob("*.yml"))
    for group in yaml.safe_load(file.read_text("utf-8"))["groups"]
]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
ALERTS: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
Asked = Callable[[str], list[tuple[str, set[str]]]]
Exists = Callable[[str, set[str]], bool]
MONITORING = ROOT / "deploy/kubernetes/components/monitoring"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_every_metric_of_a_rule_exists(rule: dict[str, Any], metrics_asked: Asked, metric_exists: Exists) -> None:
    """With the labels that it is chosen by."""
    found = metrics_asked(rule["expr"])
    assert found
    assert [each for each in found if not metric_exists(*each)] == []


def test_what_is_looked_for_would_be_missed(metrics_asked: Asked, metric_exists: Exists) -> None:
    """Unknown names and labels are distinguished from known ones."""
    assert metrics_asked('sum by (job) (rate(fnet_requests_total{job="a", status=~"5.."}[5m])) > up') == [
        ("fnet_requests_total", {"job", "status"}),
        ("up", set()),
    ]
    assert metric_exists("fnet_requests_total", {"status"})
    assert not metric_exists("fnet_requests_total", {"code"})
    assert not metric_exists("fnet_requests", set())
    assert not metric_exists("fnet_batch_tokens", set())
    assert not metric_exists("job:fnet_requests:rate7m", set())


def test_work_is_every_route_that_takes_work() -> None:
    """All POST routes match the pattern of the rules, and health, metrics and descriptions do not."""
    (pattern,) = {each for rule in RULES for each in re.findall(r'route=~"([^"]+)"', rule["expr"])}
    paths = create_app(Settings.load({})).openapi()["paths"]
    for path, operations in paths.items():
        assert bool(re.fullmatch(pattern, path)) == ("post" in operations), path
    for label in ("unmatched", "index"):
        assert not re.fullmatch(pattern, label)


def test_the_objective_is_a_bound_of_a_bucket() -> None:
    """A share below a second can be counted only if a bucket ends there."""
    metrics = Metrics()
    metrics.observe_response("/v1/encode", 200, 0.1)
    exposed = metrics.exposition("")[0].decode()
    bounds = {each for rule in RULES for each in re.findall(r'le="([^"]+)"', rule["expr"])}
    assert bounds == {"1.0"}
    assert 'fnet_request_duration_seconds_bucket{le="1.0",route="/v1/encode"}' in exposed


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_and_where_to_read_on(name: str) -> None:
    """In words, and with a heading of the runbook that is its own."""
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == f"docs/RUNBOOK.md#{name.lower()}"
    assert f"\n## {name}\n" in (ROOT / "docs/RUNBOOK.md").read_text("utf-8")


def test_the_runbook_has_no_other_alerts() -> None:
    """What is gone from the rules is gone from it."""
    assert set(re.findall(r"^## (\w+)$", (ROOT / "docs/RUNBOOK.md").read_text("utf-8"), re.MULTILINE)) == set(ALERTS)


def test_every_alert_is_tried() -> None:
    """When it is to fire, and when not, in `deploy/prometheus/tests`."""
    fires: set[str] = set()
    silent: set[str] = set()
    for file in (PROMETHEUS / "tests").glob("*.yml"):
        for test in yaml.safe_load(file.read_text("utf-8"))["tests"]:
            for each in test["alert_rule_test"]:
                (fires if each.get("exp_alerts") else silent).add(each["alertname"])
    assert fires == set(ALERTS)
    assert silent == set(ALERTS)


def test_recorded_rules_have_a_use(metrics_asked: Asked) -> None:
    """In an alert, another rule or the dashboard."""
    uses = [rule["expr"] for rule in RULES] + [(ROOT / "deploy/grafana/dashboards/fnet-encode.json").read_text("utf-8")]
    asked_for = {name for use in uses for name, _ in metrics_asked(use)}
    assert asked_for >= RECORDED


def test_prometheus_scrapes_what_the_rules_look_for() -> None:
    """By the compose file's name and the port of the image, under the job of the alerts."""
    scraped = {each["job_name"]: each["static_configs"][0]["targets"] for each in CONFIG["scrape_configs"]}
    port = re.search(r"^EXPOSE (\d+)$", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert port is not None
    assert scraped["fnet-encode"] == [f"fnet-encode:{port[1]}"]
    jobs = {each for rule in RULES for each in re.findall(r'job="([^"]+)"', rule["expr"])}
    assert jobs == {"fnet-encode"}
    assert CONFIG["rule_files"] == ["rules/*.yml"]


def test_the_compose_file_mounts_what_is_there() -> None:
    """For Prometheus and Grafana."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    mounts = [each for name in ("prometheus", "grafana") for each in services[name]["volumes"] if each[0] == "."]
    assert mounts
    for mount in mounts:
        assert (ROOT / mount.split(":")[0]).exists()


def test_kubernetes_has_the_same_rules() -> None:
    """The `PrometheusRule` is what its generator would write, and holds what Prometheus reads here."""
    resource = (MONITORING / "prometheusrule.yaml").read_text("utf-8")
    assert resource == runpy.run_path(str(MONITORING / "prometheusrule.py"))["text"]()
    assert yaml.safe_load(resource)["spec"]["groups"] == GROUPS

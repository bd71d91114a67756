"""Prometheus rules, alerts and dashboard queries, with promtool and a server that scrapes the service."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.timeouts import TIMEOUT

ROOT = Path(__file__).parents[3]
PROMETHEUS = ROOT / "deploy/prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/dashboards/fnet-encode.json").read_text("utf-8"))
PROMTOOL, SERVER = shutil.which("promtool") or "", shutil.which("prometheus") or ""
# Values that Grafana inserts for all targets, with a window that a few seconds of traffic fill.
VARIABLES = {"$namespace": ".*", "$job": "fnet-encode", "$instance": ".+", "$__rate_interval": "30s", "$__range": "1m"}
REQUESTS: list[tuple[str, dict[str, Any], int]] = [
    ("/v1/encode", {"texts": ["a cat on a mat", "the sea " * 30]}, 200),
    ("/v1/encode", {"texts": []}, 422),
    ("/v1/embeddings", {"input": "a question", "model": "fnet_mini_en"}, 200),
    ("/embed", {"inputs": ["one", "two"]}, 200),
    ("/v1/tokenize", {"texts": ["words"]}, 200),
]


def queries() -> Iterator[tuple[str, str]]:
    """Yield the title of each panel of the dashboard with each of its queries."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            assert "$" not in expression
            yield panel["title"], expression


class Prometheus:
    """Client of a Prometheus server.

    Attributes:
        url: URL of the server.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of a response."""
        response = httpx.get(f"{self.url}/api/v1/{path}", params=parameters).json()
        assert response["status"] == "success", response
        return response["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the current result of an expression."""
        return list(self.get("query", query=expression)["result"])

    def wait_for(self, expression: str) -> None:
        """Wait until an expression has a result."""
        deadline = time.monotonic() + TIMEOUT
        while not self.query(expression):
            assert time.monotonic() < deadline, expression
            time.sleep(0.5)


def free_port() -> int:
    """Return a port without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def configuration(directory: Path, target: str) -> Path:
    """Write the configuration and the rules of the project with another target and shorter intervals."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text("utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (service,) = [scrape for scrape in config["scrape_configs"] if scrape["job_name"] == "fnet-encode"]
    service["static_configs"] = [{"targets": [target]}]
    config["scrape_configs"] = [service]
    (directory / "rules").mkdir()
    for file in RULES:
        rules = yaml.safe_load(file.read_text("utf-8"))
        for group in rules["groups"]:
            group.pop("interval", None)
        (directory / "rules" / file.name).write_text(yaml.safe_dump(rules))
    path = directory / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def prometheus(served: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Start a Prometheus server with the rules of the project, and send requests of every kind."""
    directory = tmp_path_factory.mktemp("prometheus")
    address = f"127.0.0.1:{free_port()}"
    command = [
        SERVER,
        f"--config.file={configuration(directory, served)}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (directory / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            prometheus = Prometheus(f"http://{address}")
            deadline = time.monotonic() + TIMEOUT
            while not _ready(prometheus):
                assert process.poll() is None, (directory / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
            # A rate needs every series to exist before the traffic.
            _traffic(served)
            prometheus.wait_for('fnet_requests_total{status="422"}')
            for _ in range(5):
                _traffic(served)
                time.sleep(1)
            prometheus.wait_for('rate(fnet_requests_total{route="/v1/encode", status="200"}[30s]) > 0')
            prometheus.wait_for("job:fnet_request_slow:ratio_rate3d >= 0")
            yield prometheus
        finally:
            process.terminate()


def _ready(prometheus: Prometheus) -> bool:
    try:
        return httpx.get(f"{prometheus.url}/-/ready").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _traffic(address: str) -> None:
    with httpx.Client(base_url=f"http://{address}", timeout=TIMEOUT) as client:
        for path, body, status in REQUESTS:
            assert client.post(path, json=body).status_code == status, path


def test_configuration_and_rules_are_valid() -> None:
    """The checks of promtool pass."""
    for command in (["config", str(PROMETHEUS / "prometheus.yml")], ["rules", *map(str, RULES)]):
        completed = subprocess.run(
            [PROMTOOL, "check", *command], capture_output=True, text=True, check=False, timeout=TIMEOUT
        )
        assert completed.returncode == 0, completed.stdout + completed.stderr


def test_alerts_fire_as_specified() -> None:
    """The rule tests in `deploy/prometheus/tests` pass."""
    command = [PROMTOOL, "test", "rules", *(file.name for file in TESTS)]
    completed = subprocess.run(
        command, cwd=PROMETHEUS / "tests", capture_output=True, text=True, check=False, timeout=5 * TIMEOUT
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr


def test_exposition_is_well_formed(served: str) -> None:
    """The output of promtool has no findings for the metrics of the project."""
    exposition = httpx.get(f"http://{served}/metrics").text
    completed = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=exposition, capture_output=True, text=True, check=False, timeout=TIMEOUT
    )
    assert [line for line in completed.stderr.splitlines() if line.startswith("fnet_")] == []


@pytest.mark.parametrize(("title", "expression"), list(queries()))
def test_every_panel_has_data(prometheus: Prometheus, title: str, expression: str) -> None:
    """Every query has a result after a few seconds of traffic."""
    assert prometheus.query(expression), title


def test_every_rule_is_evaluated(prometheus: Prometheus) -> None:
    """No rule has an error, and every recorded series exists."""
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == sum(
        len(group["rules"]) for file in RULES for group in yaml.safe_load(file.read_text())["groups"]
    )
    assert [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] != "ok"] == []
    recorded = {rule["name"] for rule in rules if rule["type"] == "recording"}
    assert [name for name in recorded if not prometheus.query(name)] == []


def test_healthy_service_raises_no_alert(prometheus: Prometheus) -> None:
    """No alert is firing or pending."""
    assert prometheus.get("alerts")["alerts"] == []


def test_dashboard_variables_have_values(prometheus: Prometheus) -> None:
    """Every variable of the dashboard has values."""
    for variable in DASHBOARD["templating"]["list"][1:]:
        selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
        for name, value in VARIABLES.items():
            selector = selector.replace(name, value)
        values = prometheus.get(f"label/{label}/values", **{"match[]": selector})
        assert values or label == "namespace"

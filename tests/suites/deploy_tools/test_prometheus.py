"""promtool takes rules and alerts, and a real Prometheus that watches the real service answers every query."""

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
# As Grafana would put them in for everything, with a window that seconds of traffic fill.
VARIABLES = {"$namespace": ".*", "$job": "fnet-encode", "$instance": ".+", "$__rate_interval": "30s", "$__range": "1m"}
REQUESTS: list[tuple[str, dict[str, Any], int]] = [
    ("/v1/encode", {"texts": ["a cat on a mat", "the sea " * 30]}, 200),
    ("/v1/encode", {"texts": []}, 422),
    ("/v1/embeddings", {"input": "a question", "model": "fnet_mini_en"}, 200),
    ("/embed", {"inputs": ["one", "two"]}, 200),
    ("/v1/tokenize", {"texts": ["words"]}, 200),
]


def queries() -> Iterator[tuple[str, str]]:
    """Give the title of each panel of the dashboard with each of its queries."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            assert "$" not in expression
            yield panel["title"], expression


class Watch:
    """A Prometheus that watches.

    Attributes:
        url: Of its API.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: str) -> Any:
        """Return what it answers."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return what an expression gives now."""
        return list(self.get("query", query=expression)["result"])

    def wait_for(self, expression: str) -> None:
        """Return once an expression gives anything."""
        deadline = time.monotonic() + TIMEOUT
        while not self.query(expression):
            assert time.monotonic() < deadline, expression
            time.sleep(0.5)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def configuration(directory: Path, target: str) -> Path:
    """Write the project's configuration, as it is but for the target and for pace; and its rules beside it."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text("utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (service,) = [each for each in config["scrape_configs"] if each["job_name"] == "fnet-encode"]
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
def watch(served: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    """A Prometheus with the project's rules, after some seconds of traffic of every kind."""
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
            watch = Watch(f"http://{address}")
            deadline = time.monotonic() + TIMEOUT
            while not _ready(watch):
                assert process.poll() is None, (directory / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
            # Every series is there before the traffic that is to be seen as a rate.
            _traffic(served)
            watch.wait_for('fnet_requests_total{status="422"}')
            for _ in range(5):
                _traffic(served)
                time.sleep(1)
            watch.wait_for('rate(fnet_requests_total{route="/v1/encode", status="200"}[30s]) > 0')
            watch.wait_for("job:fnet_request_slow:ratio_rate3d >= 0")
            yield watch
        finally:
            process.terminate()


def _ready(watch: Watch) -> bool:
    try:
        return httpx.get(f"{watch.url}/-/ready").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _traffic(address: str) -> None:
    with httpx.Client(base_url=f"http://{address}", timeout=TIMEOUT) as client:
        for path, body, status in REQUESTS:
            assert client.post(path, json=body).status_code == status, path


def test_the_configuration_is_one() -> None:
    """And the rules are, as promtool says."""
    for command in (["config", str(PROMETHEUS / "prometheus.yml")], ["rules", *map(str, RULES)]):
        ran = subprocess.run(
            [PROMTOOL, "check", *command], capture_output=True, text=True, check=False, timeout=TIMEOUT
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_alerts_fire_when_they_should() -> None:
    """And only then: `deploy/prometheus/tests`, run by promtool."""
    command = [PROMTOOL, "test", "rules", *(file.name for file in TESTS)]
    ran = subprocess.run(
        command, cwd=PROMETHEUS / "tests", capture_output=True, text=True, check=False, timeout=5 * TIMEOUT
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_what_is_exposed_is_well_formed(served: str) -> None:
    """The exposition is read by promtool, which has nothing to say about what is ours."""
    exposed = httpx.get(f"http://{served}/metrics").text
    ran = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=exposed, capture_output=True, text=True, check=False, timeout=TIMEOUT
    )
    assert [line for line in ran.stderr.splitlines() if line.startswith("fnet_")] == []


@pytest.mark.parametrize(("title", "expression"), list(queries()))
def test_every_panel_has_something_to_draw(watch: Watch, title: str, expression: str) -> None:
    """After seconds of traffic, whatever it asks for."""
    assert watch.query(expression), title


def test_every_rule_is_evaluated(watch: Watch) -> None:
    """Without an error, and what is recorded is there."""
    rules = [rule for group in watch.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == sum(
        len(group["rules"]) for file in RULES for group in yaml.safe_load(file.read_text())["groups"]
    )
    assert [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] != "ok"] == []
    recorded = {rule["name"] for rule in rules if rule["type"] == "recording"}
    assert [name for name in recorded if not watch.query(name)] == []


def test_a_service_that_is_well_raises_no_alert(watch: Watch) -> None:
    """None fires, and none is about to."""
    assert watch.get("alerts")["alerts"] == []


def test_variables_find_their_values(watch: Watch) -> None:
    """What the dashboard offers to choose from is there."""
    for variable in DASHBOARD["templating"]["list"][1:]:
        selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
        for name, value in VARIABLES.items():
            selector = selector.replace(name, value)
        values = watch.get(f"label/{label}/values", **{"match[]": selector})
        assert values or label == "namespace"

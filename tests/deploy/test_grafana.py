"""The dashboard asks for what there is, from a source that can be chosen. `make test-deploy` asks a real Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "deploy/grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards/fnet-encode.json").read_text("utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
PROVISIONING = GRAFANA / "provisioning"
Asked = Callable[[str], list[tuple[str, set[str]]]]
Exists = Callable[[str, set[str]], bool]
WIDTH = 24


def test_it_can_be_linked_to() -> None:
    """Its identity is fixed, and is that of no instance's database."""
    assert DASHBOARD["uid"] == "fnet-encode"
    assert "id" not in DASHBOARD


def test_the_source_is_chosen() -> None:
    """Every panel, query and variable uses the one that is chosen at the top."""
    assert set(re.findall(r'"uid": "([^"]+)"', json.dumps(DASHBOARD))) == {DASHBOARD["uid"], "${datasource}"}
    assert DASHBOARD["templating"]["list"][0]["type"] == "datasource"


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_panel_asks_for_metrics_that_exist(
    panel: dict[str, Any], metrics_asked: Asked, metric_exists: Exists
) -> None:
    """With labels that exist, of the instances chosen at the top."""
    for target in panel["targets"]:
        if target["expr"] == "vector(0)":
            continue
        found = metrics_asked(target["expr"])
        assert found
        assert [each for each in found if not metric_exists(*each)] == []
        assert all({"namespace", "job"} <= labels for _, labels in found)


def test_everything_that_is_counted_is_drawn(metrics_asked: Asked, metric_names: set[str]) -> None:
    """No metric of the service is missing from it."""
    drawn = {name for panel in PANELS for target in panel["targets"] for name, _ in metrics_asked(target["expr"])}
    assert metric_names <= drawn | {re.sub(r"_(bucket|sum|count)$", "", name) for name in drawn}


def test_panels_lie_beside_each_other() -> None:
    """None over another, none beyond the edge, and no number twice."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= WIDTH
        assert not cells & taken, panel["title"]
        taken |= cells
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_padding_is_explained() -> None:
    """The metric is constantly 0, and the panel states that."""
    (panel,) = [panel for panel in PANELS if "adding" in panel["title"]]
    assert panel["targets"][0]["expr"] == "vector(0)"
    assert "constantly 0" in panel["description"]


def test_the_runbook_names_panels_that_exist() -> None:
    """What it sends its reader to is there."""
    runbook = (ROOT / "docs/RUNBOOK.md").read_text("utf-8")
    titles = {panel["title"] for panel in DASHBOARD["panels"]} | {DASHBOARD["title"]}
    named = set(re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", runbook.replace("\n", " ")))
    assert named
    assert named <= titles


def test_grafana_is_told_where_things_are() -> None:
    """The source is the compose file's Prometheus; dashboards lie where the compose file mounts them."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    (source,) = yaml.safe_load((PROVISIONING / "datasources/prometheus.yml").read_text("utf-8"))["datasources"]
    assert "prometheus" in services
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards/fnet-encode.yml").read_text("utf-8"))["providers"]
    mounted = [each.split(":")[1] for each in services["grafana"]["volumes"] if "dashboards" in each]
    assert mounted == [provider["options"]["path"]]

"""What rules and the dashboard ask for, and whether there is such a thing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from service.telemetry.metrics import Metrics

RULES = Path(__file__).parents[2] / "deploy/prometheus/rules"
DESCRIPTIONS = {each.name: each for each in Metrics().descriptions}
# Of the process, as the client library gives them here.
PROCESS = {
    each.name for metric in Metrics().registry.collect() for each in metric.samples if each.name.startswith("process_")
}
COMMON = {"job", "instance", "namespace"}


def _asked(expression: str) -> list[tuple[str, set[str]]]:
    """Return the metrics that an expression asks for, each with the labels it is chosen by."""
    pattern = r"\b((?:fnet_|process_|job:|instance:)[a-z0-9_:]+|up)\b(?:\{([^{}]*(?:\{model\}[^{}]*)*)\})?"
    return [(name, set(re.findall(r"(\w+)\s*[=!]~?", labels))) for name, labels in re.findall(pattern, expression)]


def _base(name: str) -> str:
    """Return a histogram's own name for that of one of its series."""
    histogram = re.sub(r"_(bucket|sum|count)$", "", name)
    return histogram if name not in DESCRIPTIONS and histogram in DESCRIPTIONS else name


def _exist(name: str, labels: set[str]) -> bool:
    """Whether the service, its client library or a rule gives such series."""
    if name in _recorded() or name in PROCESS or name == "up":
        return labels <= COMMON
    metric = DESCRIPTIONS.get(_base(name))
    if metric is None or (metric.kind == "histogram") != (_base(name) != name):
        return False
    return labels <= COMMON | set(metric.labels) | ({"le"} if name.endswith("_bucket") else set())


def _recorded() -> set[str]:
    groups = [group for file in RULES.glob("*.yml") for group in yaml.safe_load(file.read_text("utf-8"))["groups"]]
    return {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}


@pytest.fixture(scope="session")
def metrics_asked() -> Callable[[str], list[tuple[str, set[str]]]]:
    """Give the metrics that an expression asks for, each with the labels it is chosen by."""
    return _asked


@pytest.fixture(scope="session")
def metric_exists() -> Callable[[str, set[str]], bool]:
    """Whether the service, its client library or a rule has such a series."""
    return _exist


@pytest.fixture(scope="session")
def metric_names() -> set[str]:
    """The names of the service's own metrics."""
    return set(DESCRIPTIONS)

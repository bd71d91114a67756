"""Grafana would know every field of the dashboard: its own schema reads it, and loses nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

DASHBOARD: dict[str, Any] = json.loads(
    (Path(__file__).parents[3] / "deploy/grafana/dashboards/fnet-encode.json").read_text("utf-8")
)
# Of annotations and variables that ask Prometheus: Grafana reads them, and its schema leaves them out.
UNSAID = {"definition", "step", "textFormat", "titleFormat", "useValueForTime"}


def lost(written: Any, read: Any, path: str = "") -> Iterator[str]:
    """Give the places whose value is not the same after it was read."""
    if isinstance(written, dict) and isinstance(read, dict):
        for name, value in written.items():
            if name not in UNSAID:
                yield from lost(value, read.get(name), f"{path}.{name}")
    elif isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        for number, (value, other) in enumerate(zip(written, read, strict=True)):
            yield from lost(value, other, f"{path}[{number}]")
    elif written != read and written is not None:
        yield path


def again(dashboard: dict[str, Any]) -> Any:
    """Return a dashboard as Grafana's schema would write it."""
    register_default_plugins()
    return json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))


def test_no_field_is_unknown() -> None:
    """A slip in the name of an option would be lost without a word."""
    assert list(lost(DASHBOARD, again(DASHBOARD))) == []


def test_an_unknown_field_is_found() -> None:
    """So that the test above means something."""
    changed = json.loads(json.dumps(DASHBOARD))
    panel = next(index for index, each in enumerate(changed["panels"]) if each["type"] == "timeseries")
    changed["panels"][panel]["fieldConfig"]["defaults"]["custom"]["lineWith"] = 2
    changed["panels"][panel]["tittle"] = "Latency"
    found = list(lost(changed, again(changed)))
    assert found == [f".panels[{panel}].fieldConfig.defaults.custom.lineWith", f".panels[{panel}].tittle"]

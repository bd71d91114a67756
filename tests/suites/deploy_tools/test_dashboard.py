"""The Grafana dashboard, validated by a round trip through the schema of Grafana."""

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
# Fields of annotations and variables that Grafana reads but its schema omits.
OMITTED_FIELDS = {"definition", "step", "textFormat", "titleFormat", "useValueForTime"}


def lost_fields(written: Any, read: Any, path: str = "") -> Iterator[str]:
    """Yield the paths whose values differ after a round trip."""
    if isinstance(written, dict) and isinstance(read, dict):
        for name, value in written.items():
            if name not in OMITTED_FIELDS:
                yield from lost_fields(value, read.get(name), f"{path}.{name}")
    elif isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        for number, (value, other) in enumerate(zip(written, read, strict=True)):
            yield from lost_fields(value, other, f"{path}[{number}]")
    elif written != read and written is not None:
        yield path


def round_trip(dashboard: dict[str, Any]) -> Any:
    """Return a dashboard as the schema of Grafana writes it."""
    register_default_plugins()
    return json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))


def test_no_field_is_unknown() -> None:
    """Grafana would ignore a misspelled option."""
    assert list(lost_fields(DASHBOARD, round_trip(DASHBOARD))) == []


def test_unknown_field_is_detected() -> None:
    """The round trip detects misspelled options."""
    changed = json.loads(json.dumps(DASHBOARD))
    number = next(index for index, panel in enumerate(changed["panels"]) if panel["type"] == "timeseries")
    changed["panels"][number]["fieldConfig"]["defaults"]["custom"]["lineWith"] = 2
    changed["panels"][number]["tittle"] = "Latency"
    fields = list(lost_fields(changed, round_trip(changed)))
    assert fields == [f".panels[{number}].fieldConfig.defaults.custom.lineWith", f".panels[{number}].tittle"]

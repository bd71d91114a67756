"""Writes prometheusrule.yaml, beside this program, from deploy/prometheus/rules."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
RULES = HERE.parents[2] / "prometheus/rules"
HEAD = """\
# Made by prometheusrule.py from deploy/prometheus/rules: edit those and run it again.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: fnet-encode
spec:
  groups:
"""


def text() -> str:
    """Return the resource: the groups of all rule files, comments included, one level deeper."""
    lines = []
    for file in sorted(RULES.glob("*.yml")):
        _, _, groups = file.read_text("utf-8").partition("\ngroups:\n")
        lines += [f"  {line}".rstrip() for line in groups.rstrip().splitlines()]
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    (HERE / "prometheusrule.yaml").write_text(text(), "utf-8")

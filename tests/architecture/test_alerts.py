"""The alerts are rules that Prometheus takes, about metrics that processes have."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import yaml

from services.scheduler.relay import gauges, relay
from services.scheduler.webhooks import routing
from tests.support.requirements import need_program

ROOT = Path(__file__).resolve().parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"


def test_each_alert_is_about_a_metric_that_there_is() -> None:
    known = {metric._name for module in (gauges, relay, routing) for metric in vars(module).values() if hasattr(metric, "_name")}
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 3
    for rule in rules:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in ("warning", "critical")
        named = set(re.findall(r"guildmesh_[a-z_]+", rule["expr"]))
        assert named
        assert named <= known


def test_prometheus_takes_the_rules() -> None:
    subprocess.run([need_program("promtool"), "check", "rules", str(ALERTS)], check=True)

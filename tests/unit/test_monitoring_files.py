"""The files for Prometheus and Grafana: they use only published metrics, and load without an edit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from shutil import which
from typing import Any

import msgspec
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from metrics_scene import SERVICES, names

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
SCRAPE = ROOT / "deploy" / "prometheus" / "prometheus.yml"
STORY = Path(__file__).parent / "alerts_test.yml"
BOARD = ROOT / "deploy" / "grafana" / "fedmq.json"


METRIC = re.compile(r"\bfedmq_[a-z_]+")


def expressions() -> dict[str, str]:
    """Return each expression of the rules and of the dashboard by its place."""
    found = {}
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            found[rule["alert"]] = rule["expr"]
    for panel in board()["panels"]:
        for target in panel.get("targets", []):
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    return found


def board() -> dict[str, Any]:
    known: dict[str, Any] = json.loads(BOARD.read_text())
    return known


def test_rules_and_dashboard_use_only_published_metrics() -> None:
    known = names()
    used = {where: set(METRIC.findall(expr)) - known for where, expr in expressions().items()}
    assert {where: unknown for where, unknown in used.items() if unknown} == {}


@pytest.fixture
def promtool() -> str:
    """Return the path of promtool; without it skip the test, or fail on CI."""
    beside = Path(sys.executable).with_name("promtool")  # put there by make test
    if (found := str(beside) if beside.exists() else which("promtool")) is None:
        line = "promtool is missing: run make test, or install Debian's package prometheus"
        if os.environ.get("CI") == "true":
            pytest.fail(line, pytrace=False)
        pytest.skip(line)
    return found


def test_promtool_accepts_the_metrics_and_the_rules(promtool: str, tmp_path: Path) -> None:
    for make in SERVICES.values():
        subprocess.run([promtool, "check", "metrics"], input=make().text()[0], check=True, capture_output=True)
    subprocess.run([promtool, "check", "rules", RULES], check=True, capture_output=True)
    subprocess.run([promtool, "check", "config", SCRAPE], check=True, capture_output=True)
    subprocess.run([promtool, "test", "rules", STORY], check=True, capture_output=True)
    panels = [
        {"alert": f"Panel{number}", "expr": expr.replace("$__rate_interval", "5m")}
        for number, expr in enumerate(expressions().values())
    ]
    (tmp_path / "panels.yml").write_bytes(msgspec.json.encode({"groups": [{"name": "panels", "rules": panels}]}))
    subprocess.run([promtool, "check", "rules", tmp_path / "panels.yml"], check=True, capture_output=True)


def test_every_alert_has_a_severity_and_a_description() -> None:
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 6
    for rule in rules:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "description"}


def test_dashboard_conforms_to_the_schema_of_grafana() -> None:
    """The models are generated from Grafana's schemas: they drop unknown fields when they write."""
    register_default_plugins()
    after = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(board())))
    assert changes(board(), after) == []


def changes(before: Any, after: Any, where: str = "") -> list[str]:
    """Return the places at which a value is missing or changed."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            one for key, value in before.items() for one in changes(value, after.get(key, "nothing"), f"{where}/{key}")
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [
            one
            for number, both in enumerate(zip(before, after, strict=True))
            for one in changes(*both, f"{where}/{number}")
        ]
    return [] if before == after else [f"{where}: {before!r}, after {after!r}"]


def test_dashboard_loads_without_an_edit() -> None:
    known = board()
    assert known["uid"] == "fedmq"
    assert known["schemaVersion"] >= 39
    assert "__inputs" not in known, "Grafana would prompt for them"
    assert "id" not in known, "the server assigns it"
    assert [one["type"] for one in known["templating"]["list"]] == ["datasource", "query"]
    for place in (*known["panels"], *(target for panel in known["panels"] for target in panel["targets"])):
        assert place["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({panel["id"] for panel in known["panels"]}) == len(known["panels"])
    assert len({panel["title"] for panel in known["panels"]}) == len(known["panels"])


def test_panels_do_not_overlap() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in board()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]

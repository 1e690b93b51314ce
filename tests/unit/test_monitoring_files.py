"""The files for Prometheus and Grafana: they ask only for what is told, and can be loaded as they are."""

from __future__ import annotations

import json
import re
import subprocess
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


SERIES = re.compile(r"\bfedmq_[a-z_]+")


def expressions() -> dict[str, str]:
    """Each expression of the rules and of the dashboard, by where it stands."""
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


def test_rules_and_dashboard_ask_only_for_what_is_told() -> None:
    known = names()
    asked = {where: set(SERIES.findall(expr)) - known for where, expr in expressions().items()}
    assert {where: unknown for where, unknown in asked.items() if unknown} == {}


@pytest.mark.skipif(which("promtool") is None, reason="promtool is not here (Debian: apt-get install prometheus)")
def test_promtool_accepts_what_is_told_and_the_rules(tmp_path: Path) -> None:
    for make in SERVICES.values():
        subprocess.run(["promtool", "check", "metrics"], input=make().text()[0], check=True, capture_output=True)
    subprocess.run(["promtool", "check", "rules", RULES], check=True, capture_output=True)
    subprocess.run(["promtool", "check", "config", SCRAPE], check=True, capture_output=True)
    subprocess.run(["promtool", "test", "rules", STORY], check=True, capture_output=True)
    panels = [
        {"alert": f"Panel{number}", "expr": expr.replace("$__rate_interval", "5m")}
        for number, expr in enumerate(expressions().values())
    ]
    (tmp_path / "panels.yml").write_bytes(msgspec.json.encode({"groups": [{"name": "panels", "rules": panels}]}))
    subprocess.run(["promtool", "check", "rules", tmp_path / "panels.yml"], check=True, capture_output=True)


def test_every_alert_says_what_is_wrong_and_how_bad_that_is() -> None:
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 6
    for rule in rules:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "description"}


def test_grafanas_own_schema_knows_all_that_the_dashboard_says() -> None:
    """The models are made from Grafana's schemas: what they do not know is not there any more when they write it."""
    register_default_plugins()
    again = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(board())))
    assert lost(board(), again) == []


def lost(said: Any, again: Any, where: str = "") -> list[str]:
    """Where something that was said is missing or other than it was."""
    if isinstance(said, dict) and isinstance(again, dict):
        return [one for key, value in said.items() for one in lost(value, again.get(key, "nothing"), f"{where}/{key}")]
    if isinstance(said, list) and isinstance(again, list) and len(said) == len(again):
        return [
            one for number, both in enumerate(zip(said, again, strict=True)) for one in lost(*both, f"{where}/{number}")
        ]
    return [] if said == again else [f"{where}: {said!r}, again {again!r}"]


def test_the_dashboard_can_be_loaded_without_an_edit() -> None:
    known = board()
    assert known["uid"] == "fedmq"
    assert known["schemaVersion"] >= 39
    assert "__inputs" not in known, "Grafana would ask"
    assert "id" not in known, "it is the server's to give"
    assert [one["type"] for one in known["templating"]["list"]] == ["datasource", "query"]
    for place in (*known["panels"], *(target for panel in known["panels"] for target in panel["targets"])):
        assert place["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({panel["id"] for panel in known["panels"]}) == len(known["panels"])
    assert len({panel["title"] for panel in known["panels"]}) == len(known["panels"])


def test_no_panel_covers_another() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in board()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]

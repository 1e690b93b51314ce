"""What the services tell Prometheus: the page lists just that, the numbers are those of a run, and the HTTP server has
its limits. The files for Prometheus and Grafana ask for nothing else.

`python tests/unit/test_metrics.py` writes the tables of the page.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import Any
from unittest.mock import MagicMock

import msgspec
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families

import aggregator.metrics
import broker.metrics
import trainer.metrics
from aggregator.metrics import Tally
from deploy.processes import free_port
from fedmq import events
from fedmq.errors import BadConfiguration
from fedmq.exposition import CONNECTIONS_MAX, Server, answers, exposed
from fedmq.loop import HANGS_S, Pulse
from fedmq.metrics import Metrics
from fedmq.network import Port
from fedmq.sockets.watchdog import Connection
from fedmq.testing.clock import VirtualClock
from fedmq.view import View

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "metrics.md"
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
SCRAPE = ROOT / "deploy" / "prometheus" / "prometheus.yml"
BOARD = ROOT / "deploy" / "grafana" / "fedmq.json"
DEADLINE_S = 10.0


def best(value: float, fitness: float) -> events.Best:
    return events.Best(
        value=value, coverage=1.0, fitness=fitness, fitness_mean=fitness - 1, fitness_worst=fitness - 2, diversity=0.5
    )


STORY: list[events.AnyEvent] = [
    events.RunStarted(run="r", epoch=2, round=1, task="xor", strategy="evolution", seed=1, metric="accuracy"),
    events.TrainerJoined(trainer="alice", samples=2),
    events.TrainerJoined(trainer="bob", samples=2),
    events.RoundPublished(round=1, invited=2),
    events.ResultAccepted(round=1, trainer="alice", staleness=0, train_s=0.1, answer_s=0.2),
    events.ResultResent(round=1, trainer="alice"),
    events.TrainerSuspected(trainer="bob"),
    events.RoundClosed(round=1, why="deadline", results=1, round_s=3.0, present=2, best=best(0.5, -1.0)),
    events.RoundPublished(round=2, invited=2),
    events.ResultAccepted(round=1, trainer="bob", staleness=1, train_s=0.1),
    events.TrainerLeft(trainer="bob", goodbye=True),
]


def run_metrics() -> Metrics:
    """Of an aggregator that has had the events of STORY."""
    metrics, view, clock, tally = Metrics(), View(), VirtualClock(), Tally()
    service = MagicMock(bytes_up=1000, bytes_down=2000)
    service.rounds.round, service.rounds.rejections = 2, {"values": 3}
    service.reach.contacts, service.reach.there = 2, True
    aggregator.metrics.measure(service, view, tally, clock)(metrics)
    for event in STORY:
        view.take(clock.wall(), event)
        tally(event)
    return metrics


def broker_metrics() -> Metrics:
    metrics, hub, gate, service = Metrics(), MagicMock(bytes=5000, cuts=1), MagicMock(), MagicMock(taken=7)
    hub.ports, hub.connections = list(Port), [Connection(Port.PUSH, 5), Connection(Port.PUSH, 6)]
    gate.refused = {"connection-key": 4}
    service.routing.dropped, service.routing.inboxes, service.routing.newest = 2, {"alice": 1}, {"round/r": []}
    broker.metrics.measure(service, hub, gate)(metrics)
    return metrics


def trainer_metrics() -> Metrics:
    metrics, service = Metrics(), MagicMock(rejections={"epoch": 1}, refusals={}, trained=None)
    service.session.name, service.session.samples, service.session.working = "alice", 2, None
    service.session.runs = {"r": MagicMock(held={1: None, 2: None})}
    service.reach.contacts, service.reach.there = 1, False
    trainer.metrics.measure(service)(metrics)
    service.trained(0.5)
    return metrics


SERVICES = {"broker": broker_metrics, "aggregator": run_metrics, "trainer": trainer_metrics}


def values(metrics: Metrics) -> dict[str, float]:
    """Each sample, by its name and labels, as Prometheus' own client reads them."""
    families = text_string_to_metric_families(metrics.text()[0].decode())
    return {
        one.name
        + "".join(f"|{value}" for key, value in sorted(one.labels.items()) if key != "le" or value == "5.0"): one.value
        for family in families
        for one in family.samples
    }


def rows(metrics: Metrics) -> list[str]:
    """The table of a service on the page."""
    found = []
    for family in metrics.registry.collect():
        if not family.name.startswith("fedmq_"):
            continue
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = sorted({key for one in family.samples for key in one.labels} - {"le"})
        told = ", ".join(f"`{label}`" for label in labels)
        found.append(f"| `{name}` | {family.type} | {told} | {family.documentation} |")
    return found


def names() -> set[str]:
    """Every series that can be asked for."""
    found = set()
    for make in SERVICES.values():
        for family in make().registry.collect():
            suffixes = {"counter": ["_total"], "info": ["_info"], "histogram": ["_bucket", "_sum", "_count"]}
            found |= {family.name + suffix for suffix in suffixes.get(family.type, [""])}
    return found


# --- what is told --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
def test_the_page_lists_what_a_service_tells_and_nothing_else(service: str) -> None:
    section = re.search(rf"^## fedmq {service}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None
    assert re.findall(r"^\| `.*$", section[1], re.MULTILINE) == rows(SERVICES[service]())


def test_an_aggregator_tells_what_has_happened_in_its_run() -> None:
    told = values(run_metrics())
    assert {name: told[f"fedmq_aggregator_{name}"] for name in EXPECTED} == EXPECTED


EXPECTED = {
    "rounds_total|complete": 0,
    "rounds_total|deadline": 1,
    "results_total": 2,
    "results_late_total": 1,
    "results_resent_total": 1,
    "rejected_total|values": 3,
    "rejected_total|epoch": 0,
    "received_bytes_total": 1000,
    "sent_bytes_total": 2000,
    "fitness|best": -1.0,
    "fitness|mean": -2.0,
    "fitness|worst": -3.0,
    "value": 0.5,
    "state|running": 1,
    "state|stalled": 0,
    "trainers|alive": 1,
    "trainers|gone": 1,
    "trainers|suspect": 0,
    "epoch": 2,
    "open_rounds": 1,
    "round_seconds_count": 1,
    "round_seconds_sum": 3.0,
    "round_seconds_bucket|5.0": 1,
    "answer_seconds_count": 1,  # how long the late one took is not known
    "answer_seconds_sum": 0.2,
    "broker_connected": 1,
    "broker_contacts_total": 2,
}


def test_before_a_round_is_closed_there_is_no_fitness() -> None:
    metrics = Metrics()
    aggregator.metrics.measure(MagicMock(), View(), Tally(), VirtualClock())
    assert not [name for name in values(metrics) if "fitness" in name]


def test_a_broker_and_a_trainer_tell_what_they_have_counted() -> None:
    told = values(broker_metrics()) | values(trainer_metrics())
    assert told["fedmq_broker_connections|push"] == 2
    assert told["fedmq_broker_connections|join"] == 0
    assert told["fedmq_broker_refused_total|connection-key"] == 4
    assert told["fedmq_trainer_held_results"] == 2
    assert told["fedmq_trainer_train_seconds_sum"] == 0.5
    assert told["fedmq_trainer_rejected_total|epoch"] == 1
    assert told["fedmq_trainer_broker_connected"] == 0


def test_what_is_told_is_also_openmetrics() -> None:
    text, content_type = run_metrics().text("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")


# --- over HTTP -----------------------------------------------------------------------------------------------------


@contextmanager
def serving(pulse: Pulse, ready: str = "") -> Iterator[tuple[str, int]]:
    server = Server("127.0.0.1", 0, answers(Metrics(), pulse, lambda: ready))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield ("127.0.0.1", server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(at: tuple[str, int], path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection(*at, timeout=DEADLINE_S)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_healthz_is_well_while_the_loop_passes_and_503_when_it_hangs() -> None:
    clock = VirtualClock()
    pulse = Pulse(clock.now)
    with serving(pulse) as at:
        assert ask(at, "/healthz") == (200, "ok\n")
        clock.move_to(HANGS_S + 1)
        assert ask(at, "/healthz") == (503, "the service has not moved for 11 s\n")
        assert ask(at, "/readyz")[0] == 503
        pulse.beat()
        assert ask(at, "/healthz") == (200, "ok\n")


def test_readyz_says_what_is_missing() -> None:
    with serving(Pulse(), "the broker is not there") as at:
        assert ask(at, "/readyz") == (503, "the broker is not there\n")
        assert ask(at, "/healthz") == (200, "ok\n")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/metrics?name=x", 200),
        ("GET", "/", 404),
        ("GET", "/metrics/", 404),
        ("GET", "/../etc/passwd", 404),
        ("GET", "/" + "a" * 70_000, 414),
        ("POST", "/metrics", 501),
        ("HEAD", "/metrics", 501),
        ("DELETE", "/healthz", 501),
    ],
)
def test_there_is_nothing_but_three_pages_to_get(method: str, path: str, status: int) -> None:
    with serving(Pulse()) as at:
        assert ask(at, path, method)[0] == status


def test_who_holds_connections_keeps_nobody_out_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmq.exposition.REQUEST_S", 0.2)
    with serving(Pulse()) as at:
        silent = [socket.create_connection(at, DEADLINE_S) for _ in range(CONNECTIONS_MAX + 1)]
        silent[0].sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        for one in silent:  # each is cut, the last one at once: there are too many
            while one.recv(1000):
                continue
            one.close()
        assert ask(at, "/healthz")[0] == 200


def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(BadConfiguration, match=rf"cannot listen on 127\.0\.0\.1:{port} \(Address already in use\)"),
            exposed(("127.0.0.1", port), lambda _: None, lambda: ""),
        ):
            pass


def test_without_the_extra_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmq.exposition.find_spec", lambda _: None)
    with (
        pytest.raises(BadConfiguration, match=r"pip install 'fedmq\[metrics\]'"),
        exposed(("127.0.0.1", free_port()), lambda _: None, lambda: ""),
    ):
        pass


# --- the files for Prometheus and Grafana --------------------------------------------------------------------------

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


if __name__ == "__main__":
    for service, make in SERVICES.items():
        print(f"## fedmq {service}\n\n| metric | type | labels | what it is |\n|---|---|---|---|")
        print("\n".join(rows(make())) + "\n")

"""What the three services tell Prometheus, after a little story that is made up here, for tests.

Knows nothing of what a test looks for.
"""

from __future__ import annotations

from unittest.mock import MagicMock

from prometheus_client.parser import text_string_to_metric_families

import aggregator.metrics
import broker.metrics
import trainer.metrics
from aggregator.metrics import Tally
from fedmq import events
from fedmq.metrics import Metrics
from fedmq.network import Port
from fedmq.sockets.watchdog import Connection
from fedmq.testing.clock import VirtualClock
from fedmq.view import View


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

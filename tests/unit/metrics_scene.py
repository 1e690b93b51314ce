"""The metrics of the three services after a fixed sequence of events."""

from __future__ import annotations

from unittest.mock import MagicMock

from prometheus_client.parser import text_string_to_metric_families

import fedmq.aggregator.metrics
import fedmq.broker.metrics
import fedmq.trainer.metrics
from fedmq.aggregator.metrics import Tally
from fedmq.observe import events
from fedmq.observe.metrics import Metrics
from fedmq.observe.run_state import RunState
from fedmq.simulation.clock import VirtualClock
from fedmq.testing import run_started
from fedmq.transport.link import Port
from fedmq.transport.zeromq.watchdog import Connection


def closed(number: int, why: events.Why, round_s: float) -> events.RoundClosed:
    best = events.Best(
        value=0.5,
        coverage=1.0,
        fitness=-1.0,
        fitness_mean=-2.0,
        fitness_worst=-3.0,
        diversity=number / 10,
        value_of="held-out",
        auc=0.75,
    )
    return events.RoundClosed(round=number, why=why, results=2, round_s=round_s, present=9, best=best)


# No two counts are equal.
CLOSED: list[events.AnyEvent] = [
    run_started(run="r", term=15, round=1, task="xor", algorithm="evolution", seed=1, metric="accuracy", rounds_max=16),
    *(events.TrainerJoined(trainer=name, num_examples=2) for name in "abcdefghi"),
    events.RoundPublished(round=1, invited=9),
    *(events.ResultAccepted(round=1, trainer=name, staleness=0, train_s=0.1, answer_s=0.25) for name in "ab"),
    closed(1, "deadline", 3.0),
    events.RoundPublished(round=2, invited=9),
    *(events.ResultAccepted(round=1, trainer=name, staleness=1, train_s=0.1) for name in "cdef"),
    *(events.ResultResent(round=1, trainer="c") for _ in range(7)),
    *(events.Stalled(round=2, seconds=15.0, missing=()) for _ in range(8)),
    closed(2, "deadline", 11.0),
    events.RoundPublished(round=3, invited=9),
    closed(3, "complete", 1.5),
]
STORY: list[events.AnyEvent] = [
    *CLOSED,
    events.RoundPublished(round=4, invited=9),
    events.TrainerSuspected(trainer="g"),
    *(events.TrainerLeft(trainer=name, goodbye=True) for name in "hi"),
]


def run_metrics(story: list[events.AnyEvent] = STORY) -> Metrics:
    """Return the metrics of an aggregator after these events."""
    metrics, run_state, clock, tally = Metrics(), RunState(), VirtualClock(), Tally()
    service = MagicMock()
    service.rounds.bytes_received, service.rounds.bytes_sent = 1000, 2000
    service.rounds.round, service.rounds.rejections = 4, {"values": 13, "model-digest": 14}
    service.connection.contacts, service.connection.is_up = 12, True
    fedmq.aggregator.metrics.aggregator_metrics(service, run_state, tally, clock)(metrics)
    for event in story:
        run_state.apply(clock.wall(), event)
        tally(event)
    return metrics


def broker_metrics() -> Metrics:
    metrics, hub, access, service = Metrics(), MagicMock(bytes=5000, cuts=1), MagicMock(), MagicMock(received=7)
    hub.ports = list(Port)
    hub.connections = [Connection(port, number) for port in Port for number in range(port + 8)]
    access.refused = {"connection-key": 3, "connection-rate": 4, "message-key": 5, "message-rate": 6}
    service.routing.dropped = 2
    service.routing.inboxes, service.routing.newest = dict.fromkeys(range(13)), dict.fromkeys(range(14))
    fedmq.broker.metrics.broker_metrics(service, hub, access)(metrics)
    return metrics


def trainer_metrics() -> Metrics:
    metrics, service = Metrics(), MagicMock(on_trained=None)
    service.session.rejections, service.session.refusals = {"term": 5}, {"round": 6}
    service.session.name, service.session.num_examples, service.session.working = "alice", 7, ("r", 1)
    service.session.runs = {"r": MagicMock(pending={1: None, 2: None}), "s": MagicMock(pending={1: None, 3: None})}
    service.session.runs["t"] = MagicMock(pending={})
    service.connection.contacts, service.connection.is_up = 8, False
    fedmq.trainer.metrics.trainer_metrics(service)(metrics)
    for seconds in (0.5, 6.0):
        service.on_trained(seconds)
    return metrics


SERVICES = {"broker": broker_metrics, "aggregator": run_metrics, "trainer": trainer_metrics}


def values(metrics: Metrics) -> dict[str, float]:
    """Return each sample by name and labels, read by the Prometheus client; of buckets only that of 5 s."""
    families = text_string_to_metric_families(metrics.text()[0].decode())
    return {
        one.name
        + "".join(f"|{value}" for key, value in sorted(one.labels.items()) if key != "le" or value == "5.0"): one.value
        for family in families
        for one in family.samples
        if one.labels.get("le", "5.0") == "5.0"
    }


def counted(metrics: Metrics, service: str) -> dict[str, float]:
    """Return the samples of a service that are not 0, without its info and start times."""
    prefix = f"fedmq_{service}_"
    found = {name.removeprefix(prefix): value for name, value in values(metrics).items() if name.startswith(prefix)}
    beside = ("info", "round_seconds_created", "answer_seconds_created", "train_seconds_created")
    return {name: value for name, value in found.items() if value and name.partition("|")[0] not in beside}


def rows(metrics: Metrics) -> list[str]:
    """Return the rows of the table of a service on the page."""
    found = []
    for family in metrics.registry.collect():
        if not family.name.startswith("fedmq_"):
            continue
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = sorted({key for one in family.samples for key in one.labels} - {"le"})
        label_list = ", ".join(f"`{label}`" for label in labels)
        found.append(f"| `{name}` | {family.type} | {label_list} | {family.documentation} |")
    return found


def names() -> set[str]:
    """Return the names of all series."""
    found = set()
    for make in SERVICES.values():
        for family in make().registry.collect():
            suffixes = {"counter": ["_total"], "info": ["_info"], "histogram": ["_bucket", "_sum", "_count"]}
            found |= {family.name + suffix for suffix in suffixes.get(family.type, [""])}
    return found

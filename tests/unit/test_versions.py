"""Hosts of two protocol versions in one run: they train the same model as hosts of one version."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from peers import LaterVersion, TranslatingLink, Version, Version2

from fedmq.aggregator.service import Aggregator
from fedmq.algorithms.registry import find_algorithm
from fedmq.observe import events
from fedmq.protocol.messages import PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, version_text
from fedmq.simulation import Federation
from fedmq.tasks.task import Rows
from fedmq.tasks.task_file import find_task, task_rows
from fedmq.trainer.service import Trainer
from fedmq.transport.link import Link

NAMES = ("alice", "bob")


class Mixed(Federation):
    """A federation whose aggregator and trainers speak the given versions."""

    def __init__(self, aggregator: Version | None, trainers: dict[str, Version]) -> None:
        self.version, self.versions = aggregator, trainers
        task = find_task("xor")
        rows = {name: task_rows("xor", part, 2) for part, name in enumerate(NAMES, 1)}
        super().__init__(task, find_algorithm("evolution", task), rows, seed=1)

    def _aggregator(self, link: Link) -> Aggregator:
        return super()._aggregator(link if self.version is None else TranslatingLink(link, self.version))

    def _trainer(self, name: str, rows: Rows) -> Callable[[Link], Trainer]:
        make, version = super()._trainer(name, rows), self.versions.get(name)
        return make if version is None else lambda link: make(TranslatingLink(link, version))


@pytest.fixture(scope="module")
def parameters() -> bytes:
    """The model of a federation of one version."""
    model = Mixed(None, {}).train()
    assert model is not None
    return model.parameters.tobytes()


def old_trainers() -> Mixed:
    return Mixed(LaterVersion(), {name: Version2() for name in NAMES})


def old_aggregator() -> Mixed:
    return Mixed(Version2(), {name: LaterVersion() for name in NAMES})


def one_old_trainer() -> Mixed:
    return Mixed(LaterVersion(), {"alice": Version2(), "bob": LaterVersion()})


@pytest.mark.parametrize("federation", [old_trainers, old_aggregator, one_old_trainer])
def test_hosts_of_two_versions_train_the_same_model(federation: Callable[[], Mixed], parameters: bytes) -> None:
    mixed = federation()
    model = mixed.train()
    assert model is not None
    assert model.parameters.tobytes() == parameters
    assert [event for event in mixed.events if isinstance(event, events.ResultRejected)] == []
    old = [one for one in (mixed.version, *mixed.versions.values()) if isinstance(one, Version2)]
    assert old
    assert all({"priority", "trace", "note"} <= one.unknown for one in old), "they have received what they ignore"


def test_trainer_without_a_common_version_is_refused_in_both_logs(caplog: pytest.LogCaptureFixture) -> None:
    federation = Mixed(None, {"bob": LaterVersion((PROTOCOL_VERSION + 1, PROTOCOL_VERSION + 2))})
    federation.start()
    federation.simulation.run(lambda: False, 30.0)
    here, there = (
        version_text(PROTOCOL_VERSION_MIN, PROTOCOL_VERSION),
        f"{PROTOCOL_VERSION + 1} to {PROTOCOL_VERSION + 2}",
    )
    (rejected,) = [event for event in federation.events if isinstance(event, events.ResultRejected)]
    assert (rejected.trainer, rejected.reason) == ("bob", "version")
    assert here in rejected.detail
    assert there in rejected.detail
    (line,) = caplog.messages
    assert rejected.detail in line
    joined = [event.trainer for event in federation.events if isinstance(event, events.TrainerJoined)]
    assert joined == ["alice"]

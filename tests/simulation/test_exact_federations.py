"""Whole federations of exact algorithms: one model_sha256 for one trainer, three, and ten, also after a crash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec
import pytest

from fedmq.algorithms.registry import find_algorithm
from fedmq.exact.draws import normals
from fedmq.models.networks import MLP
from fedmq.observe import events
from fedmq.protocol.run_config import Limits
from fedmq.simulation.federation import Federation
from fedmq.tasks.task import Rows, Task

INPUTS = normals(300 * 4, 1, "federations").reshape(300, 4) * 7.0 + 1.0
TARGETS = (INPUTS[:, 0] + 5.0 * normals(300, 2, "federations") > 1.0).astype(int)
TASK = Task(name="classes", model=MLP((4, 2)), loss="cross-entropy", metric="accuracy", target=1.0)
HIDDEN = msgspec.structs.replace(TASK, model=MLP((4, 6, 2)))


def model_sha256(algorithm: str, shards: Sequence[slice], *, crash: bool = False) -> str:
    order = TARGETS.argsort(kind="stable")
    rows = {
        f"trainer-{place}": Rows(INPUTS[order[one]], TARGETS[order[one]].astype(float))
        for place, one in enumerate(shards)
    }
    limits = Limits(rounds_max=20, min_trainers=len(rows))
    task = HIDDEN if algorithm == "es" else TASK
    federation = Federation(task, find_algorithm(algorithm), rows, limits=limits)
    if crash:
        federation.start()
        at = federation.simulation.at
        at(0.05, lambda: federation.simulation.crash("aggregator"))
        at(0.5, lambda: federation.simulation.start("aggregator"))
        federation.simulation.run(lambda: federation.finished, 3600.0)
    else:
        federation.train()
    assert federation.model is not None
    (end,) = [one for one in federation.events if isinstance(one, events.RunFinished)]
    if algorithm == "es":  # which goes on for as long as it may
        assert (end.why, end.rounds) == ("rounds", limits.rounds_max)
    else:
        assert (end.why, end.rounds < limits.rounds_max) == ("done", True)
    return hashlib.sha256(federation.model.to_bytes()).hexdigest()


@pytest.mark.parametrize("algorithm", ["statistics", "ridge", "newton", "es"])
def test_model_does_not_depend_on_the_trainers(algorithm: str) -> None:
    tenths = [slice(30 * one, 30 * one + 30) for one in range(10)]
    found = {
        model_sha256(algorithm, [slice(0, 300)]),
        model_sha256(algorithm, [slice(0, 7), slice(7, 200), slice(200, 300)]),
        model_sha256(algorithm, tenths),
        model_sha256(algorithm, tenths[::-1], crash=True),
    }
    assert len(found) == 1

"""A hundred trainers in one process: samples, a killed aggregator, labels, and rounds that wait for ten results."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import msgspec
import numpy as np

from fedmq.algorithms.registry import find_algorithm
from fedmq.observe import events
from fedmq.protocol.run_config import Limits
from fedmq.runs.records import Invitation
from fedmq.runs.store import Store
from fedmq.runtime.rng import derive_rng
from fedmq.simulation import AGGREGATOR, Federation
from fedmq.tasks.task import Rows
from fedmq.tasks.task_file import find_task

TASK = msgspec.structs.replace(find_task("linear"), target=None)
TRAINERS = 100


class Watched(Store):
    """A store that remembers all invitations."""

    def __init__(self) -> None:
        super().__init__(":memory:")
        self.invited: dict[int, tuple[str, ...]] = {}

    def save(self, record: Any) -> None:
        super().save(record)
        if isinstance(record, Invitation):
            assert set(self.invited.get(record.round, ())) <= set(record.trainers), "the same again, or more"
            self.invited[record.round] = record.trainers


def federation(count: int = TRAINERS, **options: Any) -> Federation:
    rng, rows = derive_rng(1, "rows"), {}
    for number in range(count):
        inputs = rng.normal(size=(3, 2))
        rows[f"t{number:02}"] = Rows(inputs, inputs @ np.array([1.0, -2.0]) + 0.5)
    limits = Limits(**{"rounds_max": 30, "min_trainers": count, **options.pop("limits")})
    strategy = find_algorithm("averaging", TASK, {"standardize": False})
    return Federation(TASK, strategy, rows, seed=3, limits=limits, store=Watched(), **options)


def results(run: Federation) -> Counter[str]:
    return Counter(event.trainer for event in run.events if isinstance(event, events.ResultAccepted))


def digest(run: Federation) -> str:
    assert run.model is not None
    return hashlib.sha256(run.model.to_bytes()).hexdigest()


def test_each_round_asks_ten_of_a_hundred_and_all_get_the_same_turns() -> None:
    run = federation(limits={"sample": 0.1})
    run.train()
    assert {event.invited for event in run.events if isinstance(event, events.RoundPublished)} == {10}
    assert set(results(run).values()) == {3}
    assert len(results(run)) == TRAINERS
    assert not [event for event in run.events if isinstance(event, events.ResultRejected)]


def test_killed_aggregator_invites_the_same_trainers_to_the_same_model() -> None:
    undisturbed = federation(20, limits={"sample": 4})
    undisturbed.train()
    killed = federation(20, limits={"sample": 4})
    killed.start()
    for step in range(1, 6):
        killed.simulation.run(lambda: killed.finished, 0.013 * step)
        killed.simulation.crash(AGGREGATOR)
        killed.simulation.start(AGGREGATOR)
    killed.simulation.run(lambda: killed.finished, 600.0)
    assert killed.finished
    assert killed.store.invited == undisturbed.store.invited  # type: ignore[attr-defined]
    assert digest(killed) == digest(undisturbed)


def test_dead_trainers_of_a_sample_cost_no_more_than_deadlines() -> None:
    run = federation(20, limits={"sample": 5, "rounds_max": 12, "min_trainers": 10})
    run.start()
    run.simulation.run(lambda: len(results(run)) >= 5, 60.0)
    for name in run.trainers[:8]:
        run.simulation.crash(name)
    began = run.simulation.clock.now()
    run.simulation.run(lambda: run.finished, 600.0)
    assert run.finished
    assert run.simulation.clock.now() - began < 10.0


def test_run_trains_on_the_trainers_with_its_labels_alone() -> None:
    labels = {f"t{number:02}": ("site=eu" if number % 2 else "site=us",) for number in range(10)}
    run = federation(10, limits={"select": ("site=eu",), "min_trainers": 5, "rounds_max": 5}, labels=labels)
    run.train()
    assert run.finished
    assert set(results(run)) == {"t01", "t03", "t05", "t07", "t09"}
    barred = [event for event in run.events if isinstance(event, events.TrainerBarred)]
    assert sorted(event.trainer for event in barred) == ["t00", "t02", "t04", "t06", "t08"]


def test_buffered_rounds_use_the_late_results_of_slow_trainers() -> None:
    run = federation(20, limits={"buffer": 5, "rounds_max": 60}, work_s=(0.001, 0.02))
    run.train()
    assert {close.why for close in run.store.closes()} == {"buffer"}
    assert len(results(run)) == 20, "slow ones, too"
    late = [event for event in run.events if isinstance(event, events.ResultAccepted) and event.staleness]
    assert len(late) > 100
    bests = [close.best for close in run.store.closes() if close.best is not None]
    assert bests[-1].fitness_mean > bests[0].fitness_mean, "it deploys a newer model than the first"

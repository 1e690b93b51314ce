"""A federation in one process: it learns, is repeatable, and network faults do not change the model."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

import numpy as np
import pytest

from fedmq.algorithms.registry import find_algorithm
from fedmq.models.trained_model import TrainedModel
from fedmq.observe import events
from fedmq.protocol.run_config import Limits
from fedmq.runs.store import Store
from fedmq.simulation import AGGREGATOR, Federation
from fedmq.tasks.task import Rows
from fedmq.tasks.task_file import find_task, task_rows
from fedmq.testing import Faults

XOR_ROWS = {"bob": task_rows("xor", 1, 2), "alice": task_rows("xor", 2, 2)}


def xor(seed: int = 1, **options: Any) -> Federation:
    return Federation(find_task("xor"), find_algorithm("evolution"), XOR_ROWS, seed=seed, **options)


def digest(model: TrainedModel | None) -> str:
    assert model is not None
    return hashlib.sha256(model.to_bytes()).hexdigest()


def of_kind(federation: Federation, kind: type[Any]) -> list[Any]:
    return [event for event in federation.events if isinstance(event, kind)]


@pytest.mark.parametrize("seed", [1, 2])
def test_split_xor_is_solved_by_two_trainers(seed: int) -> None:
    federation = xor(seed)
    model = federation.train()
    assert federation.finished
    assert model is not None
    assert model.predict([[0, 0], [0, 1], [1, 0], [1, 1]]).tolist() == [0, 1, 1, 0]
    (finished,) = of_kind(federation, events.RunFinished)
    assert finished.solved


def test_bytes_of_a_round_count_from_the_previous_close() -> None:
    federation = xor()
    federation.train()
    closes = of_kind(federation, events.RoundClosed)
    assert len(closes) > 2
    assert federation.aggregator is not None
    rounds = federation.aggregator.rounds
    for reported, total in (
        ([close.bytes_up for close in closes], rounds.bytes_received),
        ([close.bytes_down for close in closes], rounds.bytes_sent),
    ):
        assert min(reported) > 0
        assert sum(reported) <= total


@pytest.mark.parametrize(
    "options",
    [
        {"work_s": (0.5, 5.0)},
        {"faults": Faults(delay_s=(0.0, 1.0))},
        {"faults": Faults(delay_s=(0.0, 1.0), reorder=True, duplicate=0.3)},
        {"faults": Faults(loss=0.1)},
    ],
    ids=["slow work", "slow network", "another order", "losses"],
)
def test_faults_change_no_bit_of_the_model_if_all_trainers_answer(options: dict[str, Any]) -> None:
    limits = Limits(rounds_max=200, min_trainers=2, quorum=1.0, deadline_s=1000.0)
    assert digest(xor(limits=limits, **options).train()) == digest(xor().train())


def test_another_seed_gives_another_model() -> None:
    assert digest(xor(1).train()) != digest(xor(2).train())


def test_trainer_with_half_of_the_rows_does_not_solve_the_task() -> None:
    rows = {"bob": XOR_ROWS["bob"]}
    limits = Limits(rounds_max=5, min_trainers=1)
    federation = Federation(find_task("xor"), find_algorithm("evolution"), rows, seed=1, limits=limits)
    model = federation.train()
    assert federation.finished, "its own half it learns at once"
    assert model is not None
    assert model.predict([[0, 1], [0, 0]]).tolist() == [1, 0]


def test_model_is_none_before_the_run() -> None:
    federation = xor()
    assert (federation.model, federation.finished, federation.events) == (None, False, [])


def test_run_without_trainers_has_no_model() -> None:
    federation = xor(limits=Limits(rounds_max=5, min_trainers=3))
    assert federation.train(limit_s=10.0) is None
    assert not federation.finished
    assert of_kind(federation, events.Waiting)[-1] == events.Waiting(present=2, needed=3)


@pytest.mark.parametrize("part", ["broker", AGGREGATOR, "alice"])
def test_restarted_service_changes_no_bit_of_the_model(part: str) -> None:
    limits = Limits(rounds_max=200, min_trainers=2, quorum=1.0, deadline_s=1000.0)
    federation = xor(limits=limits)
    simulation = federation.simulation
    federation.start()
    simulation.run(lambda: len(of_kind(federation, events.RoundClosed)) == 2, 60.0)
    simulation.crash(part)
    simulation.run(lambda: False, 1.0)
    simulation.start(part)
    assert simulation.run(lambda: federation.finished, 600.0)
    assert digest(federation.model) == digest(xor().train())


def test_store_on_disk_has_the_run(tmp_path: Any) -> None:
    store = Store(tmp_path / "store.sqlite3")
    federation = xor(store=store)
    federation.train()
    store.close()
    again = Store(tmp_path / "store.sqlite3")
    assert len(list(again.closes())) == len(of_kind(federation, events.RoundClosed))
    again.close()


def test_work_of_trainers_can_be_replaced() -> None:
    """Answer every query with a model of ones."""
    rows = {name: Rows(np.zeros((2, 2)), np.ones(2)) for name in ("bob", "alice")}
    ones = {"model": np.ones(3), "losses": np.ones(1), "correct": np.zeros(1, dtype=np.int64)}
    federation = Federation(
        find_task("linear"),
        find_algorithm("averaging", parameters={"learner": "evolution"}),
        rows,
        limits=Limits(rounds_max=2, min_trainers=2),
        learn=lambda _rows, _name: lambda _packet, _cancelled: ones,
    )
    federation.train()
    assert federation.aggregator is not None
    state = federation.aggregator.rounds._state
    assert federation.strategy.ask(state).arrays["model"].tolist() == [1.0, 1.0, 1.0]


def test_log_lines_of_a_trainer_have_run_round_and_name(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="fedmq.trainer"):
        xor().train()
    rounds = {
        (one.__dict__["trainer"], one.__dict__["round"]) for one in caplog.records if " took " in one.getMessage()
    }
    assert {("alice", 1), ("bob", 1)} <= rounds
    assert {one.__dict__["run"] for one in caplog.records} == {caplog.records[0].__dict__["run"]}

"""A trainer's cap on evaluations: counted by run, kept across restarts; a run beyond it is declined."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmq.algorithms.averaging.query import GradientLearner, Train
from fedmq.algorithms.base import encode_query
from fedmq.algorithms.evaluation.query import Evaluate
from fedmq.algorithms.evolution.query import Evolve
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import QueryRefused
from fedmq.protocol.codec import decode, encode
from fedmq.protocol.messages import Goodbye, Hello, Message, Result, Round
from fedmq.protocol.run_config import Limits
from fedmq.runtime.rng import derive_rng
from fedmq.simulation import Federation
from fedmq.tasks.task_file import find_task, task_rows
from fedmq.trainer.budget import RUNS_REMEMBERED, Budget, Cost, Spent, cost_of
from fedmq.trainer.machine import Output, WorkDone
from fedmq.trainer.round_handler import on_rows
from fedmq.trainer.session import Session
from fedmq.trainer.spool import SPENT_SUFFIX, SPENT_UNKNOWN, FileSpool
from fedmq.transport.link import BrokerConnected, MessageReceived

XOR = find_task("xor")


def round_of(number: int, pool: int = 10, *, run: str = "run", term: int = 1) -> MessageReceived:
    message = Round(
        run=run, term=term, round=number, seed=0, deadline_s=9.0, task=XOR, query=encode_query(Evolve(elites=1))
    )
    arrays = {"ids": np.arange(pool), "pool": np.zeros((pool, 22))}
    return MessageReceived(decode(encode(f"round/{run}", message, arrays)))


class Bob:
    """Bob's session, whose work is done at once."""

    def __init__(self, budget: Budget) -> None:
        self.session = Session("bob", 2, "test", derive_rng(1, "jitter"), budget=budget)
        self.session.step(BrokerConnected(), 0.0)
        self.spent: list[Spent] = []

    def hear(self, heard: MessageReceived) -> list[Message]:
        """What bob says to it, in the end."""
        effects = self.session.step(heard, 0.0)
        self.left = [notice.run for notice in effects.notices if "--max-evaluations" in notice.text]
        said = self.take(effects)
        while self.session.working is not None:
            run, number = self.session.working
            said += self.take(self.session.step(WorkDone(run, number, {"losses": np.zeros(1)}, 0.1, 2), 0.0))
        return said

    def take(self, effects: Output) -> list[Message]:
        self.spent += effects.spends
        if any(isinstance(one.message, Result) for one in effects.sends):
            assert self.spent or self.session.budget.cap is None, "what is sent is counted first"
        return [one.message for one in effects.sends]


def kinds(said: list[Message]) -> list[type[Message]]:
    return [type(message) for message in said]


# What counts


@pytest.mark.parametrize("pool", [1, 7, 100])
def test_each_candidate_of_a_pool_counts_as_an_evaluation(pool: int) -> None:
    message = round_of(1, pool).packet.message
    assert isinstance(message, Round)
    assert cost_of(message, 16) == Cost(pool, 16)


def test_model_to_train_counts_once_and_no_query_counts_less() -> None:
    train = Train(GradientLearner())
    message = Round(run="r", term=1, round=1, seed=0, deadline_s=1.0, task=XOR, query=encode_query(train))
    assert cost_of(message, 16).evaluations == 1
    without = Round(run="r", term=1, round=1, seed=0, deadline_s=1.0, task=XOR, query=encode_query(Evolve(elites=1)))
    assert cost_of(without, 16).evaluations == 1


@pytest.mark.parametrize(("own", "sent"), [(30, 8), (16, 8), (4, 4)])
def test_losses_are_sent_no_finer_than_the_query_sums_them(own: int, sent: int) -> None:
    query = encode_query(Evaluate(fraction_bits=8))
    message = Round(run="r", term=1, round=1, seed=0, deadline_s=1.0, task=XOR, query=query)
    arrays = {"candidates": np.zeros((7, 22))}
    received = decode(encode("round/r", message, arrays)).message
    assert isinstance(received, Round)
    assert cost_of(received, own) == Cost(7, sent)


def test_query_without_a_known_cost_is_never_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_query: object, _shapes: object) -> int:
        raise KeyError("pool")

    monkeypatch.setattr(Evolve, "evaluations", fail)
    packet = round_of(1).packet
    assert isinstance(packet.message, Round)
    assert cost_of(packet.message, 16) == Cost(0, 16)
    with pytest.raises(QueryRefused, match="KeyError"):
        on_rows(task_rows("xor", 1, 2), "bob")(packet, lambda: False)


def test_query_that_is_refused_costs_nothing() -> None:
    query = msgspec.Raw(msgspec.msgpack.encode({"kind": "unknown"}))
    message = Round(run="r", term=1, round=1, seed=0, deadline_s=1.0, task=XOR, query=query)
    assert cost_of(message, 16) == Cost(0, 16)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(1, 50), st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 20))))
def test_no_run_gets_more_evaluations_than_the_cap(cap: int, asked: list[tuple[str, int]]) -> None:
    budget, spent = Budget(cap), dict.fromkeys("abc", 0)
    for run, evaluations in asked:
        if budget.allows(run, evaluations):
            budget.spend(run, evaluations)
            spent[run] += evaluations
    assert max(spent.values()) <= cap


def test_without_a_cap_nothing_is_counted() -> None:
    budget = Budget()
    assert budget.allows("run", 2**60)
    assert budget.spend("run", 2**60) == []


def test_remembered_runs_are_bounded() -> None:
    budget = Budget(5)
    news = [spent for number in range(RUNS_REMEMBERED + 1) for spent in budget.spend(f"run-{number}", 1)]
    assert news[-1] == Spent("run-0", 0)
    assert len(budget._spent) == RUNS_REMEMBERED


# The session


def test_run_is_answered_up_to_its_cap_and_then_declined() -> None:
    bob = Bob(Budget(25))
    assert kinds(bob.hear(round_of(1))) == [Hello, Result]
    assert Result in kinds(bob.hear(round_of(2)))
    assert bob.spent == [Spent("run", 10), Spent("run", 20)]
    assert kinds(bob.hear(round_of(3))) == [Goodbye]
    assert bob.left == ["run"]
    assert bob.spent[-1] == Spent("run", 25), "what was left of it is gone, too"


def test_declined_run_gets_a_goodbye_per_round_and_no_result() -> None:
    bob = Bob(Budget(9))
    for heard in (round_of(1), round_of(2, 1), round_of(2, 1), round_of(2, 1, term=2)):
        assert kinds(bob.hear(heard)) == [Goodbye]
    assert bob.left == [], "it is logged once"


def test_budgets_of_two_runs_are_independent() -> None:
    bob = Bob(Budget(10))
    bob.hear(round_of(1))
    assert kinds(bob.hear(round_of(2))) == [Goodbye]
    assert Result in kinds(bob.hear(round_of(1, run="other")))


def test_cancelled_work_costs_nothing() -> None:
    bob = Bob(Budget(10))
    bob.session.step(round_of(1), 0.0)
    assert Result in kinds(bob.hear(round_of(2)))
    assert bob.spent == [Spent("run", 10)]


def test_result_within_the_budget_is_resent_after_the_run_was_declined() -> None:
    bob = Bob(Budget(10))
    bob.hear(round_of(1))
    bob.hear(round_of(2))
    assert sorted(bob.session.runs["run"].pending) == [1]
    assert bob.session.wake_at is not None


def test_restarted_trainer_knows_its_spent_evaluations(tmp_path: Path) -> None:
    spool, bob = FileSpool(tmp_path), Bob(Budget(15))
    bob.hear(round_of(1))
    for spent in bob.spent:
        spool.spend(spent)
    again = Bob(Budget(15, FileSpool(tmp_path).spent()))
    assert kinds(again.hear(round_of(2))) == [Goodbye]
    for spent in again.spent:
        spool.spend(spent)
    third = Bob(Budget(15, FileSpool(tmp_path).spent()))
    assert kinds(third.hear(round_of(3, 1))) == [Goodbye], "what was left stays left"


# Files


def test_forgotten_run_has_no_file(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    for evaluations in (3, 0, 0):
        spool.spend(Spent("run", evaluations))
    assert spool.spent() == []


@pytest.mark.parametrize("damage", [b"", b"damaged", bytes(40)])
def test_damaged_file_counts_as_all_spent(tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    spool = FileSpool(tmp_path)
    spool.spend(Spent("run.1", 3))
    (tmp_path / f"run.1{SPENT_SUFFIX}").write_bytes(damage)
    assert spool.spent() == [Spent("run.1", SPENT_UNKNOWN)]
    assert f"run.1{SPENT_SUFFIX}" in caplog.text
    assert not Budget(2**53 - 1, spool.spent()).allows("run.1", 1)


# A federation


def test_run_continues_without_a_trainer_that_declined_it(caplog: pytest.LogCaptureFixture) -> None:
    rows = {name: task_rows("xor", 1, 1) for name in ("alice", "bob")}
    limits = Limits(rounds_max=6, min_trainers=1, deadline_s=5.0)
    task = XOR.__class__(name="xor", model=XOR.model, loss=XOR.loss, metric="loss", target=0.0)
    federation = Federation(task, find_algorithm("evolution"), rows, limits=limits)
    federation.start()
    trainer = federation.simulation.node("bob")
    trainer.session.budget = Budget(250)  # type: ignore[union-attr]
    with caplog.at_level(logging.WARNING):
        assert federation.simulation.run(lambda: federation.finished, 60.0)
    results = dict.fromkeys(rows, 0)
    for number in range(1, 7):
        for stored in federation.store.results(number):
            results[stored.trainer] += 1
    assert results["alice"] == 6
    assert results["bob"] == 2
    assert [close.why for close in federation.store.closes()] == ["complete"] * 6, "no round waits for it"
    lines = [line for line in caplog.messages if "takes no further part" in line]
    assert lines == ["run run: another round would go beyond --max-evaluations 250: takes no further part in it"]

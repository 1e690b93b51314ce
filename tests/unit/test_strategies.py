"""The contract of each built-in strategy: plans, rejections and reproducible bits."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from strategy_rounds import CASES, one_round, same_plan, shards, spoilt, strategy_of, task_for, trained

from fedmq.algorithms.base import Strategy, Update
from fedmq.algorithms.inbox import ROUNDS_REMEMBERED
from fedmq.algorithms.registry import algorithm_names, find_algorithm
from fedmq.errors import BadConfiguration, Rejected


@pytest.fixture(params=CASES)
def strategy(request: pytest.FixtureRequest) -> Strategy[Any]:
    return strategy_of(request.param)


def test_strategy_is_found_by_name_and_an_unknown_name_is_refused(strategy: Strategy[Any]) -> None:
    assert strategy.name in algorithm_names()
    with pytest.raises(BadConfiguration, match=r"evolution, averaging.* got 'nonesuch'"):
        find_algorithm("nonesuch")


def test_evaluation_is_none_before_the_first_answer(strategy: Strategy[Any]) -> None:
    state = strategy.init(task_for(strategy), 1)
    assert strategy.evaluation(state) is None
    assert strategy.evaluation(strategy.close(state, {"bob"})) is None


def test_ask_returns_the_same_plan_twice(strategy: Strategy[Any]) -> None:
    task = task_for(strategy)
    state = one_round(strategy, strategy.init(task, 1), task)
    assert same_plan(strategy.ask(state), strategy.ask(state))


def test_round_without_results_publishes_the_same_plan_again(strategy: Strategy[Any]) -> None:
    task = task_for(strategy)
    state = one_round(strategy, strategy.init(task, 1), task)
    assert same_plan(strategy.ask(strategy.close(state, {"trainer-1"})), strategy.ask(state))


def test_round_without_answers_does_not_affect_the_next(strategy: Strategy[Any]) -> None:
    task = task_for(strategy)
    state = strategy.close(strategy.init(task, 1), ())
    evaluation = strategy.evaluation(one_round(strategy, state, task))
    assert evaluation is not None
    assert evaluation.coverage == 1.0


def test_members_are_those_of_each_close(strategy: Strategy[Any]) -> None:
    task = task_for(strategy)
    state = one_round(strategy, strategy.init(task, 1), task)
    for members, coverage, rows in [(("trainer-1",), 1.0, 2), (("trainer-1", "trainer-2", "new"), 2 / 3, 4)]:
        evaluation = strategy.evaluation(strategy.close(state, members))
        assert evaluation is not None
        assert evaluation.coverage == pytest.approx(coverage)
        assert evaluation.rows == rows


def test_order_of_arrival_changes_no_bit(strategy: Strategy[Any]) -> None:
    task = task_for(strategy)
    rows = shards(task, 3)
    start = strategy.init(task, 1)
    second = strategy.close(start, rows)  # so that one of the results is late
    updates = [
        trained(task, strategy.ask(start), rows, "trainer-1", 1, staleness=1),
        *(trained(task, strategy.ask(second), rows, name, 2) for name in rows),
    ]
    plans, evaluations = [], []
    for order in itertools.permutations(updates):
        state = second
        for update in order:
            state = strategy.tell(state, update)
        state = strategy.close(state, rows)
        plans.append(strategy.ask(state))
        evaluations.append(strategy.evaluation(state))
    assert all(same_plan(plans[0], plan) for plan in plans)
    first = evaluations[0]
    assert first is not None
    assert all(one is not None and one.loss == first.loss and one.diversity == first.diversity for one in evaluations)


def test_repeated_result_changes_nothing_in_its_round_or_later(strategy: Strategy[Any]) -> None:
    task = task_for(strategy)
    rows = shards(task, 2)
    start = strategy.init(task, 1)
    updates = [trained(task, strategy.ask(start), rows, name, 1) for name in rows]
    state = strategy.tell(strategy.tell(start, updates[0]), updates[1])
    assert strategy.tell(state, updates[0]) is state
    closed = strategy.close(state, rows)
    assert strategy.tell(closed, replace(updates[1], staleness=1)) is closed


def test_tell_does_not_change_the_given_state(strategy: Strategy[Any]) -> None:
    task = task_for(strategy)
    rows = shards(task, 2)
    start = strategy.init(task, 1)
    told = strategy.tell(start, trained(task, strategy.ask(start), rows, "trainer-1", 1))
    assert strategy.evaluation(strategy.close(start, rows)) is None
    assert strategy.evaluation(strategy.close(told, rows)) is not None


def test_member_without_an_answer_keeps_the_coverage_below_one(strategy: Strategy[Any]) -> None:
    task = task_for(strategy)
    rows = shards(task, 2)
    start = strategy.init(task, 1)
    told = strategy.tell(start, trained(task, strategy.ask(start), rows, "trainer-1", 1))
    evaluation = strategy.evaluation(strategy.close(told, rows))
    alone = strategy.evaluation(strategy.close(told, {"trainer-1"}))
    assert evaluation is not None
    assert evaluation.coverage == 0.5
    assert evaluation.rows == 2
    assert alone is not None
    assert alone.coverage == 1.0


def test_trainer_that_is_no_member_does_not_count(strategy: Strategy[Any]) -> None:
    task = task_for(strategy)
    rows = shards(task, 2)
    start = strategy.init(task, 1)
    state = start
    for name in rows:
        state = strategy.tell(state, trained(task, strategy.ask(start), rows, name, 1))
    evaluation = strategy.evaluation(strategy.close(state, {"trainer-2"}))
    assert evaluation is not None
    assert evaluation.rows == 2
    assert evaluation.loss == pytest.approx(task.score(evaluation.parameters[None], rows["trainer-2"]).losses[0])


def first_changed(array: npt.NDArray[Any], value: float) -> npt.NDArray[Any]:
    changed = array.copy()
    changed.ravel()[0] = value
    return changed


def impossible_updates(update: Update, genes: str) -> Sequence[tuple[str, Update]]:
    """Each with the reason for which it must be refused; `genes` names the array that holds genes."""
    arrays = update.arrays
    return [
        ("arrays", replace(update, arrays={name: array for name, array in arrays.items() if name != "losses"})),
        ("arrays", spoilt(update, "more", np.zeros(1))),
        ("dtype", spoilt(update, "losses", arrays["losses"].astype(np.float32))),
        ("dtype", spoilt(update, "correct", arrays["correct"].astype(np.float64))),
        ("shape", spoilt(update, "losses", arrays["losses"][:-1])),
        ("shape", spoilt(update, "correct", arrays["correct"][None])),
        ("shape", spoilt(update, genes, arrays[genes][..., :-1])),
        ("not-finite", spoilt(update, "losses", first_changed(arrays["losses"], np.nan))),
        ("not-finite", spoilt(update, genes, first_changed(arrays[genes], np.inf))),
        ("values", spoilt(update, genes, first_changed(arrays[genes], 1e300))),
        ("values", spoilt(update, "losses", first_changed(arrays["losses"], -1e-9))),
        ("values", spoilt(update, "correct", first_changed(arrays["correct"], 3))),
        ("values", spoilt(update, "correct", first_changed(arrays["correct"], -1))),
        ("values", replace(update, num_examples=0)),
        ("round", replace(update, round=0)),
        ("round", replace(update, round=2)),
    ]


def test_impossible_result_is_rejected_with_its_reason(strategy: Strategy[Any]) -> None:
    task = task_for(strategy)
    rows = shards(task, 2)
    state = strategy.init(task, 1)
    update = trained(task, strategy.ask(state), rows, "trainer-1", 1)
    genes = "elites" if strategy.name == "evolution" else "model"
    for reason, impossible in impossible_updates(update, genes):
        with pytest.raises(Rejected) as refused:
            strategy.tell(state, impossible)
        assert refused.value.reason == reason
    assert strategy.evaluation(strategy.close(state, rows)) is None


def test_result_of_a_forgotten_round_is_rejected(strategy: Strategy[Any]) -> None:
    task = task_for(strategy)
    rows = shards(task, 2)
    state = strategy.init(task, 1)
    update = trained(task, strategy.ask(state), rows, "trainer-1", 1)
    for _ in range(ROUNDS_REMEMBERED - 1):
        state = strategy.close(state, rows)
    strategy.tell(state, update)
    with pytest.raises(Rejected) as refused:
        strategy.tell(strategy.close(state, rows), update)
    assert refused.value.reason == "round"

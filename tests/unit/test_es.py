"""The algorithm `es`: slopes of pairs in integers, which no split of the rows changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from splits import Shards, answer, classification, outcome, part, regression, splits
from strategy_rounds import rounds_needed

from fedmq.algorithms.base import Assignment, Update
from fedmq.algorithms.es.learner import sum_slopes
from fedmq.algorithms.es.query import Slopes
from fedmq.algorithms.es.strategy import EvolutionStrategy
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import BadConfiguration
from fedmq.exact.directions import directions
from fedmq.exact.draws import normals
from fedmq.models.fourier import Fourier
from fedmq.models.layers import Layered
from fedmq.models.losses import Scores
from fedmq.models.networks import MLP, Code, Linear, LogLinear
from fedmq.models.pairs import pair_differences
from fedmq.models.standardized import Standard
from fedmq.models.trees import Trees
from fedmq.tasks.row_views import RowViews
from fedmq.tasks.task import Rows, Task
from fedmq.tasks.task_file import find_task
from fedmq.testing import check_algorithm

INPUTS = normals(300 * 4, 1, "es").reshape(300, 4) * np.array([1.0, 7.0, 0.1, 30.0]) + np.array([0.0, 1.0, 5.0, -90.0])
TARGETS = (INPUTS[:, 0] * 5.0 + INPUTS[:, 1] - 1.0 > normals(300, 2, "es")).astype(int)
ROWS = Rows(INPUTS, TARGETS.astype(float))
NETWORKS: tuple[Layered, ...] = (
    MLP((4, 6, 3)),
    MLP((4, 5, 6, 2), "tanh"),
    MLP((4, 5, 1), "sigmoid", "identity", bias=False),
    Linear(4),
    LogLinear(4),
)


def task_of(model: Layered) -> Task:
    softmax = isinstance(model, MLP) and model.output == "softmax"
    return classification(4, model.outputs, model) if softmax else regression(4, model)


def rows_of(model: Layered) -> Rows:
    """Inputs of several scales, and targets that are classes of the model, or values that are not negative."""
    targets = TARGETS * 2.0 + (INPUTS[:, 1] > 3.0)
    return Rows(INPUTS, np.minimum(targets, model.outputs - 1.0) if model.outputs > 1 else targets)


@pytest.mark.parametrize("model", NETWORKS, ids=str)
def test_model_and_state_are_the_same_for_any_split(model: Layered) -> None:
    task, rows = task_of(model), rows_of(model)
    found = {name: outcome(find_algorithm("es"), task, shards, 5) for name, shards in splits(rows)}
    assert len(set(found.values())) == 1, found


@pytest.mark.parametrize("model", NETWORKS, ids=str)
def test_differences_are_those_of_the_scores(model: Layered) -> None:
    task, rows = task_of(model), rows_of(model)
    inputs = (rows.inputs - INPUTS.mean(axis=0)) / INPUTS.std(axis=0)
    fitted = task.fit(Rows(inputs, rows.targets))
    weights, drawn = normals(model.num_parameters, 1, "weights") * 0.2, directions(8, model.num_parameters, 1, 1)
    moves = 0.05 * drawn.block().astype(float)
    losses = task.score(np.concatenate([weights + moves, weights - moves]), fitted).losses
    found = pair_differences(model, weights, drawn, 0.05, np.ascontiguousarray(inputs.T), fitted.targets, 16)
    np.testing.assert_allclose(found * 2.0**-16, losses[:8] - losses[8:], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("model", NETWORKS, ids=str)
def test_standardization_is_a_part_of_the_model(model: Layered) -> None:
    shift = np.zeros(4) if model == NETWORKS[2] else INPUTS.mean(axis=0)
    values = model.outputs == 1
    standard = Standard(
        shift,
        INPUTS.std(axis=0),
        2.0 if values and isinstance(model, Linear) else 0.0,
        3.0 if values else 1.0,
    )
    weights = normals(model.num_parameters, 1, "weights") * 0.3
    inside = model.forward(weights[None], (INPUTS - standard.shift) / standard.scale)[0]
    outside = model.forward(standard.raw(model, weights)[None], INPUTS)[0]
    np.testing.assert_allclose(outside, inside * standard.unit + standard.center, rtol=1e-9)
    np.testing.assert_allclose(standard.standardized(model, standard.raw(model, weights)), weights, atol=1e-12)


def test_directions_are_signs_that_use_each_row_once_in_a_cycle(monkeypatch: pytest.MonkeyPatch) -> None:
    signs = np.concatenate([directions(8, 64, 5, number).block() for number in range(1, 9)])
    assert set(np.unique(signs)) == {-1.0, 1.0}
    np.testing.assert_array_equal(signs @ signs.T, 64 * np.eye(64))
    again = directions(8, 64, 5, 9).block()
    assert not np.array_equal(again, signs[:8])
    kept = directions(8, 60, 5, 1).block().copy()
    monkeypatch.setattr("fedmq.exact.directions.KEPT_MAX", 100)
    np.testing.assert_array_equal(directions(8, 60, 5, 1).block(2, 5), kept[2:5])


@pytest.mark.parametrize("task", ["xor", "linear"])
@pytest.mark.parametrize("rule", ["none", "clip"])
def test_es_keeps_the_contract(task: str, rule: str) -> None:
    check_algorithm(find_algorithm("es", None, {"rule": rule}), task)


@pytest.mark.parametrize("seed", range(100, 104))
def test_split_xor_is_solved_within_twenty_rounds(seed: int) -> None:
    task = find_task("xor")
    solved = rounds_needed(find_algorithm("es", task), task, seed)
    assert solved is not None
    assert solved <= 20


def run(shards: Shards, rounds: int, late: bool = False, garbage: bool = False, **parameters: Any) -> tuple[Any, Any]:
    """The strategy and its state after some rounds; the last trainer is late by one round, or sends garbage."""
    task, strategy = classification(4, 2, MLP((4, 6, 2))), find_algorithm("es", None, parameters)
    views = [RowViews(task, one) for one in shards]
    names = [f"trainer-{place}" for place in range(len(views))]
    state, waiting = strategy.init(task, 1), list[Update]()
    for number in range(1, rounds + 1):
        plan = strategy.ask(state)
        updates = [answer(task, plan, rows, name, number) for rows, name in zip(views, names, strict=True)]
        slopes = isinstance(plan.query, Slopes)
        if slopes and garbage:
            noise = (normals(3 * 64, number, "noise").reshape(3, 64) * 9000).astype(np.int64)
            updates[-1] = replace(updates[-1], arrays={**updates[-1].arrays, "slopes": noise})
        if slopes and late:
            waiting, updates = updates[-1:], [*updates[:-1], *(replace(one, staleness=1) for one in waiting)]
        for one in updates:
            state = strategy.tell(state, one)
        state = strategy.close(state, names)
    return strategy, state


def accuracy(strategy: Any, state: Any) -> float:
    evaluation = strategy.evaluation(state)
    model = classification(4, 2, MLP((4, 6, 2))).trained(evaluation.parameters)
    return float((model.predict(INPUTS) == TARGETS).mean())


def thirds() -> Shards:
    return [part(ROWS, one) for one in np.array_split(TARGETS.argsort(kind="stable"), 3)]


def test_late_answers_count_along_their_own_directions() -> None:
    in_time, late = run(thirds(), 14), run(thirds(), 14, late=True)
    without = run(thirds()[:2], 14)
    assert accuracy(*late) > accuracy(*without)  # the third trainer has most of the rows of one class
    assert accuracy(*late) >= accuracy(*in_time) - 0.05
    assert len(late[1].inner.inner.used) <= 16


def test_clipped_answers_outvote_garbage() -> None:
    tenths = [part(ROWS, one) for one in np.array_split(np.arange(300), 10)]
    honest = accuracy(*run(tenths, 12, rule="clip"))
    assert accuracy(*run(tenths, 12, garbage=True, rule="clip")) >= honest - 0.05


def test_code_is_scored_pair_after_pair() -> None:
    task = Task(name="own", model=Code(6, 4), loss="own", metric="loss")
    target = np.arange(6.0)

    def score(population: np.ndarray, rows: Rows = ROWS) -> Scores:
        return Scores(
            np.square(population - target).sum(axis=1) * len(rows.inputs), np.zeros(len(population), np.int64)
        )

    weights = np.zeros((2, 6), np.float32)
    query = Slopes(seed=3, pairs=8, sigma=0.5, pair_bits=30, fraction_bits=10, unit=8)
    arrays = {"weights": weights, "standard": np.zeros((2, 5))}
    found = sum_slopes(query, Assignment(task, arrays, ROWS, score, np.random.default_rng(1)))
    signs = directions(8, 6, 3, 1).block()
    np.testing.assert_array_equal(found["slopes"][0], np.rint(-2.0 * signs @ target * 300 * 1024))
    assert found["loss"][0] * 4.0**8 * 2.0**-30 == pytest.approx(55 * 300)


@pytest.mark.parametrize(
    ("model", "use"), [(Trees(4, 2, "softmax"), "boosting"), (Fourier(4, 2, 60, "softmax"), "ridge")]
)
def test_models_without_weights_are_refused_with_what_to_use(model: Any, use: str) -> None:
    task = classification(4, 2, model)
    with pytest.raises(BadConfiguration, match=f"use {use}"):
        find_algorithm("es").init(task, 1)


def test_earlier_model_is_where_all_starts_begin() -> None:
    strategy, state = run(thirds(), 12)
    evaluation = strategy.evaluation(state)
    trained = state.task.trained(evaluation.parameters)
    begun = strategy.starting_at(strategy.init(state.task, 2), trained)
    views = [RowViews(state.task, one) for one in thirds()]
    for number in range(1, 4):
        plan = strategy.ask(begun)
        for place, rows in enumerate(views):
            begun = strategy.tell(begun, answer(state.task, plan, rows, f"trainer-{place}", number))
        begun = strategy.close(begun, [f"trainer-{place}" for place in range(3)])
    np.testing.assert_allclose(strategy.evaluation(begun).loss, evaluation.loss, rtol=1e-3)


def test_class_of_the_algorithm_keeps_the_contract_with_defaults() -> None:
    check_algorithm(EvolutionStrategy)

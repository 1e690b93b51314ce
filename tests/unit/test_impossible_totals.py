"""Answers within their bounds that no rows have: a Byzantine trainer must not end the run or make a model infinite."""

from __future__ import annotations

import numpy as np
import pytest
from splits import answer, classification, regression
from table_rows import COLUMNS, patients, table_task

from fedmq.algorithms.base import PREPARATION, Plan, Update, check_bounds
from fedmq.algorithms.evaluation.held_out import HeldOut, held_out_plan
from fedmq.algorithms.registry import find_algorithm
from fedmq.models.fourier import Fourier
from fedmq.models.networks import Linear, LogLinear
from fedmq.models.trees import Trees
from fedmq.tables.schema import Column, Schema, Target
from fedmq.tables.table import Table
from fedmq.tasks.row_views import RowViews
from fedmq.tasks.task import Rows, Task

TASKS = {
    "values": (regression(3), ("statistics", "ridge", "newton")),
    "two classes": (classification(3, 2), ("statistics", "ridge", "newton")),
    "three classes": (classification(3, 3), ("statistics", "ridge", "newton")),
    "counts": (regression(3, LogLinear(3)), ("statistics", "newton")),
    "trees of classes": (classification(3, 3, Trees(3, 3, "softmax", trees=4, depth=3)), ("boosting",)),
    "trees of counts": (regression(3, Trees(3, trees=4, depth=3, counts=True, categories=(0, 4, 0))), ("boosting",)),
    "features": (classification(3, 2, Fourier(3, 2, 12, "softmax")), ("statistics", "ridge")),
}


def invented(task: Task, plan: Plan, rows: int, draws: np.random.Generator) -> dict[str, np.ndarray]:
    """An answer at the bounds, between them, or both."""
    arrays = {}
    for name, bounds in plan.query.answer(task, plan.shapes, rows).items():
        low, high = int(bounds.smallest), int(bounds.largest)
        match draws.integers(4):
            case 0:
                array = draws.integers(low, high, bounds.shape, endpoint=True)
            case 1:
                array = np.full(bounds.shape, high)
            case 2:
                array = np.full(bounds.shape, low)
            case _:
                array = draws.choice([low, 0, high, max(low, -1), min(high, 1)], bounds.shape)
        arrays[name] = array.astype(np.int64)
    return arrays


@pytest.mark.parametrize("name", TASKS)
def test_impossible_totals_end_no_run(name: str) -> None:
    task, algorithms = TASKS[name]
    for seed in range(24):
        draws = np.random.default_rng(seed)
        honest_rounds, size = seed % 4, int(draws.integers(1, 500))
        inputs = draws.normal(size=(size, 3))
        targets = np.abs(np.rint(inputs[:, 0] * 3.0)) if task.loss == "squared-error" else draws.integers(0, 2, size)
        strategy = find_algorithm(algorithms[seed % len(algorithms)])
        state = strategy.init(task, 1)
        for number in range(1, 8):
            plan = strategy.ask(state)
            update = answer(task, plan, Rows(inputs, targets), "a", number)
            if number > honest_rounds:
                update = Update("a", number, 0, size, invented(task, plan, size, draws), update.fraction_bits)
            state = strategy.close(strategy.tell(state, update), ["a"])
            evaluation = strategy.evaluation(state)
            if evaluation is not None:
                assert np.isfinite(evaluation.parameters).all()
                assert np.isfinite([evaluation.loss, evaluation.fitness_mean]).all()


_CATEGORIES = tuple(len(one.categories) if one.kind == "category" else 0 for one in COLUMNS)
TABLE_TASKS = {
    "ill": (table_task("ill", 0.3), ("newton", "ridge")),
    "days": (table_task("days", 0.3), ("statistics", "newton", "ridge")),
    "visits": (table_task("visits", 0.3), ("newton",)),
    "trees": (table_task("days", 0.3, model=Trees(5, trees=4, depth=3, categories=_CATEGORIES)), ("boosting",)),
}


@pytest.mark.parametrize("name", TABLE_TASKS)
def test_impossible_totals_and_no_rows_end_no_stage_of_a_run(name: str) -> None:
    task, algorithms = TABLE_TASKS[name]
    views = RowViews(task, patients(120))
    for seed in range(12):
        draws = np.random.default_rng(seed)
        strategy = find_algorithm(algorithms[seed % len(algorithms)], task)
        state, honest_rounds, size = strategy.init(task, 1), seed, (0, 1, 84)[seed // 2 % 3]
        for number in range(1, 17):
            plan = strategy.ask(state)
            update = answer(task, plan, views, "a", number)
            if number > honest_rounds:
                arrays = invented(task, plan, size, draws)
                update = Update("a", number, 0, size, arrays, update.fraction_bits, site_figures=True)
            state = strategy.close(strategy.tell(state, update), ["a", "b"][: 1 + number % 2])
            evaluation = strategy.evaluation(state)
            if evaluation is not None:
                assert np.isfinite(evaluation.parameters).all()
                assert np.isfinite([evaluation.loss, evaluation.fitness_mean]).all()
                assert evaluation.measured is None or evaluation.measured.for_observers()
            assert strategy.findings(state) is not None  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", TABLE_TASKS)
def test_trainer_with_other_rows_in_each_round_does_not_keep_a_run_from_a_model(name: str) -> None:
    task, algorithms = TABLE_TASKS[name]
    for algorithm in algorithms:
        strategy = find_algorithm(algorithm, task)
        state = strategy.init(task, 1)
        for number in range(1, 50):
            views = RowViews(task, patients(60 + number))
            state = strategy.close(strategy.tell(state, answer(task, strategy.ask(state), views, "a", number)), ["a"])
        assert strategy.evaluation(state) is not None, algorithm


def test_far_target_in_the_only_held_out_row_is_a_valid_answer() -> None:
    schema = Schema(columns=(Column(name="a"),), target=Target(name="y"))
    task = Task(name="t", model=Linear(1), loss="squared-error", metric="loss", schema=schema, holdout=0.5)
    rows = np.arange(1.0, 13.0)
    table = Table("t.csv", ("a", "y"), {"a": rows, "y": np.full(12, 1e9)}, 12, np.arange(12))
    query = HeldOut()
    plan = held_out_plan(task, query, np.zeros(2))
    columns = {name: np.full(1, value) for name, value in zip(PREPARATION, (0.0, 1.0, 0.0), strict=False)}
    views = RowViews(task, table)
    update = answer(task, Plan(query, {**plan.arrays, **columns}), views, "a", 1)
    assert update.arrays["clipped"].tolist() == [2 * update.num_examples]
    check_bounds(query.answer(task, plan.shapes, update.num_examples), update.arrays)

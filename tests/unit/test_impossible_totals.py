"""Answers within their bounds that no rows have: a Byzantine trainer must not end the run or make a model infinite."""

from __future__ import annotations

import numpy as np
import pytest
from splits import answer, classification, regression

from fedmq.algorithms.base import Plan, Update
from fedmq.algorithms.registry import find_algorithm
from fedmq.models.fourier import Fourier
from fedmq.models.networks import LogLinear
from fedmq.models.trees import Trees
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

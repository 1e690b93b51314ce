"""What a single answer reveals, for the table of docs/privacy.md: with known inputs, every label of a small site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from splits import answer, classification, closed, part, state_after

from fedmq.algorithms.base import Plan
from fedmq.algorithms.registry import find_algorithm
from fedmq.exact.draws import normals, words
from fedmq.models.networks import MLP
from fedmq.models.trees import Trees
from fedmq.tasks.task import Rows, Task

ROWS, COLUMNS = 8, 8
CASES: Mapping[str, tuple[Task, Mapping[str, Any], str]] = {  # the task, parameters, and kind of the question
    "ridge": (classification(COLUMNS, 2), {}, "gram"),
    "newton": (classification(COLUMNS, 2), {"penalty": 1.0}, "curvature"),
    "boosting": (classification(COLUMNS, 2, Trees(COLUMNS, 2, "softmax")), {}, "tree-histograms"),
    "es": (classification(COLUMNS, 2, MLP((COLUMNS, 4, 2))), {}, "slopes"),
    "averaging": (classification(COLUMNS, 2), {"method": "fedsgd"}, "gradient"),
}


def flat(task: Task, plan: Plan, rows: Rows) -> np.ndarray:
    arrays = answer(task, plan, rows, "site", 1).arrays
    return np.concatenate([arrays[name].astype(np.float64).ravel() for name in sorted(arrays)])


def rows_of(name: str, labels: np.ndarray | None = None) -> Rows:
    inputs = normals(ROWS * COLUMNS, 1, name).reshape(ROWS, COLUMNS)
    return Rows(inputs, (words(ROWS, 1, name) % 2 if labels is None else labels).astype(np.float64))


@pytest.mark.parametrize("case", CASES)
def test_one_answer_and_the_inputs_give_every_label_of_a_small_site(case: str) -> None:
    """A row's part of an answer is known for either label, so an answer is linear equations in the labels.

    The total of three sites has the labels of the others in the same equations.
    """
    task, parameters, kind = CASES[case]
    strategy = find_algorithm(case, task, dict(parameters))
    sites = [rows_of(name) for name in ("north", "south", "west")]
    state = strategy.init(task, 1)
    while (plan := strategy.ask(state)).query.kind != kind:
        state = closed(strategy, state, task, sites)
    zero = flat(task, plan, rows_of("north", np.zeros(ROWS)))
    alone = [flat(task, plan, rows_of("north", np.eye(ROWS)[row])) - zero for row in range(ROWS)]
    scale = np.abs(alone).max(axis=0)
    told = scale > 0  # numbers that depend on a label
    change = np.array(alone)[:, told].T / scale[told][:, None]

    def labels(received: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.linalg.lstsq(change, (received - zero)[told] / scale[told], rcond=None)[0]
        return found

    answers = [flat(task, plan, one) for one in sites]
    assert labels(answers[0]) == pytest.approx(sites[0].targets, abs=1e-3)
    assert np.abs(labels(sum(answers, np.zeros(len(zero)))) - sites[0].targets).max() > 0.5


def test_sums_over_one_row_are_the_row() -> None:
    strategy, rows = find_algorithm("statistics"), part(rows_of("north"), np.array([0]))
    state = state_after(strategy, classification(COLUMNS, 2), [rows], 3)
    means = strategy.result(state).moments.means  # type: ignore[attr-defined]
    assert means[:COLUMNS] == pytest.approx(rows.inputs[0])

"""Figures on held-out rows: those of scikit-learn on the same rows, the same bits for any split, refused when wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve
from splits import Shards, answer, classification, inputs_of, regression, splits

from fedmq.algorithms.additive import RoundSum, RowBounds
from fedmq.algorithms.base import Plan, Total, check_bounds
from fedmq.algorithms.evaluation.figures import Metrics
from fedmq.algorithms.evaluation.held_out import Fitted, HeldOut, first_edges, held_out_plan, held_out_query
from fedmq.algorithms.evaluation.metrics import finer_edges, metrics_of
from fedmq.algorithms.statistics.columns import ColumnMoments
from fedmq.errors import Rejected
from fedmq.exact.draws import normals
from fedmq.exact.elementary import softmax
from fedmq.models.exact_outputs import exact_outputs
from fedmq.models.fourier import Fourier
from fedmq.models.networks import MLP, Linear
from fedmq.tasks.task import Rows, Task

SIZE, INPUTS = 1500, 5
X = inputs_of(SIZE, INPUTS, "held-out")
X = (X - X.mean(axis=0)) / X.std(axis=0)
NOISE = normals(SIZE, 3, "noise")


def parameters_of(task: Task, scale: float = 0.7) -> np.ndarray:
    return normals(task.model.num_parameters, 5, "parameters") * scale


def labels(classes: int, rare: float | None = None) -> np.ndarray:
    ordered = np.argsort(np.argsort(X[:, 0] + X[:, 1] + NOISE))
    if rare is not None:
        return (ordered >= SIZE * (1.0 - rare)).astype(np.int64)
    return ordered * classes // SIZE


def total_of(task: Task, plan: Plan, shards: Shards) -> Total:
    updates = [answer(task, plan, rows, f"trainer-{place}", 1) for place, rows in enumerate(shards)]
    bounds = plan.query.answer(task, plan.shapes, 1)
    empty = RoundSum(
        {name: RowBounds(one.shape, int(one.smallest), int(one.largest)) for name, one in bounds.items()},
        plan.query.fraction_bits,  # type: ignore[attr-defined]
        plan.query.rows_max,  # type: ignore[attr-defined]
        {name: np.zeros(one.shape, np.int64) for name, one in bounds.items()},
    )
    names = frozenset(update.trainer for update in updates)
    return reduce(lambda total, update: total.plus(update), updates, empty).total(names)


def measured(task: Task, parameters: np.ndarray, shards: Shards, query: HeldOut | None = None) -> Metrics:
    query = query or held_out_query(task)
    plan = held_out_plan(task, query, parameters)
    total = total_of(task, plan, shards)
    if "edges" in plan.arrays and (finer := finer_edges(total, plan.arrays["edges"])) is not None:
        total = total_of(task, held_out_plan(task, query, parameters, finer), shards)
    return metrics_of(task, query, total)


def moments_of(values: np.ndarray) -> ColumnMoments:
    none = np.zeros(0, np.int64)
    return ColumnMoments(len(values), 1.0, none, none, none, np.array([values.mean()]), np.array([values.var()]))


CLASS_TASKS = {
    "two": (classification(INPUTS, 2), labels(2)),
    "rare": (classification(INPUTS, 2), labels(2, 0.04)),
    "three": (classification(INPUTS, 3), labels(3)),
    "relu": (classification(INPUTS, 3, MLP((INPUTS, 7, 3))), labels(3)),
    "tanh": (classification(INPUTS, 2, MLP((INPUTS, 4, 4, 2), hidden="tanh")), labels(2)),
    "sigmoid": (classification(INPUTS, 4, MLP((INPUTS, 6, 4), hidden="sigmoid", bias=False)), labels(4)),
    "features": (classification(INPUTS, 2, Fourier(INPUTS, 2, 20, "softmax")), labels(2)),
}


@pytest.mark.parametrize("name", CLASS_TASKS)
def test_class_figures_are_those_of_scikit_learn(name: str) -> None:
    task, targets = CLASS_TASKS[name]
    parameters = parameters_of(task)
    if isinstance(task.model, Fourier):
        parameters[: 2 * INPUTS] = np.repeat([0.0, 1.0], INPUTS)
    found = measured(task, parameters, [Rows(X, targets)])
    outputs = task.model.forward(parameters[None], X)[0]  # type: ignore[union-attr]
    shares = softmax(outputs.T)[0].T
    predicted, classes = outputs.argmax(axis=1), list(range(task.model.outputs))  # type: ignore[union-attr]
    assert np.array_equal(found.confusion, reference.confusion_matrix(targets, predicted, labels=classes))
    assert (found.rows, found.correct) == (SIZE, (targets == predicted).sum())
    losses, correct = task.score(parameters[None], Rows(X, targets))
    assert (found.loss, found.correct) == (pytest.approx(losses[0], rel=1e-9), correct[0])
    assert found.accuracy == pytest.approx(reference.accuracy_score(targets, predicted), abs=1e-15)
    assert found.balanced_accuracy == pytest.approx(reference.balanced_accuracy_score(targets, predicted), abs=1e-12)
    assert found.log_loss == pytest.approx(reference.log_loss(targets, shares, labels=classes), abs=1e-9)
    score = shares[:, 1] if len(classes) == 2 else shares
    assert found.auc == pytest.approx(reference.roc_auc_score(targets, score, multi_class="ovr"), abs=1e-3)
    assert found.brier == pytest.approx(reference.brier_score_loss(targets, score, labels=classes), abs=1e-9)
    expected = reference.precision_recall_fscore_support(targets, predicted, labels=classes, zero_division=np.nan)
    for one, precision, recall, f1, rows in zip(found.classes, *expected, strict=True):
        assert one.rows == rows
        assert (one.precision is None) == np.isnan(precision)
        assert one.precision is None or one.precision == pytest.approx(precision)
        assert one.recall == pytest.approx(recall)
        assert one.f1 == pytest.approx(f1, nan_ok=True)


def test_calibration_table_is_that_of_scikit_learn() -> None:
    task, targets = CLASS_TASKS["two"]
    parameters = parameters_of(task)
    found = [one for one in measured(task, parameters, [Rows(X, targets)]).calibration if one.rows]
    shares = softmax(task.model.forward(parameters[None], X)[0].T)[0][1]  # type: ignore[union-attr]
    observed, predicted = calibration_curve(targets, shares, n_bins=10)
    assert [one.observed for one in found] == pytest.approx(list(observed))
    assert [one.predicted for one in found] == pytest.approx(list(predicted), abs=1e-9)
    assert sum(one.rows for one in found) == SIZE


@pytest.mark.parametrize(("center", "scale"), [(0.0, 1.0), (1e9, 1.0), (-3.0, 1e-6), (0.0, 1e12)])
def test_figures_of_values_are_those_of_scikit_learn_at_any_scale(center: float, scale: float) -> None:
    task = regression(INPUTS)
    parameters = np.array([1.0, 0.5, 0.0, 0.0, 0.0, 0.0]) * scale
    parameters[-1] = center
    targets = center + scale * (X[:, 0] + NOISE)
    found = measured(task, parameters, [Rows(X, targets)], held_out_query(task, moments_of(targets)))
    outputs = exact_outputs(Linear(INPUTS), parameters, X)[0]
    assert found.rmse == pytest.approx(reference.root_mean_squared_error(targets, outputs), rel=1e-8)
    assert found.mae == pytest.approx(reference.mean_absolute_error(targets, outputs), rel=1e-8)
    assert found.r2 == pytest.approx(reference.r2_score(targets, outputs), abs=1e-7)
    assert found.correct == (np.abs(outputs - targets) < 0.05).sum()
    assert found.loss == pytest.approx(np.square(outputs - targets).sum(), rel=1e-8)
    assert not found.clipped


def test_values_are_reported_in_the_units_of_the_target() -> None:
    task = regression(INPUTS)
    scaled = Task(name="values", model=Linear(INPUTS), loss="squared-error", metric="loss", output_scale=1000.0)
    parameters = parameters_of(task)
    plain, thousands = (
        measured(one, parameters, [one.scaled(Rows(X, NOISE * one.output_scale))]) for one in (task, scaled)
    )
    assert plain.rmse is not None
    assert thousands.rmse == pytest.approx(1000.0 * plain.rmse)
    assert thousands.r2 == pytest.approx(plain.r2)


CASES: Sequence[tuple[Task, np.ndarray]] = [*CLASS_TASKS.values(), (regression(INPUTS), X[:, 0] + NOISE)]


@pytest.mark.parametrize(("task", "targets"), CASES, ids=[*CLASS_TASKS, "values"])
def test_any_split_gives_the_same_figures_bit_for_bit(task: Task, targets: np.ndarray) -> None:
    parameters = parameters_of(task)
    if isinstance(task.model, Fourier):
        parameters[: 2 * INPUTS] = np.repeat([0.0, 1.0], INPUTS)
    found = {
        repr(replace_trainers(measured(task, parameters, shards))) for _, shards in splits(Rows(X, np.array(targets)))
    }
    assert len(found) == 1


def replace_trainers(found: Metrics) -> Metrics:
    return msgspec.structs.replace(found, trainers=0)


def test_rare_class_shows_balanced_accuracy_and_auc_beside_accuracy() -> None:
    task, targets = CLASS_TASKS["rare"]
    parameters = np.zeros(task.model.num_parameters)
    parameters[-2] = 9.0  # the model says no to everything
    found = measured(task, parameters, [Rows(X, targets)])
    assert (found.accuracy, found.balanced_accuracy, found.auc) == (0.96, 0.5, 0.5)
    assert found.classes[1].precision is None
    assert found.classes[1].recall == 0.0


def test_narrow_scores_far_from_zero_need_finer_cells_and_get_them() -> None:
    task = classification(1, 2)
    inputs = normals(20_000, 9, "narrow")[:, None]
    targets = (inputs[:, 0] + normals(20_000, 9, "more") > 0.0).astype(np.int64)
    parameters = np.array([0.0, 0.01, 0.0, -3.2])  # log odds of -3.2 ± 0.01
    exact = reference.roc_auc_score(targets, inputs[:, 0])
    query = held_out_query(task)
    plan = held_out_plan(task, query, parameters)
    first = total_of(task, plan, [Rows(inputs, targets)])
    finer = finer_edges(first, plan.arrays["edges"])
    assert finer is not None
    assert finer.shape == plan.arrays["edges"].shape
    assert (np.diff(finer) >= 0).all()
    second = total_of(task, held_out_plan(task, query, parameters, finer), [Rows(inputs, targets)])
    assert metrics_of(task, query, second).auc == pytest.approx(exact, abs=1e-4)
    assert abs(metrics_of(task, query, first).auc - exact) > 1e-3  # type: ignore[operator]


def test_area_under_the_curve_holds_on_many_models() -> None:
    for seed in range(30):
        scores = normals(400, seed, "scores") * 10.0 ** (seed % 7 - 3)
        targets = (normals(400, seed, "targets") + scores / scores.std() > 0.5).astype(np.int64)
        task = classification(1, 2)
        found = measured(task, np.array([0.0, 1.0, 0.0, 0.0]), [Rows(scores[:, None], targets)])
        assert found.auc == pytest.approx(reference.roc_auc_score(targets, scores), abs=1e-3)


def test_rows_of_one_class_have_no_area_and_no_rows_have_no_figures() -> None:
    task = classification(INPUTS, 3)
    found = measured(task, parameters_of(task), [Rows(X, np.ones(SIZE, np.int64))])
    assert found.auc is None
    assert found.classes[0].recall is None
    query = held_out_query(task)
    plan = held_out_plan(task, query, parameters_of(task))
    none = answer(task, plan, Rows(X[:0], np.zeros(0, np.int64)), "alice", 1)
    nothing = metrics_of(task, query, Total(none.arrays, 0, 1, 1.0, 0))
    assert (nothing.rows, nothing.accuracy, nothing.auc, nothing.log_loss) == (0, None, None, None)


def test_broken_model_has_bounded_figures() -> None:
    for task, targets in (CLASS_TASKS["relu"], (regression(INPUTS), NOISE)):
        found = measured(task, np.full(task.model.num_parameters, 1e308), [Rows(X, targets)])
        assert found.rows == SIZE
        assert found.clipped >= SIZE if found.log_loss is None else 0.0 < found.log_loss <= 20.0


def test_learner_of_fitted_rows_gives_the_same_figures() -> None:
    task, targets = CLASS_TASKS["three"]
    rows, parameters = [Rows(X, targets)], parameters_of(task)
    query = held_out_query(task, kind=Fitted)
    assert (query.rows, held_out_query(task).rows) == ("features", "held-out")
    assert measured(task, parameters, rows, query) == measured(task, parameters, rows)


def test_answer_with_more_than_its_rows_is_rejected() -> None:
    task, targets = CLASS_TASKS["two"]
    plan = held_out_plan(task, held_out_query(task), parameters_of(task))
    good = answer(task, plan, Rows(X, targets), "alice", 1)
    bounds = plan.query.answer(task, plan.shapes, SIZE)
    check_bounds(bounds, good.arrays)
    for name in bounds:
        bad = {**good.arrays, name: good.arrays[name] + (SIZE << 30) + 1}
        with pytest.raises(Rejected):
            check_bounds(bounds, replace(good, arrays=bad).arrays)


def test_first_edges_rise_and_are_symmetric() -> None:
    edges = first_edges()
    assert (np.diff(edges) > 0).all()
    assert np.array_equal(edges, -edges[::-1])
    assert edges[-1] > 1e5
    assert np.diff(edges).min() < 0.005


def test_small_cells_are_merged_so_that_the_area_remains() -> None:
    task, targets = CLASS_TASKS["two"]
    query, parameters = held_out_query(task), parameters_of(task)
    total = total_of(task, held_out_plan(task, query, parameters), [Rows(X, targets)])
    kept = {name: query.suppressed(name, total.arrays[name], 5) for name in query.counts}
    for name, counts in kept.items():
        assert not ((counts > 0) & (counts < 5)).any(), name
    assert kept["scores"].sum() == SIZE
    before, after = (metrics_of(task, query, replace(total, arrays={**total.arrays, **one})) for one in ({}, kept))
    assert after.auc == pytest.approx(before.auc, abs=0.005)
    assert after.accuracy == before.accuracy


def test_scores_of_too_few_rows_are_not_sent() -> None:
    task = classification(1, 2)
    counts = np.zeros((2, 2048), np.int64)
    counts[:, 7] = 50, 3
    assert not held_out_query(task).suppressed("scores", counts, 5).any()


@pytest.mark.parametrize("hidden", ["relu", "tanh", "sigmoid"])
def test_outputs_of_a_row_do_not_depend_on_the_rows_beside_it(hidden: Any) -> None:
    model, rows = MLP((64, 16, 10), hidden=hidden), normals(64 * 100, 3, "wide").reshape(100, 64)
    parameters = normals(model.num_parameters, 4, "wide") * 0.2
    together = exact_outputs(model, parameters, rows)
    alone = np.concatenate([exact_outputs(model, parameters, rows[place : place + 1]) for place in range(100)], axis=1)
    assert together.tobytes() == alone.tobytes()
    assert pytest.approx(model.forward(parameters[None], rows)[0], rel=1e-9, abs=1e-12) == together.T

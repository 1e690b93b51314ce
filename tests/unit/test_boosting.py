"""Boosting by exact sums: the same forest for any split of the rows, and what its trees are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from splits import Shards, answer, classification, closed, inputs_of, outcome, part, regression, splits
from table_rows import chosen, table

from fedmq.algorithms.base import check_down, is_finished
from fedmq.algorithms.boosting import learner
from fedmq.algorithms.boosting import strategy as strategy_module
from fedmq.algorithms.boosting.bins import Bins, quantile_edges, refined_edges
from fedmq.algorithms.boosting.query import ROW_BITS, TreeHistograms
from fedmq.algorithms.boosting.splits import Growth, find_splits
from fedmq.algorithms.boosting.strategy import Forest
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import BadConfiguration, Rejected, WorkCancelled
from fedmq.exact.draws import normals, words
from fedmq.models.trained_model import TrainedModel
from fedmq.models.trees import NO_COLUMN, Trees
from fedmq.tables.schema import Column, Schema, Target
from fedmq.tables.table import Table
from fedmq.tasks.row_views import RowViews
from fedmq.tasks.task import Rows, Task
from fedmq.testing import check_algorithm

SIZE, INPUTS = 500, 5
SURVEY = 5  # rounds before the first histograms of a tree
X = inputs_of(SIZE, INPUTS, "boosting")
STANDARD = (X - X.mean(axis=0)) / X.std(axis=0)
SIGNAL = np.where(STANDARD[:, 0] > 0.2, STANDARD[:, 1], -STANDARD[:, 1]) + 0.3 * normals(SIZE, 1, "noise")
CATEGORIES = (words(SIZE, 3, "categories") % np.uint64(6)).astype(np.float64)
MIXED = X.copy()
MIXED[:, 2] = CATEGORIES
MIXED[words(SIZE, 4, "gaps") % np.uint64(5) == 0, 0] = np.nan
MIXED[words(SIZE, 5, "gaps") % np.uint64(9) == 0, 2] = np.nan
OF_CATEGORY = np.array([2.0, -1.0, 0.5, -2.0, 1.0, -0.5])[CATEGORIES.astype(int)]
KINDS = (0, 0, 6, 0, 0)


def forest(outputs: int = 1, trees: int = 5, depth: int = 3, **options: Any) -> Trees:
    output = "softmax" if outputs > 1 else "identity"
    return Trees(INPUTS, outputs, output, trees=trees, depth=depth, **options)  # type: ignore[arg-type]


CASES: dict[str, tuple[Task, np.ndarray]] = {
    "values": (regression(INPUTS, forest()), 50.0 + 9.0 * SIGNAL),
    "two classes": (classification(INPUTS, 2, forest(2)), (SIGNAL > 0).astype(int)),
    "three classes": (classification(INPUTS, 3, forest(3)), (SIGNAL > -0.5).astype(int) + (SIGNAL > 0.5)),
    "counts": (regression(INPUTS, forest(counts=True)), np.rint(np.exp(SIGNAL + 1.0))),
}


def run(task: Task, shards: Shards, **options: Any) -> tuple[TrainedModel, Any, Any]:
    """The model, the strategy and the state after all rounds."""
    strategy = find_algorithm("boosting", task, options.pop("parameters", {}))
    fitted = [RowViews(task, one) for one in shards]
    state = strategy.init(task, 1)
    while not is_finished(strategy, state):
        assert state.round < 400
        state = closed(strategy, state, task, fitted, **options)
    evaluation = strategy.evaluation(state)
    assert evaluation is not None
    return task.trained(evaluation.parameters, evaluation.preparation), strategy, state


@pytest.mark.parametrize("case", CASES)
def test_boosting_conforms(case: str) -> None:
    task, targets = CASES[case]
    rows = [part(Rows(X, targets), one) for one in np.array_split(np.arange(SIZE), 3)]
    check_algorithm(find_algorithm("boosting"), task, rows=rows)


@pytest.mark.parametrize("case", CASES)
def test_model_is_the_same_bits_for_any_split(case: str) -> None:
    task, targets = CASES[case]
    outcomes = {
        name: outcome(find_algorithm("boosting"), task, shards, 22) for name, shards in splits(Rows(X, targets))
    }
    assert len(set(outcomes.values())) == 1, outcomes


def test_planted_float_sums_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner, "to_fixed", lambda values, bits, _most: values * np.ldexp(1.0, bits))
    task, targets = CASES["two classes"]
    found = {outcome(find_algorithm("boosting"), task, shards, SURVEY + 8) for _, shards in splits(Rows(X, targets))}
    assert len(found) > 1


@pytest.mark.parametrize("case", CASES)
def test_forest_learns_and_is_scored_as_the_task_scores_it(case: str) -> None:
    task, targets = CASES[case]
    model, strategy, state = run(task, [Rows(X, targets)])
    evaluation, found = strategy.evaluation(state), strategy.result(state)
    losses, correct = task.score(model.parameters[None], task.fit(Rows(X, targets)))
    assert evaluation.loss == pytest.approx(losses[0], rel=1e-5)
    assert evaluation.correct == correct[0]
    assert isinstance(found, Forest)
    assert found.trees == 5
    assert found.clipped == 0
    assert found.gains.sum() == pytest.approx(1.0)
    assert set(np.argsort(found.gains)[-2:]) == {0, 1}  # the columns that matter
    assert list(found.losses) == sorted(found.losses, reverse=True)


def test_first_tree_is_the_one_of_a_plain_search() -> None:
    """Every split of a small table, one by one, in floating point."""
    values, targets = np.rint(STANDARD[:60] * 2.0), SIGNAL[:60]
    model = Trees(INPUTS, trees=1, depth=1)
    trained, _, _ = run(regression(INPUTS, model), [Rows(values, targets)], parameters={"min_rows": 5, "penalty": 1.0})
    tree = model.unpack(model.split_parameters(trained.parameters)[0][0, 0])
    residuals, best = targets.mean() - targets, (0.0, 0, 0.0)
    for column in range(INPUTS):
        for value in np.unique(values[:, column])[1:]:
            left = values[:, column] < value
            if 5 <= left.sum() <= 55:
                gain = sum(residuals[side].sum() ** 2 / (side.sum() + 1.0) for side in (left, ~left))
                best = max(best, (gain, column, value))
    assert tree.columns[0] == best[1]
    left = values[:, best[1]] < best[2]
    assert ((values[:, best[1]] < tree.rules[0, 0]) == left).all()
    for leaf, side in zip(tree.leaves, (left, ~left), strict=True):
        assert leaf == pytest.approx(-0.1 * residuals[side].sum() / (side.sum() + 1.0), rel=1e-5)


def mixed_task(model: Trees, holdout: float = 0.0) -> Task:
    columns = [Column(name=f"c{place}") for place in range(INPUTS)]
    columns[2] = Column(name="c2", kind="category", categories=tuple("abcdef"))
    schema = Schema(columns=tuple(columns), target=Target(name="y"))
    return msgspec.structs.replace(regression(INPUTS, model), schema=schema, holdout=holdout)


def mixed_table(targets: np.ndarray) -> Table:
    cells: dict[str, np.ndarray] = {f"c{place}": MIXED[:, place] for place in range(INPUTS)}
    cells["c2"] = np.array(["", *"abcdef"])[np.nan_to_num(MIXED[:, 2], nan=-1.0).astype(int) + 1]
    return table((*cells, "y"), {**cells, "y": targets})


def test_missing_values_and_categories_are_the_same_bits_for_any_split() -> None:
    task = mixed_task(forest(categories=KINDS), 0.2)
    whole = mixed_table(OF_CATEGORY + np.where(np.isnan(MIXED[:, 0]), 3.0, 0.0))
    order = np.argsort(words(SIZE, 9, "order"))
    outcomes = {
        outcome(
            find_algorithm("boosting", task), task, [chosen(whole, one) for one in np.array_split(places, count)], 14
        )
        for places, count in ((np.arange(SIZE), 1), (order, 3), (np.argsort(MIXED[:, 2], kind="stable"), 7))
    }
    assert len(outcomes) == 1


def test_categories_are_split_as_sets_and_missing_values_have_a_side() -> None:
    targets = OF_CATEGORY + np.where(np.isnan(MIXED[:, 0]), 30.0, 0.0)
    model = forest(trees=40, depth=3, categories=KINDS)
    rows = mixed_table(targets)
    trained, strategy, state = run(mixed_task(model), [rows])
    errors = np.abs(trained.predict(rows) - targets)
    assert errors[~np.isnan(MIXED[:, 2])].mean() < 0.35
    assert np.std(targets) > 10.0
    found = strategy.result(state)
    assert found.gains[0] + found.gains[2] > 0.99
    findings = strategy.findings(state)
    assert [one.name for one in findings.importances] == [one.name for one in mixed_task(model).schema.columns]
    assert sum(one.gain for one in findings.importances) == pytest.approx(1.0)
    assert findings.figures["trees"] == found.trees
    first = model.unpack(model.split_parameters(trained.parameters)[0][0, 0])
    assert first.columns[0] == 0
    gaps = np.isnan(MIXED[:, 0])
    assert len(set(model.places(first, MIXED.T, 1)[gaps])) == 1


def test_forest_is_cut_back_to_its_best_trees_on_held_out_rows() -> None:
    targets = SIGNAL + 3.0 * normals(SIZE, 6, "more noise")
    task = mixed_task(forest(trees=60, categories=KINDS), 0.4)
    trained, strategy, state = run(task, [mixed_table(targets)], parameters={"patience": 10, "learning_rate": 0.5})
    found, evaluation = strategy.result(state), strategy.evaluation(state)
    assert 0 < found.trees < 40
    assert len(found.losses) == found.trees
    parts = task.model.split_parameters(trained.parameters)[0]  # type: ignore[union-attr]
    assert parts[: found.trees].any(axis=(1, 2)).all()
    assert not parts[found.trees :].any()
    best = evaluation.measured.held_out
    assert best.loss / best.rows == pytest.approx(state.inner.inner.best.loss)
    longer = run(task, [mixed_table(targets)], parameters={"patience": 0, "learning_rate": 0.5})
    assert longer[2].inner.inner.best.loss <= state.inner.inner.best.loss


def test_counts_by_log_link_predict_means() -> None:
    task, targets = CASES["counts"]
    trained, _, _ = run(Task(**{**task_fields(task), "model": forest(trees=60, counts=True)}), [Rows(X, targets)])
    predicted = trained.predict(X)
    assert (predicted > 0.0).all()
    assert predicted.sum() == pytest.approx(targets.sum(), rel=0.02)
    assert np.mean((predicted - targets) ** 2) < 0.5 * np.var(targets)


def task_fields(task: Task) -> dict[str, Any]:
    return {name: getattr(task, name) for name in task.__struct_fields__}


def rounds_of(task: Task, shards: Shards, number: int) -> tuple[Any, Any, list[Rows]]:
    strategy = find_algorithm("boosting")
    fitted = [task.scaled(task.fit(one)) for one in shards]
    state = strategy.init(task, 1)
    for _ in range(number):
        state = closed(strategy, state, task, fitted)
    return strategy, state, fitted


def test_restarted_trainer_gets_the_whole_forest_and_changes_nothing() -> None:
    task, targets = CASES["two classes"]
    shards = [part(Rows(X, targets), one) for one in np.array_split(np.arange(SIZE), 3)]
    expected, _, _ = run(task, shards)
    strategy, state, fitted = rounds_of(task, shards, SURVEY + 3 + 1)  # in the middle of the second tree
    assert state.inner.inner.growing.trees == 1
    assert state.inner.inner.growing.level.level == 1
    plan = strategy.ask(state)
    assert plan.arrays["edges"].size == 0
    assert len(plan.arrays["forest"]) == 1
    fitted[1] = Rows(fitted[1].inputs.copy(), fitted[1].targets)  # a new process has read them again
    assert answer(task, plan, fitted[1], "b", state.round).arrays["behind"] == 1
    state = closed(strategy, state, task, fitted)
    assert state.inner.inner.growing.trees == 1
    assert state.inner.inner.growing.level.level == 1
    assert strategy.ask(state).arrays["edges"].size > 0
    while not is_finished(strategy, state):
        state = closed(strategy, state, task, fitted)
    assert task.trained(strategy.evaluation(state).parameters).to_bytes() == expected.to_bytes()


def test_level_of_other_rows_is_asked_again_without_subtraction() -> None:
    task, targets = CASES["two classes"]
    shards = [part(Rows(X, targets), one) for one in np.array_split(np.arange(SIZE), 3)]
    expected, _, _ = run(task, shards[:2])
    strategy, state, fitted = rounds_of(task, shards[:2], SURVEY + 2)
    level = state.inner.inner.growing.level
    assert (level.siblings >= 0).all()
    asked = len(level.nodes)

    def absent(_round: int, place: int) -> bool:
        return place == 1

    missed = closed(strategy, state, task, fitted, absent)
    again = missed.inner.inner.growing.level
    assert again.level == level.level
    assert len(again.nodes) == 2 * asked
    assert not len(again.parents)
    partial = closed(strategy, missed, task, fitted, absent)  # the level is that of the first trainer's rows
    assert partial.inner.inner.growing.trees == 1  # and the last one
    complete = closed(strategy, missed, task, fitted)  # all are back: the tree is that of all rows
    while not is_finished(strategy, complete):
        complete = closed(strategy, complete, task, fitted)
    assert task.trained(strategy.evaluation(complete).parameters).to_bytes() == expected.to_bytes()


def test_accuracy_on_held_out_rows_is_that_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    inputs, targets = datasets.load_breast_cancer(return_X_y=True)
    held_out = words(len(targets), 1, "held out") % np.uint64(3) == 0
    rows = Rows(inputs[~held_out], targets[~held_out].astype(np.int64))
    by_class = np.argsort(rows.targets, kind="stable")
    shards = [part(rows, one) for one in np.array_split(by_class, 4)]
    trained, _, _ = run(classification(30, 2, Trees(30, 2, "softmax", trees=30)), shards)
    right = np.count_nonzero(trained.predict(inputs[held_out]) == targets[held_out])
    assert right >= 183 - 2  # of 191: HistGradientBoostingClassifier(max_iter=30), scikit-learn 1.9, on the pooled rows


def test_smaller_child_is_asked_for() -> None:
    task, targets = CASES["values"]
    strategy, state, fitted = rounds_of(task, [Rows(X, targets)], SURVEY + 1)
    plan = strategy.ask(state)
    counts = answer(task, plan, fitted[0], "a", state.round).arrays["counts"]
    cells = state.inner.inner.growing.bins.cells[0]
    assert len(plan.arrays["nodes"]) == 1
    assert 20 <= counts[0, :cells].sum() <= SIZE // 2
    assert (np.add.reduceat(counts[0], state.inner.inner.growing.bins.starts) == counts[0, :cells].sum()).all()


def test_forest_ends_when_no_split_is_left() -> None:
    task = regression(INPUTS, forest())
    trained, strategy, state = run(task, [Rows(X, np.full(SIZE, 7.0))])
    assert state.round == SURVEY + 2
    assert strategy.result(state) is None
    assert trained.predict(X[:3]).tolist() == [7.0] * 3


def test_weights_count_as_rows_that_are_repeated() -> None:
    task, targets = CASES["two classes"]
    repeats = 1 + (np.arange(SIZE) % 3 == 0)
    twice = Rows(np.repeat(X, repeats, axis=0), np.repeat(targets, repeats))
    strategy, state, fitted = rounds_of(task, [Rows(X, targets)], SURVEY)
    plan = strategy.ask(state)
    weighted = answer(task, plan, fitted[0]._replace(weights=repeats.astype(np.float64)), "a", state.round).arrays
    repeated = answer(task, plan, task.fit(twice), "b", state.round).arrays
    for name in ("gradients", "hessians"):
        assert np.abs(weighted[name] - repeated[name]).max() <= SIZE  # a unit of rounding a row


def test_gradients_beyond_their_bound_are_counted() -> None:
    task, targets = CASES["values"]
    strategy, state, fitted = rounds_of(task, [Rows(X, targets)], SURVEY)
    plan = strategy.ask(state)
    far = fitted[0].targets.copy()
    far[3] = 1e9
    arrays = answer(task, plan, Rows(fitted[0].inputs, far), "a", state.round).arrays
    assert arrays["clipped"] == 1
    assert np.abs(arrays["gradients"]).max() <= SIZE << ROW_BITS


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(BadConfiguration):
        find_algorithm("boosting").init(classification(3, 2), 1)
    with pytest.raises(BadConfiguration):
        find_algorithm("boosting").init(mixed_task(forest()), 1)  # without the categories
    with pytest.raises(BadConfiguration):
        find_algorithm("boosting").init(regression(INPUTS, forest(trees=9000, depth=8)), 1)  # no message holds it
    task, targets = CASES["two classes"]
    strategy, state, fitted = rounds_of(task, [Rows(X, targets)], SURVEY + 4)
    plan = strategy.ask(state)
    for bad in (
        replace(plan, query=TreeHistograms(cells=7, level=9)),
        replace(plan, query=TreeHistograms(cells=7, rows_max=1 << 40)),
        replace(plan, arrays={**plan.arrays, "nodes": np.zeros((99, 2), np.int64)}),
        replace(plan, arrays={**plan.arrays, "forest": np.concatenate([plan.arrays["forest"]] * 3)}),
    ):
        with pytest.raises(Rejected):
            check_down(bad.query, task, bad.arrays)
    boosting = state.inner.inner
    whole = replace(boosting, growing=replace(boosting.growing, whole=True))
    plan = strategy.ask(replace(state, inner=replace(state.inner, inner=whole)))
    other = {**plan.arrays, "forest": plan.arrays["forest"] + 1.0}
    for arrays in (other, {**plan.arrays, "edges": plan.arrays["edges"][1:]}):
        with pytest.raises(Rejected):
            answer(
                task, replace(plan, arrays=arrays), Rows(fitted[0].inputs.copy(), fitted[0].targets), "a", state.round
            )


def test_nodes_beyond_a_message_stay_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    task, targets = CASES["three classes"]
    monkeypatch.setattr(strategy_module, "FRAME_BYTES_MAX", 4 * 24 * 400)
    trained, _, _ = run(task, [Rows(X, targets)], parameters={"bins": 64})
    assert (trained.predict(X) == targets).mean() > 0.5


def test_bins_follow_the_values_on_any_scale() -> None:
    for values in (
        np.rint(normals(4000, 1, "a") * 3.0),
        1e9 + normals(4000, 2, "b"),
        np.exp(normals(4000, 3, "c") * 3.0),
        np.where(words(4000, 4, "d") % np.uint64(3) > 0, 0.0, normals(4000, 5, "d")),
    ):
        task = regression(1, Trees(1, trees=1, depth=1))
        _, state, _ = rounds_of(task, [Rows(values[:, None], values)], SURVEY)
        bins = state.inner.inner.growing.bins
        counts = np.bincount(bins.find(values[None])[:, 0], minlength=int(bins.cells[0]))
        assert counts[-1] == 0  # nothing is missing
        distinct = len(np.unique(values))
        if distinct < 64:
            assert len(counts) == distinct + 1
        else:
            others = np.sort(counts)[:-1]  # one value may have many rows
            assert others.max() < 3 * 4000 // 64
            assert len(counts) > 20


def test_edges_are_quantiles() -> None:
    edges = np.arange(1.0, 100.0)[None]
    counts = np.full((1, 100), 10)
    assert quantile_edges(edges, counts, 4)[0].tolist() == [25.0, 50.0, 75.0]
    counts[0, :95] = 0
    assert quantile_edges(edges, counts, 8)[0].tolist() == [96.0, 97.0, 98.0, 99.0]
    counts[0] = 0
    counts[0, [3, 60]] = 1
    assert quantile_edges(edges, counts, 8)[0].tolist() == [32.0]
    finer = refined_edges(np.arange(101.0)[None], counts, 9)[0]
    assert ((finer >= 3.0) & (finer <= 4.0) | (finer >= 60.0) & (finer <= 61.0)).all()


def test_split_of_categories_is_the_best_of_all_sets() -> None:
    draws = np.random.default_rng(5)
    counts = draws.integers(20, 90, 6)
    gradients = (draws.normal(size=6) * counts * 2**20).astype(np.int64)
    sums = np.stack([gradients, counts << 20, counts])[None]
    model = Trees(1, categories=(5,))
    found = find_splits(sums, Bins.of(model, [np.empty(0)]), Growth(0.0, 1), 1)
    best = 0.0
    for which in range(1, 63):
        left = np.array([which >> one & 1 for one in range(6)], bool)
        sides = [(gradients[one].sum() / 2**20) ** 2 / counts[one].sum() for one in (left, ~left)]
        best = max(best, sum(sides) - (gradients.sum() / 2**20) ** 2 / counts.sum())
    assert found.gains[0] == pytest.approx(best)


def test_learner_stops_when_a_newer_round_arrives() -> None:
    task, targets = CASES["values"]
    strategy, state, _ = rounds_of(task, [Rows(X, targets)], SURVEY)
    plan = strategy.ask(state)
    fresh = task.fit(Rows(X.copy(), targets))
    cancelled: Callable[[], bool] = lambda: True  # noqa: E731
    work = learner.Assignment(task, plan.arrays, fresh, lambda _: None, np.random.default_rng(1), cancelled)  # type: ignore[arg-type]
    with pytest.raises(WorkCancelled):
        learner.sum_histograms(plan.query, work)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fields",
    [
        {"inputs": 0},
        {"outputs": 2},
        {"depth": 13},
        {"trees": 0},
        {"output": "relu"},
        {"outputs": 3, "output": "softmax", "counts": True},
        {"categories": (1, 2)},
        {"categories": (0, 0, 1001)},
        {"trees": 10_000, "depth": 12},
    ],
    ids=str,
)
def test_forest_out_of_bounds_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadConfiguration):
        Trees(**{"inputs": 3, **fields})


def test_foreign_parameters_end_no_prediction() -> None:
    model = Trees(3, 2, "softmax", trees=2, depth=2, categories=(0, 40, 0))
    for number in (0.0, -1.0, 1e300, -1e300, 0.5):
        outputs = model.forward(
            np.full((1, model.num_parameters), number), np.array([[1.0, np.nan, -5.0], [0.0, 99.0, 3.0]])
        )
        assert outputs.shape == (1, 2, 2)


def test_row_goes_where_its_rule_says() -> None:
    model = Trees(2, trees=1, depth=2, categories=(0, 40))
    numbers = strategy_module.empty_trees(model)[0]
    tree = model.unpack(numbers)
    tree.columns[:] = 0, 1, 1
    tree.missing[:] = 1, 0, 1
    tree.rules[0, 0] = 5.0
    tree.rules[1:] = (2.0**3, 2.0**7), (0.0, 0.0)  # on the left the categories 3 and 39 go to the left
    tree.leaves[:] = 1, 2, 3, 4
    rows = [(4.9, 3), (4.9, 39), (4.9, 38), (4.9, np.nan), (np.nan, 3), (5.0, 3), (5.0, np.nan), (np.nan, np.nan)]
    parameters = np.append(numbers, 0.0)
    assert model.forward(parameters[None], np.array(rows))[0, :, 0].tolist() == [1, 1, 2, 2, 1, 4, 3, 2]


def test_tree_without_splits_adds_nothing() -> None:
    model = Trees(2, trees=2, depth=2)
    trees = strategy_module.empty_trees(model)
    assert (model.unpack(trees[0]).columns == NO_COLUMN).all()
    scores = np.ones((1, 4))
    model.add_trees(scores, trees, np.zeros((2, 4)))
    assert scores.tolist() == [[1.0] * 4]

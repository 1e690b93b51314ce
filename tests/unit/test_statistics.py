"""Statistics of columns: exact for any scale, the same bits for any split, bounded by what the question declares."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import pytest
from splits import answer, classification, closed, inputs_of, outcome, part, regression, splits, state_after
from table_rows import table

from fedmq.algorithms.base import check_down
from fedmq.algorithms.registry import find_algorithm
from fedmq.algorithms.statistics.query import Histograms, Moments, Spread
from fedmq.algorithms.statistics.survey import Survey
from fedmq.errors import BadConfiguration, Rejected
from fedmq.exact.draws import normals, words
from fedmq.models.networks import MLP, Code
from fedmq.tables.schema import Column, Schema, Target
from fedmq.tables.table import Table
from fedmq.tasks.task import Rows, Task
from fedmq.testing import check_algorithm

ROUNDS = 3
DRAWN = normals(4000, 1, "columns").reshape(1000, 4)
HARD = np.column_stack(
    [
        DRAWN[:, 0] * 1e-3,
        1e9 + DRAWN[:, 1],
        np.sign(DRAWN[:, 2]) * np.ldexp(1.0 + np.abs(DRAWN[:, 2]), np.arange(1000) % 40 - 10),
        np.concatenate([DRAWN[:500, 3] * 1e9, 1e-3 - DRAWN[:500, 3] * 1e9]),
        np.zeros(1000),
        np.full(1000, 1e-12),
    ]
)
TARGETS = DRAWN[:, 0] * 7.0 - 2.0


def found(task: Task, *shards: Rows | Table, rounds: int = ROUNDS, **parameters: Any) -> Survey:
    strategy = find_algorithm("statistics", parameters=parameters)
    return strategy.result(state_after(strategy, task, shards, rounds))  # type: ignore[attr-defined]


@pytest.mark.parametrize("task", ["xor", "linear", "parity4"])
def test_statistics_conforms(task: str) -> None:
    check_algorithm(find_algorithm("statistics"), task)


def test_moments_are_correctly_rounded_for_any_scale() -> None:
    moments = found(regression(6), Rows(HARD, TARGETS)).moments
    for place, column in enumerate([*HARD.T, TARGETS]):
        values = [Fraction(float(one)) for one in column]
        mean = sum(values) / 1000
        variance = sum((one - mean) ** 2 for one in values) / 1000
        assert moments.means[place] == pytest.approx(float(mean), rel=1e-12, abs=1e-9 * np.abs(column).max() * 1e-9)
        assert moments.variances[place] == pytest.approx(float(variance), rel=1e-12)
    assert moments.variances[[4, 5]].tolist() == [0.0, 0.0]
    assert moments.deviations[[4, 5]].tolist() == [1.0, 1.0]
    assert moments.clipped.tolist() == [0] * 7


@pytest.mark.parametrize("classes", [0, 3])
def test_statistics_are_the_same_bits_for_any_split(classes: int) -> None:
    inputs = np.column_stack([HARD, inputs_of(1000, 5, "scales")])
    targets = (words(1000, 1, "classes") % np.uint64(3)).astype(float) if classes else TARGETS
    task = classification(11, classes) if classes else regression(11)
    strategy = find_algorithm("statistics")
    outcomes = {name: outcome(strategy, task, shards, ROUNDS) for name, shards in splits(Rows(inputs, targets))}
    assert len(set(outcomes.values())) == 1, outcomes


def test_constant_model_has_the_score_of_its_parameters() -> None:
    classes = (words(1000, 1, "classes") % np.uint64(7) % np.uint64(3)).astype(np.int64)
    for task, targets in (
        (classification(4, 3), classes),
        (classification(4, 3, MLP((4, 5, 3), hidden="sigmoid")), classes),
        (classification(4, 3, MLP((4, 3), bias=False)), classes),
        (classification(4, 4), classes),  # one class without a row
        (regression(4), TARGETS),
    ):
        strategy, rows = find_algorithm("statistics"), Rows(DRAWN, targets)
        evaluation = strategy.evaluation(state_after(strategy, task, [rows], ROUNDS))
        assert evaluation is not None
        losses, correct = task.score(evaluation.parameters[None], rows)
        assert evaluation.loss == pytest.approx(losses[0])
        assert evaluation.correct == (correct[0] if task.loss == "cross-entropy" else 0)
        assert (evaluation.rows, evaluation.coverage) == (1000, 1.0)


def test_quantiles_minimum_and_maximum_are_within_a_bucket() -> None:
    statistics = found(regression(4), Rows(DRAWN, TARGETS), buckets=256)
    columns = np.column_stack([DRAWN, TARGETS])
    width = (statistics.upper - statistics.lower)[:, 128]
    for share in (0.05, 0.5, 0.95):
        assert (np.abs(statistics.quantile(share) - np.quantile(columns, share, axis=0)) <= 2.0 * width).all()
    (low, high), (least, most) = statistics.smallest(), statistics.largest()
    assert ((low <= columns.min(axis=0)) & (columns.min(axis=0) <= high)).all()
    assert ((least <= columns.max(axis=0)) & (columns.max(axis=0) <= most)).all()
    assert statistics.histograms.sum(axis=1).tolist() == [1000] * 5


def test_missing_values_are_counted_and_summed_nowhere() -> None:
    inputs = DRAWN.copy()
    inputs[::4, 1] = np.nan
    names = ("a", "b", "c", "d")
    rows = table((*names, "y"), dict(zip((*names, "y"), [*inputs.T, TARGETS], strict=True)))
    schema = Schema(columns=tuple(Column(name=name) for name in names), target=Target(name="y"))
    statistics = found(msgspec.structs.replace(regression(4), schema=schema), rows)
    assert statistics.missing.tolist() == [0, 250, 0, 0, 0]
    assert statistics.moments.means[1] == pytest.approx(np.nanmean(inputs[:, 1]), abs=1e-12)
    assert statistics.histograms.sum(axis=1).tolist() == [1000, 750, 1000, 1000, 1000]
    assert statistics.preparation["column_fill"][1] == pytest.approx(np.nanmedian(inputs[:, 1]), abs=0.02)


def test_values_beyond_the_range_are_clipped_and_counted() -> None:
    moments = found(regression(1), Rows(np.array([[1.0], [2.0**70], [-(2.0**80)]]), np.zeros(3))).moments
    assert moments.clipped.tolist() == [2, 0]
    assert moments.means[0] == pytest.approx(1 / 3, abs=8.0)  # the others are ±2**64 and cancel


def test_larger_values_of_a_new_trainer_start_the_survey_again() -> None:
    task, strategy = regression(4), find_algorithm("statistics")
    few, all_rows = Rows(DRAWN[:500] * 1e-3, TARGETS[:500]), Rows(DRAWN, TARGETS)
    state = closed(strategy, strategy.init(task, 1), task, [few])
    shards = [few, part(all_rows, np.arange(500, 1000))]
    for _ in range(1 + ROUNDS):
        state = closed(strategy, state, task, shards)
    statistics = strategy.result(state)  # type: ignore[attr-defined]
    assert statistics.moments.clipped.tolist() == [0] * 5
    assert statistics.moments.num_examples == 1000


def test_survey_starts_again_when_the_rows_change() -> None:
    task, strategy = regression(4), find_algorithm("statistics")
    first, second = (part(Rows(DRAWN, TARGETS), chosen) for chosen in np.array_split(np.arange(1000), 2))
    state = state_after(strategy, task, [first], ROUNDS)
    for _ in range(1 + ROUNDS):
        state = closed(strategy, state, task, [first, second])
    assert strategy.result(state).moments.num_examples == 1000  # type: ignore[attr-defined]


def test_largest_values_do_not_overflow_a_sum() -> None:
    task, plan_bits = regression(1), {"fraction_bits": np.array([0, 0])}
    rows = Rows(np.full((3, 1), 2.0**61), np.full(3, -(2.0**61)))
    strategy = find_algorithm("statistics")
    plan = replace(strategy.ask(strategy.init(task, 1)), query=Moments(), arrays=plan_bits)
    one = answer(task, plan, rows, "a", 1).arrays["limbs"]
    bounds = Moments().answer(task, {}, 3)["limbs"]
    assert one.min() >= bounds.smallest
    assert one.max() <= bounds.largest


@pytest.mark.parametrize(
    ("query", "arrays"),
    [
        (Spread(columns=3, rows_max=1 << 62), {}),
        (Spread(columns=4), {}),
        (Moments(rows_max=1 << 32), {"fraction_bits": np.zeros(3, np.int64)}),
        (Moments(), {"fraction_bits": np.full(3, 200)}),
        (Moments(), {"fraction_bits": np.zeros(2, np.int64)}),
        (Histograms(), {"edges": np.zeros((3, 5000))}),
        (Histograms(), {"edges": np.full((3, 5), np.nan)}),
    ],
)
def test_question_beyond_its_bounds_is_rejected(query: Any, arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(Rejected):
        check_down(query, regression(2), arrays)


def test_code_model_is_refused_in_one_line() -> None:
    task = Task(name="code", model=Code(2, 2), loss="own", metric="loss", target=0.0)
    with pytest.raises(BadConfiguration, match="expected a task with a network"):
        find_algorithm("statistics").init(task, 1)

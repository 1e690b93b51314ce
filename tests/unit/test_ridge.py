"""Ridge by exact sums: the pooled solution, the same bits for any split, refused beyond its bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from splits import Shards, answer, classification, closed, inputs_of, outcome, part, regression, splits, state_after

from fedmq.algorithms.base import check_down, is_finished
from fedmq.algorithms.registry import find_algorithm
from fedmq.algorithms.ridge import learner
from fedmq.algorithms.ridge import strategy as strategy_module
from fedmq.algorithms.ridge.fit import PENALTIES, RidgeFit
from fedmq.algorithms.ridge.query import Gram
from fedmq.algorithms.standardization import part_bits_for, rows_max_for
from fedmq.errors import BadConfiguration, Rejected
from fedmq.exact.draws import normals, words
from fedmq.models.fourier import Fourier
from fedmq.models.networks import MLP
from fedmq.tasks.row_views import is_held_out
from fedmq.tasks.task import Rows, Task
from fedmq.testing import check_algorithm

ROUNDS = 5  # spread, moments, products (once more if values are large), score
SIZE, INPUTS = 600, 6
X = inputs_of(SIZE, INPUTS, "ridge")
STANDARD = (X - X.mean(axis=0)) / X.std(axis=0)
VALUES = 40.0 + 5.0 * STANDARD @ np.arange(1.0, INPUTS + 1.0) + 3.0 * normals(SIZE, 1, "noise")
CLASSES = (STANDARD[:, 0] > 0.3).astype(int) + (STANDARD[:, 1] + 0.5 * normals(SIZE, 2, "noise") > 0.2).astype(int)
RINGS = np.sum(STANDARD[:, :2] ** 2, axis=1) > 1.5
CASES = {
    "values": (regression(INPUTS), VALUES),
    "classes": (classification(INPUTS, 3), CLASSES),
    "features": (classification(INPUTS, 2, Fourier(INPUTS, 2, 40, "softmax")), RINGS.astype(int)),
    "values by features": (regression(INPUTS, Fourier(INPUTS, features=30)), VALUES),
}


def fitted(task: Task, shards: Shards, rounds: int = ROUNDS, **parameters: Any) -> tuple[np.ndarray, RidgeFit, Any]:
    strategy = find_algorithm("ridge", parameters=parameters)
    state = state_after(strategy, task, shards, rounds)
    evaluation = strategy.evaluation(state)
    assert evaluation is not None
    assert is_finished(strategy, state)
    return evaluation.parameters, strategy.result(state), evaluation  # type: ignore[attr-defined]


def pooled(inputs: np.ndarray, targets: np.ndarray, penalty: float) -> np.ndarray:
    """Least squares by QR on standardized columns and penalty rows; slopes and bias in the units of the rows."""
    mean, deviation = inputs.mean(axis=0), inputs.std(axis=0)
    rows, columns = inputs.shape
    root = np.sqrt(penalty * rows)
    design = np.block(
        [[(inputs - mean) / deviation, np.ones((rows, 1))], [root * np.eye(columns), np.zeros((columns, 1))]]
    )
    solution = np.linalg.lstsq(design, np.concatenate([targets, np.zeros((columns, *targets.shape[1:]))]), rcond=None)[
        0
    ]
    slopes = (solution[:-1].T / deviation).T
    return np.concatenate([slopes, (solution[-1] - mean @ slopes)[None]])


@pytest.mark.parametrize(
    "task", ["linear", classification(2, 2), classification(2, 2, Fourier(2, 2, 5, "softmax"))], ids=str
)
def test_ridge_conforms(task: Task | str) -> None:
    check_algorithm(find_algorithm("ridge"), task)


@pytest.mark.parametrize("case", CASES)
def test_model_is_the_same_bits_for_any_split(case: str) -> None:
    task, targets = CASES[case]
    outcomes = {
        name: outcome(find_algorithm("ridge"), task, shards, ROUNDS) for name, shards in splits(Rows(X, targets))
    }
    assert len(set(outcomes.values())) == 1, outcomes


def test_planted_float_sums_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded_too_late(query: Gram, work: Any, fixed: np.ndarray) -> np.ndarray:
        upper = np.triu_indices(fixed.shape[1])
        values = fixed * 2.0**-38
        return np.stack([np.rint((values.T @ values)[upper] * 2.0**36)] * 3).astype(np.int64)

    monkeypatch.setattr(learner, "_sums", rounded_too_late)
    task, targets = CASES["values"]
    strategy = find_algorithm("ridge", parameters={"penalty": 0.0})
    assert len({outcome(strategy, task, shards, 4) for _, shards in splits(Rows(X, targets))}) > 1


@pytest.mark.parametrize("penalty", [0.0, 1e-3])
def test_coefficients_are_those_of_pooled_rows(penalty: float) -> None:
    found, fit, evaluation = fitted(regression(INPUTS), [Rows(X, VALUES)], penalty=penalty)
    expected = pooled(X, VALUES, penalty)
    scale = np.append(X.std(axis=0), 1.0)
    assert np.abs((found - expected) * scale).max() < 1e-9 * np.abs(expected * scale).max()
    assert fit.kept == (True,) * INPUTS
    residuals = X @ found[:-1] + found[-1] - VALUES
    assert evaluation.loss == pytest.approx(residuals @ residuals, rel=1e-8)
    assert evaluation.correct == np.count_nonzero(np.abs(residuals) < 0.05)


def test_classes_are_one_against_the_rest() -> None:
    task = classification(INPUTS, 3)
    found, _, evaluation = fitted(task, [Rows(X, CLASSES)], penalty=1e-3)
    expected = pooled(X, np.eye(3)[CLASSES], 1e-3)
    assert found.reshape(INPUTS + 1, 3) == pytest.approx(expected, rel=1e-7, abs=1e-9)
    losses, correct = task.score(found[None], Rows(X, CLASSES))
    assert (evaluation.loss, evaluation.correct) == (pytest.approx(losses[0], rel=1e-7), correct[0])


def test_features_learn_what_no_line_can() -> None:
    rows = Rows(X, RINGS.astype(int))
    line = fitted(classification(INPUTS, 2), [rows])[2]
    kernel = fitted(classification(INPUTS, 2, Fourier(INPUTS, 2, 200, "softmax", gamma=2.0)), [rows])[2]
    assert line.correct < 0.8 * SIZE < 0.9 * SIZE < kernel.correct


def test_penalty_is_chosen_by_the_held_out_rows() -> None:
    inputs = np.column_stack([X, normals(SIZE * 40, 5, "noise").reshape(SIZE, 40)])[:80]
    rows = Rows(inputs, VALUES[:80])
    _, fit, _ = fitted(regression(46), [rows], holdout=0.4)
    held = is_held_out(rows, 0.4)
    assert 0.25 < held.mean() < 0.55
    scaled = (rows.inputs - inputs.mean(axis=0)) / inputs.std(axis=0)
    errors = {}
    for penalty in PENALTIES:
        solution = pooled(scaled[~held], rows.targets[~held], penalty)
        errors[penalty] = np.mean((scaled[held] @ solution[:-1] + solution[-1] - rows.targets[held]) ** 2)
    assert fit.penalty == min(errors, key=errors.__getitem__) > PENALTIES[0]
    assert fit.held_out_loss == pytest.approx(errors[fit.penalty] / rows.targets.var(), rel=1e-6)


def test_rows_are_held_out_by_their_numbers() -> None:
    rows, order = Rows(X, CLASSES), np.argsort(words(SIZE, 1, "order"))
    held = is_held_out(rows, 0.2)
    assert (is_held_out(part(rows, order), 0.2) == held[order]).all()
    assert 0.14 < held.mean() < 0.26
    assert not is_held_out(rows, 0.0).any()


def test_dependent_columns_are_dropped() -> None:
    inputs = np.column_stack([X[:, :3], 2.0 * X[:, 0] - X[:, 1], np.full(SIZE, 7.0)])
    found, fit, _ = fitted(regression(5), [Rows(inputs, VALUES)], penalty=0.0)
    assert fit.kept == (True, True, True, False, False)
    assert found[:3] == pytest.approx(pooled(X[:, :3], VALUES, 0.0)[:3], rel=1e-6)
    assert found[3:5].tolist() == [0.0, 0.0]


def test_large_values_get_room_in_another_round() -> None:
    inputs = X.copy()
    inputs[7, 2] += 4000.0 * X[:, 2].std()
    task, strategy = regression(INPUTS), find_algorithm("ridge", parameters={"penalty": 0.0})
    state = state_after(strategy, task, [Rows(inputs, VALUES)], 4)
    assert state.inner.inner.reach.tolist() == [4, 4, 5, 4, 4, 4, 4]
    assert (state.inner.inner.clipped, state.inner.inner.fit is None) == (0, False)
    found, _, _ = fitted(task, [Rows(inputs, VALUES)], penalty=0.0)
    expected = pooled(inputs, VALUES, 0.0)
    assert found[:-1] * inputs.std(axis=0) == pytest.approx(expected[:-1] * inputs.std(axis=0), rel=1e-8, abs=1e-8)


def test_values_beyond_all_room_are_clipped_and_counted() -> None:
    size = 1 << 15  # one value among so many is 181 deviations away at most; so give the deviation by hand
    task = regression(1)
    rows = task.fit(Rows(np.ones((size, 1)) * 5e3, np.zeros(size)))
    arrays = {"shift": np.zeros(2), "deviation": np.ones(2), "reach": np.array([12, 4])}
    query = Gram()
    check_down(query, task, arrays)
    work = learner.Assignment(task, arrays, rows, lambda _: None, np.random.default_rng(1))  # type: ignore[arg-type]
    found = learner.sum_products(query, work)
    assert found["reach"][:, -1].tolist() == [size, 0]
    bounds = query.answer(task, {}, size)["sums"]
    assert bounds.smallest <= found["sums"].min()
    assert found["sums"].max() <= bounds.largest


def test_model_is_fitted_again_when_the_rows_change() -> None:
    task, strategy = regression(INPUTS), find_algorithm("ridge", parameters={"penalty": 0.0})
    first, second = (part(Rows(X, VALUES), chosen) for chosen in np.array_split(np.arange(SIZE), 2))
    state = state_after(strategy, task, [first], 4)
    for _ in range(ROUNDS):
        state = closed(strategy, state, task, [first, second])
    evaluation = strategy.evaluation(state)
    assert evaluation is not None
    assert evaluation.rows == SIZE
    assert evaluation.parameters.tobytes() == fitted(task, [Rows(X, VALUES)], penalty=0.0)[0].tobytes()


@pytest.mark.parametrize("parameters", [{"penalty": 1e-3}, {}], ids=["penalty", "chosen"])
def test_forgotten_trainer_leaves_the_model_of_the_others(parameters: dict[str, Any]) -> None:
    task, strategy = regression(INPUTS), find_algorithm("ridge", parameters=parameters)
    order = np.argsort(VALUES)  # the forgotten trainer has the largest values
    shards = [part(Rows(X, VALUES), chosen) for chosen in np.array_split(order, 4)]
    state = state_after(strategy, task, shards, 2)
    its_answer = answer(task, strategy.ask(state), shards[3], "trainer-3", 3)
    for _ in range(2):
        state = closed(strategy, state, task, shards)
    found = strategy.strategy.algorithm.forget(state.inner.inner, its_answer.arrays)  # type: ignore[attr-defined]
    parameters_without, without, _ = fitted(task, shards[:3], **parameters)
    assert found.penalty == without.penalty
    scale = np.append(X.std(axis=0), 1.0)
    away = np.abs((found.parameters - parameters_without) * scale).max()
    assert away < 1e-9 * np.abs(parameters_without * scale).max()


def test_forgetting_needs_a_fitted_model() -> None:
    strategy = find_algorithm("ridge")
    state = strategy.init(regression(INPUTS), 1)
    with pytest.raises(BadConfiguration, match="forget"):
        strategy.strategy.algorithm.forget(state.inner.inner, {})  # type: ignore[attr-defined]


def test_more_rows_leave_fewer_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [part_bits_for(1 << bits) for bits in (0, 22, 23, 26, 30, 32)] == [20, 20, 19, 18, 16, 15]
    assert [rows_max_for(rows).bit_length() - 1 for rows in (0, 1 << 20, 1 << 21, 10**9)] == [22, 22, 23, 31]
    monkeypatch.setattr(strategy_module, "rows_max_for", lambda _: 1 << 30)
    found, _, evaluation = fitted(regression(INPUTS), [Rows(X, VALUES)], penalty=0.0)
    scale = np.append(X.std(axis=0), 1.0)
    expected = pooled(X, VALUES, 0.0)
    assert 0.0 < np.abs((found - expected) * scale).max() < 1e-6 * np.abs(expected * scale).max()
    assert evaluation.rows == SIZE


@pytest.mark.parametrize(
    ("task", "parameters", "words_of_the_error"),
    [
        (classification(2, 2, MLP((2, 4, 2))), {}, "one layer"),
        (classification(2, 2, MLP((2, 2), bias=False)), {}, "one layer"),
        (classification(4, 2, Fourier(4, 2, 4000, "softmax")), {}, "fewer inputs or features"),
        (regression(2), {"penalty": -1.0}, "penalty"),
        (regression(2), {"holdout": 0.0}, "holdout"),
    ],
)
def test_model_beyond_the_bounds_is_refused(task: Task, parameters: dict[str, Any], words_of_the_error: str) -> None:
    with pytest.raises(BadConfiguration, match=words_of_the_error):
        find_algorithm("ridge", parameters=parameters).init(task, 1)


def test_answers_with_more_rows_than_the_question_allows_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy_module, "rows_max_for", lambda _: SIZE - 1)
    with pytest.raises(Rejected, match="raise rows_max"):
        state_after(find_algorithm("ridge"), regression(INPUTS), [Rows(X, VALUES)], 3)


@pytest.mark.parametrize(
    ("query", "change"),
    [
        (Gram(rows_max=1 << 23), {}),
        (Gram(), {"deviation": np.zeros(3)}),
        (Gram(), {"reach": np.array([4, 4, 13])}),
        (Gram(), {"shift": np.array([0.0, np.inf, 0.0])}),
    ],
)
def test_question_beyond_its_bounds_is_rejected_by_a_trainer(query: Gram, change: dict[str, np.ndarray]) -> None:
    arrays = {"shift": np.zeros(3), "deviation": np.ones(3), "reach": np.array([4, 4, 4]), **change}
    with pytest.raises(Rejected):
        check_down(query, regression(2), arrays)

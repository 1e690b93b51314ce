"""Newton by exact sums: the coefficients and errors of statsmodels and scikit-learn, the same bits for any split."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from glm_rows import Case, cases, three_classes, two_classes
from splits import classification, closed, inputs_of, outcome, part, regression, splits, state_after

from fedmq.algorithms.base import check_down
from fedmq.algorithms.newton import learner
from fedmq.algorithms.newton.query import Curvature
from fedmq.algorithms.newton.summary import Coefficients
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import BadConfiguration, Rejected
from fedmq.exact.draws import normals
from fedmq.models.fourier import Fourier
from fedmq.models.networks import MLP, LogLinear
from fedmq.tasks.task import Rows, Task
from fedmq.testing import check_algorithm

CASES = cases()
REFERENCE = json.loads(Path(__file__).with_name("glm_reference.json").read_text(encoding="utf-8"))
ROUNDS = 13  # two about the columns, ten questions, one score


def fitted(case: Case, rounds: int = ROUNDS, **options: Any) -> tuple[Coefficients, Any]:
    strategy = find_algorithm("newton", parameters={"penalty": case.penalty})
    state = state_after(strategy, case.task, [case.rows], rounds, **options)
    evaluation = strategy.evaluation(state)
    assert evaluation is not None
    return strategy.result(state), evaluation  # type: ignore[attr-defined]


def standardized(case: Case, estimates: np.ndarray) -> np.ndarray:
    """Coefficients for inputs with deviation 1."""
    return estimates * np.append(1.0, case.rows.inputs.std(axis=0))


@pytest.mark.parametrize(
    "task", ["linear", classification(2, 2), regression(2, LogLinear(2)), classification(2, 3)], ids=str
)
def test_newton_conforms(task: Task | str) -> None:
    check_algorithm(find_algorithm("newton"), task)


@pytest.mark.parametrize("name", CASES)
def test_coefficients_and_errors_are_those_of_the_reference(name: str) -> None:
    case, expected = CASES[name], {key: np.array(one) for key, one in REFERENCE[name].items()}
    found, evaluation = fitted(case)
    assert (found.status, found.clipped) == ("converged", 0)
    assert found.rounds <= 10
    estimates = found.estimates
    if case.penalty and len(expected["estimates"]) > 1:  # for each class
        parameters, outputs = evaluation.parameters, len(expected["estimates"])
        estimates = np.column_stack([parameters[-outputs:], parameters[:-outputs].reshape(-1, outputs).T])
    away = standardized(case, estimates - expected["estimates"])
    assert np.abs(away).max() < 1e-8 * np.abs(standardized(case, expected["estimates"])).max()
    if case.penalty:
        assert np.isnan(found.standard_errors).all()
        assert found.aic is None
        return
    assert found.standard_errors == pytest.approx(expected["standard_errors"], rel=1e-8)
    assert found.deviance == pytest.approx(float(expected["deviance"]), rel=1e-8)
    assert found.aic == pytest.approx(float(expected["aic"]), rel=1e-8)
    low, high = found.interval()
    assert ((low < found.estimates) & (found.estimates < high)).all()
    assert ((found.p_values < 0.05) == (np.sign(low) == np.sign(high))).all()


@pytest.mark.parametrize("name", CASES)
def test_model_is_the_same_bits_for_any_split(name: str) -> None:
    case = CASES[name]
    strategy = find_algorithm("newton", parameters={"penalty": case.penalty})
    outcomes = {split: outcome(strategy, case.task, shards, ROUNDS) for split, shards in splits(case.rows)}
    assert len(set(outcomes.values())) == 1, outcomes


@pytest.mark.parametrize("name", CASES)
def test_evaluation_is_the_score_of_the_model(name: str) -> None:
    case = CASES[name]
    _, evaluation = fitted(case)
    losses, correct = case.task.score(evaluation.parameters[None], case.rows)
    assert evaluation.loss == pytest.approx(losses[0], rel=1e-7)
    assert (evaluation.correct, evaluation.rows) == (correct[0], len(case.rows.inputs))
    assert evaluation.coverage == 1.0


def test_planted_float_sums_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded_too_late(left: np.ndarray, _: int, right: np.ndarray, __: int) -> np.ndarray:
        return np.rint((left * 2.0**-20).T @ (right * 2.0**-20 + 1e-9) * 2.0**40).astype(np.int64)

    monkeypatch.setattr(learner, "product", rounded_too_late)
    case = CASES["two classes"]
    outcomes = {outcome(find_algorithm("newton"), case.task, shards, 6) for _, shards in splits(case.rows)}
    assert len(outcomes) > 1


def test_separated_classes_stop_the_search_and_are_reported() -> None:
    inputs = inputs_of(100, 3, "separated")
    line = Rows(inputs, (inputs[:, 0] > np.median(inputs[:, 0])).astype(np.int64))
    found, evaluation = fitted(Case(classification(3, 2), line), 30)
    assert found.status == "separated"
    assert evaluation.correct == 100
    classes = Rows(inputs, line.targets + (line.targets > 0) * (np.arange(100) % 3 == 0))  # one class apart
    assert fitted(Case(classification(3, 3), classes), 40)[0].status == "separated"
    assert fitted(Case(classification(3, 2), line, penalty=1.0), 20)[0].status == "converged"


def test_dependent_columns_are_dropped() -> None:
    case = two_classes(300, 3, 0.2)
    inputs = case.rows.inputs
    wider = np.column_stack([inputs, 2.0 * inputs[:, 0] - inputs[:, 1], np.full(len(inputs), 7.0)])
    found, _ = fitted(Case(classification(5, 2), Rows(wider, case.rows.targets)))
    plain, _ = fitted(case)
    assert found.kept == ((True, True, True, True, False, False),)
    assert found.estimates[0, :4] == pytest.approx(plain.estimates[0], rel=1e-7)
    assert found.estimates[0, 4:].tolist() == [0.0, 0.0]
    assert np.isnan(found.standard_errors[0]).tolist() == [False] * 4 + [True] * 2


def test_step_that_raises_the_objective_is_halved() -> None:
    inputs = np.exp(inputs_of(120, 2, "halved") * np.array([2.0**9, 2.0**2]) * 1.5 - 4.5)
    plain = (inputs - inputs.mean(axis=0)) / inputs.std(axis=0)
    counts = np.floor(np.exp(np.clip(1.5 * plain[:, 0], -3.0, 4.0)))
    case = Case(regression(2, LogLinear(2)), Rows(inputs, counts))
    strategy, shares = find_algorithm("newton"), Counter[float]()
    state = strategy.init(case.task, 1)
    for _ in range(60):
        state = closed(strategy, state, case.task, [case.rows])
        if state.inner.inner.step:
            shares[state.inner.inner.step.share] += 1
    assert state.inner.inner.status == "converged"
    assert min(shares) < 1.0
    assert len({outcome(strategy, case.task, shards, 20) for _, shards in splits(case.rows)}) == 1


def test_means_beyond_all_counts_get_room() -> None:
    inputs = normals(2400, 4, "misfit").reshape(800, 3)
    inputs[0] = [6.0, 1.0, 0.0]
    logs = 2.5 * inputs[:, 0] + inputs[:, 1]
    counts = np.rint(np.exp(np.clip(logs, -4.0, 3.0)))  # no exponential: the largest fitted mean is far above
    case = Case(regression(3, LogLinear(3)), Rows(inputs, counts))
    found, _ = fitted(case, 20)
    design, expected = np.column_stack([np.ones(800), inputs]), np.array([np.log(counts.mean()), 0.0, 0.0, 0.0])
    for _ in range(100):
        means = np.exp(design @ expected)
        step = np.linalg.solve((design.T * means) @ design, design.T @ (counts - means))
        expected += step * min(1.0, 0.5 / np.abs(step).max())
    assert means.max() > 8.0 * counts.max() > 0.0
    assert found.status == "converged"
    assert found.estimates[0] == pytest.approx(expected, rel=1e-8)


def five_by_label(case: Case) -> list[Rows]:
    order = np.argsort(case.rows.targets, kind="stable")
    return [part(case.rows, chosen) for chosen in np.array_split(order, 5)]


def test_trainers_that_miss_rounds_in_turn_change_no_bit_of_the_model() -> None:
    case, strategy = CASES["two classes"], find_algorithm("newton")
    for absent in (
        lambda number, place: number % 5 == place,  # no round is complete
        lambda number, place: number % 2 and number % 5 == place,
        lambda number, place: (number + place) % 3 == 0,
    ):
        state = state_after(strategy, case.task, five_by_label(case), 45, absent=absent)
        found, evaluation = strategy.result(state), strategy.evaluation(state)  # type: ignore[attr-defined]
        assert (found.status, found.coverage, strategy.finished(state)) == ("converged", 1.0, True)  # type: ignore[attr-defined]
        assert found.rounds <= 10
        assert evaluation is not None
        assert evaluation.parameters.tobytes() == fitted(case)[1].parameters.tobytes()


def test_trainer_that_never_answers_is_reported_and_used_when_it_returns() -> None:
    case, strategy = CASES["two classes"], find_algorithm("newton")
    shards = five_by_label(case)
    rows = np.argsort(case.rows.targets, kind="stable")
    others, _ = fitted(case._replace(rows=part(case.rows, np.concatenate(np.array_split(rows, 5)[:4]))))
    state = state_after(strategy, case.task, shards, 25, absent=lambda _, place: place == 4)
    found = strategy.result(state)  # type: ignore[attr-defined]
    assert (found.status, found.coverage) == ("converged", 0.8)
    assert found.estimates == pytest.approx(others.estimates, rel=1e-7)
    assert strategy.findings(state).figures["coverage"] == 0.8  # type: ignore[attr-defined]
    assert not strategy.finished(state)  # type: ignore[attr-defined]
    for _ in range(3 + 3 + ROUNDS):
        state = closed(strategy, state, case.task, shards)
    assert strategy.evaluation(state).parameters.tobytes() == fitted(case)[1].parameters.tobytes()  # type: ignore[union-attr]


def test_model_is_fitted_again_when_the_rows_change() -> None:
    case, strategy = CASES["two classes"], find_algorithm("newton")
    first, second = (part(case.rows, chosen) for chosen in np.array_split(np.arange(len(case.rows.inputs)), 2))
    state = state_after(strategy, case.task, [first], ROUNDS)
    for _ in range(1 + ROUNDS):
        state = closed(strategy, state, case.task, [first, second])
    assert strategy.evaluation(state).parameters.tobytes() == fitted(case)[1].parameters.tobytes()  # type: ignore[union-attr]


def test_large_values_get_room_in_another_round() -> None:
    case = three_classes()
    inputs = case.rows.inputs.copy()
    inputs[7, 2] += 4000.0 * inputs[:, 2].std()
    found, _ = fitted(Case(case.task, Rows(inputs, case.rows.targets)), 20)
    assert (found.status, found.clipped) == ("converged", 0)


def test_answers_at_the_bound_stay_within_it() -> None:
    task = classification(1, 2)
    rows = Rows(np.full((3, 1), 1e30), np.zeros(3, np.int64))
    arrays = {
        "shift": np.zeros(1),
        "deviation": np.ones(1),
        "reach": np.array([12]),
        "coefficients": np.array([[1e9, 1e9]]),
    }
    query = Curvature()
    check_down(query, task, arrays)
    work = learner.Assignment(task, arrays, rows, lambda _: None, np.random.default_rng(1))  # type: ignore[arg-type]
    found = learner.sum_curvature(query, work)
    for name, bounds in query.answer(task, {}, 3).items():
        assert bounds.smallest <= found[name].min(), name
        assert found[name].max() <= bounds.largest, name
    assert found["reach"][0, -1] == 3


@pytest.mark.parametrize(
    ("task", "words_of_the_error"),
    [
        (classification(2, 2, MLP((2, 4, 2))), "one layer"),
        (classification(2, 2, Fourier(2, 2, output="softmax")), "use ridge"),
        (classification(300, 20), "fewer inputs"),
    ],
)
def test_model_beyond_the_bounds_is_refused(task: Task, words_of_the_error: str) -> None:
    with pytest.raises(BadConfiguration, match=words_of_the_error):
        find_algorithm("newton").init(task, 1)


def test_negative_counts_are_refused_by_the_trainer() -> None:
    task, strategy = regression(1, LogLinear(1)), find_algorithm("newton")
    with pytest.raises(BadConfiguration, match="expected counts"):
        state_after(strategy, task, [Rows(np.array([[1.0], [2.0]]), np.array([3.0, -1.0]))], 3)


@pytest.mark.parametrize(
    ("query", "change"),
    [
        (Curvature(rows_max=1 << 23), {}),
        (Curvature(), {"coefficients": np.zeros((2, 3))}),
        (Curvature(), {"coefficients": np.full((1, 3), np.nan)}),
        (Curvature(), {"reach": np.array([4, 13])}),
    ],
)
def test_question_beyond_its_bounds_is_rejected(query: Curvature, change: dict[str, np.ndarray]) -> None:
    arrays = {
        "shift": np.zeros(2),
        "deviation": np.ones(2),
        "reach": np.array([4, 4]),
        "coefficients": np.zeros((1, 3)),
    }
    with pytest.raises(Rejected):
        check_down(query, classification(2, 2), {**arrays, **change})

"""The stages of a run on tables: one model for any split, held-out rows in no training sum, a survey where it must."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
import numpy as np
import pytest
import statsmodels.api as statsmodels
from splits import bits, closed, model_sha256
from table_rows import ROWS, chosen, patients, table, table_splits, table_task

from fedmq.algorithms.checkpoint import dump, load
from fedmq.algorithms.evaluation.figures import Metrics
from fedmq.algorithms.findings import Findings
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import BadConfiguration
from fedmq.observe.events import TrainerLeft
from fedmq.protocol.run_config import Limits
from fedmq.runs.replay import replay
from fedmq.simulation import Federation
from fedmq.tables.preparation import Preparation
from fedmq.tasks.row_views import RowViews
from fedmq.tasks.task import Task
from fedmq.testing import check_algorithm

CASES = [
    ("statistics", "ill"),
    ("statistics", "days"),
    ("ridge", "ill"),
    ("ridge", "days"),
    ("newton", "ill"),
    ("newton", "days"),
    ("newton", "visits"),
]
ROUNDS = 40


def finished(algorithm: str, task: Task, shards: Any) -> Any:
    """The state when nothing is left to learn."""
    strategy = find_algorithm(algorithm, task)
    return until_finished(strategy, strategy.init(task, 1), task, [RowViews(task, one) for one in shards])


def until_finished(strategy: Any, state: Any, task: Task, views: list[RowViews]) -> Any:
    for _ in range(ROUNDS):
        if strategy.finished(state):
            return state
        state = closed(strategy, state, task, views)
    raise AssertionError(f"expected an end within {ROUNDS} rounds")


@pytest.mark.parametrize(("algorithm", "target"), CASES)
def test_model_of_a_table_is_the_same_for_any_split(algorithm: str, target: str) -> None:
    task = table_task(target, 0.2)
    strategy = find_algorithm(algorithm, task)
    outcomes = {}
    for name, shards in table_splits(patients()).items():
        state = finished(algorithm, task, shards)
        evaluation = strategy.evaluation(state)
        assert evaluation is not None
        assert evaluation.measured is not None
        assert evaluation.measured.training is not None
        metrics = [
            msgspec.structs.replace(one, trainers=0)
            for one in (evaluation.measured.held_out, evaluation.measured.training)
        ]
        figures = metrics, dump(strategy.result(state))  # type: ignore[attr-defined]
        outcomes[name] = model_sha256(strategy, task, state), hashlib.sha256(repr(figures).encode()).hexdigest()
    assert len(set(outcomes.values())) == 1, outcomes


def trained(algorithm: str, task: Task, rows: Mapping[str, Any], **options: Any) -> Federation:
    federation = Federation(task, find_algorithm(algorithm, task), rows, seed=3, **options)
    federation.train()
    assert federation.finished
    return federation


def measured(federation: Federation) -> Metrics:
    evaluation = federation.aggregator.rounds.evaluation  # type: ignore[union-attr]
    assert evaluation is not None
    assert evaluation.measured is not None
    return evaluation.measured.held_out


def test_averaging_learns_values_from_tables_and_is_measured_on_held_out_rows() -> None:
    task = table_task("days", 0.2, rounds=60, parameters={"averaging": {"learning_rate": 0.05}})
    federation = trained("averaging", task, dict(zip("abc", table_splits(patients())["three"], strict=True)))
    held_out, model = measured(federation), federation.model
    assert 0 < held_out.rows < 100
    assert held_out.r2 > 0.8  # type: ignore[operator]
    assert model is not None
    assert np.corrcoef(model.predict(patients()), patients().columns["days"])[0, 1] > 0.9


def test_evolution_learns_classes_from_tables_and_is_measured_on_held_out_rows() -> None:
    task = table_task("ill", 0.2, rounds=30)
    federation = trained("evolution", task, dict(zip("abc", table_splits(patients())["ten by label"], strict=False)))
    held_out, model = measured(federation), federation.model
    assert 0 < held_out.rows < 100
    assert held_out.accuracy > 0.6  # type: ignore[operator]
    assert model is not None
    assert set(model.predict(patients())) <= {"yes", "no"}


def raw_design(preparation: Preparation) -> np.ndarray:
    """The columns of `patients` as a statistician prepares them: gaps filled in, categories as zeros and ones."""
    columns = patients().columns
    color, smoker = columns["color"], np.array([{"yes": 1.0, "no": 0.0, "": np.nan}[one] for one in columns["smoker"]])
    grade = np.array([("low", "mid", "high").index(one) for one in columns["grade"]], float)
    numbers = [
        np.where(np.isnan(values), preparation.fill[place], values)
        for place, values in ((0, columns["age"]), (2, columns["dose"]), (3, smoker), (4, grade))
    ]
    levels = [(color == level).astype(float) for level in ("green", "blue", "")]
    return np.column_stack([np.ones(ROWS), numbers[0], *levels, *numbers[1:]])


@pytest.mark.parametrize("target", ["ill", "days", "visits"])
def test_weighted_newton_with_offsets_equals_statsmodels(target: str) -> None:
    task = table_task(target, weight="weight", offset="offset")
    columns, strategy = patients().columns, find_algorithm("newton", task)
    state = finished("newton", task, table_splits(patients())["ten by label"])
    found, evaluation = strategy.result(state), strategy.evaluation(state)  # type: ignore[attr-defined]
    assert found.status == "converged"
    assert evaluation is not None
    assert evaluation.preparation is not None
    family = {
        "ill": statsmodels.families.Binomial(),
        "days": statsmodels.families.Gaussian(),
        "visits": statsmodels.families.Poisson(),
    }[target]
    values = (columns["ill"] == "yes").astype(float) if target == "ill" else columns[target]
    model = statsmodels.GLM(
        values,
        raw_design(evaluation.preparation),
        family=family,
        offset=columns["offset"],
        var_weights=columns["weight"],
    )
    expected = model.fit(tol=1e-12, tol_criterion="params", maxiter=100)
    assert found.estimates[0] == pytest.approx(expected.params, rel=1e-8)
    assert found.standard_errors[0] == pytest.approx(expected.bse, rel=1e-8)
    assert found.deviance == pytest.approx(expected.deviance, rel=1e-8)
    kept = strategy.findings(state)  # type: ignore[attr-defined]
    assert [one.estimate for one in kept.coefficients] == found.estimates[0].tolist()
    assert [one.name for one in kept.coefficients] == ["(intercept)", *task.schema.feature_names]  # type: ignore[union-attr]
    assert msgspec.json.decode(msgspec.json.encode(kept), type=Findings) == kept
    if found.aic is not None:
        assert found.aic == pytest.approx(expected.aic, rel=1e-8)


@pytest.mark.parametrize("algorithm", ["ridge", "evolution"])
def test_weights_are_refused_by_an_algorithm_that_does_not_use_them(algorithm: str) -> None:
    task = table_task(weight="weight")
    with pytest.raises(BadConfiguration, match=r"expected a task without weights, got the column 'weight'"):
        find_algorithm(algorithm, task).init(task, 1)


def test_ridge_reports_least_squares_by_name_in_units_of_the_columns() -> None:
    task = table_task("days", parameters={"ridge": {"penalty": 0.0}})
    strategy = find_algorithm("ridge", task)
    state = finished("ridge", task, table_splits(patients())["three"])
    preparation = strategy.evaluation(state).preparation  # type: ignore[union-attr]
    expected = np.linalg.lstsq(raw_design(preparation), patients().columns["days"], rcond=None)[0]  # type: ignore[arg-type]
    found = strategy.findings(state)  # type: ignore[attr-defined]
    assert [one.estimate for one in found.coefficients] == pytest.approx(expected.tolist(), rel=1e-7)
    assert {one.output for one in found.coefficients} == {"days"}


def test_survey_of_a_table_has_the_figures_of_its_columns() -> None:
    task = table_task("days")
    strategy, columns = find_algorithm("statistics", task), patients().columns
    found = strategy.findings(finished("statistics", task, table_splits(patients())["seven"]))  # type: ignore[attr-defined]
    age, color, dose, smoker, grade, days = found.columns
    assert (age.count, age.missing) == (int(np.isfinite(columns["age"]).sum()), int(np.isnan(columns["age"]).sum()))
    assert age.mean == pytest.approx(np.nanmean(columns["age"]), rel=1e-12)
    assert dose.deviation == pytest.approx(np.nanstd(columns["dose"]), rel=1e-12)
    assert dose.quantiles["0.5"] == pytest.approx(np.nanmedian(columns["dose"]), rel=0.02)
    levels = ("red", "green", "blue")
    assert color.categories == {level: int((columns["color"] == level).sum()) for level in levels}
    assert color.missing == int((columns["color"] == "").sum())
    assert smoker.categories["yes"] == int((columns["smoker"] == "yes").sum())
    assert sum(grade.categories.values()) == ROWS
    assert (days.name, days.mean) == ("days", pytest.approx(columns["days"].mean(), rel=1e-12))


@pytest.mark.parametrize(
    ("algorithm", "target"),
    [("statistics", "ill"), ("ridge", "ill"), ("newton", "visits"), ("averaging", "days"), ("evolution", "ill")],
)
def test_staged_strategy_conforms_on_a_table_with_held_out_rows(algorithm: str, target: str) -> None:
    task = table_task(target, 0.2, parameters={"averaging": {"learning_rate": 0.05}})
    check_algorithm(find_algorithm(algorithm, task), task, rows=table_splits(patients())["three"])


def test_held_out_rows_are_in_no_training_sum() -> None:
    task = table_task("days", 0.3)
    whole = RowViews(task, patients())
    held = whole.view("held-out").targets
    assert len(held) > 50
    assert not set(held.tolist()) & set(whole.view("columns").targets.tolist()), "no two rows of these are equal"
    others = np.flatnonzero(~np.isin(patients().columns["days"], held))
    for algorithm in ("statistics", "ridge", "newton"):
        with_them, without = (finished(algorithm, task, [rows]) for rows in (patients(), chosen(patients(), others)))
        results = [dump(find_algorithm(algorithm, task).result(one)) for one in (with_them, without)]  # type: ignore[attr-defined]
        assert results[0] == results[1], algorithm
        assert with_them.measured.measured.held_out.rows == len(held)
        assert without.measured.measured.held_out.rows == 0


def test_joining_trainer_gives_the_model_of_all_rows() -> None:
    for algorithm, target in (("ridge", "ill"), ("newton", "ill"), ("statistics", "days")):
        task = table_task(target, 0.2)
        strategy, shards = find_algorithm(algorithm, task), table_splits(patients())["three"]
        pooled = finished(algorithm, task, [patients()])
        for joins in range(1, 8):  # in the survey, in the rounds of the algorithm, on held-out rows
            state, views = strategy.init(task, 1), [RowViews(task, one) for one in shards]
            for _ in range(joins):
                state = closed(strategy, state, task, views[:1])
            state = closed(strategy, state, task, views)  # a run does not end before a trainer's first answer
            state = until_finished(strategy, state, task, views)
            assert model_sha256(strategy, task, state) == model_sha256(strategy, task, pooled), (algorithm, joins)


def test_missing_trainers_do_not_begin_the_survey_again() -> None:
    task = table_task("ill", 0.2)
    strategy, views = find_algorithm("newton", task), [RowViews(task, one) for one in table_splits(patients())["three"]]
    state, stages = strategy.init(task, 1), []
    for _ in range(20):
        state = closed(strategy, state, task, views, absent=lambda number, place: number > 4 and number % 3 == place)
        stages.append(state.stage)
    assert "survey" not in stages[4:]
    assert strategy.evaluation(state).parameters.any()  # type: ignore[union-attr]


@pytest.mark.parametrize("algorithm", ["newton", "evolution"])
def test_kill_in_each_stage_gives_the_same_model(algorithm: str) -> None:
    task = table_task("ill", 0.2, rounds=14)
    shards = dict(zip("abc", table_splits(patients())["three"], strict=True))

    def outcome(federation: Federation) -> tuple[str, object]:
        model = federation.model
        assert federation.finished
        assert model is not None
        again = replay(federation.store, task, federation.strategy, 3, from_start=True)
        assert again.state.round == federation.aggregator.rounds.round  # type: ignore[union-attr]
        evaluation = federation.strategy.evaluation(again.state)
        assert evaluation is not None
        replayed = task.trained(evaluation.parameters, evaluation.preparation).to_bytes()
        assert replayed == model.to_bytes()
        return hashlib.sha256(replayed).hexdigest(), measured(federation)

    undisturbed = Federation(task, find_algorithm(algorithm, task), shards, seed=3)
    undisturbed.train()
    for stage in ("survey", "training", "held-out"):
        federation = Federation(task, find_algorithm(algorithm, task), shards, seed=3)
        federation.start()
        federation.simulation.run(partial(has_answers_in, federation, stage), 60.0)
        assert has_answers_in(federation, stage)
        everyone = ("broker", "aggregator", *shards)
        federation.simulation.crash(*everyone)
        federation.simulation.start(*everyone)
        federation.simulation.run(partial(getattr, federation, "finished"), 600.0)
        assert outcome(federation) == outcome(undisturbed), stage


def has_answers_in(federation: Federation, stage: str) -> bool:
    """Whether a round of this stage is open and has some answers."""
    rounds = federation.aggregator and federation.aggregator.rounds
    return rounds is not None and rounds._state.stage == stage and bool(rounds._participants.answered)


def test_rows_of_their_own_are_held_out_and_all_others_are_trained_on() -> None:
    task, (first, second) = table_task("ill", 0.2), table_splits(patients())["three"][:2]
    views = RowViews(task, first, second)
    assert (len(views.view("columns").inputs), len(views.view("held-out").inputs)) == (first.num_rows, second.num_rows)
    assert views.num_examples == first.num_rows + second.num_rows
    without = RowViews(table_task("ill"), first, second)
    assert len(without.view("held-out").inputs) == 0


def test_table_that_does_not_fit_declines_and_its_cells_stay_at_the_site(caplog: pytest.LogCaptureFixture) -> None:
    task = table_task("ill", rounds=8)
    shards = dict(zip("abc", table_splits(patients())["three"], strict=True))
    broken = dict(shards["b"].columns)
    broken["age"] = np.array([f"{age:g}" for age in broken["age"]], object)
    broken["age"][4] = "fifty-secret"
    shards["b"] = table(tuple(broken), broken, "south.csv")
    limits = Limits(rounds_max=8, min_trainers=2)
    federation = trained("ridge", task, shards, limits=limits)
    left = [one for one in federation.events if isinstance(one, TrainerLeft)]
    assert [(one.trainer, one.reason) for one in left] == [("b", "rows")]
    assert "column age" in left[0].detail
    assert "fifty-secret" not in repr(federation.events)
    assert "fifty-secret" in caplog.text
    assert federation.model is not None


def test_notes_about_a_table_are_logged_once_a_run(caplog: pytest.LogCaptureFixture) -> None:
    task = table_task("ill", rounds=8)
    odd = dict(patients().columns)
    odd["color"] = np.where(odd["color"] == "blue", "purple", odd["color"])
    odd["ill"] = np.where(np.arange(ROWS) < 3, "", odd["ill"])
    trained("ridge", task, {"a": table(tuple(odd), odd)})
    notes = [record.message for record in caplog.records if record.name == "fedmq.trainer.round_handler"]
    assert sum("left out" in note for note in notes) == 1
    assert sum("purple" in note or "color" in note for note in notes) == 1


def test_roster_shows_all_rows_of_a_trainer_with_held_out_rows() -> None:
    task = table_task("ill", 0.3, rounds=12)
    federation = trained("newton", task, dict(zip("abc", table_splits(patients())["three"], strict=True)))
    roster = federation.aggregator.rounds.roster  # type: ignore[union-attr]
    assert [one.num_examples for one in roster.trainers] == [100, 100, 100]
    assert 180 < federation.aggregator.rounds.evaluation.rows < 240  # type: ignore[union-attr]


@pytest.mark.parametrize(("algorithm", "target"), [("statistics", "days"), ("ridge", "ill"), ("newton", "visits")])
def test_state_of_each_stage_survives_a_checkpoint(algorithm: str, target: str) -> None:
    task = table_task(target, 0.2)
    strategy, views = (
        find_algorithm(algorithm, task),
        [RowViews(task, one) for one in table_splits(patients())["three"]],
    )
    kept = stored = strategy.init(task, 1)
    stages = set()
    while not strategy.finished(kept):  # type: ignore[attr-defined]
        stages.add(kept.stage)
        kept, stored = (closed(strategy, state, task, views) for state in (kept, stored))
        fresh = find_algorithm(algorithm, task)
        stored = load(dump(stored), type(fresh.init(task, 1)))
        assert bits(stored) == bits(kept)
    assert stages == {"survey", "training", "held-out", "fitted"}
    assert model_sha256(strategy, task, stored) == model_sha256(strategy, task, kept)

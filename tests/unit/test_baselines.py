"""What federation buys: each trainer alone, and all rows pooled, on the held-out rows of all trainers."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from splits import state_after
from table_rows import patients, table_splits, table_task

from fedmq.algorithms.baselines import baselines, measure_here, train_here
from fedmq.algorithms.evaluation.figures import Baseline, Metrics
from fedmq.algorithms.registry import find_algorithm
from fedmq.algorithms.trial import answer
from fedmq.observe.event_text import baseline_lines
from fedmq.tasks.row_views import RowViews

TASK = table_task("ill", 0.3)
SHARDS = table_splits(patients())["three"]
SITES = {f"trainer-{place}": RowViews(TASK, rows) for place, rows in enumerate(SHARDS)}
ROUNDS = 30
PENALTY = {"penalty": 1.0}


def without_trainers(metrics: Metrics | None) -> Metrics:
    assert metrics is not None
    return msgspec.structs.replace(metrics, trainers=0)


def test_pooled_rows_give_the_figures_of_the_federated_run_bit_for_bit() -> None:
    found = baselines("newton", PENALTY, TASK, 1, ROUNDS, SITES)
    strategy = find_algorithm("newton", TASK, PENALTY)
    together = strategy.evaluation(state_after(strategy, TASK, SHARDS, ROUNDS))
    assert together is not None
    assert together.measured is not None
    assert without_trainers(found[-1].held_out) == without_trainers(together.measured.held_out)
    assert found[-1].rows == "pooled"


def test_each_trainer_alone_is_measured_on_the_held_out_rows_of_all() -> None:
    found = baselines("newton", PENALTY, TASK, 1, ROUNDS, SITES)
    assert [(one.rows, one.trainer) for one in found[:-1]] == [("alone", name) for name in SITES]
    sizes = {one.held_out.rows for one in found if one.held_out is not None}
    assert sizes == {sum(len(views.view("held-out").inputs) for views in SITES.values())}
    losses = [without_trainers(one.held_out).log_loss for one in found]
    assert len(set(losses)) == len(losses)


def test_trainer_that_cannot_train_alone_is_named_with_the_reason() -> None:
    strategy, views = find_algorithm("newton", TASK, PENALTY), next(iter(SITES.values()))
    evaluation, moments = train_here(strategy, TASK, 1, ROUNDS, views)
    assert evaluation is not None
    assert measure_here(TASK, evaluation, moments, SITES) != measure_here(TASK, evaluation, moments, {"one": views})
    found = baselines("newton", PENALTY, TASK, 1, 1, SITES)  # one round is too few for a model
    assert {one.failure for one in found} == {"no model within the rounds"}


def test_held_out_rows_of_one_trainer_stay_held_out_in_the_pool() -> None:
    pooled = RowViews.pooled(list(SITES.values()))
    for view in ("columns", "held-out"):
        parts = [views.view(view) for views in SITES.values()]  # type: ignore[arg-type]
        assert np.array_equal(
            pooled.view(view).inputs,  # type: ignore[arg-type]
            np.concatenate([one.inputs for one in parts]),
            equal_nan=True,
        )
    assert pooled.num_examples == sum(views.num_examples for views in SITES.values())


def test_table_of_baselines_has_the_figures_that_there_are() -> None:
    figures = Metrics(rows=10, trainers=2, accuracy=0.5, balanced_accuracy=0.25, auc=0.125, log_loss=2.0)
    found = [
        Baseline(rows="alone", trainer="north", held_out=figures),
        Baseline(rows="alone", trainer="south", failure="rows of one class"),
        Baseline(rows="together", held_out=figures),
    ]
    assert baseline_lines(found) == [
        "              accuracy   balanced        AUC   log-loss",
        "north alone      50.0%      25.0%     0.1250     2.0000",
        "south alone  rows of one class",
        "together         50.0%      25.0%     0.1250     2.0000",
    ]
    values = Baseline(rows="pooled", held_out=Metrics(rows=10, trainers=2, accuracy=0.1, rmse=2.0, mae=1.5, r2=0.75))
    assert baseline_lines([values]) == [
        "             RMSE        MAE         R²",
        "pooled          2        1.5     0.7500",
    ]


@pytest.mark.parametrize(("algorithm", "target"), [("averaging", "days"), ("ridge", "ill")])
def test_other_algorithms_have_baselines_as_well(algorithm: str, target: str) -> None:
    task = table_task(target, 0.3)
    parameters = {"learning_rate": 0.01} if algorithm == "averaging" else {}
    found = baselines(
        algorithm, parameters, task, 1, 12, {name: RowViews(task, SHARDS[0]) for name in ("north", "south")}
    )
    assert not any(one.failure for one in found)


def test_figures_of_a_trainer_are_known_only_if_it_permits_them() -> None:
    strategy = find_algorithm("newton", TASK, PENALTY)
    state = strategy.init(TASK, 1)
    for number in range(1, ROUNDS + 1):
        plan = strategy.ask(state)
        for name, views in SITES.items():
            update = replace(answer(plan, TASK, views, number, 1), trainer=name, site_figures=name == "trainer-1")
            state = strategy.tell(state, update)
        state = strategy.close(state, list(SITES))
    evaluation = strategy.evaluation(state)
    assert evaluation is not None
    assert evaluation.measured is not None
    assert list(evaluation.measured.trainers) == ["trainer-1"]
    held_out = SITES["trainer-1"].view("held-out")
    assert evaluation.measured.trainers["trainer-1"].rows == len(held_out.inputs)

"""What federation buys: the same algorithm with the rows of one trainer alone, and with all rows in one place.

Everything runs in this process, so all rows must be at hand. Each model is measured on the held-out rows of all
trainers, as the model of the run is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from fedmq.algorithms.additive import RoundSum
from fedmq.algorithms.base import Evaluation, Plan, Strategy, Total, is_finished, is_prepared
from fedmq.algorithms.evaluation.figures import Baseline, Metrics
from fedmq.algorithms.evaluation.held_out import held_out_plan, held_out_query
from fedmq.algorithms.evaluation.metrics import finer_edges, metrics_of
from fedmq.algorithms.registry import find_algorithm
from fedmq.algorithms.statistics.columns import ColumnMoments
from fedmq.algorithms.trial import TRAINER, answer
from fedmq.errors import FedmqError, one_line
from fedmq.tasks.row_views import RowViews
from fedmq.tasks.task import Task


def baselines(
    algorithm: str, parameters: Mapping[str, Any], task: Task, seed: int, rounds: int, sites: Mapping[str, RowViews]
) -> list[Baseline]:
    """Return what each trainer reaches alone, by name, and what all rows reach in one place."""
    alone = [
        _baseline(Baseline(rows="alone", trainer=name), algorithm, parameters, task, seed, rounds, views, sites)
        for name, views in sorted(sites.items())
    ]
    pooled = RowViews.pooled(list(sites.values()))
    return [*alone, _baseline(Baseline(rows="pooled"), algorithm, parameters, task, seed, rounds, pooled, sites)]


def _baseline(
    about: Baseline,
    algorithm: str,
    parameters: Mapping[str, Any],
    task: Task,
    seed: int,
    rounds: int,
    views: RowViews,
    sites: Mapping[str, RowViews],
) -> Baseline:
    try:
        evaluation, moments = train_here(find_algorithm(algorithm, task, parameters), task, seed, rounds, views)
        if evaluation is None:
            return msgspec.structs.replace(about, failure="no model within the rounds")
        return msgspec.structs.replace(about, held_out=measure_here(task, evaluation, moments, sites))
    except FedmqError as error:  # such as rows of one class only
        return msgspec.structs.replace(about, failure=one_line(error))


def train_here(
    strategy: Strategy[Any], task: Task, seed: int, rounds: int, views: RowViews
) -> tuple[Evaluation | None, ColumnMoments | None]:
    """Return the model of a run with one trainer, and the moments of its columns, if the run asks for them.

    The run ends as others do: when the target is reached, nothing is left to learn, or the rounds are used up.
    """
    state = strategy.init(task, seed)
    evaluation = None
    for number in range(1, rounds + 1):
        update = answer(strategy.ask(state), task, views, number, seed)
        state = strategy.close(strategy.tell(state, update), [TRAINER])
        evaluation = strategy.evaluation(state)
        measured = evaluation is not None and (evaluation.score.of == "held-out" or not task.holdout)
        if is_finished(strategy, state) or (evaluation and measured and task.reached(*evaluation.score[:3])):
            break
    survey = getattr(strategy, "survey", lambda _state: None)(state)
    return evaluation, None if survey is None else survey.moments


def measure_here(
    task: Task, evaluation: Evaluation, moments: ColumnMoments | None, sites: Mapping[str, RowViews]
) -> Metrics:
    """Return the figures of a model on the held-out rows of all trainers."""
    query = held_out_query(task, moments)
    plan = held_out_plan(task, query, evaluation.parameters)
    total = _total(task, plan, evaluation, sites)
    if "edges" in plan.arrays and (finer := finer_edges(total, plan.arrays["edges"])) is not None:
        total = _total(task, held_out_plan(task, query, evaluation.parameters, finer), evaluation, sites)
    return metrics_of(task, query, total)


def _total(task: Task, plan: Plan, evaluation: Evaluation, sites: Mapping[str, RowViews]) -> Total:
    total = RoundSum.empty("baselines", plan, task)
    prepared = evaluation.preparation
    if prepared is not None and is_prepared(plan.query, task):
        arrays = {f"column_{name}": getattr(prepared, name) for name in ("shift", "scale", "fill")}
        plan = Plan(plan.query, {**plan.arrays, **arrays})
    for name, views in sites.items():
        total = total.plus(replace(answer(plan, task, views, 1, 0), trainer=name))
    return total.total(frozenset(sites))

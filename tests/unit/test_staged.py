"""The stages of a run on tables: one model for any split, held-out rows in no training sum, a survey where it must."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from splits import model_sha256, state_after
from table_rows import patients, table_splits, table_task

from fedmq.algorithms.checkpoint import dump
from fedmq.algorithms.registry import find_algorithm
from fedmq.tasks.task import Task

CASES = [
    ("statistics", "ill"),
    ("statistics", "days"),
    ("ridge", "ill"),
    ("ridge", "days"),
    ("newton", "ill"),
    ("newton", "days"),
    ("newton", "visits"),
]
ROUNDS = 25


def finished(algorithm: str, task: Task, shards: Any, rounds: int = ROUNDS) -> Any:
    return state_after(find_algorithm(algorithm, task), task, shards, rounds)


@pytest.mark.parametrize(("algorithm", "target"), CASES)
def test_model_of_a_table_is_the_same_for_any_split(algorithm: str, target: str) -> None:
    task = table_task(target, 0.2)
    strategy = find_algorithm(algorithm, task)
    outcomes = {}
    for name, shards in table_splits(patients()).items():
        state = finished(algorithm, task, shards)
        assert strategy.finished(state), name  # type: ignore[attr-defined]
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

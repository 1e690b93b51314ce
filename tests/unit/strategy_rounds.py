"""Rounds of a strategy with trainers that answer at once, for the tests of strategies. No network, no time."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fedmq.algorithms.base import Evaluation, Plan, Strategy, Update
from fedmq.algorithms.learning import learn
from fedmq.runtime.rng import derive_rng
from fedmq.tasks.task import Rows, Task
from fedmq.tasks.task_file import find_task, task_rows

XOR, LINEAR = find_task("xor"), find_task("linear")
Shards = Mapping[str, Rows]


def shards(task: Task, parts: int) -> Shards:
    return {f"trainer-{part}": task_rows(task.name, part, parts) for part in range(1, parts + 1)}


def trained(
    task: Task, plan: Plan, rows: Shards, name: str, number: int, *, seed: int = 1, staleness: int = 0
) -> Update:
    generator = derive_rng(seed, "trainer", name, number)
    arrays = learn(task, plan.work, plan.arrays, rows[name], generator, lambda: False)
    return Update(name, number, staleness, len(rows[name].inputs), arrays)


def good_enough(task: Task, evaluation: Evaluation | None, rows: Shards) -> bool:
    """What the run would say; if it says yes, the union of the rows must agree."""
    if (
        evaluation is None
        or evaluation.coverage < 1
        or not task.reached(evaluation.loss, evaluation.correct, evaluation.rows)
    ):
        return False
    together = Rows(
        np.concatenate([one.inputs for one in rows.values()]), np.concatenate([one.targets for one in rows.values()])
    )
    losses, correct = task.score(evaluation.genes[None], together)
    assert losses[0] == pytest.approx(evaluation.loss)
    assert correct[0] == evaluation.correct
    return True


def rounds_needed(
    strategy: Strategy[Any], task: Task, seed: int, *, parts: int = 2, absent: float = 0.0, late: float = 0.0
) -> int | None:
    """The round in which the target was reached; None: not within the task's rounds."""
    rows, chance = shards(task, parts), derive_rng(seed, "chance")
    state, underway = strategy.init(task, seed), list[Update]()
    for number in range(1, task.rounds + 1):
        plan = strategy.ask(state)
        arrived = [replace(update, staleness=number - update.round) for update in underway]
        underway = []
        for name in rows:
            if chance.random() >= absent:
                update = trained(task, plan, rows, name, number, seed=seed)
                (underway if chance.random() < late else arrived).append(update)
        for update in arrived:
            state = strategy.tell(state, update)
        state = strategy.close(state, rows.keys())
        if good_enough(task, strategy.evaluation(state), rows):
            return number
    return None


def one_round(strategy: Strategy[Any], state: Any, task: Task, members: Collection[str] | None = None) -> Any:
    """The state after a round in which every trainer answers."""
    rows, plan, number = shards(task, 2), strategy.ask(state), state.round
    for name in rows:
        state = strategy.tell(state, trained(task, plan, rows, name, number))
    return strategy.close(state, rows.keys() if members is None else members)


def same_plan(first: Plan, second: Plan) -> bool:
    return first.work == second.work and all(
        first.arrays[name].tobytes() == second.arrays[name].tobytes() for name in first.arrays.keys() | second.arrays
    )


def task_for(name: str) -> Task:
    return LINEAR if name == "fedsgd" else XOR


def spoilt(update: Update, name: str, array: npt.NDArray[Any]) -> Update:
    return replace(update, arrays={**update.arrays, name: array})

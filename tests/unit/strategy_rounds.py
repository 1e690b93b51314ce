"""Rounds of a strategy with trainers that answer at once, for the tests of strategies. No network, no time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fedmq.algorithms.base import (
    AdditiveQuery,
    Assignment,
    Evaluation,
    Plan,
    Query,
    Strategy,
    Update,
    check_down,
    encode_query,
)
from fedmq.algorithms.registry import decode_query, find_algorithm
from fedmq.protocol.fixed_point import quantize
from fedmq.runtime.rng import derive_rng
from fedmq.tasks.task import Rows, Task
from fedmq.tasks.task_file import find_task, task_rows

XOR, LINEAR = find_task("xor"), find_task("linear")
CASES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "evolution": ("evolution", {}),
    "fedavg": ("averaging", {"learner": "evolution"}),
    "clipped": ("averaging", {"rule": "clip", "epochs": 1, "batch_size": 0}),
}
Shards = Mapping[str, Rows]


def shards(task: Task, parts: int) -> Shards:
    return {f"trainer-{part}": task_rows(task.name, part, parts) for part in range(1, parts + 1)}


def strategy_of(case: str, task: Task | None = None, **parameters: Any) -> Strategy[Any]:
    """The strategy of an algorithm, or of one of the CASES."""
    name, chosen = CASES.get(case, (case, {}))
    return find_algorithm(name, task, {**chosen, **parameters})


def learned(
    task: Task,
    query: Query,
    arrays: Mapping[str, npt.NDArray[Any]],
    rows: Rows,
    generator: np.random.Generator | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, npt.NDArray[Any]]:
    """The answer of a trainer with these rows."""
    again, learner = decode_query(encode_query(query))
    check_down(again, task, arrays)
    generator = generator or np.random.default_rng(1)
    work = Assignment(task, arrays, task.fit(rows), partial(task.score, rows=task.fit(rows)), generator, cancelled)
    return learner.learn(again, work)


def trained(
    task: Task, plan: Plan, rows: Shards, name: str, number: int, *, seed: int = 1, staleness: int = 0
) -> Update:
    generator = derive_rng(seed, "trainer", name, number)
    arrays, bits = learned(task, plan.query, plan.arrays, rows[name], generator), 0
    if isinstance(plan.query, AdditiveQuery):
        bits = plan.query.fraction_bits
        arrays = quantize(arrays, bits)
    return Update(name, number, staleness, len(rows[name].inputs), arrays, bits)


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
    losses, correct = task.score(evaluation.parameters[None], together)
    assert losses[0] == pytest.approx(evaluation.loss, abs=1e-4)  # totals are of sums in units of 2**-16
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


def begun(strategy: Strategy[Any], task: Task, rows: Shards, seed: int = 1) -> Any:
    """The state with the first round of training open: after the survey, if the algorithm begins with one."""
    state = strategy.init(task, seed)
    while getattr(state, "stage", "training") == "survey":
        plan = strategy.ask(state)
        for name in rows:
            state = strategy.tell(state, trained(task, plan, rows, name, state.round, seed=seed))
        state = strategy.close(state, rows.keys())
    return state


def one_round(strategy: Strategy[Any], state: Any, task: Task, members: Collection[str] | None = None) -> Any:
    """The state after a round in which every trainer answers."""
    rows, plan, number = shards(task, 2), strategy.ask(state), state.round
    for name in rows:
        state = strategy.tell(state, trained(task, plan, rows, name, number))
    return strategy.close(state, rows.keys() if members is None else members)


def same_plan(first: Plan, second: Plan) -> bool:
    return first.query == second.query and all(
        first.arrays[name].tobytes() == second.arrays[name].tobytes() for name in first.arrays.keys() | second.arrays
    )


def task_for(strategy: Strategy[Any]) -> Task:
    return LINEAR if getattr(strategy.parameters, "learner", None) == "gradient" else XOR


def spoilt(update: Update, name: str, array: npt.NDArray[Any]) -> Update:
    return replace(update, arrays={**update.arrays, name: array})

"""A run with one trainer in this process: which questions an algorithm asks, and how many numbers an answer has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fedmq.algorithms.base import (
    AdditiveQuery,
    Assignment,
    Plan,
    Strategy,
    Update,
    check_down,
    encode_query,
    is_finished,
    without_preparation,
)
from fedmq.algorithms.registry import decode_query
from fedmq.protocol.fixed_point import to_units
from fedmq.runtime.rng import derive_rng
from fedmq.tasks.row_views import RowViews
from fedmq.tasks.task import Task

TRAINER = "here"


@dataclass
class Asked:
    """The questions of one kind in a run."""

    kind: str  # the tag of the query
    sends: str  # in words, what an answer has
    numbers: int = 0  # of the largest answer
    times: int = 0  # rounds


def questions(strategy: Strategy[Any], task: Task, views: RowViews, rounds: int, seed: int = 0) -> Mapping[str, Asked]:
    """Return the questions of the first `rounds` of a run whose only trainer has these rows, by kind.

    Raises:
        FedmqError: the run fails on these rows alone.
    """
    state, asked = strategy.init(task, seed), dict[str, Asked]()
    for number in range(1, rounds + 1):
        plan = strategy.ask(state)
        update = answer(plan, task, views, number, seed)
        kind = plan.query.kind
        one = asked.setdefault(str(kind), Asked(str(kind), plan.query.sends))
        one.times += 1
        one.numbers = max(one.numbers, sum(array.size for array in update.arrays.values()))
        state = strategy.close(strategy.tell(state, update), [TRAINER])
        if is_finished(strategy, state) and one.times > 1:
            break
    return asked


def answer(plan: Plan, task: Task, views: RowViews, number: int, seed: int, trainer: str = TRAINER) -> Update:
    """Return the answer of a trainer to a round, after the checks of a trainer.

    Raises:
        Rejected: the arrays do not fit the query or the task.
    """
    query, learner = decode_query(encode_query(plan.query))
    arrays, preparation = without_preparation(query, task, plan.arrays)
    check_down(query, task, arrays)
    rows = views.view(query.rows, preparation)
    draws = derive_rng(seed, "trainer", trainer, number)
    work = Assignment(task, arrays, rows, partial(task.score, rows=rows), draws, round=number)
    learned, bits = learner.learn(query, work), 0
    if isinstance(query, AdditiveQuery):
        bits = query.fraction_bits
        learned = {name: to_units(one, bits) if one.dtype == np.float64 else one for name, one in learned.items()}
    return Update(trainer, number, 0, len(rows.inputs), learned, bits)

"""Totals of a secure run in which a member sends garbage: rejected, or of use, and nothing else."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from splits import classification, regression

from fedmq.algorithms.base import AdditiveQuery, is_finished
from fedmq.algorithms.registry import find_algorithm
from fedmq.algorithms.staged import asking_once
from fedmq.algorithms.trial import answer
from fedmq.errors import Rejected, WorkError
from fedmq.models.trees import Trees
from fedmq.protocol.codec import pack
from fedmq.runs.records import StoredTotal, TotalHeader
from fedmq.secure_sums.question import answer_of
from fedmq.tasks.row_views import RowViews
from fedmq.tasks.task import Rows
from fedmq.tasks.task_file import find_task, task_rows

SIGNAL = np.random.default_rng(0).normal(size=(40, 3))
FORESTS = {
    "values": (regression(3, Trees(3, trees=3, depth=2)), SIGNAL[:, 0] + SIGNAL[:, 1] ** 2),  # type: ignore[arg-type]
    "classes": (classification(3, 2, Trees(3, 2, "softmax", trees=3, depth=2)), (SIGNAL[:, 0] > 0).astype(int)),  # type: ignore[arg-type]
}
CASES = [
    ("es", "xor"),
    ("evolution", "xor"),
    ("ridge", "linear"),
    ("newton", "linear"),
    ("statistics", "linear"),
    ("averaging", "linear"),
    ("boosting", "values"),
    ("boosting", "classes"),
]


@pytest.mark.parametrize(("algorithm", "name"), CASES)
def test_garbage_total_is_rejected_or_used_in_every_stage(algorithm: str, name: str) -> None:
    if name in FORESTS:
        task, targets = FORESTS[name]
        rows = Rows(SIGNAL, targets)
    else:
        parameters = {"evolution": {"additive": True}} if algorithm == "evolution" else {}
        task, rows = msgspec.structs.replace(find_task(name), parameters=parameters), task_rows(name, 1, 1)
    views, told = RowViews(task, rows), 0
    for seed in range(4):
        draw = np.random.default_rng(seed)
        strategy = asking_once(find_algorithm(algorithm, task))
        state, honest = strategy.init(task, seed), draw.integers(0, 6)
        for number in range(1, 8):
            plan = strategy.ask(state)
            try:
                update = answer(plan, task, views, number, seed)
            except WorkError:  # the model that garbage has made diverges at the trainers
                break
            bounds = answer_of(plan.query, task, plan.shapes)
            arrays = {one: update.arrays[one] for one in bounds}
            kind = draw.integers(0, 5)
            for one, bound in bounds.items() if number > honest else ():
                smallest = int(max(bound.smallest * update.num_examples, -(2**62)))
                largest = int(min(bound.largest * update.num_examples, 2**62))
                garbage = (
                    draw.integers(-(2**63), 2**63 - 1, bound.shape),
                    np.full(bound.shape, -(2**63)),
                    np.full(bound.shape, 2**63 - 1),
                    draw.integers(smallest, largest + 1, bound.shape),  # within its bounds
                    np.where(draw.random(bound.shape) < 0.5, smallest, largest),
                )
                if draw.random() < 0.7:
                    arrays[one] = garbage[kind]
            infos, blobs = pack(arrays)
            assert isinstance(plan.query, AdditiveQuery)
            header = TotalHeader(bytes(32), {"t0": update.num_examples}, update.fraction_bits, infos)
            members = ["t0"]
            try:
                state = strategy.tell(state, StoredTotal(number, header, list(blobs)).update)
                told += number > honest
            except Rejected:
                members = []
            state = strategy.close(state, members)
            strategy.evaluation(state)
            is_finished(strategy, state)
    assert told, "some garbage is within the bounds"

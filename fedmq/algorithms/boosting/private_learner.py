"""The trainer's half of the query `leaf-sums`."""

from typing import Any

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.base import Assignment, Learner
from fedmq.algorithms.boosting.private_query import FRACTION_BITS, LeafSums, random_trees, with_leaves
from fedmq.algorithms.boosting.query import forest_model
from fedmq.algorithms.statistics.query import num_classes
from fedmq.differential_privacy.clipping import clipped_rows
from fedmq.errors import WorkCancelled
from fedmq.exact.elementary import sigmoid, softmax
from fedmq.exact.integers import to_fixed
from fedmq.models.arrays import Floats
from fedmq.tasks.task import Rows, Task

NUMBER_BITS = 20  # of a gradient


def sum_leaves(query: LeafSums, work: Assignment) -> dict[str, npt.NDArray[Any]]:
    """Sum gradients and Hessians over the leaves of the newest tree of each score."""
    task, leaves = work.task, work.arrays["leaves"]
    model, columns = forest_model(task.model, query.kind), np.ascontiguousarray(work.rows.inputs.T)
    scores = np.zeros((model.scores, columns.shape[1]))
    for number, values in enumerate(leaves):
        if work.cancelled():
            raise WorkCancelled("the sums were cancelled: a newer round makes them needless")
        trees = random_trees(task, query.seed, number, query.depth)
        model.add_trees(scores, with_leaves(model, trees, values.reshape(model.scores, -1), query.depth), columns)
    slopes, hessians = _derivatives(query, task, np.nan_to_num(scores), work.rows)
    fixed = [
        clipped_rows(to_fixed(np.nan_to_num(one.T), FRACTION_BITS, NUMBER_BITS), limit).T
        for one, limit in zip((slopes, hessians), query.limits(task), strict=True)
    ]
    trees, size = random_trees(task, query.seed, len(leaves), query.depth), 1 << query.depth
    found = np.zeros((2, model.scores, size), np.int64)
    for score, numbers in enumerate(trees):
        places = model.places(model.unpack(numbers), columns, query.depth)
        for place, values in enumerate(fixed):
            found[place, score] = np.bincount(places, values[score], size).astype(np.int64)
    return {"gradients": found[0], "hessians": found[1]}


def _derivatives(query: LeafSums, task: Task, scores: Floats, rows: Rows) -> tuple[Floats, Floats]:
    """Return gradients and Hessians (scores, rows): see `boosting.learner`; values are standardized."""
    classes = num_classes(task)
    if classes == 2:
        shares = sigmoid(scores)
        return shares - (rows.targets == 1), shares * (1.0 - shares)
    if classes:
        shares, _ = softmax(scores)
        return shares - (np.arange(classes)[:, None] == rows.targets), shares * (1.0 - shares)
    targets = (rows.targets - query.center) / query.unit
    return scores - targets, np.ones_like(scores)


LEARNER = Learner(LeafSums, sum_leaves)

"""The query `tree-histograms`: the gradients of all rows, summed for each node, column and bin."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from fedmq.algorithms.base import AdditiveQuery, ArrayBounds, Demand, Shapes
from fedmq.algorithms.evaluation.exact_scores import ROW_LOSS_BITS
from fedmq.errors import BadConfiguration, Rejected
from fedmq.models.arrays import Floats
from fedmq.models.networks import Model
from fedmq.models.trees import DEPTH_MAX, EVERYTHING, NO_COLUMN, TREES_MAX, Trees
from fedmq.tasks.row_views import View
from fedmq.tasks.task import Task

FRACTION_BITS = 20  # of a row's gradient and Hessian
ROW_BITS = 30  # of both, so each counts up to ±2**10 units
HASH_BITS = 30  # of a row
BINS_MAX = 256  # of a column of numbers
CELLS_MAX = 1 << 22  # of all columns
SUMS_BYTES = 3 * 8  # of one cell of one node
BLOCK_VALUES = 1 << 20  # cells of rows that a learner looks up at once

Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]


class TreeHistograms(AdditiveQuery, frozen=True, tag="tree-histograms"):
    """Sum gradient, Hessian and number of rows for each node that is asked for, and for each cell of its histogram.

    The task's model is a forest. A row's gradient and Hessian are those of the loss at the scores of the forest: log
    loss, softmax, half the squared error in units of 2**unit, Poisson deviance. They are rounded to FRACTION_BITS
    before any sum.

    Down: `nodes` (n, 2) int64, a score and a place `level` levels below the root of its tree; `tree` (scores,
    tree_size), the trees under construction; `forest` (rounds, scores * tree_size); `start` (outputs,); `edges` and
    `edge_counts`, see `Bins`. A whole round has the forest of all `trees` rounds and the edges. Else the forest is the
    last round only, and without edges: it is for trainers that know the forest with the digest `before`, or `digest`.

    Up, all int64: `gradients`, `hessians` and `counts` (n, cells); `rows_hash` (1,), a sum that shows whether the same
    rows have answered; `behind` (1,), 1 of a trainer that does not know the forest, whose other sums are 0; `clipped`
    (1,), gradients or Hessians beyond their bound; `loss` and `correct` (1,) of the forest, see the query `score-rows`.
    """

    fraction_bits: int = FRACTION_BITS  # of the loss
    rows_max: Annotated[int, Meta(ge=1, le=2**53)] = 1 << 32
    cells: Annotated[int, Meta(ge=1, le=CELLS_MAX)] = 1
    level: Annotated[int, Meta(ge=0, lt=DEPTH_MAX)] = 0
    trees: Annotated[int, Meta(ge=0, le=TREES_MAX)] = 0
    digest: Digest = bytes(32)
    before: Digest = bytes(32)
    unit: Annotated[int, Meta(ge=-1000, le=1000)] = 0  # of gradients of values and counts, and of their loss

    rows: ClassVar[View] = "columns"
    sends: ClassVar[str] = "the summed gradients and the rows of each node of trees, by column and bin"

    @property
    def row_bits(self) -> int:
        return max(ROW_BITS, self.fraction_bits + ROW_LOSS_BITS)

    def arrays(self, task: Task) -> Mapping[str, ArrayBounds]:
        model = forest_model(task.model, "tree-histograms")
        size, last = (model.scores, model.tree_size), model.inputs - 1
        return {
            "nodes": ArrayBounds((-1, 2), np.int64, 0, max(model.scores, 1 << model.depth)),
            "tree": ArrayBounds(size, np.float64, -EVERYTHING, EVERYTHING),
            "forest": ArrayBounds((model.trees, math.prod(size)), np.float64, -EVERYTHING, EVERYTHING, model.trees),
            "start": ArrayBounds((model.outputs,)),
            "edges": ArrayBounds((-1,)),
            "edge_counts": ArrayBounds((last + 1,), np.int64, 0, BINS_MAX, last + 1),
        }

    def answer(self, task: Task, shapes: Shapes, num_examples: int) -> Mapping[str, ArrayBounds]:
        size, most = (shapes["nodes"][0], self.cells), num_examples << ROW_BITS
        scores = forest_model(task.model, "tree-histograms").scores
        return {
            "gradients": ArrayBounds(size, np.int64, -most, most),
            "hessians": ArrayBounds(size, np.int64, 0, most),
            "counts": ArrayBounds(size, np.int64, 0, num_examples),
            "rows_hash": ArrayBounds((1,), np.int64, 0, num_examples << HASH_BITS),
            "behind": ArrayBounds((1,), np.int64, 0, 0 if is_whole(shapes) else num_examples),
            "clipped": ArrayBounds((1,), np.int64, 0, scores * num_examples),
            "loss": ArrayBounds((1,), np.int64, 0, num_examples << self.fraction_bits + ROW_LOSS_BITS),
            "correct": ArrayBounds((1,), np.int64, 0, num_examples),
        }

    def evaluations(self, shapes: Shapes) -> int:
        """See `Query`: each cell of each node counts, and the score of the forest."""
        return 1 + shapes.get("nodes", (0,))[0] * self.cells

    def demand(self, task: Task, shapes: Shapes, num_examples: int) -> Demand:
        """See `Query`; a learner keeps the cells and the scores of its rows from round to round."""
        model = forest_model(task.model, "tree-histograms")
        nodes, forest = shapes["nodes"][0], shapes["forest"][0] * model.scores * model.tree_size
        kept = num_examples * (2 * model.inputs + 4 * model.scores)
        looked_at = num_examples * model.scores * (model.inputs + (1 + shapes["forest"][0]) * model.depth)
        return Demand(8 * (kept + forest + 4 * BLOCK_VALUES + 2 * 3 * nodes * self.cells), looked_at)

    def check(self, task: Task, shapes: Shapes) -> None:
        super().check(task, shapes)
        try:
            model = forest_model(task.model, "tree-histograms")
        except BadConfiguration as error:
            raise Rejected("values", str(error)) from error
        if self.level >= model.depth:
            raise Rejected("values", f"expected a level below {model.depth}, got {self.level}")
        if shapes["nodes"][0] > model.scores << self.level:
            raise Rejected("shape", f"expected at most {model.scores << self.level} nodes, got {shapes['nodes'][0]}")
        rounds = shapes["forest"][0]
        if shapes["edge_counts"][0] not in (0, model.inputs) or rounds != (
            self.trees if is_whole(shapes) else min(1, self.trees)
        ):
            raise Rejected("shape", f"expected the forest of {self.trees} trees or its last, got {rounds} of them")


def is_whole(shapes: Shapes) -> bool:
    """Return whether a round carries all that a new trainer needs."""
    return shapes["edge_counts"][0] > 0


def forest_model(model: Model, about: str) -> Trees:
    """Return the model if it is a forest.

    Raises:
        BadConfiguration: it has another form; `about` names what needs it.
    """
    if not isinstance(model, Trees):
        raise BadConfiguration(f"{about}: expected a forest as model, got {model}: use Trees(inputs, outputs)")
    return model


def empty_trees(model: Trees) -> Floats:
    """Return one round of trees without any split, (scores, tree_size)."""
    trees = np.zeros((model.scores, model.tree_size))
    trees[:, : model.nodes] = NO_COLUMN
    return trees

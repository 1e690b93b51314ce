"""The query `leaf-sums`: gradients summed over the leaves of trees whose splits are random, answered with noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from fedmq.algorithms.base import ArrayBounds, Demand, Shapes
from fedmq.algorithms.boosting.query import empty_trees, forest_model
from fedmq.algorithms.private.columns import bounds_of, schema_of
from fedmq.algorithms.private.query import PrivateQuery, Sensitivity, bits_of
from fedmq.algorithms.statistics.query import num_classes
from fedmq.errors import BadConfiguration, Rejected
from fedmq.exact.draws import words
from fedmq.models.arrays import Floats
from fedmq.models.trees import DEPTH_MAX, TREES_MAX, WORD_BITS, Trees
from fedmq.tables.schema import Column
from fedmq.tasks.row_views import View
from fedmq.tasks.task import Task

FRACTION_BITS = 14
VALUE_GRADIENT = 2.0  # the largest one of a standardized value: half the distance of its bounds
HESSIAN_OF_CLASSES = 0.385  # the longest vector of p (1 - p) over three and more classes: at three thirds
GRADIENT_SHARE = Fraction(4, 5)  # of rho
DRAWS = 3  # words for a node


class LeafSums(PrivateQuery, frozen=True, tag="leaf-sums", kw_only=True):
    """Sum gradients and Hessians of the loss over the leaves of one more random tree for each score.

    The splits follow from `seed`, the number of the tree and the bounds of the columns: see `random_trees`.
    Each row is in one leaf of a tree, so it adds its own gradients and Hessians, shortened, whatever the columns are.

    Down: `leaves` (trees, scores * 2**depth) float64, of the forest so far. Up, int64: `gradients` and `hessians`
    (scores, 2**depth).
    """

    rows: ClassVar[View] = "columns"
    sends: ClassVar[str] = "the summed gradients of the rows in each leaf of random trees, with noise"

    seed: Annotated[int, Meta(ge=0, le=2**53)]
    depth: Annotated[int, Meta(ge=1, le=DEPTH_MAX)]
    center: Annotated[float, Meta(ge=-1e300, le=1e300)] = 0.0
    unit: Annotated[float, Meta(gt=0.0, le=1e300)] = 1.0

    @property
    def row_bits(self) -> int:
        return bits_of(int(VALUE_GRADIENT) << FRACTION_BITS)

    def limits(self, task: Task) -> tuple[int, int]:
        """Return the length of a row's gradients and of its Hessians, in units of 2**-FRACTION_BITS."""
        classes = num_classes(task)
        if not classes:
            lengths = VALUE_GRADIENT, 1.0
        else:
            lengths = (1.0, 0.25) if classes == 2 else (math.sqrt(2.0), HESSIAN_OF_CLASSES)
        return int(lengths[0] * 2.0**FRACTION_BITS), int(lengths[1] * 2.0**FRACTION_BITS)

    def sensitivities(self, task: Task, _shapes: Shapes) -> Mapping[str, Sensitivity]:
        gradient, hessian = self.limits(task)
        return {
            "gradients": Sensitivity(gradient, GRADIENT_SHARE),
            "hessians": Sensitivity(hessian, 1 - GRADIENT_SHARE),
        }

    def arrays(self, task: Task) -> Mapping[str, ArrayBounds]:
        return {"leaves": ArrayBounds((-1, forest_model(task.model, self.kind).scores << self.depth))}

    def answer(self, task: Task, _shapes: Shapes, num_examples: int) -> Mapping[str, ArrayBounds]:
        size = forest_model(task.model, self.kind).scores, 1 << self.depth
        gradient, hessian = (one * num_examples for one in self.limits(task))
        return {
            "gradients": ArrayBounds(size, np.int64, -gradient, gradient),
            "hessians": ArrayBounds(size, np.int64, 0, hessian),
        }

    def evaluations(self, shapes: Shapes) -> int:
        """See `Query`: each leaf counts."""
        return max(1, (*shapes.get("leaves", ()), 1, 1)[1])

    def demand(self, task: Task, shapes: Shapes, num_examples: int) -> Demand:
        model, trees = forest_model(task.model, self.kind), shapes["leaves"][0] + 1
        return Demand(
            8 * (trees * model.scores * model.tree_size + 4 * num_examples * model.scores),
            num_examples * trees * model.scores * self.depth,
        )

    def check(self, task: Task, shapes: Shapes) -> None:
        super().check(task, shapes)
        try:
            model = forest_model(task.model, self.kind)
            schema_of(task)
        except BadConfiguration as error:
            raise Rejected("values", str(error)) from error
        if self.depth > model.depth or shapes["leaves"][0] > TREES_MAX:
            raise Rejected("values", f"expected trees of a depth of at most {model.depth}, got {self.depth}")


def random_trees(task: Task, seed: int, number: int, depth: int) -> Floats:
    """Return one round of trees (scores, tree_size) with random splits and leaves of 0.

    A node has a column drawn evenly, and a threshold drawn evenly between the bounds that the nodes above leave it; of
    a category, a random set. Missing values go to a random side. No row takes part: Maddock et al. 2022, "Federated
    boosted decision trees with differential privacy" (CCS), find that better than splits that cost privacy.
    """
    model, schema = forest_model(task.model, "leaf-sums"), schema_of(task)
    trees = empty_trees(model)
    for score, numbers in enumerate(trees):
        drawn = words(DRAWS * ((1 << depth) - 1), seed, "boosting", "tree", number, score).reshape(-1, DRAWS)
        tree = model.unpack(numbers)
        left = {0: {place: bounds_of(column) for place, column in enumerate(schema.columns)}}
        for node, (choice, part, side) in enumerate(drawn.tolist()):
            place, bounds = choice % len(schema.columns), left.pop(node)
            column, (low, high) = schema.columns[place], bounds[choice % len(schema.columns)]
            tree.columns[node], tree.missing[node] = place, float(side & 1)
            threshold = low + (high - low) * (part * 2.0**-64)
            if column.kind == "category":
                tree.rules[node] = _random_set(model, column, seed, number, score, node)
            else:
                tree.rules[node, 0] = threshold
            left[2 * node + 1] = {**bounds, place: (low, threshold)}
            left[2 * node + 2] = {**bounds, place: (threshold, high)}
    return trees


def with_leaves(model: Trees, trees: Floats, leaves: Floats, depth: int) -> Floats:
    """Return trees (scores, tree_size) with the leaves (scores, 2**depth)."""
    result = trees.copy()
    for numbers, values in zip(result, leaves, strict=True):
        model.unpack(numbers).leaves[:] = np.repeat(values, 1 << model.depth - depth)
    return result


def _random_set(model: Trees, column: Column, seed: int, number: int, score: int, node: int) -> Floats:
    """Return the words of a random set of a column's categories."""
    drawn = words(len(column.categories), seed, "boosting", "set", number, score, node) & np.uint64(1)
    rule = np.zeros(model.words)
    for category in np.flatnonzero(drawn):
        rule[category // WORD_BITS] += float(1 << category % WORD_BITS)
    return rule

"""Forests of gradient-boosted trees as flat parameter vectors; the algorithm `boosting` trains them.

Each tree is complete: depth 6 has 63 nodes and 64 leaves, whether they are used or not, so a forest has a fixed number
of parameters, as any other model. A row's outputs come from comparisons, table look-ups and additions in the order of
the trees, so they are the same bits on every machine.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec
import numpy as np

from fedmq.errors import BadConfiguration
from fedmq.exact.elementary import exp
from fedmq.models.arrays import Floating, Floats, Integers

DEPTH_MAX = 12
TREES_MAX = 10_000
COLUMNS_MAX = 65_536
CLASSES_MAX = 1_000
CATEGORIES_MAX = 1_000  # of one column
NUMBERS_MAX = 10_000_000
WORD_BITS = 32  # of the set of categories that go to the left, in each number that holds a part of it
NO_COLUMN = -1.0  # of a node that is not split: all leaves below it are equal
EVERYTHING = float(np.finfo(np.float64).max)  # a threshold that every number is below


class Tree(NamedTuple):
    """One tree, as views of its parameters.

    Node i has the children 2 i + 1 (left) and 2 i + 2. A row goes to the left if its column is below the threshold
    rules[i, 0]; of a category column, if bit c of the words rules[i] is set, for the category c; if the value is
    missing, where missing[i] is 1.
    """

    columns: Floats  # (2**depth - 1,), NO_COLUMN for a node that is not split
    missing: Floats  # (2**depth - 1,), 1: missing values go to the left
    rules: Floats  # (2**depth - 1, words)
    leaves: Floats  # (2**depth,), added to the output


class Trees(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="trees"):
    """A forest of at most `trees` rounds of boosting; NaN is a missing value.

    Softmax with two outputs has one tree a round, for the second class; with more outputs one for each. With `counts`
    the output is exp of the sum. `categories` (inputs,) has the number of categories of each column, whose values are
    0, 1, ...; 0: the column holds numbers; empty: all do.

    The parameters are those of the trees, round after round (`unpack`), then the start of each output, which no tree
    is part of. Parameters of 0 are trees that add 0.

    Raises:
        BadConfiguration: sizes out of bounds; also while decoding.
    """

    inputs: int
    outputs: int = 1
    output: Literal["softmax", "identity"] = "identity"
    trees: int = 100
    depth: int = 6
    counts: bool = False
    categories: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        least, most = (2, CLASSES_MAX) if self.output == "softmax" else (1, 1)
        for field, value, smallest, largest in (
            ("inputs", self.inputs, 1, COLUMNS_MAX),
            ("outputs", self.outputs, least, most),
            ("trees", self.trees, 1, TREES_MAX),
            ("depth", self.depth, 1, DEPTH_MAX),
            *(("categories", one, 0, CATEGORIES_MAX) for one in self.categories),
        ):
            if type(value) is not int or not smallest <= value <= largest:
                raise BadConfiguration(f"{field}: expected an integer from {smallest} to {largest}, got {value!r}")
        if self.output not in ("softmax", "identity"):
            raise BadConfiguration(f"output: expected softmax or identity, got {self.output!r}")
        if self.counts and self.output == "softmax":
            raise BadConfiguration("counts: expected classes or counts, got both: use the output identity")
        if len(self.categories) not in (0, self.inputs):
            raise BadConfiguration(f"categories: expected {self.inputs} numbers, got {len(self.categories)}")
        if (count := self.num_parameters) > NUMBERS_MAX:
            raise BadConfiguration(f"expected at most {NUMBERS_MAX} parameters, got {count}: lower trees or depth")

    @property
    def scores(self) -> int:
        """The number of trees in a round of boosting: sums that the outputs are made of."""
        return 1 if self.outputs <= 2 else self.outputs

    @property
    def nodes(self) -> int:
        """The number of nodes of a tree that may be split."""
        return (1 << self.depth) - 1

    @property
    def words(self) -> int:
        """The numbers in the rule of a node."""
        return max(1, -(-max(self.categories, default=0) // WORD_BITS))

    @property
    def tree_size(self) -> int:
        """The number of parameters of one tree."""
        return self.nodes * (2 + self.words) + self.nodes + 1

    @property
    def num_parameters(self) -> int:
        return self.trees * self.scores * self.tree_size + self.outputs

    @property
    def widest(self) -> int:
        return max(self.outputs, self.inputs)

    def unpack(self, numbers: Floats) -> Tree:
        """Return the tree in (tree_size,) numbers."""
        nodes, words = self.nodes, self.words
        columns, missing, rules, leaves = np.split(numbers, [nodes, 2 * nodes, (2 + words) * nodes])
        return Tree(columns, missing, rules.reshape(nodes, words), leaves)

    def split_parameters(self, parameters: Floats) -> tuple[Floats, Floats]:
        """Return the trees (trees, scores, tree_size) and the start (outputs,) of parameters, as views."""
        forest = parameters[: -self.outputs].reshape(self.trees, self.scores, self.tree_size)
        return forest, parameters[-self.outputs :]

    def places(self, tree: Tree, columns: Floats, depth: int | None = None) -> Integers:
        """Return where each row of `columns` (inputs, rows) stands `depth` levels below the root, (rows,).

        Places count from the left. Without `depth` they are those of the leaves.
        """
        rows = np.arange(columns.shape[1])
        place = np.zeros(len(rows), np.int64)
        for level in range(self.depth if depth is None else depth):
            first, last = (1 << level) - 1, (2 << level) - 1
            if (tree.columns[first:last] == NO_COLUMN).all():  # the usual end of a small tree
                place *= 2
                continue
            node = place + first
            column = np.clip(tree.columns[node], -1, self.inputs - 1).astype(np.int64)
            values = columns[column, rows]
            left = values < tree.rules[node, 0]
            if self.categories:
                self._put_categories(left, tree, node, column, values)
            absent = np.isnan(values)
            left[absent] = tree.missing[node[absent]] != 0.0
            place *= 2
            place += ~left
        return place

    def add_trees(self, scores: Floats, trees: Floats, columns: Floats) -> None:
        """Add one round of trees (scores, tree_size) to the scores (scores, rows) of `columns` (inputs, rows)."""
        for score, numbers in zip(scores, trees, strict=True):
            tree = self.unpack(numbers)
            score += tree.leaves[self.places(tree, columns)]

    def outputs_of(self, scores: Floats, start: Floats, offsets: Floats | None = None) -> Floats:
        """Return the outputs (outputs, rows) of scores (scores, rows), the start (outputs,) and offsets (rows,).

        Offsets are added to the last output.
        """
        outputs = np.zeros((self.outputs, scores.shape[1]))
        outputs[-len(scores) :] = scores
        outputs += start[:, None]
        if offsets is not None:
            outputs[-1] += offsets
        return exp(outputs) if self.counts else outputs

    def exact_outputs(self, parameters: Floats, columns: Floats, offsets: Floats | None = None) -> Floats:
        """Return the outputs (outputs, rows) of parameters (num_parameters,) for `columns` (inputs, rows)."""
        forest, start = self.split_parameters(parameters)
        scores = np.zeros((self.scores, columns.shape[1]))
        for trees in forest:
            if trees.any():
                self.add_trees(scores, trees, columns)
        return self.outputs_of(scores, start, offsets)

    def forward(self, population: Floating, inputs: Floating) -> Floating:
        """Return the outputs before softmax, (population, rows, outputs); shapes and errors as in `MLP.forward`."""
        if population.ndim != 2 or population.shape[1] != self.num_parameters:
            raise ValueError(f"expected a population of candidates for {self}, got {population.shape}")
        columns = np.ascontiguousarray(np.asarray(inputs, np.float64).T)
        outputs = np.empty((len(population), len(inputs), self.outputs), population.dtype)
        for place, candidate in enumerate(population):
            outputs[place] = self.exact_outputs(np.asarray(candidate, np.float64), columns).T
        return outputs

    def _put_categories(self, left: np.ndarray, tree: Tree, node: Integers, column: Integers, values: Floats) -> None:
        """Put into `left` what the sets of categories say, for the rows whose node looks at a category column."""
        counts = np.array(self.categories)[column]
        chosen = np.flatnonzero((counts > 0) & ~np.isnan(values))
        codes = np.clip(values[chosen], 0, counts[chosen] - 1).astype(np.int64)
        words = tree.rules[node[chosen], codes // WORD_BITS].astype(np.int64)
        left[chosen] = (words >> codes % WORD_BITS) & 1

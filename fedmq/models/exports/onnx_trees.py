"""A forest as the attributes of ONNX's TreeEnsembleRegressor.

A node compares a number with a threshold. A node that looks at a category compares a column that is 0 for the
categories that go to the left and 1 for the others, missing ones among them.

The operator adds leaves up in float32. So each leaf is two: a multiple of a step so large that all sums of such
multiples are exact in float32, and the small rest. Their sum in float64 has about 45 bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fedmq.models.arrays import Floats
from fedmq.models.trees import NO_COLUMN, WORD_BITS, Tree, Trees

EXACT_BITS = 23  # of the sums in float32
BETWEEN = 0.5  # the threshold of columns of zeros and ones
RightSide = tuple[float, ...]  # 1 for each category that goes to the right, and last for a missing one


class TreeNode(NamedTuple):
    """A node of a tree: a leaf without a column; else with its children, and whether missing goes to the left."""

    number: int
    column: int = -1
    right_side: RightSide = ()  # of a category column
    threshold: float = 0.0
    left: int = 0
    right: int = 0
    missing_left: bool = False
    leaf: float = 0.0


class Ensemble(NamedTuple):
    """The attributes of the operator but for the arrays of float64, and the sets of categories by column."""

    attributes: dict[str, list[Any]]
    thresholds: Floats
    weights: Floats  # the operator's targets are the large parts of all scores, then the small ones
    sets: dict[int, Floats]  # (categories + 1, sets) by column: columns behind those of numbers, in this order


def ensemble(model: Trees, parameters: Floats, numbers: list[int]) -> Ensemble:
    """Return a forest for an input with the columns `numbers`, in this order, and then those of the sets."""
    forest, _ = model.split_parameters(parameters)
    trees = [model.unpack(one) for trees in forest if trees.any() for one in trees]
    nodes = [list(_nodes(model, tree)) for tree in trees] or [[TreeNode(0)]] * model.scores
    sides = dict.fromkeys((node.column, node.right_side) for tree in nodes for node in tree if node.right_side)
    ordered = sorted(sides)  # by column
    places = {side: len(numbers) + place for place, side in enumerate(ordered)}

    def feature(node: TreeNode) -> int:
        if node.right_side:
            return places[node.column, node.right_side]
        return numbers.index(node.column) if node.column >= 0 else 0

    bound = sum(np.abs(tree.leaves).max() for tree in trees) or 1.0
    step = 2.0 ** (math.frexp(bound)[1] - EXACT_BITS)
    all_nodes = [(tree, node) for tree, its_nodes in enumerate(nodes) for node in its_nodes]
    leaves = [(tree, node.number, node.leaf) for tree, node in all_nodes if node.column < 0]
    large = np.rint(np.array([leaf for _, _, leaf in leaves]) / step) * step
    attributes: dict[str, list[Any]] = {
        "nodes_treeids": [tree for tree, _ in all_nodes],
        "nodes_nodeids": [node.number for _, node in all_nodes],
        "nodes_featureids": [feature(node) for _, node in all_nodes],
        "nodes_modes": ["LEAF" if node.column < 0 else "BRANCH_LT" for _, node in all_nodes],
        "nodes_truenodeids": [node.left for _, node in all_nodes],
        "nodes_falsenodeids": [node.right for _, node in all_nodes],
        "nodes_missing_value_tracks_true": [int(node.missing_left) for _, node in all_nodes],
        "target_treeids": [tree for tree, _, _ in leaves] * 2,
        "target_nodeids": [number for _, number, _ in leaves] * 2,
        "target_ids": [tree % model.scores + part for part in (0, model.scores) for tree, _, _ in leaves],
    }
    return Ensemble(
        attributes,
        np.array([node.threshold for _, node in all_nodes]),
        np.concatenate([large, np.array([leaf for _, _, leaf in leaves]) - large]),
        {column: np.array([side for one, side in ordered if one == column]).T for column, _ in ordered},
    )


def _nodes(model: Trees, tree: Tree) -> Iterator[TreeNode]:
    """Yield the nodes of a tree, without those below one that is not split, numbered from 0."""
    waiting, count = [(0, 0)], 1  # the place in the complete tree, and the number
    while waiting:
        place, number = waiting.pop()
        if place >= model.nodes or tree.columns[place] == NO_COLUMN:
            while place < model.nodes:  # all leaves below it are equal
                place = 2 * place + 1
            yield TreeNode(number, leaf=float(tree.leaves[place - model.nodes]))
            continue
        waiting += [(2 * place + 2, count + 1), (2 * place + 1, count)]
        column, missing = int(tree.columns[place]), bool(tree.missing[place])
        categories = model.categories[column] if model.categories else 0
        if categories:
            side = _right_side(tree.rules[place], categories, missing)
            yield TreeNode(number, column, side, BETWEEN, count, count + 1)
        else:
            yield TreeNode(number, column, (), float(tree.rules[place, 0]), count, count + 1, missing)
        count += 2


def _right_side(rule: Floats, categories: int, missing: bool) -> RightSide:
    words = [int(word) for word in rule]
    left = [words[code // WORD_BITS] >> code % WORD_BITS & 1 for code in range(categories)]
    return tuple(1.0 - one for one in (*left, int(missing)))

"""Gradient boosting of trees by sums of histograms.

Friedman (2001), "Greedy function approximation: a gradient boosting machine", with the regularized gain of Chen and
Guestrin (2016). Each round asks for the histograms of one level of the trees: the gradients of all rows, summed for
each node, column and bin. The best splits follow from the totals alone, so the forest is the same bits for any split
of the rows over trainers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from fedmq.algorithms.base import Evaluation, Plan, Total
from fedmq.algorithms.boosting.bins import Bins, next_digest, quantile_edges, refined_edges
from fedmq.algorithms.boosting.query import (
    BINS_MAX,
    SUMS_BYTES,
    TreeHistograms,
    empty_trees,
    forest_model,
)
from fedmq.algorithms.boosting.splits import COUNT, GAIN_MIN, Growth, Splits, find_splits
from fedmq.algorithms.evaluation.row_scores import evaluation_of_rows, loss_unit
from fedmq.algorithms.findings import Findings, Importance, input_names
from fedmq.algorithms.statistics.columns import ColumnMoments
from fedmq.algorithms.statistics.constant_model import constant_outputs
from fedmq.algorithms.statistics.query import Histograms
from fedmq.algorithms.statistics.survey import Survey
from fedmq.errors import BadConfiguration
from fedmq.models.arrays import Floats, Integers
from fedmq.models.trained_model import TrainedModel
from fedmq.models.trees import NO_COLUMN, TREES_MAX, Trees
from fedmq.protocol.codec import FRAME_BYTES_MAX
from fedmq.tasks.task import Task

FINE_BUCKETS = 512  # of each column's counts that the bins are made of
FINE_ROUNDS = 2
HELD_OUT_EVERY = 30  # rounds: the trees of about five of them


class BoostingParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters of `boosting`."""

    learning_rate: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.1  # share of each tree that is added
    bins: Annotated[int, Meta(ge=2, le=BINS_MAX)] = 64  # of each column of numbers
    penalty: Annotated[float, Meta(ge=0.0)] = 0.0  # half of it times each squared leaf is added to the loss
    min_rows: Annotated[int, Meta(ge=1, le=1 << 32)] = 20  # of a leaf
    patience: Annotated[int, Meta(ge=0, le=TREES_MAX)] = 20  # trees without a lower loss on held-out rows; 0: no end


@dataclass(frozen=True, eq=False)
class Level:
    """The nodes of one level of the trees under construction, and what is known of them."""

    level: int
    nodes: Integers  # (asked, 2): a score and a place below the root, whose histograms are asked for
    siblings: Integers  # (asked,): the place of the sibling whose histograms are the parent's less these; -1: none
    parents: Integers  # (asked, 3, cells): histograms of the parents; empty if there are no siblings
    rows_hash: int = 0  # of the rows that the parents are of

    @classmethod
    def root(cls, scores: int) -> Level:
        """Return the level of the roots."""
        nodes = np.stack([np.arange(scores), np.zeros(scores, np.int64)], axis=1)
        return cls(0, nodes, np.full(scores, -1), np.empty((0, 3, 0), np.int64))

    def direct(self) -> Level:
        """Return the level with all nodes asked for, none of them to be subtracted."""
        with_sibling = self.siblings >= 0
        others = np.stack([self.nodes[with_sibling, 0], self.siblings[with_sibling]], axis=1)
        nodes = np.concatenate([self.nodes, others])
        return Level(self.level, nodes, np.full(len(nodes), -1), np.empty((0, 3, 0), np.int64))


class Forest(NamedTuple):
    """What `boosting` found: the forest so far.

    `gains` (columns,) is the share of each column in the gain of all splits: its importance.
    """

    trees: int  # rounds of boosting
    gains: Floats
    losses: tuple[float, ...]  # the mean loss after each round, of the rows that answered
    clipped: int  # gradients and Hessians beyond their bound, in the newest round
    digest: bytes


@dataclass(frozen=True, eq=False)
class Growing:
    """The forest so far, and the trees under construction."""

    bins: Bins
    unit: int  # see `TreeHistograms.unit`
    parameters: Floats  # (num_parameters,) of the model; those of trees to come are 0
    trees: int  # complete rounds of boosting
    before: bytes  # digest of the forest without its last trees
    digest: bytes
    tree: Floats  # (scores, tree_size), under construction
    level: Level | None  # None: the forest is complete
    gains: Floats  # (columns,)
    whole: bool = True  # the round carries all that a trainer needs
    losses: tuple[float, ...] = ()
    clipped: int = 0
    scored: bool = False  # the complete forest has been scored
    asked_again: bool = False  # the open round repeats the last one, because a trainer had not all that it needs


@dataclass(frozen=True, eq=False)
class Scored:
    """A forest that has been scored: the first so many trees."""

    trees: int
    digest: bytes
    gains: Floats  # (columns,)
    loss: float = math.inf  # a row that is held out


@dataclass(frozen=True, eq=False)
class BoostingState:
    """The state while a round is open."""

    task: Task
    moments: ColumnMoments  # of the columns, and of the target if it is a value
    fine: Floats  # (columns, FINE_BUCKETS + 1), the bounds of the fine counts
    refined: int = 0  # rounds of fine counts so far
    growing: Growing | None = None  # None: the fine counts are not known yet
    evaluation: Evaluation | None = None
    scored: Scored | None = None  # the forest of the evaluation
    best: Scored | None = None  # on held-out rows
    earlier: Floats | None = None  # trees (trees, scores, tree_size) that the forest goes on from
    earlier_start: Floats | None = None  # (outputs,), of their forest


class Boosting:
    """The strategy of `boosting`: see `fedmq.algorithms.base.AdditiveAlgorithm`.

    It asks for fine counts of the columns, then for the histograms of one level after the other. If other rows answer
    than those of the level above, it asks for the level again, without subtraction.
    """

    name = "boosting"
    needs_survey = True
    survey_buckets = FINE_BUCKETS
    held_out_every = HELD_OUT_EVERY
    uses = ("weight", "offset")
    Parameters = BoostingParameters

    def __init__(self, parameters: BoostingParameters) -> None:
        self.parameters = parameters

    def init(self, task: Task, _seed: int, survey: Survey) -> BoostingState:
        model = forest_model(task.model, "algorithm boosting")
        if (needed := 8 * model.num_parameters) > FRAME_BYTES_MAX // 2:
            raise BadConfiguration(
                f"algorithm boosting: expected a forest of at most {FRAME_BYTES_MAX >> 21} MiB, got {needed >> 20} MiB"
                ": lower trees or depth of the model"
            )
        bounds = np.concatenate([survey.lower, survey.upper[:, -1:]], axis=1)
        coded = () if task.schema is None else task.schema.columns
        wanted = tuple(len(one.categories) if one.kind == "category" else 0 for one in coded)
        if any(wanted) and model.categories != wanted:
            raise BadConfiguration(
                f"algorithm boosting: expected a model with categories={wanted} for the schema, got {model.categories}"
            )
        return BoostingState(task, survey.features, _finer(task, bounds, survey.histograms))

    def starting_at(self, state: BoostingState, trained: TrainedModel) -> BoostingState:
        """Return the state of round 1 that goes on with the forest of an earlier model.

        Raises:
            BadConfiguration: the forest has no room for another tree.
        """
        model = forest_model(state.task.model, "algorithm boosting")
        forest, start = forest_model(trained.model, "algorithm boosting").split_parameters(trained.parameters)
        earlier = forest[: int(np.count_nonzero(forest.any(axis=(1, 2))))]
        if len(earlier) >= model.trees:
            raise BadConfiguration(
                f"--from: expected a forest of fewer than {model.trees} rounds of trees, got {len(earlier)}: give the "
                "model of the task more trees"
            )
        return replace(state, earlier=earlier, earlier_start=start)

    def ask(self, state: BoostingState) -> Plan:
        """Ask for fine counts, then for histograms; of a complete forest for its score only."""
        if state.growing is None:
            return Plan(Histograms(), {"edges": state.fine[:, 1:-1]})
        return _plan(state.task, state.growing)

    def close(self, state: BoostingState, total: Total | None, _late: Mapping[int, Total]) -> BoostingState:
        if total is None:
            return state
        if state.growing is None:
            return self._with_counts(state, total.arrays["histograms"])
        return self._closed(state, state.growing, total)

    def evaluation(self, state: BoostingState) -> Evaluation | None:
        """Return the forest of all complete trees, once it is scored."""
        return state.evaluation

    def measured(self, state: BoostingState, evaluation: Evaluation) -> BoostingState:
        """Return the state after a forest has been measured on held-out rows: it is cut back to its best trees."""
        growing, scored, score = state.growing, state.scored, evaluation.score
        if growing is None or scored is None or score.of != "held-out":
            return state
        best, loss = state.best, score.loss / score.rows
        if best is None or loss < best.loss:
            best = replace(scored, loss=loss)
        patience = self.parameters.patience
        over = growing.scored or 0 < patience <= scored.trees - best.trees
        if over and best.trees < growing.trees:
            growing = _cut(forest_model(state.task.model, "algorithm boosting"), growing, best)
        return replace(state, growing=growing, best=best)

    def result(self, state: BoostingState) -> Forest | None:
        """Return what was found; None before the first tree."""
        growing = state.growing
        if growing is None or not growing.trees:
            return None
        gains = growing.gains / max(float(growing.gains.sum()), 1e-300)
        return Forest(growing.trees, gains, growing.losses, growing.clipped, growing.digest)

    def findings(self, state: BoostingState) -> Findings:
        """Return the importance of each column, and the size of the forest."""
        found = self.result(state)
        if found is None:
            return Findings()
        names = input_names(state.task)
        importances = tuple(
            Importance(name=name, gain=gain) for name, gain in zip(names, found.gains.tolist(), strict=True)
        )
        return Findings(importances=importances, figures={"trees": found.trees, "clipped": found.clipped})

    def finished(self, state: BoostingState) -> bool:
        """Return whether the complete forest has been scored."""
        return state.growing is not None and state.growing.scored

    def asked_again(self, state: BoostingState) -> bool:
        """Return whether the open round repeats the last one, as after a restart of a trainer."""
        return state.growing is not None and state.growing.asked_again

    def _with_counts(self, state: BoostingState, counts: Integers) -> BoostingState:
        """Refine the fine counts, and then make bins of them."""
        if state.refined + 1 < FINE_ROUNDS:
            return replace(state, fine=_finer(state.task, state.fine, counts), refined=state.refined + 1)
        model, moments = forest_model(state.task.model, "algorithm boosting"), state.moments
        quantiles = quantile_edges(state.fine[: model.inputs, 1:-1], counts[: model.inputs], self.parameters.bins)
        bins = Bins.of(model, quantiles)
        parameters, start = np.zeros(model.num_parameters), constant_outputs(state.task, moments)
        earlier = np.empty((0, model.scores, model.tree_size))
        if state.earlier is not None and state.earlier_start is not None:
            earlier, start = state.earlier, state.earlier_start
        parameters[-model.outputs :] = start
        model.split_parameters(parameters)[0][: len(earlier)] = earlier
        before = digest = bins.digest(model, start)
        for trees in earlier:
            before, digest = digest, next_digest(digest, trees)
        growing = Growing(
            bins=bins,
            unit=_unit(state.task, model, moments),
            parameters=parameters,
            trees=len(earlier),
            before=before,
            digest=digest,
            tree=empty_trees(model),
            level=Level.root(model.scores),
            gains=np.zeros(model.inputs),
        )
        return replace(state, growing=growing)

    def _closed(self, state: BoostingState, growing: Growing, total: Total) -> BoostingState:
        """Return the state after an answer to `tree-histograms`."""
        if total.arrays["behind"][0]:
            return replace(state, growing=replace(growing, whole=True, asked_again=True))
        query = _plan(state.task, growing).query
        assert isinstance(query, TreeHistograms)
        evaluation = evaluation_of_rows(growing.parameters, total, 2 * query.unit - query.fraction_bits)
        scored = state.scored
        if scored is None or scored.digest != growing.digest:
            scored = Scored(growing.trees, growing.digest, growing.gains)
        growing = replace(growing, whole=False, asked_again=False, clipped=int(total.arrays["clipped"][0]))
        level, model = growing.level, forest_model(state.task.model, "algorithm boosting")
        if level is None:
            growing = replace(growing, scored=True)
        elif len(level.parents) and int(total.arrays["rows_hash"][0]) != level.rows_hash:
            growing = replace(growing, level=_within_frame(level.direct(), growing.bins))
        else:
            growing = self._grown(model, growing, level, total, evaluation)
        return replace(state, growing=growing, evaluation=evaluation, scored=scored)

    def _grown(self, model: Trees, growing: Growing, level: Level, total: Total, evaluation: Evaluation) -> Growing:
        """Split the nodes of a level; begin the next level or the next trees."""
        nodes, histograms = _histograms(level, total)
        growth = Growth(
            self.parameters.penalty, self.parameters.min_rows, growing.unit, growing.unit if model.counts else 0
        )
        splits = find_splits(histograms, growing.bins, growth, model.words)
        tree, gains = growing.tree.copy(), growing.gains.copy()
        pairs = self._split(model, growth, level.level, tree, gains, nodes, splits)
        growing = replace(growing, tree=tree, gains=gains)
        if level.level + 1 < model.depth and pairs:
            below = _next_level(level.level + 1, pairs, nodes, histograms, int(total.arrays["rows_hash"][0]))
            return replace(growing, level=_within_frame(below, growing.bins))
        if (tree[:, 0] == NO_COLUMN).all():  # no root has a split: more trees would be the same
            return replace(growing, level=None, scored=True)
        parameters, trees = growing.parameters.copy(), growing.trees + 1
        model.split_parameters(parameters)[0][growing.trees] = tree
        return replace(
            growing,
            parameters=parameters,
            trees=trees,
            before=growing.digest,
            digest=next_digest(growing.digest, tree),
            tree=empty_trees(model),
            level=Level.root(model.scores) if trees < model.trees else None,
            losses=(*growing.losses, evaluation.loss / total.num_examples),
        )

    def _split(
        self,
        model: Trees,
        growth: Growth,
        level: int,
        tree: Floats,
        gains: Floats,
        nodes: Integers,
        splits: Splits,
    ) -> list[tuple[int, int, int]]:
        """Write the splits into the trees, and their gains; return the pairs of children that can be split again.

        A pair is the index of the parent in `nodes`, and the places of its smaller and of its larger child.
        """
        pairs = []
        for index in np.flatnonzero(splits.gains > GAIN_MIN):
            score, place = (int(one) for one in nodes[index])
            one, node = model.unpack(tree[score]), (1 << level) - 1 + place
            one.columns[node], one.missing[node] = splits.columns[index], splits.missing[index]
            one.rules[node] = splits.rules[index]
            gains[splits.columns[index]] += splits.gains[index]
            sides = (splits.left[index], splits.total[index] - splits.left[index])
            width = 1 << (model.depth - level - 1)  # leaves below a child
            for side, sums in enumerate(sides):
                child = 2 * place + side
                one.leaves[child * width : (child + 1) * width] = growth.leaf(sums) * self.parameters.learning_rate
            larger = int(sides[1][COUNT] > sides[0][COUNT])
            if sides[larger][COUNT] >= 2 * self.parameters.min_rows:
                pairs.append((int(index), 2 * place + 1 - larger, 2 * place + larger))
        return pairs


def _finer(task: Task, bounds: Floats, counts: Integers) -> Floats:
    """Return bounds of fine counts (columns, FINE_BUCKETS + 1), dense where columns have values."""
    edges = refined_edges(bounds, counts, FINE_BUCKETS - 1)
    finer = np.concatenate([bounds[:, :1], edges, np.maximum(bounds[:, -1:], edges[:, -1:])], axis=1)
    for place, column in enumerate(() if task.schema is None else task.schema.columns):
        if column.kind in ("ordinal", "boolean"):  # a survey counts codes
            finer[place] = np.arange(FINE_BUCKETS + 1) - 0.5
    return finer


def _cut(model: Trees, growing: Growing, best: Scored) -> Growing:
    """Return the complete forest of the best trees, which is still to be scored."""
    parameters = growing.parameters.copy()
    model.split_parameters(parameters)[0][best.trees :] = 0.0
    return replace(
        growing,
        parameters=parameters,
        trees=best.trees,
        before=best.digest,
        digest=best.digest,
        tree=empty_trees(model),
        level=None,
        gains=best.gains,
        whole=True,
        losses=growing.losses[: len(growing.losses) - (growing.trees - best.trees)],
        scored=False,
    )


def _plan(task: Task, growing: Growing) -> Plan:
    """Return the question for the level, or for the score of a complete forest."""
    model, level, bins = forest_model(task.model, "algorithm boosting"), growing.level, growing.bins
    trees, start = model.split_parameters(growing.parameters)
    query = TreeHistograms(
        cells=int(bins.cells.sum()),
        level=0 if level is None else level.level,
        trees=growing.trees,
        before=growing.before,
        digest=growing.digest,
        unit=growing.unit,
    )
    first = 0 if growing.whole else max(0, growing.trees - 1)
    return Plan(
        query,
        {
            "nodes": np.empty((0, 2), np.int64) if level is None else level.nodes,
            "tree": growing.tree,
            "forest": trees[first : growing.trees].reshape(-1, model.scores * model.tree_size),
            "start": start,
            "edges": bins.edges if growing.whole else bins.edges[:0],
            "edge_counts": bins.edge_counts if growing.whole else bins.edge_counts[:0],
        },
    )


def _histograms(level: Level, total: Total) -> tuple[Integers, Integers]:
    """Return all nodes of a level, (nodes, 2), and their histograms, (nodes, 3, cells)."""
    asked = np.stack([total.arrays[name] for name in ("gradients", "hessians", "counts")], axis=1)
    with_sibling = np.flatnonzero(level.siblings >= 0)
    if not len(with_sibling):
        return level.nodes, asked
    others = np.stack([level.nodes[with_sibling, 0], level.siblings[with_sibling]], axis=1)
    nodes = np.concatenate([level.nodes, others])
    histograms = np.concatenate([asked, level.parents[with_sibling] - asked[with_sibling]])
    return nodes, histograms


def _next_level(
    level: int, pairs: list[tuple[int, int, int]], nodes: Integers, histograms: Integers, rows_hash: int
) -> Level:
    """Return the next level: the smaller child of each pair is asked for, the larger one follows."""
    ordered = sorted(pairs, key=lambda pair: (nodes[pair[0], 0], pair[1]))
    parents = np.array([parent for parent, _, _ in ordered])
    smaller = np.array([small for _, small, _ in ordered])
    return Level(
        level,
        np.stack([nodes[parents, 0], smaller], axis=1),
        np.array([large for _, _, large in ordered]),
        histograms[parents],
        rows_hash,
    )


def _within_frame(level: Level, bins: Bins) -> Level:
    """Return the level without the nodes that no message has room for: these stay leaves."""
    most = max(1, FRAME_BYTES_MAX // (SUMS_BYTES * int(bins.cells.sum())) - 1)
    return Level(level.level, level.nodes[:most], level.siblings[:most], level.parents[:most], level.rows_hash)


def _unit(task: Task, model: Trees, moments: ColumnMoments) -> int:
    """Return the binary exponent of the unit of gradients: about the deviation of values, or the mean of counts."""
    unit = loss_unit(task, moments)
    return max(unit, int(np.frexp(moments.means[-1])[1])) if model.counts else unit

"""The trainer's half of the query `tree-histograms`."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.base import Assignment, Learner
from fedmq.algorithms.boosting.bins import Bins, category_counts_of, next_digest
from fedmq.algorithms.boosting.query import (
    BLOCK_VALUES,
    FRACTION_BITS,
    HASH_BITS,
    ROW_BITS,
    TreeHistograms,
    forest_model,
    is_whole,
)
from fedmq.algorithms.evaluation.exact_scores import exact_scores
from fedmq.errors import BadConfiguration, Rejected, WorkCancelled
from fedmq.exact.draws import hash_rows
from fedmq.exact.elementary import sigmoid, softmax
from fedmq.exact.integers import to_fixed
from fedmq.models.arrays import Floats, Integers
from fedmq.models.trees import Trees
from fedmq.tasks.task import Rows, Task


@dataclass(eq=False)
class _Grown:
    """What a trainer remembers of its rows under one forest. It can be made again from the forest and the rows."""

    inputs: weakref.ref[Floats]  # of the rows
    columns: Floats  # (inputs, rows)
    cells: npt.NDArray[np.int32]  # (rows, inputs), counted over all columns
    num_cells: int
    rows_hash: int
    scores: Floats  # (scores, rows)
    digest: bytes
    slopes: _Slopes | None = None  # at the scores


@dataclass(frozen=True, eq=False)
class _Slopes:
    """Gradients and Hessians of the rows, (scores, rows), integers of float64; and the score of the forest."""

    gradients: Floats
    hessians: Floats
    clipped: int
    loss: int
    correct: int


_REMEMBERED: dict[int, _Grown] = {}  # by the identity of the rows' inputs; forgotten with them


def sum_histograms(query: TreeHistograms, work: Assignment) -> dict[str, npt.NDArray[Any]]:
    """Sum the gradients of each node; a trainer that does not know the forest says so."""
    model, nodes = forest_model(work.task.model, "tree-histograms"), work.arrays["nodes"]
    sums = {name: np.zeros((len(nodes), query.cells), np.int64) for name in ("gradients", "hessians", "counts")}
    if (grown := _grown(query, work, model)) is None:
        one = {name: np.zeros(1, np.int64) for name in ("rows_hash", "clipped", "loss", "correct")}
        return {**sums, **one, "behind": np.ones(1, np.int64)}
    if grown.num_cells != query.cells:
        raise Rejected("values", f"expected {grown.num_cells} cells, got {query.cells}")
    if grown.slopes is None:
        grown.slopes = _slopes(query, work, model, grown.scores)
    for score in range(model.scores):
        asked = np.flatnonzero(nodes[:, 0] == score)
        if len(asked):
            if work.cancelled():
                raise WorkCancelled("the sums were cancelled: a newer round makes them needless")
            slots = np.full(1 << query.level, -1)
            slots[np.minimum(nodes[asked, 1], len(slots) - 1)] = asked
            places = model.places(model.unpack(work.arrays["tree"][score]), grown.columns, query.level)
            _add_score(sums, grown, score, slots[places])
    slopes = grown.slopes
    return {
        **sums,
        "rows_hash": np.array([grown.rows_hash]),
        "behind": np.zeros(1, np.int64),
        "clipped": np.array([slopes.clipped]),
        "loss": np.array([slopes.loss]),
        "correct": np.array([slopes.correct]),
    }


def _add_score(sums: dict[str, Integers], grown: _Grown, score: int, slots: Integers) -> None:
    """Add the rows to the histograms of one tree's nodes; `slots` (rows,) are the places of these in `sums`, or -1."""
    assert grown.slopes is not None
    inputs, cells = grown.cells.shape[1], grown.num_cells
    rows = np.flatnonzero(slots >= 0)
    first = int(slots[rows].min()) if len(rows) else 0
    last = int(slots[rows].max()) if len(rows) else -1
    size = (last + 1 - first) * cells
    step = max(1, BLOCK_VALUES // inputs)
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        places = (grown.cells[block] + ((slots[block] - first) * cells)[:, None]).ravel()
        # float64 holds the integers exactly: a block's sums stay far below 2**53.
        for name, values in (("gradients", grown.slopes.gradients), ("hessians", grown.slopes.hessians)):
            weights = np.repeat(values[score, block], inputs)
            sums[name][first : last + 1] += np.bincount(places, weights, size).astype(np.int64).reshape(-1, cells)
        sums["counts"][first : last + 1] += np.bincount(places, minlength=size).reshape(-1, cells)


def _grown(query: TreeHistograms, work: Assignment, model: Trees) -> _Grown | None:
    """Return what is known of the rows under the query's forest; None if the round does not say enough."""
    inputs, arrays = work.rows.inputs, work.arrays
    grown = _REMEMBERED.get(id(inputs))
    if grown is not None and grown.inputs() is inputs:
        if grown.digest == query.digest:
            return grown
        if grown.digest == query.before and len(arrays["forest"]):
            return _with_trees(grown, arrays["forest"][-1:], query, work, model)
    if not is_whole({name: array.shape for name, array in arrays.items()}):
        return None
    columns = np.ascontiguousarray(inputs.T)
    bins = Bins(arrays["edges"], arrays["edge_counts"], category_counts_of(model))
    if len(bins.edges) != bins.edge_counts.sum():
        raise Rejected("shape", f"expected {bins.edge_counts.sum()} edges, got {len(bins.edges)}")
    grown = _Grown(
        inputs=weakref.ref(inputs, partial(_forget, id(inputs))),
        columns=columns,
        cells=bins.find(columns),
        num_cells=int(bins.cells.sum()),
        rows_hash=_rows_hash(columns, work.rows),
        scores=np.zeros((model.scores, len(inputs))),
        digest=bins.digest(model, arrays["start"]),
    )
    grown = _with_trees(grown, arrays["forest"], query, work, model)
    _REMEMBERED[id(inputs)] = grown
    return grown


def _with_trees(grown: _Grown, forest: Floats, query: TreeHistograms, work: Assignment, model: Trees) -> _Grown:
    """Add rounds of trees to what is remembered; they must be those of the query."""
    scores, digest = grown.scores.copy(), grown.digest
    for trees in forest.reshape(-1, model.scores, model.tree_size):
        if work.cancelled():
            raise WorkCancelled("the scores were cancelled: a newer round makes them needless")
        model.add_trees(scores, trees, grown.columns)
        digest = next_digest(digest, trees)
    if digest != query.digest:
        raise Rejected("values", "expected the forest that the query's digest is of, got another")
    grown.scores, grown.digest, grown.slopes = scores, digest, None
    return grown


def _slopes(query: TreeHistograms, work: Assignment, model: Trees, scores: Floats) -> _Slopes:
    """Return gradients and Hessians of each row's loss, rounded, and the score of the forest."""
    task, rows = work.task, work.rows
    outputs = model.outputs_of(scores, work.arrays["start"], rows.offsets)
    slopes, hessians = _derivatives(task, model, outputs, rows, query.unit)
    if rows.weights is not None:
        slopes, hessians = slopes * rows.weights, hessians * rows.weights
    gradients = to_fixed(slopes, FRACTION_BITS, ROW_BITS)
    curvatures = to_fixed(hessians, FRACTION_BITS, ROW_BITS)
    limit = 2.0 ** (ROW_BITS - FRACTION_BITS)
    clipped = int(np.count_nonzero((np.abs(slopes) > limit) | (hessians > limit)))
    scored = exact_scores(task, outputs, rows.targets, query.fraction_bits, query.unit)
    return _Slopes(gradients, curvatures, clipped, scored.loss, scored.correct)


def _derivatives(task: Task, model: Trees, outputs: Floats, rows: Rows, unit: int) -> tuple[Floats, Floats]:
    """Return gradients and Hessians (scores, rows) of the loss with respect to the scores.

    Log loss: p - y and p (1 - p). Half the squared error: f - y and 1, the gradient in units of 2**unit. Half the
    Poisson deviance: mu - y and mu, both in these units. (Friedman 2001, sections 4.5 and 4.6.)
    """
    if task.loss == "cross-entropy":
        classes = rows.targets.astype(np.int64)
        if model.scores == 1:
            shares = sigmoid(outputs[1] - outputs[0])[None]
            return shares - (classes == 1), shares * (1.0 - shares)
        shares, _ = softmax(outputs)
        return shares - (np.arange(model.outputs)[:, None] == classes), shares * (1.0 - shares)
    scale = np.ldexp(1.0, -unit)
    if model.counts:
        if rows.targets.min() < 0:
            raise BadConfiguration(f"expected counts as targets of task {task.name}, got {rows.targets.min():g}")
        return (outputs - rows.targets) * scale, outputs * scale
    return (outputs - rows.targets) * scale, np.ones_like(outputs)


def _forget(key: int, _inputs: object) -> None:
    _REMEMBERED.pop(key, None)


def _rows_hash(columns: Floats, rows: Rows) -> int:
    """Return the sum of a hash of each row."""
    everything = [columns, rows.targets[None].astype(np.float64)]
    everything += [one[None] for one in (rows.weights, rows.offsets) if one is not None]
    numbers = np.concatenate(everything)
    hashed = hash_rows(np.where(np.isnan(numbers), np.nan, numbers))
    return int((hashed >> np.uint64(64 - HASH_BITS)).sum(dtype=np.uint64))


LEARNER = Learner(TreeHistograms, sum_histograms)

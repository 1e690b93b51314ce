"""The queries `held-out` and `fitted`: what is measured of one model on rows, as integers that add up.

`held-out` is about rows that are never trained on, `fitted` about those that are.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from fedmq.algorithms.base import (
    BLOCK_COPIES,
    SUM_BITS_MAX,
    AdditiveQuery,
    ArrayBounds,
    Arrays,
    Demand,
    Plan,
    Shapes,
)
from fedmq.algorithms.standardization import rows_max_for
from fedmq.algorithms.statistics.columns import ColumnMoments
from fedmq.algorithms.statistics.query import num_classes
from fedmq.exact.elementary import exp
from fedmq.models.arrays import Floats
from fedmq.models.networks import Code
from fedmq.tasks.row_views import View
from fedmq.tasks.task import Task

SCORE_CELLS = 2048  # of the histogram of a class's log odds
SCORE_UNIT, SCORE_REACH = 2.0**-6, 20.0  # cells are even in asinh(log odds / SCORE_UNIT) up to ±SCORE_REACH
CALIBRATION_BINS = 10
LIMB_BITS = 30  # a number of a row is two sums, of its high and its low half
NUMBER_BITS = 2 * LIMB_BITS
LOSS_BITS, SQUARE_BITS, VALUE_BITS = 50, 36, 48  # fraction bits: below 2**10, 2**24 and 2**12 a row
BLOCK_ROWS = 4096  # that a learner computes at once


class HeldOut(AdditiveQuery, frozen=True, tag="held-out"):
    """Measure one model on the rows that are held out, each row's numbers rounded before any sum.

    Down: `parameters` (num_parameters,) float64; for classes `edges` (scores, SCORE_CELLS - 1) float64, rising, between
    the cells of the log odds. Two classes have one score, that of the second one; k classes have k, each against the
    rest. Up, all int64: for classes
    `confusion` (classes, classes) by true and predicted class, `scores` (2 * scores, SCORE_CELLS), first the rows of
    other classes, then those of it, `calibration` (2, CALIBRATION_BINS), rows and right ones by the probability
    of the second of two classes, or of the predicted of more, `shares` (2, CALIBRATION_BINS), the sums of those
    probabilities, `row_losses` (2, 2), cross-entropy and Brier score; for values `errors` (4, 2), the sums of
    absolute errors, squared errors, targets and squared targets, `correct` and `clipped` (1,). A value is counted from
    `center`, in units of 2**unit. A model that is code has `loss` (2,) and `correct` only.
    """

    unit: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    center: Annotated[float, Meta(ge=-1e300, le=1e300)] = 0.0
    rows_max: Annotated[int, Meta(ge=1, le=2**53)] = 1 << (SUM_BITS_MAX - LIMB_BITS)

    rows: ClassVar[View] = "held-out"
    counts: ClassVar[frozenset[str]] = frozenset({"confusion", "scores", "calibration"})
    sends: ClassVar[str] = (
        "counts of right and wrong predictions by score, and summed errors, on rows that are held out"
    )

    @property
    def row_bits(self) -> int:
        return LIMB_BITS

    def arrays(self, task: Task) -> Mapping[str, ArrayBounds]:
        down = {"parameters": ArrayBounds((task.model.num_parameters,))}
        if scores := num_scores(task):
            down["edges"] = ArrayBounds((scores, SCORE_CELLS - 1))
        return down

    def answer(self, task: Task, _shapes: Shapes, num_examples: int) -> Mapping[str, ArrayBounds]:
        most = num_examples << LIMB_BITS

        def count(*shape: int) -> ArrayBounds:
            return ArrayBounds(shape, np.int64, 0, num_examples)

        def halves(*shape: int, least: int = 0) -> ArrayBounds:
            return ArrayBounds((*shape, 2), np.int64, least, most)

        if scores := num_scores(task):
            return {
                "confusion": count(num_classes(task), num_classes(task)),
                "scores": count(2 * scores, SCORE_CELLS),
                "calibration": count(2, CALIBRATION_BINS),
                "shares": halves(CALIBRATION_BINS),
                "row_losses": halves(2),
            }
        if isinstance(task.model, Code):
            return {"correct": count(1), "loss": halves(1)}
        clipped = ArrayBounds((1,), np.int64, 0, 2 * num_examples)  # the error and the target of each row
        return {"correct": count(1), "clipped": clipped, "errors": halves(4, least=-most)}

    def without_small(self, answer: Arrays, least: int) -> Arrays:
        """See `Query`: the sum of the probabilities of few rows is not sent either."""
        kept = super().without_small(answer, least)
        if "shares" not in kept:
            return kept
        return {**kept, "shares": kept["shares"] * (answer["calibration"][0] >= least)[:, None]}

    def suppressed(self, name: str, counts: npt.NDArray[Any], least: int) -> npt.NDArray[Any]:
        """See `Query`: cells of scores are merged with the next one instead, so that the order of the rows remains."""
        if name != "scores":
            return super().suppressed(name, counts, least)
        merged = np.zeros_like(counts)
        others, own = np.split(counts, 2)
        for score, pair in enumerate(zip(others, own, strict=True)):
            filled = np.zeros(2, np.int64)
            for cell in np.flatnonzero(np.add(*pair)):
                filled += [one[cell] for one in pair]
                if (filled >= least).all():
                    merged[[score, len(others) + score], cell], filled = filled, np.zeros(2, np.int64)
            last = np.flatnonzero(merged[score])
            if len(last):  # what is left over joins the last cell
                merged[[score, len(others) + score], last[-1]] += filled
        return merged

    def evaluations(self, _shapes: Shapes) -> int:
        """See `Query`: one model."""
        return 1

    def demand(self, task: Task, _shapes: Shapes, num_examples: int) -> Demand:
        widest = 1 if isinstance(task.model, Code) else max(task.model.widest, task.model.inputs)
        numbers = task.model.num_parameters + 4 * max(1, num_scores(task)) * SCORE_CELLS
        return Demand(8 * (numbers + BLOCK_COPIES * BLOCK_ROWS * widest), num_examples * task.model.num_parameters)


class Fitted(HeldOut, frozen=True, tag="fitted"):
    """The same of the rows that the model is trained on."""

    rows: ClassVar[View] = "features"
    sends: ClassVar[str] = "the same on the rows that the model is trained on"


def num_scores(task: Task) -> int:
    """Return how many scores of a row have a histogram: one for two classes, one each for more, none for values."""
    classes = num_classes(task)
    return 1 if classes == 2 else classes


def held_out_query(task: Task, moments: ColumnMoments | None = None, kind: type[HeldOut] = HeldOut) -> HeldOut:
    """Return the query for a task; `moments` of the columns, the target last, give the unit and the center of values.

    `kind` is `Fitted` for the rows that are trained on.
    """
    if moments is None:
        return kind()
    if num_classes(task) or isinstance(task.model, Code):
        return kind(rows_max=rows_max_for(moments.num_examples))
    unit = int(np.frexp(moments.deviations[-1])[1])
    return kind(unit=unit, center=float(moments.means[-1]), rows_max=rows_max_for(moments.num_examples))


def held_out_plan(task: Task, query: HeldOut, parameters: Floats, edges: Floats | None = None) -> Plan:
    """Return what a round publishes to measure a model; `edges` as `finer_edges` gives them after an earlier round."""
    arrays = {"parameters": parameters}
    if scores := num_scores(task):
        arrays["edges"] = np.tile(first_edges(), (scores, 1)) if edges is None else edges
    return Plan(query, arrays)


def first_edges() -> Floats:
    """Return edges (SCORE_CELLS - 1,) that fit any log odds: narrow cells near 0, and from there on wider ones."""
    steps = np.arange(1 - SCORE_CELLS // 2, SCORE_CELLS // 2) * (2.0 * SCORE_REACH / SCORE_CELLS)
    grown = exp(np.abs(steps))
    edges: Floats = np.copysign((grown - 1.0 / grown) * (SCORE_UNIT / 2.0), steps)
    return edges

"""How much one trainer can weigh in the strategy `evolution`, whatever it says.

Knows nothing of rounds, candidates' ids or how the next pool is made. An honest trainer's numbers stay as they are,
but for those of candidates that are hopeless anyway. The reasons and the figures are in docs/explanation/liars.md.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.base import BYZANTINE_SHARE, row_loss_max
from fedmq.algorithms.inbox import GENE_MAX
from fedmq.models.arrays import Floats, Integers
from fedmq.models.code import Code
from fedmq.tasks.task import Task

LOSS_PER_ROW_MAX = 3.0  # nats with two classes: 4.3 times what a guess costs
LOSS_TIMES = 3.0  # a value's loss counts up to so many times a credible median
NORM_TIMES = 3.0  # a proposal may be so many times as long as the longest parent
NORM_MAX = GENE_MAX / 100  # what is bred from it must still be of a size that is accepted

Mask = npt.NDArray[np.bool_]


def possible_losses(losses: Floats, num_examples: Integers, task: Task) -> Floats:
    """The losses (trainers, candidates), none above what so many rows can come to; NaN stays."""
    possible: Floats = np.minimum(losses, row_loss_max(task) * num_examples[:, None])
    return possible


def bounded_losses(losses: Floats, has: Mask, num_examples: Integers, task: Task) -> Floats:
    """Possible losses (trainers, candidates) as they count in a ranking; NaN, where `has` is false, stays.

    Classes have a scale of their own: a guess costs ln(classes) a row. Values have none, so theirs is what trainers
    say of a usual candidate, per row: each one's median over candidates, and of these the largest that as many liars as
    are expected cannot have made. Losses count up to LOSS_TIMES that, or LOSS_TIMES the trainer's own median if that is
    more; and a trainer whose median is more than LOSS_TIMES the credible one keeps its order of the candidates, at a
    scale that brings it down to that.
    """
    if task.loss == "cross-entropy":
        assert not isinstance(task.model, Code)
        bounded: Floats = np.minimum(losses, LOSS_PER_ROW_MAX * math.log2(task.model.outputs) * num_examples[:, None])
        return bounded
    own = medians(losses / num_examples[:, None], has)
    credible = float(np.sort(own)[-1 - len(own) // BYZANTINE_SHARE])
    if credible == 0.0:  # there is no scale: all but liars say that half of the candidates are perfect
        return losses
    most = LOSS_TIMES * np.maximum(own, credible) * num_examples
    scale = LOSS_TIMES * credible / np.maximum(own, LOSS_TIMES * credible)
    return np.minimum(losses, most[:, None]) * scale[:, None]


def without_extremes(losses: Floats, num_examples: Integers) -> Floats:
    """The losses per row (candidates,), without the trainers who, for this candidate, say the most and the least.

    As many on each side as liars are expected; with too few trainers for one liar, simply the sums.
    """
    liars = len(losses) // BYZANTINE_SHARE
    kept: Floats = losses.sum(axis=0)
    if liars:
        kept = np.sort(losses / num_examples[:, None], axis=0)[liars:-liars].mean(axis=0)
    return kept


def shortened(proposals: Floats, parents: Floats, step: float) -> Floats:
    """Proposals (n, genes), those that are too long brought back to NORM_TIMES the longest parent, or a step.

    `step` is the standard deviation of the largest mutation of a gene.
    """
    longest = max(float(np.linalg.norm(parents, axis=1).max()), step * math.sqrt(parents.shape[1]))
    norms = np.linalg.norm(proposals, axis=1)
    most = np.minimum(norms, min(NORM_TIMES * longest, NORM_MAX))
    shares = np.divide(most, norms, out=np.ones_like(norms), where=norms > 0.0)
    short: Floats = proposals * shares[:, None]
    return short


def medians(table: Floats, has: Mask) -> Floats:
    """The median of each line of the table over the places that it has, (lines,); 0 where it has none."""
    ordered = np.sort(table, axis=1)  # NaN last
    counts, lines = has.sum(axis=1), np.arange(len(table))
    middle = (ordered[lines, (counts - 1) // 2] + ordered[lines, counts // 2]) / 2.0
    found: Floats = np.where(counts > 0, middle, 0.0)
    return found

"""Robust losses: bounds on the weight of one trainer in `evolution`.

The numbers of an honest trainer stay as they are, except those of hopeless candidates. Reasons and measurements:
docs/explanation/byzantine-trainers.md.
"""

import math

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.base import BYZANTINE_SHARE, row_loss_max
from fedmq.algorithms.inbox import GENE_MAX
from fedmq.models.arrays import Floats, Integers
from fedmq.models.networks import Code
from fedmq.tasks.task import Task

LOSS_PER_ROW_MAX = 3.0  # nats with two classes: 4.3 times what a guess costs
LOSS_TIMES = 3.0  # a squared error counts at most this many times a credible median
NORM_TIMES = 3.0  # a proposal is at most this many times as long as the longest parent
NORM_MAX = GENE_MAX / 100  # its offspring must still be of an accepted size

Mask = npt.NDArray[np.bool_]


def possible_losses(losses: Floats, num_examples: Integers, task: Task) -> Floats:
    """Return the losses (trainers, candidates), at most what the rows can come to; NaN stays."""
    possible: Floats = np.minimum(losses, row_loss_max(task) * num_examples[:, None])
    return possible


def bounded_losses(losses: Floats, has: Mask, num_examples: Integers, task: Task) -> Floats:
    """Return possible losses (trainers, candidates) as they count in a ranking; NaN, where `has` is false, stays.

    Cross-entropy has a natural scale: a guess costs ln(classes) a row. Squared errors have none. Their scale is the
    credible median: of the trainers' medians per row, the largest that the expected Byzantine trainers cannot have set.
    A loss counts at most LOSS_TIMES that, or LOSS_TIMES the trainer's own median if that is larger. A trainer whose
    median exceeds LOSS_TIMES the credible one keeps its order of candidates, scaled down to that.
    """
    if task.loss == "cross-entropy":
        assert not isinstance(task.model, Code)
        bounded: Floats = np.minimum(losses, LOSS_PER_ROW_MAX * math.log2(task.model.outputs) * num_examples[:, None])
        return bounded
    own = medians(losses / num_examples[:, None], has)
    credible = float(np.sort(own)[-1 - len(own) // BYZANTINE_SHARE])
    if credible == 0.0:  # no scale: half of the candidates are perfect
        return losses
    most = LOSS_TIMES * np.maximum(own, credible) * num_examples
    scale = LOSS_TIMES * credible / np.maximum(own, LOSS_TIMES * credible)
    return np.minimum(losses, most[:, None]) * scale[:, None]


def without_extremes(losses: Floats, num_examples: Integers) -> Floats:
    """Return the losses per row (candidates,), without the largest and the smallest of each candidate.

    The expected number of Byzantine trainers is left out on each side; if that is 0, the sums are returned.
    """
    byzantine = len(losses) // BYZANTINE_SHARE
    kept: Floats = losses.sum(axis=0)
    if byzantine:
        kept = np.sort(losses / num_examples[:, None], axis=0)[byzantine:-byzantine].mean(axis=0)
    return kept


def shortened(proposals: Floats, parents: Floats, step: float) -> Floats:
    """Return proposals (n, genes), shortened to NORM_TIMES the longest parent, or to a step if that is longer.

    `step` is the standard deviation of the largest mutation of a gene.
    """
    longest = max(float(np.linalg.norm(parents, axis=1).max()), step * math.sqrt(parents.shape[1]))
    norms = np.linalg.norm(proposals, axis=1)
    most = np.minimum(norms, min(NORM_TIMES * longest, NORM_MAX))
    shares = np.divide(most, norms, out=np.ones_like(norms), where=norms > 0.0)
    short: Floats = proposals * shares[:, None]
    return short


def medians(table: Floats, has: Mask) -> Floats:
    """Return the median of each line over the places where `has` is true, (lines,); 0 for a line without any."""
    ordered = np.sort(table, axis=1)  # NaN last
    counts, lines = has.sum(axis=1), np.arange(len(table))
    middle = (ordered[lines, (counts - 1) // 2] + ordered[lines, counts // 2]) / 2.0
    found: Floats = np.where(counts > 0, middle, 0.0)
    return found

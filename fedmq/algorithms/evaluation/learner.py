"""The trainer's half of the queries `evaluate` and `score-rows`."""

from typing import Any

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.base import Assignment, Learner
from fedmq.algorithms.evaluation.exact_scores import exact_scores
from fedmq.algorithms.evaluation.query import BLOCK_ROWS, Evaluate, ScoreRows
from fedmq.errors import WorkCancelled
from fedmq.models.exact_outputs import exact_outputs, one_layer


def score_candidates(query: Evaluate, work: Assignment) -> dict[str, npt.NDArray[Any]]:
    """Score the candidates; a loss counts at most what the query allows for these rows."""
    losses, correct = work.score(work.arrays["candidates"])
    most = len(work.rows.inputs) * 2.0**query.row_loss_bits
    return {"losses": np.minimum(losses, most), "correct": correct}


def score_rows(query: ScoreRows, work: Assignment) -> dict[str, npt.NDArray[Any]]:
    """Score one model, each row by itself."""
    model, inputs, targets = one_layer(work.task.model, "score-rows"), work.rows.inputs, work.rows.targets
    loss = correct = 0
    for start in range(0, len(inputs), BLOCK_ROWS):
        if work.cancelled():
            raise WorkCancelled("the scores were cancelled: a newer round makes them needless")
        block = slice(start, start + BLOCK_ROWS)
        offsets = None if work.rows.offsets is None else work.rows.offsets[block]
        outputs = exact_outputs(model, work.arrays["parameters"], inputs[block], offsets)
        scores = exact_scores(work.task, outputs, targets[block], query.fraction_bits, query.unit)
        loss, correct = loss + scores.loss, correct + scores.correct
    return {"loss": np.array([loss]), "correct": np.array([correct])}


LEARNER = Learner(Evaluate, score_candidates)
ROWS_LEARNER = Learner(ScoreRows, score_rows)

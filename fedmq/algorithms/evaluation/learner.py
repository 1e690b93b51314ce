"""The trainer's half of the query `evaluate`."""

from typing import Any

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.base import Assignment, Learner
from fedmq.algorithms.evaluation.query import Evaluate
from fedmq.errors import Rejected


def score_candidates(query: Evaluate, work: Assignment) -> dict[str, npt.NDArray[Any]]:
    """Score the candidates; a loss counts at most what the query allows for these rows."""
    rows = len(work.rows.inputs)
    if rows > query.rows_max:
        raise Rejected("values", f"expected at most {query.rows_max} rows in all, this trainer has {rows}")
    losses, correct = work.score(work.arrays["candidates"])
    return {"losses": np.minimum(losses, rows * 2.0**query.row_loss_bits), "correct": correct}


LEARNER = Learner(Evaluate, score_candidates)

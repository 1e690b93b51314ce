"""What a run asked, and its model, computed again from its accepted results.

A replay gives the same state as the run had, bit for bit, so this need not be stored beside the results.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

from fedmq.algorithms.registry import find_algorithm
from fedmq.runs.maintenance import open_store
from fedmq.runs.records import Close
from fedmq.runs.replay import Replayed, replay


@dataclass
class QuestionKind:
    """The questions of one kind: rounds, and the numbers that each answer has."""

    kind: str  # the tag of the query
    sends: str  # in words, what an answer has
    rounds: int = 0
    numbers: int = 0  # of the largest answer
    answers: int = 0  # of all trainers


@dataclass(frozen=True)
class Recount:
    """The closed rounds of a run, what they asked, and the SHA-256 of the model that they give."""

    closes: list[Close]
    asked: list[QuestionKind]  # in the order of the first round
    model_sha256: str | None


def recount(folder: Path) -> Recount:
    """Compute the run in a folder again from its accepted results.

    Raises:
        BadConfiguration: the folder holds no run.
        StoreError: its store is damaged.
    """
    store, config = open_store(folder)
    asked: dict[str, QuestionKind] = {}
    with store:
        strategy = find_algorithm(config.algorithm, config.task, config.parameters)

        def watch(replayed: Replayed) -> None:
            plan = strategy.ask(replayed.state)
            kind = str(plan.query.__struct_config__.tag)
            one = asked.setdefault(kind, QuestionKind(kind, plan.query.sends))
            answer = plan.query.answer(config.task, plan.shapes, 1)
            numbers = sum(
                math.prod(part.shape if part.rows_max is None else (part.rows_max, *part.shape[1:]))
                for part in answer.values()
            )
            one.rounds, one.numbers = one.rounds + 1, max(one.numbers, numbers)
            one.answers += sum(1 for _ in store.results(replayed.round))

        replayed = replay(store, config.task, strategy, config.seed, from_start=True, watch=watch)
    evaluation = strategy.evaluation(replayed.state)
    model = None if evaluation is None else config.task.trained(evaluation.parameters, evaluation.preparation)
    sha256 = None if model is None else hashlib.sha256(model.to_bytes()).hexdigest()
    return Recount(replayed.closes, list(asked.values()), sha256)

"""What a run asked, and its model, computed again from its accepted results.

A replay gives the same state as the run had, bit for bit, so this need not be stored beside the results.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmq.algorithms.base import Strategy
from fedmq.algorithms.trial import Asked
from fedmq.runs.maintenance import replay_run
from fedmq.runs.records import Close, StoredTotal
from fedmq.runs.replay import Replayed
from fedmq.runs.store import Store


@dataclass
class RecountedQuestions(Asked):
    """The questions of one kind in a stored run, with the answers of all trainers."""

    answers: int = 0


@dataclass(frozen=True)
class Recount:
    """The closed rounds of a run, what they asked, and the SHA-256 of the model that they give."""

    closes: list[Close]
    asked: list[RecountedQuestions]  # in the order of the first round
    model_sha256: str | None


def recount(folder: Path) -> Recount:
    """Compute the run in a folder again from its accepted results.

    Raises:
        BadConfiguration: the folder holds no run.
        StoreError: its store is damaged.
    """
    asked: dict[str, RecountedQuestions] = {}
    closes: list[list[Close]] = [[]]  # in the end the list of the replay, which grows

    def watch(store: Store, strategy: Strategy[Any], replayed: Replayed) -> None:
        plan, config = strategy.ask(replayed.state), store.config
        assert config is not None
        kind = plan.query.kind
        one = asked.setdefault(kind, RecountedQuestions(kind, plan.query.sends))
        answer = plan.query.answer(config.task, plan.shapes, 1)
        numbers = sum(
            math.prod(part.shape if part.rows_max is None else (part.rows_max, *part.shape[1:]))
            for part in answer.values()
        )
        one.times, one.numbers = one.times + 1, max(one.numbers, numbers)
        for stored in store.results(replayed.round):
            one.answers += len(stored.header.rows) if isinstance(stored, StoredTotal) else 1
        closes[0] = replayed.closes

    sha256 = replay_run(folder, watch).model_sha256
    return Recount(closes[0], list(asked.values()), sha256)

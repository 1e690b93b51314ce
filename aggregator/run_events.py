"""What a run tells those who watch it: its events, and the counts that go with them.

Knows nothing of when anything happens; `rounds` does.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from fedmq.aggregator.outbox import Voice
from fedmq.aggregator.roster import Trainer
from fedmq.algorithms.base import Evaluation
from fedmq.errors import Rejected
from fedmq.observe import events
from fedmq.observe.run_state import STALLED_S, drawable
from fedmq.protocol.messages import Result
from fedmq.tasks.task import Task

REJECTIONS_TOLD_MAX = 100  # events about rejections in one term; all are counted
MISSING_TOLD_MAX = 5  # names of those who hold up a round


class Chronicle:
    """Of one run, in one term. `rejections` counts by reason what could not be used."""

    def __init__(self, voice: Voice, task: Task) -> None:
        self.rejections: dict[str, int] = {}
        self._voice, self._task = voice, task
        self._late = self._rejected = 0  # since the last close
        self._stalls_at: float | None = None  # when the open round counts as stalled; None: no round is, or it is told
        self._best = b""  # genes
        self._waiting: tuple[int, int] | None = None

    def joined(self, trainer: Trainer) -> None:
        """It was not here before, or has said more of itself."""
        version, labels = trainer.words
        self._voice.tell(
            events.TrainerJoined(
                trainer=trainer.name, num_examples=trainer.num_examples, version=version, labels=labels
            )
        )

    def left(self, name: str, *, goodbye: bool = False) -> None:
        """It is not here any more."""
        self._voice.tell(events.TrainerLeft(trainer=name, goodbye=goodbye))

    def waits(self, present: int, needed: int) -> None:
        """No round is opened before more trainers are there."""
        if self._waiting != (present, needed):
            self._waiting = (present, needed)
            self._voice.tell(events.Waiting(present=present, needed=needed))

    def paused(self, paused: bool) -> None:
        """An operator has paused or resumed the run."""
        self._voice.tell(events.RunPaused() if paused else events.RunResumed())

    def barred(self, name: str, action: str) -> None:
        """An operator has drained, banned or readmitted a trainer."""
        if action == "readmit":
            self._voice.tell(events.TrainerReadmitted(trainer=name))
        else:
            self._voice.tell(events.TrainerBarred(trainer=name, how="drained" if action == "drain" else "banned"))

    def opened(self, number: int, invited: int, now: float) -> None:
        """A round is open."""
        self._waiting, self._stalls_at = None, now + STALLED_S
        self._voice.tell(events.RoundPublished(round=number, invited=invited))

    def accepted(self, result: Result, staleness: int, answer_s: float, now: float) -> None:
        """A result counts; `answer_s` is 0 where it answers no open round."""
        self._late += staleness > 0
        if self._stalls_at is not None:
            self._stalls_at = now + STALLED_S
        self._voice.tell(
            events.ResultAccepted(
                round=result.round,
                trainer=result.trainer,
                staleness=staleness,
                train_s=result.train_s,
                answer_s=answer_s,
                cpu_s=result.cpu_s,
                memory=result.memory,
            )
        )

    def resent(self, result: Result) -> None:
        """A result that counts already came again."""
        self._voice.tell(events.ResultResent(round=result.round, trainer=result.trainer))

    def rejected(self, trainer: str, rejected: Rejected) -> None:
        """Something that came cannot be used; `trainer` is "" where that does not even say from whom it is."""
        self.rejections[rejected.reason] = self.rejections.get(rejected.reason, 0) + 1
        self._rejected += 1
        if sum(self.rejections.values()) <= REJECTIONS_TOLD_MAX:
            self._voice.tell(events.ResultRejected(trainer=trainer, reason=rejected.reason, detail=rejected.detail))

    def has_stalled(self, now: float) -> bool:
        """Whether nothing has come for the open round for a while, and nobody was told yet."""
        return self._stalls_at is not None and now >= self._stalls_at

    def stalled(self, number: int, missing: Collection[str]) -> None:
        """Nothing has come for the open round for a while."""
        self._stalls_at = None
        names = tuple(sorted(missing)[:MISSING_TOLD_MAX])
        self._voice.tell(events.Stalled(round=number, seconds=STALLED_S, missing=names))

    def closed(
        self,
        number: int,
        why: events.Why,
        *,
        results: int,
        round_s: float,
        present: int,
        suspects: Collection[str],
        evaluation: Evaluation | None,
    ) -> None:
        """A round is over; the `suspects` are here and have not answered."""
        for name in sorted(suspects):
            self._voice.tell(events.TrainerSuspected(trainer=name))
        self._voice.tell(
            events.RoundClosed(
                round=number,
                why=why,
                results=results,
                round_s=round_s,
                present=present,
                best=None if evaluation is None else best_of(evaluation, self._task),
                late=self._late,
                rejected=self._rejected,
            )
        )
        self._late, self._rejected, self._stalls_at = 0, 0, None
        if evaluation is not None and drawable(self._task.model):
            genes = np.ascontiguousarray(evaluation.genes, "<f8").tobytes()
            if genes != self._best:
                self._best = genes
                self._voice.tell(events.BestChanged(round=number, genes=genes))

    def finished(self, evaluation: Evaluation | None, rounds: int, why: events.End) -> None:
        """The run is over."""
        value = None if evaluation is None else self._task.value(evaluation.loss, evaluation.correct, evaluation.rows)
        self._voice.tell(events.RunFinished(solved=why == "solved", rounds=rounds, value=value, why=why))


def best_of(evaluation: Evaluation, task: Task) -> events.Best:
    """The figures of `standing` that people look at."""
    return events.Best(
        value=task.value(evaluation.loss, evaluation.correct, evaluation.rows),
        coverage=evaluation.coverage,
        fitness=evaluation.fitness_best,
        fitness_mean=evaluation.fitness_mean,
        fitness_worst=evaluation.fitness_worst,
        diversity=evaluation.diversity,
    )

"""The archive of `evolution`: candidates, and the score of each on each trainer's rows.

Scores are merged by candidate id whenever they arrive, so that an absent or late trainer distorts no comparison.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.base import Update
from fedmq.algorithms.evolution.robust_losses import bounded_losses, medians, possible_losses, without_extremes
from fedmq.models.arrays import Floats, Integers
from fedmq.tasks.task import Task


@dataclass(frozen=True, eq=False)
class ScoreSummary:
    """The sums over the members, for the candidates that any member has scored.

    All arrays are (candidates,), the oldest candidate first.
    """

    places: npt.NDArray[np.intp]  # rows of the archive
    loss: Floats  # bounded and summed; a missing score counts as the median of the member's scores
    loss_without_extremes: Floats  # the same, without the largest and smallest losses of each candidate
    loss_scored: Floats  # as sent, summed over the members that have scored it
    correct: Integers
    rows: Integers  # of the members that have scored it
    rows_known: int  # of all members that have scored anything
    rows_expected: float  # of all members; one without any score counts as the mean of the others

    def deployed(self, by_correct: bool) -> int:
        """Return the candidate to deploy: the best covered, then the most correct if that counts, then the least loss.

        Ties in correct rows are broken without the extreme losses, because a Byzantine trainer could make many ties.
        """
        if by_correct:
            return int(np.lexsort((self.loss_without_extremes, -self.correct, -self.rows))[0])
        return int(np.lexsort((self.loss, -self.rows))[0])


@dataclass(frozen=True, eq=False)
class Archive:
    """Candidates by ascending id, and a table of scores with one line per trainer, by ascending name."""

    ids: Integers  # (candidates,)
    genes: Floats  # (candidates, genes)
    trainers: tuple[str, ...]
    num_examples: Integers  # (trainers,)
    losses: Floats  # (trainers, candidates); NaN where a trainer has not scored a candidate
    correct: Integers  # (trainers, candidates); 0 there

    @classmethod
    def of(cls, ids: Integers, genes: Floats) -> Archive:
        """Return an archive of new candidates."""
        none = len(ids)
        return cls(ids, genes, (), np.zeros(0, np.int64), np.zeros((0, none)), np.zeros((0, none), np.int64))

    def places(self, ids: Integers) -> npt.NDArray[np.intp]:
        """Return the row of each of these ids in the archive; -1 for an unknown one."""
        found = np.searchsorted(self.ids, ids)
        found[found == len(self.ids)] = 0
        return np.where(self.ids[found] == ids, found, -1)

    def scored(self, updates: Sequence[Update], pools: Mapping[int, Integers]) -> Archive:
        """Return the archive with the updates' scores, in their order. `pools` has the candidate ids of each round."""
        grown = self._with_trainers({update.trainer for update in updates})
        losses, correct, num_examples = grown.losses.copy(), grown.correct.copy(), grown.num_examples.copy()
        line_of = {trainer: line for line, trainer in enumerate(grown.trainers)}
        places = {number: self.places(pools[number]) for number in {update.round for update in updates}}
        for update in updates:
            line, place = line_of[update.trainer], places[update.round]
            alive = place >= 0
            if num_examples[line] != update.num_examples:  # other rows: the old scores do not hold
                losses[line], correct[line], num_examples[line] = np.nan, 0, update.num_examples
            losses[line, place[alive]] = update.arrays["losses"][alive]
            correct[line, place[alive]] = update.arrays["correct"][alive]
        return replace(grown, losses=losses, correct=correct, num_examples=num_examples)

    def extended(self, ids: Integers, genes: Floats) -> Archive:
        """Return the archive with new candidates, whose ids must be higher than all others."""
        lines, new = len(self.trainers), len(ids)
        return replace(
            self,
            ids=np.concatenate([self.ids, ids]),
            genes=np.concatenate([self.genes, genes]),
            losses=np.concatenate([self.losses, np.full((lines, new), np.nan)], axis=1),
            correct=np.concatenate([self.correct, np.zeros((lines, new), np.int64)], axis=1),
        )

    def reduced(self, keep: npt.NDArray[np.intp], members: Collection[str]) -> Archive:
        """Return the candidates at these places, with the members and the trainers that have scored one of them."""
        kept = np.zeros(len(self.ids), np.bool_)
        kept[keep] = True
        places = np.flatnonzero(kept)
        losses = self.losses[:, places]
        of_use = np.any(~np.isnan(losses), axis=1)
        lines = np.array([line for line, name in enumerate(self.trainers) if of_use[line] or name in members], np.intp)
        return Archive(
            ids=self.ids[places],
            genes=self.genes[places],
            trainers=tuple(self.trainers[line] for line in lines),
            num_examples=self.num_examples[lines],
            losses=losses[lines],
            correct=self.correct[:, places][lines],
        )

    def summary(self, members: Collection[str], task: Task) -> ScoreSummary | None:
        """Return the sums over the members that have sent scores; None if no member has."""
        lines = np.array([line for line, name in enumerate(self.trainers) if name in members], np.intp)
        has = ~np.isnan(self.losses[lines])
        places = np.flatnonzero(has.any(axis=0))
        if not len(places):
            return None
        has, num_examples = has[:, places], self.num_examples[lines]
        losses = possible_losses(self.losses[np.ix_(lines, places)], num_examples, task)
        counted = _imputed(bounded_losses(losses, has, num_examples, task), has)
        known = int(num_examples.sum())
        return ScoreSummary(
            places=places,
            loss=counted.sum(axis=0),
            loss_without_extremes=without_extremes(counted, num_examples),
            loss_scored=np.where(has, losses, 0.0).sum(axis=0),
            correct=self.correct[np.ix_(lines, places)].sum(axis=0),
            rows=np.where(has, num_examples[:, None], 0).sum(axis=0),
            rows_known=known,
            rows_expected=known * len(members) / len(lines),
        )

    def _with_trainers(self, names: Collection[str]) -> Archive:
        """Return the archive with an empty line for each of these names that has none yet."""
        before = set(self.trainers)
        if before.issuperset(names):
            return self
        trainers = tuple(sorted({*self.trainers, *names}))
        lines = [line for line, name in enumerate(trainers) if name in before]
        num_examples = np.zeros(len(trainers), np.int64)
        losses = np.full((len(trainers), len(self.ids)), np.nan)
        correct = np.zeros((len(trainers), len(self.ids)), np.int64)
        num_examples[lines], losses[lines], correct[lines] = self.num_examples, self.losses, self.correct
        return replace(self, trainers=trainers, num_examples=num_examples, losses=losses, correct=correct)


def _imputed(losses: Floats, has: npt.NDArray[np.bool_]) -> Floats:
    """Return the losses (trainers, candidates), gaps filled with the median of the trainer's scores, or with 0."""
    gaps = np.flatnonzero(~has.all(axis=1))
    if not len(gaps):
        return losses
    filled = losses.copy()
    filled[gaps] = np.where(has[gaps], losses[gaps], medians(losses[gaps], has[gaps])[:, None])
    return filled

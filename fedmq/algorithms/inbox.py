"""Answers since the last close: checked, each once, in an order that does not depend on arrival."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedmq.algorithms.base import ArrayBounds, Update, check_bounds
from fedmq.algorithms.growing_map import GrowingMap
from fedmq.errors import Rejected

ROUNDS_REMEMBERED = 16  # an answer may be late by fewer rounds than that
GENE_MAX = 1e9  # beyond it, sums and squares of parameters come near the end of what a float64 holds


@dataclass(frozen=True, eq=False)
class Inbox:
    """Answers that wait for their round to close, and the trainers that answered the remembered rounds."""

    waiting: GrowingMap[tuple[int, str], Update] = field(default_factory=GrowingMap)
    answered: Mapping[int, frozenset[str]] = field(default_factory=dict)

    def knows(self, update: Update) -> bool:
        """Return whether this trainer's answer to this round is in already."""
        return (update.round, update.trainer) in self.waiting or update.trainer in self.answered.get(update.round, ())

    def add(self, update: Update) -> Inbox:
        return Inbox(self.waiting.plus((update.round, update.trainer), update), self.answered)

    def updates(self) -> list[Update]:
        """Return the waiting answers by round, then by trainer."""
        return [update for _, update in sorted(self.waiting.items(), key=lambda item: item[0])]

    def emptied(self, closed: int) -> Inbox:
        """Return the inbox after round `closed`: nothing waits, and rounds too long ago are forgotten."""
        answered = {number: names for number, names in self.answered.items() if number > closed + 1 - ROUNDS_REMEMBERED}
        for number in {number for number, _ in self.waiting}:
            names = {trainer for of_round, trainer in self.waiting if of_round == number}
            answered[number] = answered.get(number, frozenset()) | names
        return Inbox(answered=answered)


def check_round(update: Update, current: int) -> None:
    """Check that the update answers a round that is open or still remembered.

    Raises:
        Rejected: with the reason `round`.
    """
    if not 1 <= update.round <= current:
        raise Rejected("round", f"expected a round from 1 to {current}, got {update.round}")
    if update.round <= current - ROUNDS_REMEMBERED:
        raise Rejected("round", f"expected a round after {current - ROUNDS_REMEMBERED}, got {update.round}")


def check_answer(update: Update, bounds: Mapping[str, ArrayBounds]) -> None:
    """Check an answer against what its query allows.

    Raises:
        Rejected: with the reason `arrays`, `dtype`, `shape`, `not-finite` or `values`.
    """
    if update.num_examples < 1:
        raise Rejected("values", f"expected at least one row, got {update.num_examples}")
    check_bounds(bounds, update.arrays)

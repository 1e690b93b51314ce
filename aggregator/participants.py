"""The trainers of the open round: those that it asks, waits for, and has a result of."""

import math
from collections.abc import Collection, Iterable

from fedmq.aggregator.roster import Roster


class Participants:
    """Sets of names. A round that a later life opens again has been `answered` before."""

    def __init__(self, answered: Iterable[str] = ()) -> None:
        self.answered = set(answered)
        self.asked: set[str] = set()
        self.awaited: set[str] = set()  # asked, and not silent
        self.missing: set[str] = set()  # awaited, and not answered
        self.returning: set[str] = set()  # missing, and invited by an earlier life: they may be on their way back

    def add(self, asked: Collection[str], awaited: Collection[str], returning: Collection[str] = ()) -> None:
        """Ask these trainers, and wait for some of them."""
        self.asked.update(asked)
        self.awaited.update(awaited)
        self.missing.update(set(awaited) - self.answered)
        self.returning.update(returning)

    def answer(self, name: str) -> None:
        self.answered.add(name)
        self.missing.discard(name)

    def exclude(self, name: str) -> None:
        """Wait for a trainer no more, whatever happens to its result; its share of the quorum is gone, too."""
        if name in self.missing:
            self.missing.discard(name)
            self.awaited.discard(name)

    def give_up_missing(self) -> int:
        """Wait no more for those that have not answered; return how many they are."""
        count = len(self.missing)
        self.awaited -= self.missing
        self.missing = set()
        return count

    def have_quorum(self, share: float) -> bool:
        """Return whether so great a share of the awaited trainers has answered, and at least one has."""
        return len(self.answered) >= max(1, math.ceil(share * len(self.awaited)))

    def are_expected(self, roster: Roster) -> bool:
        """Return whether a missing result may still arrive."""
        return any(name in self.returning or roster.is_expected(name) for name in self.missing)

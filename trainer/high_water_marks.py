"""High-water marks: the newest term and round of each run, so that a replayed older message has no effect.

A signature proves the origin of a round, not its time: an attacker could send an old one again. Terms and rounds only
rise, so the highest one seen separates old from new without a clock.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

RUNS_REMEMBERED = 1000


class HighWaterMark(NamedTuple):
    """The highest term of a run and its highest acknowledged round; both 0: the run is forgotten."""

    run: str
    term: int
    round: int


class HighWaterMarks:
    """The marks of all runs, starting with those of the previous process; the oldest are dropped first."""

    def __init__(self, marks: Iterable[HighWaterMark] = ()) -> None:
        self._marks = OrderedDict((mark.run, mark) for mark in marks)

    def of(self, run: str) -> HighWaterMark:
        """Return the mark of a run; zeros if it is unknown."""
        return self._marks.get(run, HighWaterMark(run, 0, 0))

    def reached(self, run: str, term: int, round: int = 0) -> list[HighWaterMark]:
        """Raise the mark of a run; return the marks to write to disk."""
        mark = HighWaterMark(run, term, round)
        if mark <= self.of(run):
            return []
        self._marks[run] = mark
        self._marks.move_to_end(run)
        changed = [mark]
        while len(self._marks) > RUNS_REMEMBERED:
            changed.append(HighWaterMark(self._marks.popitem(last=False)[0], 0, 0))
        return changed

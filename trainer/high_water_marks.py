"""How far each run had come when an answer of this trainer last arrived, so that nothing older is ever heeded again.

A signature says who published a round, not when: whoever keeps an old one could send it again. Terms and rounds only
go up, so the highest that was seen tells old from new without any clock. Knows nothing of messages or files.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

RUNS_REMEMBERED = 1000


class HighWaterMark(NamedTuple):
    """The highest term of a run, and its highest round whose result has arrived; both 0: the run is forgotten."""

    run: str
    term: int
    round: int


class HighWaterMarks:
    """The marks of all runs, those of an earlier life among them; the run that was longest unchanged goes first."""

    def __init__(self, marks: Iterable[HighWaterMark] = ()) -> None:
        self._marks = OrderedDict((mark.run, mark) for mark in marks)

    def of(self, run: str) -> HighWaterMark:
        """How far this run had come; zeros when it has never been heard of."""
        return self._marks.get(run, HighWaterMark(run, 0, 0))

    def reached(self, run: str, term: int, round: int = 0) -> list[HighWaterMark]:
        """Take note of it; the marks that are to be kept because of that, if any."""
        mark = HighWaterMark(run, term, round)
        if mark <= self.of(run):
            return []
        self._marks[run] = mark
        self._marks.move_to_end(run)
        news = [mark]
        while len(self._marks) > RUNS_REMEMBERED:
            news.append(HighWaterMark(self._marks.popitem(last=False)[0], 0, 0))
        return news

"""A trainer's caps on the rounds that it answers: in a run, and on a day. What is answered stays counted.

One answer to a chosen question reveals little about the rows; many reveal much. DataSHIELD's sites limit it in the same
way. The counts are kept with the pending results, so a restart does not begin anew.
"""

from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta

RUNS_COUNTED = 1000  # a forged name of a run has a count of its own, but the day counts all of them


class Answered(msgspec.Struct, frozen=True):
    """How many rounds were answered: on the newest day (days since 1970-01-01, UTC), and in each run."""

    day: int = 0
    on_day: Annotated[int, Meta(ge=0)] = 0
    in_run: dict[str, Annotated[int, Meta(ge=0)]] = {}


class Questions:
    """Counts the rounds that are answered; None: no cap. `answered` is from an earlier start."""

    def __init__(
        self,
        per_run: int | None = None,
        per_day: int | None = None,
        *,
        today: Callable[[], int] = lambda: 0,
        answered: Answered | None = None,
    ) -> None:
        self.per_run, self.per_day, self._today = per_run, per_day, today
        self.answered = answered or Answered()

    def refusal(self, run: str, waiting: int = 0) -> str | None:
        """Return why no further round of a run is answered, or None; `waiting` rounds will be answered before it."""
        if self.per_run is not None and self.answered.in_run.get(run, 0) >= self.per_run:
            return f"--rounds-per-run {self.per_run} are answered"
        if self.per_day is not None and self._on_day() + waiting >= self.per_day:
            return f"--rounds-per-day {self.per_day} are answered: ask again tomorrow (UTC)"
        return None

    def count(self, run: str) -> Answered | None:
        """Count one more answer; return what is to be stored, None if nothing is limited."""
        if self.per_run is None and self.per_day is None:
            return None
        in_run = {one: number for one, number in self.answered.in_run.items() if one != run}
        in_run[run] = self.answered.in_run.get(run, 0) + 1
        while len(in_run) > RUNS_COUNTED:
            del in_run[next(iter(in_run))]
        self.answered = Answered(self._today(), self._on_day() + 1, in_run)
        return self.answered

    def _on_day(self) -> int:
        """Return the answers of today; a clock that is set back does not begin a new day."""
        return self.answered.on_day if self._today() <= self.answered.day else 0

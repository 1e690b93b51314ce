"""How many candidates an aggregator may have scored by this trainer, run by run; what is used up stays used up.

Knows nothing of messages' way or of files: `session` asks it before it works, a spool keeps what is spent. Each score
tells a little about the rows, and an aggregator that chooses candidates freely can put them together (docs/privacy.md).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from fedmq.protocol.messages import Evolve, Round

RUNS_REMEMBERED = 1000  # who forges names of runs gets a new budget with each of them, remembered or not


class Spent(NamedTuple):
    """So many candidates of a run were scored and reported; 0: the run is forgotten."""

    run: str
    evaluations: int


def evaluations_of(message: Round) -> int:
    """How many candidates that the aggregator chose are scored and reported in answer to this round, at least 1."""
    if not isinstance(message.work, Evolve):
        return 1
    sizes = [info.shape[0] for info in message.arrays if info.name == "pool" and info.shape]
    return max(1, *sizes, 0)


class Budget:
    """What is left for each run of the `cap` on its evaluations; None: no cap. `spent` is from an earlier life."""

    def __init__(self, cap: int | None = None, spent: Iterable[Spent] = ()) -> None:
        self.cap = cap
        self._spent: OrderedDict[str, int] = OrderedDict(spent)

    def allows(self, run: str, evaluations: int) -> bool:
        """Whether so many more evaluations stay within the cap."""
        return self.cap is None or self._spent.get(run, 0) + evaluations <= self.cap

    def spend(self, run: str, evaluations: int) -> list[Spent]:
        """Count so many evaluations; what is to be kept."""
        if self.cap is None:
            return []
        self._spent[run] = self._spent.get(run, 0) + evaluations
        self._spent.move_to_end(run)
        news = [Spent(run, self._spent[run])]
        while len(self._spent) > RUNS_REMEMBERED:
            news.append(Spent(self._spent.popitem(last=False)[0], 0))
        return news

    def close(self, run: str) -> list[Spent]:
        """Use up what is left of a run's budget: a smaller round that would still fit is not answered either."""
        left = (self.cap or 0) - self._spent.get(run, 0)
        return self.spend(run, left) if left > 0 else []

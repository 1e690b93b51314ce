"""The deadline of a round: the configured one, or a multiple of the usual answer time. Times are in seconds."""

from collections import deque
from collections.abc import Iterable
from statistics import median

ANSWERS_REMEMBERED = 64
DEADLINE_TIMES = 10  # the median answer time
DEADLINE_FIRST_S, DEADLINE_MIN_S, DEADLINE_MAX_S = 30.0, 2.0, 600.0


class AdaptiveDeadline:
    """Learns from `answer_s`, the times from a round's publication to each answer, unless `fixed_s` is given.

    Each kind of query has times of its own: a survey is quick and says nothing of a round that trains. What an earlier
    life has learned counts for the first kind that this one asks.
    """

    def __init__(self, fixed_s: float | None, answer_s: Iterable[float]) -> None:
        self._fixed_s = fixed_s
        self._answer_s = deque(answer_s, maxlen=ANSWERS_REMEMBERED)
        self._by_kind: dict[str, deque[float]] = {}

    def begin(self, kind: str) -> None:
        """Learn from now on from answers to queries of this kind."""
        new = deque[float](maxlen=ANSWERS_REMEMBERED) if self._by_kind else self._answer_s
        self._answer_s = self._by_kind.setdefault(kind, new)

    def add(self, answer_s: float) -> None:
        """Add the time of an answer that was in time."""
        self._answer_s.append(answer_s)

    @property
    def is_known(self) -> bool:
        """Whether the deadline is configured or learned: before the first answer it is a guess."""
        return self._fixed_s is not None or bool(self._answer_s)

    @property
    def deadline_s(self) -> float:
        """The deadline of the next round. It uses the median, which a minority of stragglers does not move."""
        if self._fixed_s is not None:
            return self._fixed_s
        if not self._answer_s:
            return DEADLINE_FIRST_S
        return min(DEADLINE_MAX_S, max(DEADLINE_MIN_S, DEADLINE_TIMES * median(self._answer_s)))

"""How long a round may take: the deadline that was chosen, or many times what an answer usually takes.

Knows nothing of rounds or trainers; times are in seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from statistics import median

ANSWERS_REMEMBERED = 64
DEADLINE_TIMES = 10  # the median answer, when no deadline was chosen
DEADLINE_FIRST_S, DEADLINE_MIN_S, DEADLINE_MAX_S = 30.0, 2.0, 600.0


class Pace:
    """Learns from `answer_s`, the seconds from a round's publication to each answer; `chosen_s` None: it adapts."""

    def __init__(self, chosen_s: float | None, answer_s: Iterable[float]) -> None:
        self._chosen_s = chosen_s
        self._answer_s = deque(answer_s, maxlen=ANSWERS_REMEMBERED)

    def took(self, answer_s: float) -> None:
        """An answer came in time."""
        self._answer_s.append(answer_s)

    @property
    def deadline_s(self) -> float:
        """Of the next round. The median of the answers, for a minority of stragglers does not move it."""
        if self._chosen_s is not None:
            return self._chosen_s
        if not self._answer_s:
            return DEADLINE_FIRST_S
        return min(DEADLINE_MAX_S, max(DEADLINE_MIN_S, DEADLINE_TIMES * median(self._answer_s)))

"""When a run ends, and how long one life of it waits for trainers: decisions without I/O."""

import math

from fedmq.algorithms.base import Evaluation
from fedmq.observe import events
from fedmq.protocol.run_config import RunConfig


def end_of(
    config: RunConfig, evaluation: Evaluation | None, *, members: int, pending: bool, learned: bool, rounds_left: bool
) -> events.End | None:
    """Return why the run ends after a round, or None: its target is reached, nothing is left to learn, or no rounds.

    The target counts for held-out rows if there are some. The first two count only if every row of all `members` has
    been scored, no present trainer is still to send its first result (`pending`), and there are `min_trainers` members:
    half of XOR is easy to learn, and useless. In a sampled run, held-out rows of every member are enough.
    """
    if evaluation is not None and members >= config.limits.min_trainers and not pending:
        measured = evaluation.measured
        covered = evaluation.coverage >= 1.0 or (measured is not None and config.limits.sample is not None)
        if covered and (measured is None or measured.held_out.coverage >= 1.0):
            counts = evaluation.score.of == "held-out" or not config.task.holdout
            if counts and config.task.reached(*evaluation.score[:3]):
                return "solved"
            if learned:
                return "done"
    return None if rounds_left else "rounds"


class Patience:
    """How long one life of a run waits for trainers; without `wait_s`, without end for `min_trainers` of them.

    Its first round waits so long for all trainers that the task intends; later it ends when too few have been present
    for so long.
    """

    def __init__(self, wait_s: float | None) -> None:
        self.wait_s = wait_s
        self._until: float | None = None  # for all that the task intends; None: before the first step
        self._short_since: float | None = None  # fewer than needed are present

    def begin(self, now: float) -> None:
        """Begin to wait, at the first step."""
        if self._until is None:
            self._until = -math.inf if self.wait_s is None else now + self.wait_s

    def opened(self) -> None:
        """Wait no longer for more than are needed: a round has opened."""
        self._until = -math.inf

    def needed(self, now: float, least: int, intended: int) -> int:
        """Return how many trainers a round needs to open now."""
        return max(least, intended) if self._until is not None and now < self._until else least

    @property
    def gives_up_at(self) -> float | None:
        """When this life ends because too few trainers are present."""
        return None if self.wait_s is None or self._short_since is None else self._short_since + self.wait_s

    def is_over(self, now: float, *, enough: bool) -> bool:
        """Return whether too few trainers have been present for `wait_s`."""
        if self.wait_s is None:
            return False
        if enough:
            self._short_since = None
        elif self._short_since is None:
            self._short_since = now
        return self.gives_up_at is not None and now >= self.gives_up_at

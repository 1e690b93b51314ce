"""Repeated reports of presence: a message may be lost, or arrive after a newer one.

An aggregator works with no trainer of a name that has several inboxes. If it missed the end of one, it would never work
with that name again. So the broker repeats the report of a name while it has several inboxes, and for a while after.
"""

from collections import OrderedDict
from collections.abc import Iterator

REPEAT_S = 1.0  # between two reports of a name,
REPORTS = 60  # after the last one of several inboxes
REPORTS_AT_ONCE_MAX = 200  # of more names in turns
NAMES_MAX = 100_000


class Repeats:
    """The names whose reports are repeated; `wake_at` is the time of the next ones, or None."""

    def __init__(self) -> None:
        self._left: OrderedDict[str, int] = OrderedDict()  # reports by name; the one to repeat next is first
        self.wake_at: float | None = None

    def add(self, name: str) -> None:
        """Repeat the report of a name that has several inboxes now."""
        if name in self._left or len(self._left) < NAMES_MAX:
            self._left[name] = REPORTS

    def take(self, now: float) -> Iterator[str]:
        """Yield the names whose reports are repeated now."""
        if self._left and self.wake_at is None:
            self.wake_at = now + REPEAT_S
        if self.wake_at is None or now < self.wake_at:
            return
        for _ in range(min(len(self._left), REPORTS_AT_ONCE_MAX)):
            name, left = self._left.popitem(last=False)
            if left > 1:
                self._left[name] = left - 1
            yield name
        self.wake_at = now + REPEAT_S if self._left else None

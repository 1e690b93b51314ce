"""Handover of stored messages to new inboxes: in turns, and at a bounded rate.

Each inbox is owed every stored message. A member may subscribe again and again, and stored rounds may be large: the
inbox that waits longest is served next, so a newcomer waits for one message of each other inbox, not for all of them.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping

from fedmq.protocol.codec import Frames

BURST_S = 1.0  # an idle handover may send as much at once as in this time


class Handover:
    """What is still to be sent to which inbox; `stored` are the newest messages by topic."""

    def __init__(self, stored: Mapping[str, Frames], mebibytes_s: float) -> None:
        self._stored, self._bytes_s = stored, mebibytes_s * 2**20
        self._owed: OrderedDict[str, deque[str]] = OrderedDict()  # topics by inbox; the one to serve next is first
        self._next = -math.inf  # time of the next message

    @property
    def wake_at(self) -> float | None:
        """Time of the next message, or None."""
        return self._next if self._owed else None

    def add(self, inbox: str) -> None:
        """Owe all stored messages to an inbox, also those that it has received."""
        if self._stored:
            self._owed[inbox] = deque(self._stored)

    def drop(self, inbox: str) -> None:
        """Owe nothing to an inbox: nothing is subscribed to it any more."""
        self._owed.pop(inbox, None)

    def take(self, now: float) -> Iterator[Frames]:
        """Yield the messages that may be sent now."""
        while self._owed and now >= self._next:
            inbox, topics = next(iter(self._owed.items()))
            frames = self._stored.get(topics.popleft())
            if topics:
                self._owed.move_to_end(inbox)
            else:
                del self._owed[inbox]
            if frames is not None:  # else the run has been dropped
                self._next = max(self._next, now - BURST_S) + sum(map(len, frames)) / self._bytes_s
                yield [inbox.encode(), *frames[1:]]

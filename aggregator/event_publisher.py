"""What is sent to those who watch a run: its events, gathered for a moment, and from time to time the whole picture.

Knows nothing of the broker but that it may be a new one, which has kept nothing. However fast the rounds follow each
other, so many messages a second and no more; what is lost on the way the next picture holds.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from fedmq.aggregator.machine import Outgoing
from fedmq.observe import events
from fedmq.observe.run_state import RunState
from fedmq.protocol import topics
from fedmq.protocol.codec import EVENTS, EVENTS_BYTES_MAX, VIEW, VIEW_BYTES_MAX
from fedmq.protocol.messages import Events, Message, Snapshot

EVENTS_EVERY_S = 0.1
SNAPSHOT_EVERY_S = 1.0
SNAPSHOT_BYTES_S = 256 << 10  # a large picture is sent less often
EVENT_BYTES_MAX = 1 << 13  # of one: a rejection quotes what came, a model has its weights
AT_ONCE_MAX = EVENTS_BYTES_MAX // EVENT_BYTES_MAX

_encoder = msgspec.msgpack.Encoder()


class Bulletin:
    """Of one run, in one term; `view` is its picture, and takes each event here."""

    def __init__(self, view: RunState) -> None:
        self.view = view
        self._gathered: list[tuple[float, events.AnyEvent]] = []
        self._events_at = self._snapshot_at = -math.inf  # not before
        self._shown = -1  # events in the last picture that was sent

    @property
    def wake_at(self) -> float | None:
        """When `due` has something to send, on the clock's `now`; None: when something happens."""
        if self._gathered:
            return self._events_at
        return None if self._shown == self.view.seq else self._snapshot_at

    def take(self, at: float, event: events.AnyEvent) -> None:
        """`event` happened, `at` seconds since 1970."""
        self.view.apply(at, event)
        self._gathered.append((at, event))

    def on_broker(self) -> None:
        """Whoever is there now has not seen anything yet."""
        self._snapshot_at = -math.inf
        self._shown = -1

    def due(self, now: float, *, last: bool = False) -> list[Outgoing]:
        """What is to be sent now; all there is, when it is the `last` time."""
        sends = []
        if self._gathered and (last or now >= self._events_at):
            self._events_at = now + EVENTS_EVERY_S
            first = self.view.seq - len(self._gathered)
            for start in range(0, len(self._gathered), AT_ONCE_MAX):
                some = self._gathered[start : start + AT_ONCE_MAX]
                message = Events(run=self.view.run, term=self.view.term, first=first + start, count=len(some))
                sends.append(_outgoing(topics.events_of(self.view.run), message, EVENTS, _encoder.encode(some)))
            self._gathered = []
        if self._shown != self.view.seq and (last or now >= self._snapshot_at):
            self._shown = self.view.seq
            content = _encoder.encode(self.view)
            self._snapshot_at = now + max(SNAPSHOT_EVERY_S, len(content) / SNAPSHOT_BYTES_S)
            if len(content) <= VIEW_BYTES_MAX:
                snapshot = Snapshot(run=self.view.run, term=self.view.term, seq=self.view.seq)
                sends.append(_outgoing(topics.snapshot_of(self.view.run), snapshot, VIEW, content))
        return sends


def _outgoing(topic: str, message: Message, name: str, content: bytes) -> Outgoing:
    return Outgoing(topic, message, {name: np.frombuffer(content, np.uint8)})

"""The broker's rules, as a state machine without sockets: where messages go, and which trainers are present.

It reads topics and counts subscriptions; it decodes no header and no array.

    Published round/<run>       store it as the newest; publish it
    Published snapshot/<run>    the same, for observers
    Published other             publish it
    Pushed up/<run>             deliver it as up/<run>/<sender>
    Subscribed to/<trainer>/    its owner: allow it, owe the newest round of each run to it, and report presence on the
                                first and the second subscription; over the limit, or another sender: disconnect
    Unsubscribed to/<trainer>/  report presence when one is left, and absence on the last one: an old connection may
                                close after a new one opened. Reports of a name with several are repeated
    Subscribed watch/<any>/     allow it; owe the newest snapshot of each run to it
    Subscribed other prefix     allow the known ones; those for observers are not for trainers
    Listening presence/         report every present trainer

`hand_over` publishes what is owed, at a bounded rate, and repeats reports of names with several inboxes.

The broker may lose its state at any time: a run is correct without it, only slower.
"""

import re
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple, assert_never

from fedmq.broker.handover import Handover
from fedmq.broker.repeats import Repeats
from fedmq.names import NAME_PATTERN
from fedmq.protocol import topics
from fedmq.protocol.codec import FRAMES_MAX, Frames, encode
from fedmq.protocol.messages import Presence
from fedmq.runtime.clock import earliest
from fedmq.transport.link import Listening, Published, Pushed, Routed, Subscribed, Unsubscribed

RUNS_KEPT_MAX = 64
INBOXES_MAX = 100_000
INBOXES_OF_NAME_MAX = 3  # an old connection that has not ended yet, a new one, and one of a second process
ROUNDS_MEBIBYTES_S, SNAPSHOTS_MEBIBYTES_S = 64.0, 16.0  # stored messages that are handed over
REPORTED_INBOXES_MAX = 2  # more than one are several, however many
PUBLISHABLE = (*topics.PUBLISHED, topics.EVENTS, topics.SNAPSHOTS, topics.INBOX)
FOR_OBSERVERS = (topics.EVENTS, topics.SNAPSHOTS)
_NAME = re.compile(NAME_PATTERN)


class Allow(NamedTuple):
    """Allow the subscription of this event."""

    topic: str


class Publish(NamedTuple):
    """Send to the subscribers of the first frame's topic."""

    frames: Frames


class Deliver(NamedTuple):
    """Send to the aggregators that listen to the first frame's topic."""

    frames: Frames


class Disconnect(NamedTuple):
    """Close the connection of this event, and block its key if that is a `violation`."""

    violation: bool


Effect = Allow | Publish | Deliver | Disconnect


class Routing:
    """The broker's state: connections of each inbox, and the newest round and snapshot of each run.

    With more than `RUNS_KEPT_MAX` runs, the run without a message for the longest time is dropped.
    """

    def __init__(self) -> None:
        self.inboxes: dict[str, int] = {}
        self.newest: OrderedDict[str, Frames] = OrderedDict()  # rounds
        self.snapshots: OrderedDict[str, Frames] = OrderedDict()
        self._rounds = Handover(self.newest, ROUNDS_MEBIBYTES_S)
        self._snapshots = Handover(self.snapshots, SNAPSHOTS_MEBIBYTES_S)
        self._repeats = Repeats()
        self.dropped = 0  # messages with too many frames or an unknown topic

    def step(self, message: Routed) -> Iterator[Effect]:
        """Return the effects of one event, in order."""
        match message:
            case Published(frames):
                return self._published(frames)
            case Pushed():
                return self._pushed(message)
            case Subscribed(topic, sender):
                return self._subscribed(topic, sender)
            case Unsubscribed(topic):
                return self._unsubscribed(topic)
            case Listening(topic):
                return self._listening(topic)
            case _:
                assert_never(message)

    @property
    def wake_at(self) -> float | None:
        """Time at which `hand_over` is due, or None."""
        return earliest(self._rounds.wake_at, self._snapshots.wake_at, self._repeats.wake_at)

    def hand_over(self, now: float) -> Iterator[Publish | Deliver]:
        """Yield the stored messages that may be sent to new inboxes now, and the reports to repeat."""
        for handover in (self._rounds, self._snapshots):
            yield from map(Publish, handover.take(now))
        yield from map(self._presence, self._repeats.take(now))

    def _published(self, frames: Frames) -> Iterator[Effect]:
        topic = frames[0].decode(errors="replace")
        kind, _, name = topic.removesuffix("/").partition("/")
        if kind + "/" not in PUBLISHABLE or topic.endswith("/") is not topic.startswith(topics.INBOX):
            self.dropped += 1
            return
        if not _NAME.match(name) or len(frames) > FRAMES_MAX:
            self.dropped += 1
            return
        for prefix, newest in ((topics.ROUNDS, self.newest), (topics.SNAPSHOTS, self.snapshots)):
            if topic.startswith(prefix):
                newest[topic] = frames
                newest.move_to_end(topic)
                if len(newest) > RUNS_KEPT_MAX:
                    newest.popitem(last=False)
        yield Publish(frames)

    def _pushed(self, pushed: Pushed) -> Iterator[Effect]:
        topic = pushed.frames[0].decode(errors="replace")
        kind, _, name = topic.partition("/")
        if kind + "/" != topics.UP or not _NAME.match(name) or len(pushed.frames) > FRAMES_MAX:
            self.dropped += 1
            return
        yield Deliver([f"{topic}/{pushed.sender}".encode(), *pushed.frames[1:]])

    def _subscribed(self, topic: str, sender: str | None) -> Iterator[Effect]:
        if not topic.startswith(topics.INBOX):
            yield from self._subscribed_prefix(topic, sender)
            return
        trainer = topic.removeprefix(topics.INBOX).removesuffix("/")
        if topic != topics.inbox_of(trainer) or not _NAME.match(trainer) or len(self.inboxes) >= INBOXES_MAX:
            return
        if sender is not None and sender != trainer:
            yield Disconnect(violation=True)
            return
        if self.inboxes.get(trainer, 0) >= INBOXES_OF_NAME_MAX:
            yield Disconnect(violation=False)
            return
        yield Allow(topic)
        self.inboxes[trainer] = self.inboxes.get(trainer, 0) + 1
        self._rounds.add(topic)
        if self.inboxes[trainer] <= REPORTED_INBOXES_MAX:
            yield self._presence(trainer)

    def _subscribed_prefix(self, topic: str, sender: str | None) -> Iterator[Effect]:
        if topic.startswith(topics.PUBLISHED):
            yield Allow(topic)
        elif sender:  # an authenticated trainer
            return
        elif topic.startswith(FOR_OBSERVERS):
            yield Allow(topic)
        elif topic == topics.watch_of(topic.removeprefix(topics.WATCH).removesuffix("/")):
            yield Allow(topic)
            self._snapshots.add(topic)

    def _unsubscribed(self, topic: str) -> Iterator[Effect]:
        trainer = topic.removeprefix(topics.INBOX).removesuffix("/")
        if topic.startswith(topics.WATCH):
            self._snapshots.drop(topic)
        if not topic.startswith(topics.INBOX) or trainer not in self.inboxes:
            return
        self.inboxes[trainer] -= 1
        if not self.inboxes[trainer]:
            del self.inboxes[trainer]
            self._rounds.drop(topic)
        if self.inboxes.get(trainer, 0) < REPORTED_INBOXES_MAX:
            yield self._presence(trainer)

    def _listening(self, topic: str) -> Iterator[Effect]:
        if topic == topics.PRESENCE:
            for trainer in self.inboxes:
                yield self._presence(trainer)

    def _presence(self, trainer: str) -> Deliver:
        inboxes = self.inboxes.get(trainer, 0)
        if inboxes > 1:
            self._repeats.add(trainer)
        message = Presence(trainer=trainer, present=inboxes > 0, inboxes=min(inboxes, REPORTED_INBOXES_MAX))
        return Deliver(encode(topics.PRESENCE + trainer, message))

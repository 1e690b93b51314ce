"""The broker's rules, as a state machine without sockets: what goes where, who is present, the newest round of a run.

Knows topics and counts subscriptions; it opens no header and no array.

    Published round/<run>     keep it, publish it; hand it to nobody twice
    Published snapshot/<run>  the same, for observers
    Published other           publish it
    Pushed up/<run>           deliver it as up/<run>/<sender>
    Subscribed to/<trainer>/  admit its owner; the first one is presence; hand over the newest round of each run
                              cut off anybody else
    Unsubscribed to/<trainer>/ the last one is absence: an old connection may close after the new one opened
    Subscribed watch/<any>/   admit it; hand over the newest snapshot of each run
    Subscribed other prefix   admit it, if it is one of ours; what observers hear is not for trainers
    Listening presence/       tell who is present

The broker may lose anything at any moment: nothing here is needed for a run to be right, only for it to be quick.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from fedmq.names import NAME_PATTERN
from fedmq.protocol import topics
from fedmq.protocol.codec import FRAMES_MAX, Frames, encode
from fedmq.protocol.messages import Presence
from fedmq.transport.link import Listening, Published, Pushed, Routed, Subscribed

RUNS_KEPT_MAX = 64
INBOXES_MAX = 100_000
PUBLISHABLE = (topics.ROUNDS, topics.BEACONS, topics.EVENTS, topics.SNAPSHOTS, topics.INBOX)
FOR_OBSERVERS = (topics.EVENTS, topics.SNAPSHOTS)
_NAME = re.compile(NAME_PATTERN)


class Allow(NamedTuple):
    """Give the subscriber of this event the topic."""

    topic: str


class Publish(NamedTuple):
    """Send down."""

    frames: Frames


class Deliver(NamedTuple):
    """Send up."""

    frames: Frames


class Disconnect(NamedTuple):
    """End the connection of this event."""


Effect = Allow | Publish | Deliver | Disconnect


class Routing:
    """What the broker knows: connections per inbox, and the newest round and snapshot of each run.

    Of more than `RUNS_KEPT_MAX` runs the one that was heard of longest ago goes first.
    """

    def __init__(self) -> None:
        self.inboxes: dict[str, int] = {}
        self.newest: OrderedDict[str, Frames] = OrderedDict()  # rounds
        self.snapshots: OrderedDict[str, Frames] = OrderedDict()
        self.dropped = 0  # messages of too many frames, or with a topic that nobody may use

    def step(self, traffic: Routed) -> Iterator[Effect]:
        """The effects of one event, in order."""
        if isinstance(traffic, Published):
            return self._published(traffic.frames)
        if isinstance(traffic, Pushed):
            return self._pushed(traffic)
        if isinstance(traffic, Listening):
            return self._listening(traffic.topic)
        if isinstance(traffic, Subscribed):
            return self._subscribed(traffic.topic, traffic.sender)
        return self._unsubscribed(traffic.topic)

    def _published(self, frames: Frames) -> Iterator[Effect]:
        topic = frames[0].decode(errors="replace")
        kind, _, name = topic.removesuffix("/").partition("/")
        if kind + "/" not in PUBLISHABLE or topic.endswith("/") is not topic.startswith(topics.INBOX):
            self.dropped += 1
            return
        if not _NAME.match(name) or len(frames) > FRAMES_MAX:
            self.dropped += 1
            return
        for prefix, kept in ((topics.ROUNDS, self.newest), (topics.SNAPSHOTS, self.snapshots)):
            if topic.startswith(prefix):
                kept[topic] = frames
                kept.move_to_end(topic)
                if len(kept) > RUNS_KEPT_MAX:
                    kept.popitem(last=False)
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
            yield Disconnect()
            return
        yield Allow(topic)
        self.inboxes[trainer] = self.inboxes.get(trainer, 0) + 1
        for frames in self.newest.values():
            yield Publish([topic.encode(), *frames[1:]])
        if self.inboxes[trainer] == 1:
            yield self._presence(trainer, True)

    def _subscribed_prefix(self, topic: str, sender: str | None) -> Iterator[Effect]:
        if topic.startswith((topics.ROUNDS, topics.BEACONS)):
            yield Allow(topic)
        elif sender:  # a trainer, that has shown who it is
            return
        elif topic.startswith(FOR_OBSERVERS):
            yield Allow(topic)
        elif topic == topics.watch_of(topic.removeprefix(topics.WATCH).removesuffix("/")):
            yield Allow(topic)
            for frames in self.snapshots.values():
                yield Publish([topic.encode(), *frames[1:]])

    def _unsubscribed(self, topic: str) -> Iterator[Effect]:
        trainer = topic.removeprefix(topics.INBOX).removesuffix("/")
        if not topic.startswith(topics.INBOX) or trainer not in self.inboxes:
            return
        self.inboxes[trainer] -= 1
        if not self.inboxes[trainer]:
            del self.inboxes[trainer]
            yield self._presence(trainer, False)

    def _listening(self, topic: str) -> Iterator[Effect]:
        if topic == topics.PRESENCE:
            for trainer in self.inboxes:
                yield self._presence(trainer, True)

    @staticmethod
    def _presence(trainer: str, present: bool) -> Deliver:
        return Deliver(encode(topics.presence_of(trainer), Presence(trainer=trainer, present=present)))

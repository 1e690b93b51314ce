"""A simulation: nodes, a network between them and a queue of what happens next, on virtual time and from one seed.

Messages are delayed, lost, doubled and re-ordered; nodes crash at any point of a step and come back. Knows nothing of
what the nodes are.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Protocol

from fedmq.errors import FedmqError
from fedmq.protocol import topics
from fedmq.protocol.codec import Frames
from fedmq.simulation.clock import VirtualClock
from fedmq.simulation.links import Connection, MemoryHub, MemoryLink
from fedmq.transport.link import (
    Delivered,
    Hub,
    Link,
    LinkDown,
    LinkEvent,
    LinkUp,
    Listening,
    Published,
    Pushed,
    Subscribed,
    Unsubscribed,
)

AT_ONCE_MAX = 100_000


class NodeCrashed(FedmqError):
    """Raised inside a node at the operation at which it is to crash."""


class TimeStandsStill(FedmqError):
    """So many things happened at one instant that a node must be waking itself for ever."""


class Node(Protocol):
    """A service on a link; see `loop.Service`."""

    @property
    def done(self) -> bool: ...

    @property
    def wake_at(self) -> float | None: ...

    def step(self) -> None: ...

    def stop(self) -> None: ...


@dataclass(frozen=True)
class Faults:
    """What the network does to messages; connections themselves are made and noticed as TCP does."""

    loss: float = 0.0  # share of the messages that never arrive
    duplicate: float = 0.0  # share that arrives twice
    delay_s: tuple[float, float] = (0.0002, 0.002)  # each message takes as long as a draw between these
    reorder: bool = False  # a message may overtake another of the same connection
    reconnect_s: tuple[float, float] = (0.1, 0.3)  # until an edge finds a broker that is back


@dataclass
class _Place:
    """A node's place: what starts it, and what runs there now."""

    name: str
    begin: Callable[[], Node]
    node: Node | None = None
    life: int = 0  # wake-ups and work of earlier lives mean nothing
    frozen: bool = False  # as by SIGSTOP: what comes waits
    cut: frozenset[str] = frozenset()  # directions, "up" and "down", in which nothing passes
    alarm: float | None = None  # the next wake-up that is in the queue


class Simulation:
    """Nodes, a network between them, and a queue of what happens next; all draws come from `seed`.

    `trace`, when it is set, gets a line of text for all that happens.
    """

    broker_name = "broker"

    def __init__(self, seed: int, faults: Faults | None = None) -> None:
        self.seed = seed
        self.clock = VirtualClock()
        self.random = Random(seed)  # noqa: S311  a simulation must be repeatable
        self.faults = faults or Faults()
        self.trace: Callable[[float, str, str, Frames | None], None] | None = None
        self.messages = 0
        self._places: dict[str, _Place] = {}
        self._links: dict[str, MemoryLink] = {}
        self._hub: MemoryHub | None = None
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._counter = itertools.count()
        self._fuses: dict[str, tuple[int, FedmqError]] = {}

    # --- nodes --------------------------------------------------------------------------------------------------

    def add_broker(self, make: Callable[[Hub], Node]) -> None:
        """The broker; `make` is called at each of its starts."""

        def begin() -> Node:
            self._hub = MemoryHub(self)
            for name, place in self._places.items():
                if place.node is not None:
                    self._connect_soon(name)
            return make(self._hub)

        self._places[self.broker_name] = _Place(self.broker_name, begin)

    def add_aggregator(self, name: str, run: str, make: Callable[[Link], Node]) -> None:
        """An aggregator of `run`."""
        self._add(name, (topics.up_to(run) + "/", topics.PRESENCE), True, make)

    def add_trainer(self, name: str, make: Callable[[Link], Node]) -> None:
        """A trainer."""
        self._add(name, (topics.ROUNDS, topics.BEACONS, topics.inbox_of(name)), False, make)

    def add_observer(self, name: str, make: Callable[[Link], Node]) -> None:
        """One that only watches."""
        self._add(name, (*topics.WATCHED, topics.watch_of(name)), False, make)

    def _add(self, name: str, wants: tuple[str, ...], publishes: bool, make: Callable[[Link], Node]) -> None:
        def begin() -> Node:
            link = self._links[name] = MemoryLink(self, name, wants, publishes=publishes)
            self._connect_soon(name)
            return make(link)

        self._places[name] = _Place(name, begin)

    def node(self, name: str) -> Node | None:
        """What runs at `name` now, if anything."""
        return self._places[name].node if name in self._places else None

    def start(self, *names: str) -> None:
        """Start (again) what is not running at `names`."""
        for name in names:
            place = self._places[name]
            if place.node is None:
                self._say("start", name)
                place.life, place.alarm = place.life + 1, None
                try:
                    place.node = place.begin()
                except FedmqError as error:
                    self._say(_end_by(error), name)
                    continue
                self.step(name)

    def crash(self, *names: str) -> None:
        """End `names` at once, as kill -9 would: nothing that they know is left but what they wrote."""
        for name in names:
            if self._places[name].node is not None:
                self._say("crash", name)
                self._remove(name)

    def stop(self, name: str) -> None:
        """Ask `name` to end, as SIGTERM would."""
        place = self._places[name]
        if place.node is not None:
            self._say("stop", name)
            try:
                place.node.stop()
            except FedmqError as error:
                self._say(_end_by(error), name)
                self._remove(name)
            self.step(name)

    def crash_in(self, name: str, operations: int, error: FedmqError | None = None) -> None:
        """Let `name` crash in the midst of a step, at its so-many-th operation from now (a send or a write).

        With an `error` the operation fails with that instead, as a full disk would make it.
        """
        self._fuses[name] = (operations, error or NodeCrashed(f"{name} crashes here"))

    def freeze(self, name: str) -> None:
        """Let `name` stand still, as SIGSTOP would: its connections live, and what comes waits."""
        self._say("freeze", name)
        self._places[name].frozen = True

    def thaw(self, name: str) -> None:
        """Let `name` go on."""
        self._say("thaw", name)
        self._places[name].frozen = False
        self.step(name)

    def cut(self, name: str, *directions: str) -> None:
        """Let nothing pass between `name` and the broker: "up" (what it sends), "down" (what it hears), or both."""
        self._say(f"cut {'+'.join(directions)}", name)
        self._places[name].cut = frozenset(directions)

    def rename(self, name: str, other: str) -> None:
        """Let what runs at `name` go on as `other`, with its connections; something else can be started at `name`."""
        place = self._places[name]
        self._places[other] = _Place(other, place.begin, place.node, place.life, place.frozen, place.cut)
        self._links[other] = link = self._links.pop(name)
        link.name = other
        place.node, place.frozen, place.cut = None, False, frozenset()
        self.step(other)

    def heal(self) -> None:
        """End all faults, those to come as well; who crashed stays down until it is started."""
        self.faults = Faults()
        self._fuses.clear()
        for place in list(self._places.values()):
            place.cut = frozenset()
            if place.frozen:
                self.thaw(place.name)

    def operation(self, name: str) -> None:
        """A node is about to send or to write something.

        Raises:
            NodeCrashed: it crashes instead; or whatever `crash_in` was given.
        """
        if name in self._fuses:
            left, error = self._fuses.pop(name)
            if left <= 1:
                raise error
            self._fuses[name] = (left - 1, error)

    def step(self, name: str) -> None:
        """Let `name` take what has come to it."""
        place = self._places[name]
        if place.node is None or place.frozen:
            return
        try:
            place.node.step()
        except FedmqError as error:  # a crash, or what a process would end with
            self._say(_end_by(error), name)
            self._remove(name)
            return
        if place.node.done:
            self._say("end", name)
            self._remove(name)
            return
        self._set_alarm(place)

    def _set_alarm(self, place: _Place) -> None:
        """Wake the node when it wants to be; an alarm that is set for an earlier time is looked at again then."""
        assert place.node is not None
        wake_at, life = place.node.wake_at, place.life
        if wake_at is not None and (place.alarm is None or wake_at < place.alarm):
            place.alarm = wake_at
            self._at(wake_at, lambda: self._wake(place, life, wake_at))

    def _wake(self, place: _Place, life: int, alarm: float) -> None:
        if place.life != life or place.node is None or place.alarm != alarm:
            return
        place.alarm = None
        wake_at = place.node.wake_at
        if wake_at is not None and wake_at <= self.clock.now():
            self.step(place.name)
        else:
            self._set_alarm(place)

    def _remove(self, name: str) -> None:
        place = self._places[name]
        place.node, place.frozen = None, False
        self._fuses.pop(name, None)
        if name != self.broker_name:
            self._disconnect(self._links[name])
            return
        self._hub = None
        for link in self._links.values():
            if link.connection is not None:
                link.connection.alive, link.connection = False, None
                self._news(link, LinkDown())

    # --- connections --------------------------------------------------------------------------------------------

    def _connect_soon(self, name: str) -> None:
        if name in self._links:
            link = self._links[name]
            self._at(self.clock.now() + self.random.uniform(*self.faults.reconnect_s), lambda: self._connect(link))

    def _connect(self, link: MemoryLink) -> None:
        current = self._links.get(link.name) is link and self._places[link.name].node is not None
        if not current or self._hub is None or link.connection is not None:
            return
        connection = link.connection = Connection(link)
        for topic in link.wants:
            if link.publishes:
                connection.topics += (topic,)
            self._hub.traffic.append((connection, Listening(topic) if link.publishes else Subscribed(topic)))
        self.step(self.broker_name)
        self._news(link, LinkUp())

    def _disconnect(self, link: MemoryLink) -> None:
        connection, link.connection = link.connection, None
        if connection is None:
            return

        def noticed() -> None:
            connection.alive = False
            if self._hub is not None and not link.publishes:
                self._hub.traffic.extend((connection, Unsubscribed(topic)) for topic in connection.topics)
                self.step(self.broker_name)

        after = 0.0 if self.faults.reorder else connection.arrived.get("up", 0.0)  # what was sent
        self._at(max(after, self.clock.now() + self._delay()), noticed)

    def _news(self, link: MemoryLink, news: LinkEvent) -> None:
        if self._links.get(link.name) is link:
            link.news.append(news)
            self.step(link.name)

    # --- messages -----------------------------------------------------------------------------------------------

    def send_up(self, connection: Connection, frames: Frames) -> None:
        """From an edge to the broker."""
        hub, traffic = self._hub, Published(frames) if connection.link.publishes else Pushed("", frames)

        def arrive() -> None:
            if connection.alive and self._hub is hub and hub is not None:
                self._say("up", connection.link.name, frames)
                hub.traffic.append((connection, traffic))
                self.step(self.broker_name)

        self._transport(connection, "up", arrive)

    def send_down(self, frames: Frames, *, to_aggregators: bool) -> None:
        """From the broker to every edge that has a prefix of the topic."""
        topic = frames[0].decode(errors="replace")
        for link in self._links.values():
            connection = link.connection
            if connection is None or link.publishes is not to_aggregators:
                continue
            if topic.startswith(connection.topics):
                self._transport(connection, "down", self._arrival(connection, frames))

    def _arrival(self, connection: Connection, frames: Frames) -> Callable[[], None]:
        def arrive() -> None:
            link = connection.link
            if connection.alive and link.connection is connection:
                self._say("down", link.name, frames)
                self._news(link, Delivered(frames))

        return arrive

    def _transport(self, connection: Connection, direction: str, arrive: Callable[[], None]) -> None:
        self.messages += 1
        faults, now = self.faults, self.clock.now()
        if direction in self._places[connection.link.name].cut:
            return
        if faults.loss and self.random.random() < faults.loss:
            return
        copies = 2 if faults.duplicate and self.random.random() < faults.duplicate else 1
        for _ in range(copies):
            time = now + self._delay()
            if not faults.reorder:
                time = connection.arrived[direction] = max(time, connection.arrived.get(direction, 0.0))
            self._at(time, arrive)

    def _delay(self) -> float:
        return self.random.uniform(*self.faults.delay_s)

    # --- time ---------------------------------------------------------------------------------------------------

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Do `action` at that virtual second."""
        self._at(time, action)

    def run(self, until: Callable[[], bool], limit_s: float) -> bool:
        """Let things happen until `until()` (True) or for `limit_s` virtual seconds (False).

        Raises:
            TimeStandsStill: a node wakes itself at one instant for ever.
        """
        clock, queue, at_once, end = self.clock, self._queue, 0, self.clock.now() + limit_s
        while not until():
            if not queue or queue[0][0] > end:
                clock.move_to(end)
                return False
            time, _, action = heapq.heappop(queue)
            at_once = at_once + 1 if time == clock.now() else 0
            if at_once > AT_ONCE_MAX:
                raise TimeStandsStill(f"{AT_ONCE_MAX} things happened at {time} s, and more are to come")
            clock.move_to(time)
            action()
        return True

    def _at(self, time: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (max(time, self.clock.now()), next(self._counter), action))

    def _say(self, what: str, name: str, frames: Frames | None = None) -> None:
        if self.trace is not None:
            self.trace(self.clock.now(), what, name, frames)


def _end_by(error: FedmqError) -> str:
    return "crash" if isinstance(error, NodeCrashed) else f"fails ({type(error).__name__})"

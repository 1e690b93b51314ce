"""A discrete-event simulation: nodes, a network and virtual time, from one seed.

Messages are delayed, lost, duplicated and reordered; nodes crash at any point of a step and restart.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from random import Random

from fedmq.errors import FedmqError
from fedmq.protocol import topics
from fedmq.protocol.codec import Frames
from fedmq.runtime.loop import Node
from fedmq.simulation.clock import VirtualClock
from fedmq.transport.link import (
    Delivered,
    Hub,
    Link,
    LinkDown,
    LinkEvent,
    LinkMessage,
    LinkUp,
    Listening,
    Published,
    Pushed,
    Subscribed,
    Unsubscribed,
)

AT_ONCE_MAX = 100_000


class NodeCrashed(FedmqError):
    """Raised inside a node at the operation at which it crashes."""


class TimeStandsStill(FedmqError):
    """Too many events at one instant: a node wakes itself in an endless loop."""


@dataclass(frozen=True)
class Faults:
    """Faults of the network for messages; connections themselves behave like TCP."""

    loss: float = 0.0  # share of messages that are lost
    duplicate: float = 0.0  # share that arrives twice
    delay_s: tuple[float, float] = (0.0002, 0.002)  # range of the delay of a message
    reorder: bool = False  # a message may overtake another of the same connection
    reconnect_s: tuple[float, float] = (0.1, 0.3)  # range of the time until an edge reconnects


@dataclass
class MemoryConnection:
    """An edge's connection to one start of the broker."""

    link: MemoryLink
    topics: tuple[str, ...] = ()
    alive: bool = True
    arrived: dict[str, float] = field(default_factory=dict)  # arrival time of the last message, by direction


class MemoryLink:
    """An edge's link in memory."""

    def __init__(self, simulation: Simulation, name: str, wants: tuple[str, ...], *, publishes: bool) -> None:
        self.name, self.wants, self.publishes = name, wants, publishes
        self.events: deque[LinkEvent] = deque()
        self.connection: MemoryConnection | None = None
        self._simulation = simulation

    def receive(self) -> Iterator[LinkEvent]:
        while self.events:
            yield self.events.popleft()

    def send(self, frames: Frames) -> bool:
        self._simulation.operation(self.name)
        if self.connection is None:
            return False
        self._simulation.send_up(self.connection, frames)
        return True


class MemoryHub:
    """The broker's hub in memory."""

    def __init__(self, simulation: Simulation) -> None:
        self.inbox: deque[tuple[MemoryConnection, LinkMessage | None]] = deque()  # None: the connection has ended
        self._simulation = simulation
        self._current: MemoryConnection | None = None

    def receive(self) -> Iterator[LinkMessage]:
        while self.inbox:
            self._current, message = self.inbox.popleft()
            if message is None:  # a broker that was frozen has processed the subscriptions only now
                yield from map(Unsubscribed, self._current.topics)
            else:
                yield message

    def allow(self, topic: str) -> None:
        assert self._current is not None
        self._current.topics += (topic,)

    def answer(self, frames: Frames) -> None:
        """Do nothing: there is no enrollment in memory."""

    def disconnect(self, *, violation: bool) -> None:
        """Do nothing: there are no keys in memory."""

    def disconnect_keys(self, keys: Collection[bytes]) -> None:
        """Do nothing: there are no keys in memory."""

    def publish(self, frames: Frames) -> None:
        self._simulation.send_down(frames, to_aggregators=False)

    def deliver(self, frames: Frames) -> None:
        self._simulation.send_down(frames, to_aggregators=True)


@dataclass
class _Host:
    """A host: how its node is started, and the node that runs now."""

    name: str
    begin: Callable[[], Node]
    node: Node | None = None
    life: int = 0  # number of starts; wake-ups of earlier ones have no effect
    frozen: bool = False  # as by SIGSTOP: messages wait
    cut: frozenset[str] = frozenset()  # directions, "up" and "down", without network
    alarm: float | None = None  # the next wake-up in the queue


class Simulation:
    """Nodes, a network and an event queue; all random draws come from `seed`.

    `trace`, if set, is called for each event: time, what happened, node, frames or None.
    """

    broker_name = "broker"

    def __init__(self, seed: int, faults: Faults | None = None) -> None:
        self.seed = seed
        self.clock = VirtualClock()
        self.random = Random(seed)  # noqa: S311  a simulation must be repeatable
        self.faults = faults or Faults()
        self.trace: Callable[[float, str, str, Frames | None], None] | None = None
        self.messages = 0
        self._hosts: dict[str, _Host] = {}
        self._links: dict[str, MemoryLink] = {}
        self._hub: MemoryHub | None = None
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._counter = itertools.count()
        self._fuses: dict[str, tuple[int, FedmqError]] = {}

    # --- nodes --------------------------------------------------------------------------------------------------

    def add_broker(self, make: Callable[[Hub], Node]) -> None:
        """Add the broker; `make` is called at each start."""

        def begin() -> Node:
            self._hub = MemoryHub(self)
            for name, host in self._hosts.items():
                if host.node is not None:
                    self._connect_soon(name)
            return make(self._hub)

        self._hosts[self.broker_name] = _Host(self.broker_name, begin)

    def add_aggregator(self, name: str, run: str, make: Callable[[Link], Node]) -> None:
        self._add(name, (topics.UP + run + "/", topics.PRESENCE), True, make)

    def add_trainer(self, name: str, make: Callable[[Link], Node]) -> None:
        self._add(name, (*topics.PUBLISHED, topics.inbox_of(name)), False, make)

    def add_observer(self, name: str, make: Callable[[Link], Node]) -> None:
        self._add(name, (*topics.WATCHED, topics.watch_of(name)), False, make)

    def _add(self, name: str, wants: tuple[str, ...], publishes: bool, make: Callable[[Link], Node]) -> None:
        def begin() -> Node:
            link = self._links[name] = MemoryLink(self, name, wants, publishes=publishes)
            self._connect_soon(name)
            return make(link)

        self._hosts[name] = _Host(name, begin)

    def node(self, name: str) -> Node | None:
        return self._hosts[name].node if name in self._hosts else None

    def start(self, *names: str) -> None:
        """Start those of `names` that are not running."""
        for name in names:
            host = self._hosts[name]
            if host.node is None:
                self._trace("start", name)
                host.life, host.alarm = host.life + 1, None
                try:
                    host.node = host.begin()
                except FedmqError as error:
                    self._trace(_end_by(error), name)
                    continue
                self.step(name)

    def crash(self, *names: str) -> None:
        """End `names` at once, like kill -9: only what they have stored remains."""
        for name in names:
            if self._hosts[name].node is not None:
                self._trace("crash", name)
                self._remove(name)

    def stop(self, name: str) -> None:
        """Ask `name` to end, like SIGTERM."""
        host = self._hosts[name]
        if host.node is not None:
            self._trace("stop", name)
            try:
                host.node.stop()
            except FedmqError as error:
                self._trace(_end_by(error), name)
                self._remove(name)
            self.step(name)

    def crash_in(self, name: str, operations: int, error: FedmqError | None = None) -> None:
        """Let `name` crash in the middle of a step, after this number of operations (sends and writes).

        With an `error`, the operation raises it instead, for example for a full disk.
        """
        self._fuses[name] = (operations, error or NodeCrashed(f"{name} crashes here"))

    def freeze(self, name: str) -> None:
        """Pause `name`, like SIGSTOP: its connections stay, and messages wait."""
        self._trace("freeze", name)
        self._hosts[name].frozen = True

    def thaw(self, name: str) -> None:
        """Continue `name`, like SIGCONT."""
        self._trace("thaw", name)
        self._hosts[name].frozen = False
        self.step(name)

    def cut(self, name: str, *directions: str) -> None:
        """Drop messages between `name` and the broker: "up", "down", or both."""
        self._trace(f"cut {'+'.join(directions)}", name)
        self._hosts[name].cut = frozenset(directions)

    def rename(self, name: str, other: str) -> None:
        """Rename a running node with its connections, so that another can be started under `name`."""
        host = self._hosts[name]
        self._hosts[other] = _Host(other, host.begin, host.node, host.life, host.frozen, host.cut)
        self._links[other] = link = self._links.pop(name)
        link.name = other
        host.node, host.frozen, host.cut = None, False, frozenset()
        self.step(other)

    def heal(self) -> None:
        """End all present and planned faults; crashed nodes stay down until they are started."""
        self.faults = Faults()
        self._fuses.clear()
        for host in list(self._hosts.values()):
            host.cut = frozenset()
            if host.frozen:
                self.thaw(host.name)

    def operation(self, name: str) -> None:
        """Register a send or write of a node.

        Raises:
            NodeCrashed: it crashes here; or the error that `crash_in` was given.
        """
        if name in self._fuses:
            left, error = self._fuses.pop(name)
            if left <= 1:
                raise error
            self._fuses[name] = (left - 1, error)

    def step(self, name: str) -> None:
        """Let `name` process what it has received."""
        host = self._hosts[name]
        if host.node is None or host.frozen:
            return
        try:
            host.node.step()
        except FedmqError as error:  # a crash, or the error that ends a process
            self._trace(_end_by(error), name)
            self._remove(name)
            return
        if host.node.done:
            self._trace("end", name)
            self._remove(name)
            return
        self._set_alarm(host)

    def _set_alarm(self, host: _Host) -> None:
        """Schedule the node's wake-up; an earlier one that is scheduled already is checked when it is due."""
        assert host.node is not None
        wake_at, life = host.node.wake_at, host.life
        if wake_at is not None and (host.alarm is None or wake_at < host.alarm):
            host.alarm = wake_at
            self.at(wake_at, lambda: self._wake(host, life, wake_at))

    def _wake(self, host: _Host, life: int, alarm: float) -> None:
        if host.life != life or host.node is None or host.alarm != alarm:
            return
        host.alarm = None
        wake_at = host.node.wake_at
        if wake_at is not None and wake_at <= self.clock.now():
            self.step(host.name)
        else:
            self._set_alarm(host)

    def _remove(self, name: str) -> None:
        host = self._hosts[name]
        host.node, host.frozen = None, False
        self._fuses.pop(name, None)
        if name != self.broker_name:
            self._disconnect(self._links[name])
            return
        self._hub = None
        for link in self._links.values():
            if link.connection is not None:
                link.connection.alive, link.connection = False, None
                self._notify(link, LinkDown())

    # --- connections --------------------------------------------------------------------------------------------

    def _connect_soon(self, name: str) -> None:
        if name in self._links:
            link = self._links[name]
            self.at(self.clock.now() + self.random.uniform(*self.faults.reconnect_s), lambda: self._connect(link))

    def _connect(self, link: MemoryLink) -> None:
        current = self._links.get(link.name) is link and self._hosts[link.name].node is not None
        if not current or self._hub is None or link.connection is not None:
            return
        connection = link.connection = MemoryConnection(link)
        for topic in link.wants:
            if link.publishes:
                connection.topics += (topic,)
            self._hub.inbox.append((connection, Listening(topic) if link.publishes else Subscribed(topic)))
        self.step(self.broker_name)
        self._notify(link, LinkUp())

    def _disconnect(self, link: MemoryLink) -> None:
        connection, link.connection = link.connection, None
        if connection is None:
            return

        def noticed() -> None:
            connection.alive = False
            if self._hub is not None and not link.publishes:
                self._hub.inbox.append((connection, None))
                self.step(self.broker_name)

        after = 0.0 if self.faults.reorder else connection.arrived.get("up", 0.0)  # what was sent
        self.at(max(after, self.clock.now() + self._delay()), noticed)

    def _notify(self, link: MemoryLink, event: LinkEvent) -> None:
        if self._links.get(link.name) is link:
            link.events.append(event)
            self.step(link.name)

    # --- messages -----------------------------------------------------------------------------------------------

    def send_up(self, connection: MemoryConnection, frames: Frames) -> None:
        """Carry a message from an edge to the broker."""
        hub, message = self._hub, Published(frames) if connection.link.publishes else Pushed("", frames)

        def arrive() -> None:
            if connection.alive and self._hub is hub and hub is not None:
                self._trace("up", connection.link.name, frames)
                hub.inbox.append((connection, message))
                self.step(self.broker_name)

        self._transport(connection, "up", arrive)

    def send_down(self, frames: Frames, *, to_aggregators: bool) -> None:
        """Carry a message from the broker to every edge that subscribes to a prefix of the topic."""
        topic = frames[0].decode(errors="replace")
        for link in self._links.values():
            connection = link.connection
            if connection is None or link.publishes is not to_aggregators:
                continue
            if topic.startswith(connection.topics):
                self._transport(connection, "down", partial(self._arrive, connection, frames))

    def _arrive(self, connection: MemoryConnection, frames: Frames) -> None:
        link = connection.link
        if connection.alive and link.connection is connection:
            self._trace("down", link.name, frames)
            self._notify(link, Delivered(frames))

    def _transport(self, connection: MemoryConnection, direction: str, arrive: Callable[[], None]) -> None:
        self.messages += 1
        faults, now = self.faults, self.clock.now()
        if direction in self._hosts[connection.link.name].cut:
            return
        if faults.loss and self.random.random() < faults.loss:
            return
        copies = 2 if faults.duplicate and self.random.random() < faults.duplicate else 1
        for _ in range(copies):
            time = now + self._delay()
            if not faults.reorder:
                time = connection.arrived[direction] = max(time, connection.arrived.get(direction, 0.0))
            self.at(time, arrive)

    def _delay(self) -> float:
        return self.random.uniform(*self.faults.delay_s)

    # --- time ---------------------------------------------------------------------------------------------------

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Run `action` at that virtual time."""
        heapq.heappush(self._queue, (max(time, self.clock.now()), next(self._counter), action))

    def run(self, until: Callable[[], bool], limit_s: float) -> bool:
        """Process events until `until()` holds (return True), or for `limit_s` virtual seconds (return False).

        Raises:
            TimeStandsStill: a node wakes itself at one instant in an endless loop.
        """
        clock, queue, at_once, end = self.clock, self._queue, 0, self.clock.now() + limit_s
        while not until():
            if not queue or queue[0][0] > end:
                clock.move_to(end)
                return False
            time, _, action = heapq.heappop(queue)
            at_once = at_once + 1 if time == clock.now() else 0
            if at_once > AT_ONCE_MAX:
                raise TimeStandsStill(f"{AT_ONCE_MAX} events at {time} s, and more are queued")
            clock.move_to(time)
            action()
        return True

    def _trace(self, what: str, name: str, frames: Frames | None = None) -> None:
        if self.trace is not None:
            self.trace(self.clock.now(), what, name, frames)


def _end_by(error: FedmqError) -> str:
    return "crash" if isinstance(error, NodeCrashed) else f"fails ({type(error).__name__})"

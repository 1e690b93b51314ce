"""The fakes of fedmq.testing: the simulated network, crashes of nodes, virtual time."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fedmq.algorithms.averaging.query import GradientLearner, Train
from fedmq.algorithms.base import encode_query
from fedmq.protocol import topics
from fedmq.protocol.codec import Packet, decode, encode
from fedmq.protocol.messages import Round
from fedmq.simulation.network import TimeStandsStill
from fedmq.tasks.task_file import find_task
from fedmq.testing import Faults, NodeCrashed, Simulation, VirtualClock, VirtualWorker
from fedmq.transport.link import (
    Delivered,
    Hub,
    Link,
    LinkDown,
    LinkEvent,
    LinkUp,
    Listening,
    Pushed,
    Subscribed,
    Unsubscribed,
)

MANY = 1000
STEADY = Faults(delay_s=(0.01, 0.01), reconnect_s=(0.1, 0.1))


@dataclass
class Echo:
    """A broker that allows all subscribers and publishes pushed messages to their topic."""

    hub: Hub
    seen: list[str] = field(default_factory=list)
    done: bool = False
    wake_at: float | None = None

    def step(self) -> None:
        for traffic in self.hub.receive():
            self.seen.append(type(traffic).__name__)
            if isinstance(traffic, Subscribed):
                self.hub.allow(traffic.topic)
            elif isinstance(traffic, Pushed):
                self.hub.deliver([b"up/run/", *traffic.frames[1:]])
            elif not isinstance(traffic, Listening | Unsubscribed):
                self.hub.publish(traffic.frames)

    def stop(self) -> None:
        self.done = True


@dataclass
class Ear:
    """An edge that records events and their times."""

    link: Link
    now: Callable[[], float]
    news: list[tuple[float, LinkEvent]] = field(default_factory=list)
    on_step: Callable[[Ear], None] | None = None
    done: bool = False
    wake_at: float | None = None

    def step(self) -> None:
        self.news += [(self.now(), one) for one in self.link.receive()]
        if self.on_step is not None:
            self.on_step(self)

    def stop(self) -> None:
        self.done = True

    @property
    def numbers(self) -> list[int]:
        """Of the messages, in the order in which they came."""
        return [int(one.frames[1]) for _, one in self.news if isinstance(one, Delivered)]

    @property
    def changes(self) -> list[tuple[float, type[LinkEvent]]]:
        """When the broker came and went."""
        return [(round(time, 6), type(one)) for time, one in self.news if not isinstance(one, Delivered)]


class Scene:
    """A broker, an aggregator and a trainer, connected."""

    def __init__(self, faults: Faults = STEADY, seed: int = 1) -> None:
        self.simulation = Simulation(seed, faults)
        self.ears: dict[str, Ear] = {}
        self.brokers: list[Echo] = []
        self.simulation.add_broker(self._broker)
        self.simulation.add_aggregator("aggregator", "run", lambda link: self._ear("aggregator", link))
        self.simulation.add_trainer("bob", lambda link: self._ear("bob", link))
        self.simulation.start("broker", "aggregator", "bob")
        self.pass_time(1.0)

    def _broker(self, hub: Hub) -> Echo:
        self.brokers.append(Echo(hub))
        return self.brokers[-1]

    def _ear(self, name: str, link: Link) -> Ear:
        self.ears[name] = Ear(link, self.simulation.clock.now)
        return self.ears[name]

    def pass_time(self, seconds: float) -> None:
        self.simulation.run(lambda: False, seconds)

    def publish(self, count: int = MANY) -> list[int]:
        """Send so many numbers down; what came."""
        for number in range(count):
            self.ears["aggregator"].link.send([b"round/run", str(number).encode()])
        self.pass_time(60.0)
        return self.ears["bob"].numbers

    def push(self, count: int = MANY) -> list[int]:
        """Send so many numbers up; what came."""
        for number in range(count):
            self.ears["bob"].link.send([b"up/run", str(number).encode()])
        self.pass_time(60.0)
        return self.ears["aggregator"].numbers


def everything_from(scene: Scene) -> list[int]:
    return scene.publish() + scene.push()


# Messages


@pytest.mark.parametrize("delay_s", [(0.01, 0.01), (0.0, 5.0)], ids=["steady", "uneven"])
def test_messages_of_a_connection_all_arrive_in_order(delay_s: tuple[float, float]) -> None:
    scene = Scene(Faults(delay_s=delay_s))
    assert everything_from(scene) == [*range(MANY), *range(MANY)]


def test_reordered_messages_all_arrive() -> None:
    came = Scene(Faults(delay_s=(0.0, 5.0), reorder=True)).publish()
    assert came != sorted(came)
    assert sorted(came) == list(range(MANY))


def test_lost_messages_never_arrive() -> None:
    came = Scene(Faults(loss=0.2)).publish()
    assert came == sorted(came)
    assert 0.5 * MANY < len(came) < 0.78 * MANY  # two hops: 0.8 squared is 0.64, and the deviation is 0.015


def test_duplicated_messages_arrive_twice() -> None:
    came = Scene(Faults(duplicate=0.5)).push()
    assert set(came) == set(range(MANY))
    assert 2.0 * MANY < len(came) < 2.5 * MANY  # two hops: 1.5 squared is 2.25


def test_delay_of_a_message_is_drawn_between_the_bounds() -> None:
    scene = Scene(Faults(delay_s=(0.2, 0.3)))
    sent_at = scene.simulation.clock.now()
    scene.publish(1)
    (arrived,) = [time for time, one in scene.ears["bob"].news if isinstance(one, Delivered)]
    assert 2 * 0.2 <= arrived - sent_at <= 2 * 0.3


def test_only_subscribers_of_a_topic_receive_it() -> None:
    scene = Scene()
    scene.ears["aggregator"].link.send([topics.inbox_of("alice").encode(), b"1"])
    scene.ears["aggregator"].link.send([topics.inbox_of("bob").encode(), b"2"])
    scene.pass_time(1.0)
    assert scene.ears["bob"].numbers == [2]


def test_same_seed_gives_the_same_run() -> None:
    faults = Faults(loss=0.1, duplicate=0.1, delay_s=(0.0, 1.0), reorder=True)
    first, again, other = (everything_from(Scene(faults, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_heal_ends_present_and_future_faults() -> None:
    scene = Scene(Faults(loss=1.0))
    scene.simulation.crash_in("aggregator", 1)
    scene.simulation.heal()
    assert scene.publish(10) == list(range(10))


def test_trace_is_called_for_each_event() -> None:
    scene, lines = Scene(), list[tuple[str, str]]()
    scene.simulation.trace = lambda time, what, name, frames: lines.append((what, name))
    scene.publish(1)
    scene.simulation.crash("bob")
    scene.simulation.start("bob")
    scene.simulation.stop("bob")
    assert lines == [
        ("up", "aggregator"),
        ("down", "bob"),
        ("crash", "bob"),
        ("start", "bob"),
        ("stop", "bob"),
        ("end", "bob"),
    ]


# Connections


def test_edge_gets_events_of_the_broker_connection() -> None:
    scene = Scene()
    scene.simulation.crash("broker")
    scene.pass_time(1.0)
    scene.simulation.start("broker")
    scene.pass_time(1.0)
    expected = [(0.1, LinkUp), (1.0, LinkDown), (2.1, LinkUp)]
    assert scene.ears["bob"].changes == scene.ears["aggregator"].changes == expected


def test_without_a_broker_nothing_is_sent() -> None:
    scene = Scene()
    assert scene.ears["bob"].link.send([b"up/run", b"1"])
    scene.simulation.crash("broker")
    assert not scene.ears["bob"].link.send([b"up/run", b"2"])


def test_messages_in_flight_are_lost_when_the_broker_crashes() -> None:
    scene = Scene()
    scene.ears["bob"].link.send([b"up/run", b"1"])
    scene.simulation.crash("broker")
    scene.simulation.start("broker")
    assert scene.push(0) == []


def test_broker_sees_subscriptions_and_their_ends() -> None:
    scene = Scene()
    before = len(scene.brokers[0].seen)
    scene.simulation.crash("bob")
    scene.pass_time(1.0)
    assert scene.brokers[0].seen[before:] == ["Unsubscribed"] * 4  # rounds, beacons, secure sums and its inbox
    scene.simulation.start("bob")
    scene.pass_time(1.0)
    assert scene.brokers[0].seen[before + 4 :] == ["Subscribed"] * 4


# Nodes


@pytest.mark.parametrize("operations", [1, 3])
def test_node_crashes_at_the_given_operation(operations: int) -> None:
    scene = Scene()
    scene.simulation.crash_in("bob", operations)
    scene.ears["bob"].on_step = send_five
    scene.simulation.step("bob")
    assert scene.simulation.node("bob") is None
    scene.pass_time(1.0)
    assert scene.ears["aggregator"].numbers == list(range(operations - 1))


def send_five(ear: Ear) -> None:
    for number in range(5):
        ear.link.send([b"up/run", str(number).encode()])


def test_test_may_define_what_an_operation_is() -> None:
    scene = Scene()
    scene.simulation.crash_in("bob", 2)
    scene.simulation.operation("bob")
    with pytest.raises(NodeCrashed, match="bob crashes here"):
        scene.simulation.operation("bob")
    scene.simulation.operation("bob")  # a fuse burns once


def test_crashed_node_starts_again_without_its_state() -> None:
    scene = Scene()
    scene.publish(3)
    old = scene.ears["bob"]
    scene.simulation.crash("bob")
    scene.simulation.crash("bob")
    scene.pass_time(1.0)
    scene.simulation.start("bob", "bob")
    scene.pass_time(1.0)
    assert scene.ears["bob"] is not old
    assert scene.ears["bob"].numbers == []
    assert scene.simulation.node("bob") is scene.ears["bob"]


def test_finished_node_is_removed() -> None:
    scene = Scene()
    scene.simulation.stop("bob")
    assert scene.simulation.node("bob") is None


# Time


def test_node_wakes_at_its_time() -> None:
    scene, woken = Scene(), list[float]()
    bob, clock = scene.ears["bob"], scene.simulation.clock

    def every_ten_seconds(ear: Ear) -> None:
        woken.append(clock.now())
        ear.wake_at = clock.now() + 10.0 if len(woken) < 4 else None

    bob.on_step = every_ten_seconds
    scene.simulation.step("bob")
    scene.pass_time(100.0)
    assert woken == [1.0, 11.0, 21.0, 31.0]


def test_node_that_keeps_waking_at_one_instant_is_an_error() -> None:
    scene = Scene()
    scene.ears["bob"].wake_at = 0.0
    scene.simulation.step("bob")
    with pytest.raises(TimeStandsStill, match=r"100000 events at 1\.0 s"):
        scene.pass_time(1.0)


def test_run_ends_at_its_condition_or_at_its_limit() -> None:
    simulation, happened = Simulation(1), list[str]()
    simulation.at(2.0, lambda: happened.append("two"))
    simulation.at(1.0, lambda: happened.append("one"))
    simulation.at(3.0, lambda: happened.append("three"))
    assert simulation.run(lambda: len(happened) == 2, 10.0)
    assert (happened, simulation.clock.now()) == (["one", "two"], 2.0)
    assert not simulation.run(lambda: False, 0.5)
    assert (happened, simulation.clock.now()) == (["one", "two"], 2.5)
    assert not simulation.run(lambda: False, 10.0)
    assert (happened[2:], simulation.clock.now()) == (["three"], 12.5)


def test_clock_is_monotonic() -> None:
    clock = VirtualClock()
    clock.move_to(2.0)
    clock.move_to(1.0)
    assert (clock.now(), clock.wall()) == (2.0, 1e9 + 2.0)


# Work


def test_work_takes_virtual_time_and_a_newer_start_replaces_it() -> None:
    scene = Scene()
    clock = scene.simulation.clock
    worker = VirtualWorker(scene.simulation, "bob", lambda packet, _cancelled: clock.now(), lambda: 3.0)
    worker.start(a_packet())
    scene.pass_time(2.0)
    worker.start(a_packet())
    assert worker.done() == []
    scene.pass_time(10.0)
    assert (worker.done(), worker.done()) == ([6.0], [])
    worker.start(a_packet())
    worker.cancel()
    scene.pass_time(10.0)
    assert worker.done() == []


def a_packet() -> Packet:
    task, work = find_task("linear"), Train(GradientLearner())
    return decode(
        encode(
            "round/run", Round(run="run", term=1, round=1, seed=0, deadline_s=1.0, task=task, query=encode_query(work))
        )
    )


def test_examples_of_the_testing_page_run_in_order() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "testing.md"
    blocks = re.findall(r"^( *)```python\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {"__name__": "page"}
    for indent, block in blocks:
        code = "".join(line.removeprefix(indent) for line in block.splitlines(keepends=True))
        exec(compile(code, page.name, "exec", dont_inherit=True), names)  # noqa: S102  our own page
    assert len(blocks) >= 4

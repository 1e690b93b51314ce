"""Live runs: an observer has the state of the aggregator, also after losses and crashes."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from publisher_scene import Publisher

from fedmq.aggregator.event_publisher import EVENTS_EVERY_S, EVENTS_MAX, SNAPSHOT_EVERY_S
from fedmq.algorithms.registry import find_algorithm
from fedmq.broker.routing import Allow, Publish, Routing
from fedmq.dashboard.live_runs import RUNS_MAX, LiveRuns
from fedmq.errors import NotAuthorized
from fedmq.observe import events
from fedmq.observe.run_state import BestRecord, RunState
from fedmq.protocol import topics
from fedmq.protocol.codec import EVENTS, VIEW, encode
from fedmq.protocol.messages import Beacon, Events, Snapshot
from fedmq.protocol.run_config import Limits
from fedmq.simulation import AGGREGATOR, RUN, Federation
from fedmq.tasks.task_file import find_task, task_rows
from fedmq.testing import Faults, VirtualClock, run_started
from fedmq.transport.link import Delivered, Link, LinkDown, LinkEvent, LinkRefused, LinkUp, Published, Subscribed

STARTED = run_started(run="one", term=1, round=1, task="xor", algorithm="evolution", seed=7)
XOR = find_task("xor")


# --- a federation on virtual time ----------------------------------------------------------------------------------


class Scene:
    """A federation on split XOR with one observer, for at most `rounds` rounds."""

    def __init__(self, seed: int, rounds: int = 200, faults: Faults | None = None) -> None:
        names = ("alice", "bob")
        rows = {name: XOR.fit(task_rows("xor", part, 2)) for part, name in enumerate(names, start=1)}
        self.run_state = RunState()
        limits = Limits(rounds_max=rounds, min_trainers=2, deadline_s=0.5)
        self.federation = Federation(
            XOR, find_algorithm("evolution"), rows, seed=seed, limits=limits, faults=faults, view=self.run_state
        )
        self.simulation = self.federation.simulation
        self.live_runs: LiveRuns | None = None
        self.simulation.add_observer("watcher", self._watch)

    def _watch(self, link: Link) -> LiveRuns:
        self.live_runs = LiveRuns(link, clock=self.simulation.clock)
        return self.live_runs

    @property
    def seen(self) -> RunState:
        assert self.live_runs is not None
        return self.live_runs.runs[RUN].run_state

    def run(self, seconds: float = 60.0) -> None:
        self.simulation.run(lambda: False, seconds)


def test_observer_has_the_state_of_the_aggregator() -> None:
    scene = Scene(3)
    scene.federation.start()
    scene.simulation.start("watcher")
    scene.run()
    assert scene.seen == scene.run_state
    assert scene.seen.finished is not None
    assert scene.seen.bests, "a model of two inputs can be drawn"
    assert scene.seen.trainers["bob"].version == "in-process"


def test_beacon_carries_the_clock_of_the_aggregator() -> None:
    scene = Scene(3, faults=Faults(delay_s=(0.05, 0.05)))
    scene.federation.start()
    scene.simulation.start("watcher")
    scene.run()
    assert scene.live_runs is not None
    assert -0.2 < scene.live_runs.runs[RUN].ahead_s < 0.0, "minus the delay of the beacon"


def test_late_observer_receives_the_last_snapshot_from_the_broker() -> None:
    scene = Scene(3)
    scene.federation.start()
    scene.run()
    scene.simulation.start("watcher")
    scene.run(1.0)
    assert scene.seen == scene.run_state


@pytest.mark.parametrize("seed", range(6))
def test_state_is_right_after_losses_duplicates_and_crashes(seed: int) -> None:
    scene = Scene(seed, rounds=40, faults=Faults(loss=0.1, duplicate=0.2, delay_s=(0.0002, 0.05), reorder=True))
    simulation = scene.simulation
    scene.federation.start()
    simulation.start("watcher")
    for second, name in enumerate(("broker", AGGREGATOR, "watcher", "broker", AGGREGATOR), start=1):
        simulation.at(0.3 * second, lambda name=name: simulation.crash(name))  # type: ignore[misc]
        simulation.at(0.3 * second + 0.2, lambda name=name: simulation.start(name))  # type: ignore[misc]
    simulation.at(4.0, simulation.heal)
    simulation.at(4.0, lambda: simulation.start("broker", AGGREGATOR, "watcher"))
    scene.run(20.0)
    assert scene.seen == scene.run_state, f"seed {seed}"
    assert [one.round for one in scene.seen.rounds] == list(range(1, len(scene.seen.rounds) + 1))


# --- publication ---------------------------------------------------------------------------------------------------


def test_rate_of_event_messages_is_bounded() -> None:
    publisher, sent = Publisher(), 0
    publisher.report(0.0, STARTED)
    for step in range(10_000):
        now = step / 1000
        publisher.report(now, events.RoundPublished(round=step + 1, invited=2))
        sent += len(publisher.due(now))
    assert sent <= 10 / EVENTS_EVERY_S + 10 / SNAPSHOT_EVERY_S + 2


def test_large_snapshot_is_sent_less_often() -> None:
    publisher = Publisher(RunState(bests=[BestRecord(number, bytes(1024)) for number in range(1024)]))
    publisher.report(0.0, STARTED)
    publisher.due(0.0)
    publisher.report(0.0, events.RunPaused())
    kinds = {now: publisher.kinds(now) for now in (3.9, 4.5)}
    assert kinds == {3.9: [Events], 4.5: [Snapshot]}


def test_last_publication_sends_all_pending_events() -> None:
    publisher = Publisher()
    publisher.report(0.0, STARTED)
    publisher.due(0.0)
    publisher.report(0.0, events.RunFinished(solved=True, rounds=1, value=1.0))
    assert publisher.due(0.01) == []
    assert publisher.wake_at == EVENTS_EVERY_S
    assert publisher.kinds(0.01, last=True) == [Events, Snapshot]
    assert publisher.wake_at is None


def test_reconnected_broker_receives_a_snapshot() -> None:
    publisher = Publisher()
    publisher.report(0.0, STARTED)
    publisher.due(0.0)
    assert publisher.due(100.0) == []
    publisher.on_broker()
    assert publisher.kinds(100.0) == [Snapshot]


def test_many_events_are_split_into_consecutive_messages() -> None:
    publisher, live_runs = Publisher(), LiveRuns(FakeLink(), clock=VirtualClock())
    publisher.report(0.0, STARTED)
    deliver(live_runs, publisher, 0.0)
    for number in range(3 * EVENTS_MAX):
        publisher.report(1.0, events.RoundPublished(round=number + 1, invited=2))
    assert len(deliver(live_runs, publisher, 0.2)) == 3
    assert live_runs.runs["one"].run_state == publisher.run_state


# --- reception -----------------------------------------------------------------------------------------------------


class FakeLink:
    """A link that receives the events of a test."""

    def __init__(self) -> None:
        self.news: list[LinkEvent] = []

    def receive(self) -> list[LinkEvent]:  # type: ignore[override]
        news, self.news = self.news, []
        return news

    def send(self, frames: object) -> bool:
        return False


def deliver(live_runs: LiveRuns, publisher: Publisher, now: float) -> list[object]:
    sends = publisher.due(now)
    take(live_runs, *(Delivered(frames) for frames in sends))
    return list(sends)


def take(live_runs: LiveRuns, *news: LinkEvent) -> None:
    live_runs._link.news += news  # type: ignore[attr-defined]
    live_runs.step()


def snapshot(run_state: RunState, run: str = "one", term: int = 1, seq: int | None = None) -> Delivered:
    content = np.frombuffer(msgspec.msgpack.encode(run_state), np.uint8)
    message = Snapshot(run=run, term=term, seq=run_state.seq if seq is None else seq)
    return Delivered(encode(topics.SNAPSHOTS + run, message, {VIEW: content}))


def batch(*happened: events.AnyEvent, first: int, term: int = 1) -> Delivered:
    content = np.frombuffer(msgspec.msgpack.encode([(1.0, event) for event in happened]), np.uint8)
    message = Events(run="one", term=term, first=first, count=len(happened))
    return Delivered(encode(topics.EVENTS + "one", message, {EVENTS: content}))


def state_of(run: str = "one", term: int = 1) -> RunState:
    run_state = RunState()
    run_state.apply(0.0, run_started(run, term=term))
    return run_state


@pytest.fixture
def live_runs() -> LiveRuns:
    made = LiveRuns(FakeLink(), clock=VirtualClock())
    take(made, LinkUp(), snapshot(state_of()))
    return made


def test_known_events_are_applied_once(live_runs: LiveRuns) -> None:
    paused, resumed = events.RunPaused(), events.RunResumed()
    for news in (batch(paused, first=1), batch(paused, first=1), batch(paused, resumed, first=1)):
        take(live_runs, news)
    assert live_runs.runs["one"].run_state.seq == 3


def test_snapshot_closes_a_gap(live_runs: LiveRuns) -> None:
    take(live_runs, batch(events.RunPaused(), first=2))
    run_state = live_runs.runs["one"].run_state
    assert (run_state.seq, run_state.paused) == (1, False)
    whole = state_of()
    whole.apply(1.0, events.Waiting(present=0, needed=2))
    whole.apply(1.0, events.RunPaused())
    take(live_runs, snapshot(whole))
    assert live_runs.runs["one"].run_state == whole


def test_older_snapshot_or_term_is_ignored(live_runs: LiveRuns) -> None:
    later = state_of(term=2)
    take(live_runs, snapshot(later, term=2), snapshot(state_of()), batch(events.RunPaused(), first=1))
    assert live_runs.runs["one"].run_state == later


def test_ages_follow_the_clock_of_the_aggregator(live_runs: LiveRuns) -> None:
    clock, run = live_runs._clock, live_runs.runs["one"]
    assert run.ahead_s == 0.0
    beacon = Beacon(run="one", term=1, round=1, open=True, at=clock.wall() - 90.0)
    zombie = msgspec.structs.replace(beacon, term=0, at=1.0)
    for one in (beacon, zombie, msgspec.structs.replace(beacon, at=0.0)):
        take(live_runs, Delivered(encode("beacon/one", one)))
        assert run.ahead_s == -90.0


def test_invalid_snapshot_is_rejected_and_changes_nothing(
    live_runs: LiveRuns, caplog: pytest.LogCaptureFixture
) -> None:
    before = live_runs.runs["one"].run_state
    nothing = encode("snapshot/one", Snapshot(run="one", term=9, seq=9))
    noise = encode("snapshot/one", Snapshot(run="one", term=9, seq=9), {VIEW: np.frombuffer(b"noise", np.uint8)})
    for frames in (
        nothing,
        noise,
        snapshot(state_of(), run="other").frames,
        snapshot(state_of(), seq=7).frames,
        [b"x"],
    ):
        take(live_runs, Delivered(frames), Delivered(frames))
    assert [line.split(": ")[1] for line in caplog.messages] == ["arrays", "values", "frames"]  # each reason once
    assert not any("\n" in line for line in caplog.messages)
    assert list(live_runs.runs) == ["one"]
    assert live_runs.runs["one"].run_state is before


def test_silent_aggregator_is_not_connected(live_runs: LiveRuns) -> None:
    clock = live_runs._clock
    assert live_runs.runs["one"].connected(clock.now())
    clock.move_to(5.0)  # type: ignore[attr-defined]
    assert not live_runs.runs["one"].connected(clock.now())
    take(live_runs, Delivered(encode("beacon/one", Beacon(run="one", term=1, round=1, open=True))))
    assert live_runs.runs["one"].connected(clock.now())


def test_number_of_runs_is_bounded(live_runs: LiveRuns) -> None:
    for number in range(RUNS_MAX + 5):
        take(live_runs, snapshot(state_of(f"run-{number}"), run=f"run-{number}"))
    assert len(live_runs.runs) == RUNS_MAX
    assert "one" not in live_runs.runs


def test_rejected_key_ends_the_observer_unless_it_was_connected(live_runs: LiveRuns) -> None:
    take(live_runs, LinkDown(), LinkRefused())
    assert not live_runs.connected
    with pytest.raises(NotAuthorized):
        take(LiveRuns(FakeLink(), clock=VirtualClock()), LinkRefused())


# --- the broker ----------------------------------------------------------------------------------------------------


def test_observer_receives_the_newest_snapshot_of_each_run() -> None:
    broker = Routing()
    old, new = snapshot(state_of()).frames, snapshot(state_of(term=2), term=2).frames
    other = snapshot(state_of("two"), run="two").frames
    for frames in (old, other, new):
        assert list(broker.step(Published(frames))) == [Publish(frames)]
    assert list(broker.step(Subscribed("watch/abc/"))) == [Allow("watch/abc/")]
    assert list(broker.hand_over(0.0)) == [
        Publish([b"watch/abc/", *other[1:]]),
        Publish([b"watch/abc/", *new[1:]]),
    ]


@pytest.mark.parametrize("topic", ["event/", "snapshot/", "event/one", "watch/abc/"])
def test_authenticated_trainer_receives_no_observer_topic(topic: str) -> None:
    assert Allow(topic) in list(Routing().step(Subscribed(topic, "")))
    assert list(Routing().step(Subscribed(topic, "alice"))) == []


@pytest.mark.parametrize("topic", ["watch/", "watch/abc", "watcher/abc/", "snap"])
def test_other_prefix_is_rejected(topic: str) -> None:
    assert list(Routing().step(Subscribed(topic))) == []

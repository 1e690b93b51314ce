"""An operator who asks a live run to pause, to resume or to stop, on a link in memory; and what the run makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import structs
from rounds_scene import Scene, closes, opened, sent, told

from fedmq.aggregator.machine import BrokerDown, BrokerUp, Output, Phase, Received, Tick
from fedmq.algorithms.base import encode_query
from fedmq.algorithms.evolution.query import Evolve
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import BadConfiguration, Unreachable
from fedmq.observe import events
from fedmq.protocol.codec import Frames, Packet, decode, encode
from fedmq.protocol.messages import (
    Action,
    Beacon,
    Control,
    Finished,
    Message,
    Refused,
    Round,
)
from fedmq.protocol.run_config import Limits
from fedmq.runs.control_client import AGAIN_S, ANSWER_S, Operator
from fedmq.runs.records import Checkpoint, Close, StoredResult
from fedmq.simulation import Federation
from fedmq.tasks.task_file import find_task, task_rows
from fedmq.testing import VirtualClock
from fedmq.transport.link import Delivered, LinkEvent, LinkUp

ACTIONS: tuple[Action, ...] = ("pause", "resume", "stop")
PAUSED, GOES_ON = (Beacon(run="run", term=2, round=3, open=True, paused=paused) for paused in (True, False))
ROUND = Round(
    run="run", term=2, round=3, seed=7, deadline_s=10.0, task=find_task("xor"), query=encode_query(Evolve(elites=10))
)
OVER = Finished(run="run", term=2, rounds=3, solved=False)
WORD = 77


class Post:
    """A link on which a test says what comes, and sees what is sent."""

    def __init__(self) -> None:
        self.news: list[LinkEvent] = []
        self.sent: list[tuple[str, Message]] = []
        self.takes = True

    def receive(self) -> Iterator[LinkEvent]:
        news, self.news = self.news, []
        yield from news

    def send(self, frames: Frames) -> bool:
        if self.takes:
            packet = decode(frames)
            self.sent.append((packet.topic, packet.message))
        return self.takes


class Desk:
    """An operator at work, and the hands of its clock."""

    def __init__(self, action: Action, trainer: str | None = None) -> None:
        self.link, self.clock = Post(), VirtualClock()
        self.operator = Operator(self.link, "run", action, clock=self.clock, request_id=WORD, trainer=trainer)

    def step(self, *messages: Message, at: float | None = None) -> list[Message]:
        """What it says when these come."""
        if at is not None:
            self.clock.move_to(at)
        self.link.news += [Delivered(encode("beacon/run", message)) for message in messages]
        before = len(self.link.sent)
        self.operator.step()
        return [message for _, message in self.link.sent[before:]]

    @property
    def ended(self) -> tuple[bool, bool]:
        return self.operator.done, self.operator.acked_request


def asking(action: Action) -> Control:
    return Control(run="run", term=2, action=action, request_id=WORD)


# The operator


def test_before_the_run_was_heard_nothing_is_asked() -> None:
    desk = Desk("pause")
    desk.link.news.append(LinkUp())
    assert desk.step() == []
    assert desk.operator.wake_at == ANSWER_S


@pytest.mark.parametrize("first", [GOES_ON, ROUND], ids=["beacon", "round"])
def test_a_run_that_was_heard_is_asked_again_and_again_until_it_heeds(first: Message) -> None:
    desk = Desk("pause")
    assert desk.step(first) == [asking("pause")]
    assert desk.link.sent[0][0] == "up/run"
    assert desk.operator.wake_at == AGAIN_S
    assert desk.step(GOES_ON, at=AGAIN_S - 0.01) == []
    assert desk.step(GOES_ON, at=AGAIN_S) == [asking("pause")]
    assert desk.ended == (False, False)
    assert desk.step(PAUSED, at=0.9) == []
    assert desk.ended == (True, True)


def test_what_the_network_does_not_take_is_said_again() -> None:
    desk = Desk("stop")
    desk.link.takes = False
    assert desk.step(GOES_ON) == []
    desk.link.takes = True
    assert desk.step(at=AGAIN_S) == [asking("stop")]


@pytest.mark.parametrize(
    ("action", "answer"), [("pause", PAUSED), ("resume", GOES_ON), ("stop", OVER)], ids=["pause", "resume", "stop"]
)
def test_nothing_is_asked_of_a_run_that_is_as_it_is_wanted(action: Action, answer: Message) -> None:
    desk = Desk(action)
    assert desk.step(answer) == []
    assert desk.ended == (True, True)


def test_a_round_that_comes_again_does_not_mean_that_the_run_goes_on() -> None:
    desk = Desk("resume")
    assert desk.step(ROUND) == [asking("resume")], "a broker that is new gets the open round of a paused run, too"
    desk.step(PAUSED)
    assert desk.ended == (False, False)
    desk.step(GOES_ON)
    assert desk.ended == (True, True)


@pytest.mark.parametrize("action", ACTIONS)
def test_a_run_of_which_nothing_is_heard_is_not_waited_for_for_ever(action: Action) -> None:
    desk = Desk(action)
    desk.step(at=ANSWER_S - 0.01)
    with pytest.raises(Unreachable, match=rf"^expected run run to {action} within 10 s, nothing came: is its aggreg"):
        desk.step(at=ANSWER_S)
    assert desk.ended == (False, False)


def test_a_run_that_is_heard_and_does_not_heed_is_not_waited_for_for_ever_either() -> None:
    desk = Desk("pause")
    asked = [said for tenths in range(100) for said in desk.step(GOES_ON, at=tenths / 10)]
    assert len(asked) == ANSWER_S / AGAIN_S
    with pytest.raises(Unreachable, match="it was heard, but not of that: "):
        desk.step(GOES_ON, at=ANSWER_S)


@pytest.mark.parametrize("action", ["pause", "resume"])
def test_a_run_that_is_over_can_be_neither_paused_nor_resumed(action: Action) -> None:
    desk = Desk(action)
    with pytest.raises(BadConfiguration, match=rf"^run run is over; there is nothing to {action}$"):
        desk.step(OVER)


def test_a_zombie_of_the_run_does_not_speak_for_it() -> None:
    desk = Desk("pause")
    desk.step(GOES_ON)
    zombie = Beacon(run="run", term=1, round=9, open=True, paused=True)
    desk.step(zombie, Finished(run="run", term=1, rounds=9, solved=True))
    assert desk.ended == (False, False)
    later = Beacon(run="run", term=3, round=3, open=True)
    assert desk.step(later, at=AGAIN_S) == [Control(run="run", term=3, action="pause", request_id=WORD)]


def test_what_comes_of_other_runs_or_cannot_be_read_changes_nothing() -> None:
    desk = Desk("pause")
    desk.link.news.append(Delivered([b"beacon/run", b"no header", b""]))
    other = Beacon(run="run-2", term=2, round=1, open=True, paused=True)  # its topic has the wanted one as a prefix
    assert desk.step(other) == []
    assert desk.ended == (False, False)


def test_an_operator_who_is_interrupted_does_not_claim_that_anybody_heeded_it() -> None:
    desk = Desk("pause")
    desk.step(GOES_ON)
    desk.operator.stop()
    assert desk.step(GOES_ON, at=99.0) == []
    assert desk.ended == (True, False)


# The run


def control(
    scene: Scene,
    action: Action,
    at: float | None = None,
    run: str = "run",
    trainer: str | None = None,
    term: int = 2,
) -> Output:
    return scene.hear(Control(run=run, term=term, action=action, trainer=trainer, request_id=WORD), at=at)


def paused(output: Output) -> list[bool]:
    return [message.paused for _, message in sent(output, Beacon)]


def test_a_paused_run_says_so_at_once_closes_its_round_and_opens_no_other() -> None:
    scene = opened("bob", "alice")
    output = control(scene, "pause", at=0.1)
    assert told(output, events.RunPaused) == [events.RunPaused()]
    assert paused(output) == [True]
    scene.result("bob", 1)
    output = scene.result("alice", 1)
    assert [close.round for close in closes(output)] == [1]
    assert sent(output, Round) == []
    assert sent(scene.hello("carol"), Round) == []
    assert sent(scene.take(Tick(), at=3600.0), Round) == []
    assert scene.rounds.phase is Phase.WAITING


def test_a_run_that_is_resumed_goes_on_at_once() -> None:
    scene = opened("bob", "alice")
    control(scene, "pause")
    scene.result("bob", 1)
    scene.result("alice", 1)
    output = control(scene, "resume", at=60.0)
    assert told(output, events.RunResumed) == [events.RunResumed()]
    assert [message.round for _, message in sent(output, Round)] == [2]
    assert paused(control(scene, "resume", at=61.0)) == [False]


@pytest.mark.parametrize("action", ["pause", "resume"])
def test_who_asks_twice_gets_an_answer_twice_and_the_run_only_tells_it_once(action: Action) -> None:
    scene = opened("bob", "alice")
    if action == "resume":
        control(scene, "pause")
    first, second = control(scene, action, at=0.1), control(scene, action, at=0.2)
    assert [len(output.events) for output in (first, second)] == [1, 0]
    assert paused(first) == paused(second) == [action == "pause"]


def test_results_of_a_paused_run_are_saved_and_acknowledged() -> None:
    scene = opened("bob", "alice")
    control(scene, "pause")
    assert len(scene.result("bob", 1, at=0.1).records) == 1
    (beacon,) = [message for _, message in sent(scene.take(Tick(), at=0.5), Beacon)]
    assert (beacon.acknowledged, beacon.paused) == (bytes([0b01]), True)


def test_a_new_broker_does_not_end_a_pause() -> None:
    scene = opened("bob", "alice")
    control(scene, "pause")
    scene.take(BrokerDown(), at=1.0)
    output = scene.take(BrokerUp(), at=2.0)
    assert paused(output) == [True]
    assert [message.round for _, message in sent(output, Round)] == [1], "which is still open"


def test_a_run_that_is_stopped_is_over_with_what_it_has() -> None:
    scene = opened("bob", "alice")
    scene.result("bob", 1, 3.0)
    scene.result("alice", 1, 5.0)
    scene.result("bob", 2, 4.0)
    output = control(scene, "stop")
    assert scene.rounds.phase is Phase.FINISHED
    assert told(output, events.RunFinished) == [events.RunFinished(solved=False, rounds=1, value=8.0, why="stopped")]
    assert [topic for topic, _ in sent(output, Finished)] == ["round/run"]
    assert closes(output) == [], "the open round had not all its answers"


def test_a_paused_run_and_one_that_waits_for_trainers_can_be_stopped_too() -> None:
    waiting, halted = Scene(min_trainers=3), opened("bob", "alice")
    waiting.take(BrokerUp())
    control(halted, "pause")
    for scene in (waiting, halted):
        output = control(scene, "stop")
        assert [message.rounds for _, message in sent(output, Finished)] == [0]


@pytest.mark.parametrize("other", [{"run": "other"}, {"term": 1}, {"term": 3}])
def test_a_word_to_another_run_or_to_another_life_of_this_one_changes_nothing(other: Any) -> None:
    scene = opened("bob", "alice")
    for action in ACTIONS:
        output = control(scene, action, **other)
        assert (output.records, output.sends, output.events) == ([], [], [])
    assert scene.rounds.rejections == {}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_run_that_is_over_stays_so(action: Action) -> None:
    scene = opened("bob", rounds_max=1)
    scene.result("bob", 1, 5.0)
    output = control(scene, action)
    assert (output.records, output.events) == ([], [])
    assert sent(output, Refused) == []
    assert scene.rounds.phase is Phase.FINISHED


# Who is kept out


def refusals(output: Output) -> list[tuple[str, str]]:
    return [(message.trainer, message.reason) for _, message in sent(output, Refused)]


@pytest.mark.parametrize("action", ["checkpoint", "drain", "ban", "readmit"])
def test_a_beacon_that_repeats_the_word_shows_that_it_was_heeded(action: Action) -> None:
    trainer = None if action == "checkpoint" else "bob"
    desk = Desk(action, trainer)
    said = Control(run="run", term=2, action=action, trainer=trainer, request_id=WORD)
    assert desk.step(GOES_ON) == [said]
    desk.step(Beacon(run="run", term=2, round=3, open=True, acked_request=WORD + 1))
    assert desk.ended == (False, False)
    desk.step(Beacon(run="run", term=2, round=3, open=True, acked_request=WORD))
    assert desk.ended == (True, True)
    beacons = [message for _, message in sent(control(opened("bob", "alice"), action, trainer=trainer), Beacon)]
    assert [beacon.acked_request for beacon in beacons] == [WORD]


def test_who_is_drained_may_answer_the_open_round_and_is_invited_to_no_other() -> None:
    scene = opened("bob", "alice", min_trainers=1)
    output = control(scene, "drain", trainer="bob")
    assert told(output, events.TrainerBarred) == [events.TrainerBarred(trainer="bob", how="drained")]
    assert told(control(scene, "drain", trainer="bob"), events.TrainerBarred) == [], "told once"
    scene.result("alice", 1, 3.0)
    (close,) = closes(scene.result("bob", 1, 5.0))
    assert (close.results, close.members) == (2, ("alice", "bob")), "its answer counts"
    assert refusals(scene.result("bob", 2, 5.0)) == [("bob", "barred")]
    (close,) = closes(scene.result("alice", 2, 3.0))
    assert (close.results, close.members) == (1, ("alice",)), "nobody waits for it, and its rows do not count"


def test_who_is_drained_between_two_rounds_is_not_invited_to_the_next() -> None:
    scene = opened("bob", "alice", min_trainers=1)
    control(scene, "pause")
    scene.result("alice", 1)
    scene.result("bob", 1)
    control(scene, "drain", trainer="bob")
    assert [event.invited for event in told(control(scene, "resume"), events.RoundPublished)] == [1]


def test_who_is_banned_is_refused_from_now_on_and_not_waited_for() -> None:
    scene = opened("bob", "alice", quorum=1.0)
    scene.result("alice", 1, 3.0)
    output = control(scene, "ban", trainer="bob")
    assert told(output, events.TrainerBarred) == [events.TrainerBarred(trainer="bob", how="banned")]
    (close,) = closes(output)
    assert (close.results, close.members) == (1, ("alice",))
    assert refusals(scene.result("bob", 1, 5.0)) == [("bob", "barred")]
    assert refusals(scene.result("bob", 2, 5.0)) == [("bob", "barred")]
    assert sent(scene.hello("bob"), Round) == []


def test_what_somebody_sent_before_it_was_banned_counts() -> None:
    scene = opened("bob", "alice")
    scene.result("bob", 1, 5.0)
    control(scene, "ban", trainer="bob")
    (close,) = closes(scene.result("alice", 1, 3.0))
    assert close.results == 2, "it is on disk, and acknowledged"


def test_a_run_waits_for_trainers_that_may_take_part() -> None:
    scene = opened("bob", "alice")
    control(scene, "drain", trainer="bob")
    scene.result("bob", 1)
    output = scene.result("alice", 1)
    assert told(output, events.Waiting) == [events.Waiting(present=1, needed=2)]
    output = control(scene, "readmit", trainer="bob")
    assert told(output, events.TrainerReadmitted) == [events.TrainerReadmitted(trainer="bob")]
    assert [message.round for _, message in sent(output, Round)] == [2]
    scene.result("alice", 2)
    (close,) = closes(scene.result("bob", 2))
    assert close.members == ("alice", "bob")


def test_who_is_drained_can_be_banned_and_both_are_undone_at_once() -> None:
    scene = opened("bob", "alice")
    control(scene, "drain", trainer="bob")
    control(scene, "ban", trainer="bob")
    assert refusals(scene.result("bob", 1)) == [("bob", "barred")]
    assert told(control(scene, "drain", trainer="bob"), events.TrainerBarred) == [], "it is out already"
    control(scene, "readmit", trainer="bob")
    assert refusals(scene.result("bob", 1)) == []


def test_a_checkpoint_is_kept_at_the_next_close_and_at_no_other() -> None:
    scene = opened("bob", min_trainers=1)
    control(scene, "checkpoint")
    outputs = [scene.result("bob", number) for number in (1, 2)]
    kept = [[type(record) for record in output.records] for output in outputs]
    assert kept == [[StoredResult, Close, Checkpoint], [StoredResult, Close]]


def test_unknown_action_is_no_readmission() -> None:
    scene = opened("bob", "alice")
    control(scene, "ban", trainer="bob")
    unknown = Control(run="run", term=2, action="rollback", trainer="bob")  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="rollback"):
        scene.take(Received(Packet("up/run", unknown, {}, [])))
    assert scene.roster.is_barred("bob", 1)


def test_a_checkpoint_that_was_asked_for_is_in_the_store() -> None:
    rows = {name: task_rows("linear", part, 2) for part, name in enumerate(("alice", "bob"), 1)}
    task = structs.replace(find_task("linear"), target=0.0)
    limits = Limits(rounds_max=50, min_trainers=2)
    federation = Federation(task, find_algorithm("averaging"), rows, limits=limits)
    simulation, clock = federation.simulation, federation.simulation.clock
    simulation.add_trainer("olga", lambda link: Operator(link, "run", "checkpoint", clock=clock, request_id=WORD))
    federation.start()
    simulation.start("olga")
    assert simulation.run(lambda: federation.finished, 60.0)
    kept = [event.round for event in federation.events if isinstance(event, events.CheckpointKept)]
    assert len(kept) == 1
    checkpoint = federation.store.checkpoint()
    assert checkpoint is not None
    assert checkpoint[0] == kept[0] + 1

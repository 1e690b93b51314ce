"""Control commands: the client on a link in memory, and their effect on a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import structs
from rounds_scene import Scene, closes, opened, sent, told

from fedmq.aggregator.machine import Output, Phase
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
from fedmq.runs.control_client import RESEND_S, TIMEOUT_S, ControlClient
from fedmq.runs.records import Checkpoint, Close, StoredResult
from fedmq.simulation import Federation
from fedmq.tasks.task_file import find_task, task_rows
from fedmq.testing import VirtualClock
from fedmq.transport.link import (
    BrokerConnected,
    BrokerDisconnected,
    Delivered,
    LinkEvent,
    LinkUp,
    MessageReceived,
    Tick,
)

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


class ClientScene:
    """A control client, and its clock."""

    def __init__(self, action: Action, trainer: str | None = None) -> None:
        self.link, self.clock = Post(), VirtualClock()
        self.client = ControlClient(self.link, "run", action, clock=self.clock, request_id=WORD, trainer=trainer)

    def step(self, *messages: Message, at: float | None = None) -> list[Message]:
        """What it says when these come."""
        if at is not None:
            self.clock.move_to(at)
        self.link.news += [Delivered(encode("beacon/run", message)) for message in messages]
        before = len(self.link.sent)
        self.client.step()
        return [message for _, message in self.link.sent[before:]]

    @property
    def ended(self) -> tuple[bool, bool]:
        return self.client.done, self.client.acked_request


def asking(action: Action) -> Control:
    return Control(run="run", term=2, action=action, request_id=WORD)


# The client


def test_no_command_is_sent_before_the_first_message_of_the_run() -> None:
    scene = ClientScene("pause")
    scene.link.news.append(LinkUp())
    assert scene.step() == []
    assert scene.client.wake_at == TIMEOUT_S


@pytest.mark.parametrize("first", [GOES_ON, ROUND], ids=["beacon", "round"])
def test_command_is_resent_until_the_run_acknowledges_it(first: Message) -> None:
    scene = ClientScene("pause")
    assert scene.step(first) == [asking("pause")]
    assert scene.link.sent[0][0] == "up/run"
    assert scene.client.wake_at == RESEND_S
    assert scene.step(GOES_ON, at=RESEND_S - 0.01) == []
    assert scene.step(GOES_ON, at=RESEND_S) == [asking("pause")]
    assert scene.ended == (False, False)
    assert scene.step(PAUSED, at=0.9) == []
    assert scene.ended == (True, True)


def test_command_names_no_term_in_the_future() -> None:
    scene = ClientScene("pause")
    assert scene.step(structs.replace(GOES_ON, term=2**53)) == []
    assert scene.step(GOES_ON) == [asking("pause")]


def test_command_that_could_not_be_sent_is_sent_again() -> None:
    scene = ClientScene("stop")
    scene.link.takes = False
    assert scene.step(GOES_ON) == []
    scene.link.takes = True
    assert scene.step(at=RESEND_S) == [asking("stop")]


@pytest.mark.parametrize(
    ("action", "answer"), [("pause", PAUSED), ("resume", GOES_ON), ("stop", OVER)], ids=["pause", "resume", "stop"]
)
def test_no_command_is_sent_to_a_run_in_the_wanted_state(action: Action, answer: Message) -> None:
    scene = ClientScene(action)
    assert scene.step(answer) == []
    assert scene.ended == (True, True)


def test_repeated_round_does_not_acknowledge_a_resume() -> None:
    scene = ClientScene("resume")
    assert scene.step(ROUND) == [asking("resume")], "a broker that is new gets the open round of a paused run, too"
    scene.step(PAUSED)
    assert scene.ended == (False, False)
    scene.step(GOES_ON)
    assert scene.ended == (True, True)


@pytest.mark.parametrize("action", ACTIONS)
def test_client_times_out_without_a_message_of_the_run(action: Action) -> None:
    scene = ClientScene(action)
    scene.step(at=TIMEOUT_S - 0.01)
    with pytest.raises(Unreachable, match=rf"run run to {action} within 10 s"):
        scene.step(at=TIMEOUT_S)
    assert scene.ended == (False, False)


def test_client_times_out_without_an_acknowledgement() -> None:
    scene = ClientScene("pause")
    asked = [said for tenths in range(100) for said in scene.step(GOES_ON, at=tenths / 10)]
    assert len(asked) == TIMEOUT_S / RESEND_S
    with pytest.raises(Unreachable, match="within 10 s"):
        scene.step(GOES_ON, at=TIMEOUT_S)


@pytest.mark.parametrize("action", ["pause", "resume"])
def test_finished_run_can_be_neither_paused_nor_resumed(action: Action) -> None:
    scene = ClientScene(action)
    with pytest.raises(BadConfiguration, match=rf"^run run is over; there is nothing to {action}$"):
        scene.step(OVER)


def test_beacon_of_a_lower_term_is_ignored() -> None:
    scene = ClientScene("pause")
    scene.step(GOES_ON)
    zombie = Beacon(run="run", term=1, round=9, open=True, paused=True)
    scene.step(zombie, Finished(run="run", term=1, rounds=9, solved=True))
    assert scene.ended == (False, False)
    later = Beacon(run="run", term=3, round=3, open=True)
    assert scene.step(later, at=RESEND_S) == [Control(run="run", term=3, action="pause", request_id=WORD)]


def test_messages_of_other_runs_and_malformed_ones_are_ignored() -> None:
    scene = ClientScene("pause")
    scene.link.news.append(Delivered([b"beacon/run", b"no header", b""]))
    other = Beacon(run="run-2", term=2, round=1, open=True, paused=True)  # its topic has the wanted one as a prefix
    assert scene.step(other) == []
    assert scene.ended == (False, False)


def test_stopped_client_reports_no_acknowledgement() -> None:
    scene = ClientScene("pause")
    scene.step(GOES_ON)
    scene.client.stop()
    assert scene.step(GOES_ON, at=99.0) == []
    assert scene.ended == (True, False)


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


def test_paused_run_closes_its_open_round_and_opens_no_other() -> None:
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


def test_resumed_run_continues_at_once() -> None:
    scene = opened("bob", "alice")
    control(scene, "pause")
    scene.result("bob", 1)
    scene.result("alice", 1)
    output = control(scene, "resume", at=60.0)
    assert told(output, events.RunResumed) == [events.RunResumed()]
    assert [message.round for _, message in sent(output, Round)] == [2]
    assert paused(control(scene, "resume", at=61.0)) == [False]


@pytest.mark.parametrize("action", ["pause", "resume"])
def test_repeated_command_is_acknowledged_again_and_reported_once(action: Action) -> None:
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


def test_new_broker_does_not_end_a_pause() -> None:
    scene = opened("bob", "alice")
    control(scene, "pause")
    scene.take(BrokerDisconnected(), at=1.0)
    output = scene.take(BrokerConnected(), at=2.0)
    assert paused(output) == [True]
    assert [message.round for _, message in sent(output, Round)] == [1], "which is still open"


def test_stopped_run_is_finished_with_its_current_model() -> None:
    scene = opened("bob", "alice")
    scene.result("bob", 1, 3.0)
    scene.result("alice", 1, 5.0)
    scene.result("bob", 2, 4.0)
    output = control(scene, "stop")
    assert scene.rounds.phase is Phase.FINISHED
    assert told(output, events.RunFinished) == [events.RunFinished(solved=False, rounds=1, value=8.0, why="stopped")]
    assert [topic for topic, _ in sent(output, Finished)] == ["round/run"]
    assert closes(output) == [], "the open round had not all its answers"


def test_paused_and_waiting_runs_can_be_stopped() -> None:
    waiting, halted = Scene(min_trainers=3), opened("bob", "alice")
    waiting.take(BrokerConnected())
    control(halted, "pause")
    for scene in (waiting, halted):
        output = control(scene, "stop")
        assert [message.rounds for _, message in sent(output, Finished)] == [0]


@pytest.mark.parametrize("other", [{"run": "other"}, {"term": 1}, {"term": 3}])
def test_command_to_another_run_or_term_is_ignored(other: Any) -> None:
    scene = opened("bob", "alice")
    for action in ACTIONS:
        output = control(scene, action, **other)
        assert (output.records, output.sends, output.events) == ([], [], [])
    assert scene.rounds.rejections == {}


@pytest.mark.parametrize("action", ACTIONS)
def test_finished_run_stays_finished(action: Action) -> None:
    scene = opened("bob", rounds_max=1)
    scene.result("bob", 1, 5.0)
    output = control(scene, action)
    assert (output.records, output.events) == ([], [])
    assert sent(output, Refused) == []
    assert scene.rounds.phase is Phase.FINISHED


# Excluded trainers


def refusals(output: Output) -> list[tuple[str, str]]:
    return [(message.trainer, message.reason) for _, message in sent(output, Refused)]


@pytest.mark.parametrize("action", ["checkpoint", "drain", "ban", "readmit"])
def test_beacon_with_the_request_id_acknowledges_the_command(action: Action) -> None:
    trainer = None if action == "checkpoint" else "bob"
    scene = ClientScene(action, trainer)
    said = Control(run="run", term=2, action=action, trainer=trainer, request_id=WORD)
    assert scene.step(GOES_ON) == [said]
    scene.step(Beacon(run="run", term=2, round=3, open=True, acked_request=WORD + 1))
    assert scene.ended == (False, False)
    scene.step(Beacon(run="run", term=2, round=3, open=True, acked_request=WORD))
    assert scene.ended == (True, True)
    beacons = [message for _, message in sent(control(opened("bob", "alice"), action, trainer=trainer), Beacon)]
    assert [beacon.acked_request for beacon in beacons] == [WORD]


def test_drained_trainer_may_answer_the_open_round_only() -> None:
    scene = opened("bob", "alice", min_trainers=1)
    output = control(scene, "drain", trainer="bob")
    assert told(output, events.TrainerBarred) == [events.TrainerBarred(trainer="bob", how="drained")]
    assert told(control(scene, "drain", trainer="bob"), events.TrainerBarred) == [], "told once"
    scene.result("alice", 1, 3.0)
    (close,) = closes(scene.result("bob", 1, 5.0))
    assert (close.results, close.members) == (2, ("alice", "bob")), "its answer counts"
    assert refusals(scene.result("bob", 2, 5.0)) == [("bob", "barred")]
    (close,) = closes(scene.result("alice", 2, 3.0))
    assert (close.results, close.members) == (1, ("alice",)), "no round waits for it, and its rows do not count"


def test_trainer_drained_between_rounds_is_not_invited_to_the_next() -> None:
    scene = opened("bob", "alice", min_trainers=1)
    control(scene, "pause")
    scene.result("alice", 1)
    scene.result("bob", 1)
    control(scene, "drain", trainer="bob")
    assert [event.invited for event in told(control(scene, "resume"), events.RoundPublished)] == [1]


def test_banned_trainer_is_refused_and_does_not_delay_the_close() -> None:
    scene = opened("bob", "alice", quorum=1.0)
    scene.result("alice", 1, 3.0)
    output = control(scene, "ban", trainer="bob")
    assert told(output, events.TrainerBarred) == [events.TrainerBarred(trainer="bob", how="banned")]
    (close,) = closes(output)
    assert (close.results, close.members) == (1, ("alice",))
    assert refusals(scene.result("bob", 1, 5.0)) == [("bob", "barred")]
    assert refusals(scene.result("bob", 2, 5.0)) == [("bob", "barred")]
    assert sent(scene.hello("bob"), Round) == []


def test_result_sent_before_a_ban_counts() -> None:
    scene = opened("bob", "alice")
    scene.result("bob", 1, 5.0)
    control(scene, "ban", trainer="bob")
    (close,) = closes(scene.result("alice", 1, 3.0))
    assert close.results == 2, "it is on disk, and acknowledged"


def test_run_waits_for_eligible_trainers() -> None:
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


def test_readmission_lifts_a_drain_and_a_ban() -> None:
    scene = opened("bob", "alice")
    control(scene, "drain", trainer="bob")
    control(scene, "ban", trainer="bob")
    assert refusals(scene.result("bob", 1)) == [("bob", "barred")]
    assert told(control(scene, "drain", trainer="bob"), events.TrainerBarred) == [], "it is out already"
    control(scene, "readmit", trainer="bob")
    assert refusals(scene.result("bob", 1)) == []


def test_requested_checkpoint_is_saved_at_the_next_close_only() -> None:
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
        scene.take(MessageReceived(Packet("up/run", unknown, {}, [])))
    assert scene.roster.is_barred("bob", 1)


def test_requested_checkpoint_is_in_the_store() -> None:
    rows = {name: task_rows("linear", part, 2) for part, name in enumerate(("alice", "bob"), 1)}
    task = structs.replace(find_task("linear"), target=0.0)
    limits = Limits(rounds_max=50, min_trainers=2)
    federation = Federation(task, find_algorithm("averaging", parameters={"standardize": False}), rows, limits=limits)
    simulation, clock = federation.simulation, federation.simulation.clock
    simulation.add_trainer("olga", lambda link: ControlClient(link, "run", "checkpoint", clock=clock, request_id=WORD))
    federation.start()
    simulation.start("olga")
    assert simulation.run(lambda: federation.finished, 60.0)
    kept = [event.round for event in federation.events if isinstance(event, events.CheckpointKept)]
    assert len(kept) == 1
    checkpoint = federation.store.checkpoint()
    assert checkpoint is not None
    assert checkpoint[0] == kept[0] + 1

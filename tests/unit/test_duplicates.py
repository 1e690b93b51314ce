"""Two trainers of one name: neither counts until one is left, and the run and both trainers are informed."""

from __future__ import annotations

from random import Random

import pytest
from rounds_scene import FORGET_S, Scene, closes, kept, opened, sent, told

from fedmq.aggregator.machine import Output, Phase
from fedmq.aggregator.roster import CONTEST_S
from fedmq.broker.repeats import REPEAT_S
from fedmq.broker.routing import INBOXES_OF_NAME_MAX, Deliver, Routing
from fedmq.observe import events
from fedmq.protocol.codec import decode
from fedmq.protocol.messages import Accepted, Refused, Round, Welcome
from fedmq.transport.link import (
    BrokerConnected,
    BrokerDisconnected,
    MessageReceived,
    Subscribed,
    Tick,
    Unsubscribed,
)
from fedmq.transport.zeromq.endpoint import HEARTBEAT_TIMEOUT_MS

DUPLICATED = [events.TrainerBarred(trainer="alice", how="duplicated")]
READMITTED = [events.TrainerReadmitted(trainer="alice")]


def started(*, min_trainers: int = 1) -> Scene:
    scene = Scene(min_trainers=min_trainers)
    scene.take(BrokerConnected())
    return scene


def contested(scene: Scene, at: float | None = None) -> Output:
    return scene.present("alice", True, at, inboxes=2)


def reasons(output: Output) -> list[str]:
    return [message.reason for _, message in sent(output, Refused)]


def test_two_trainers_of_one_name_do_not_start_a_run() -> None:
    scene = started()
    contested(scene)
    for second in (1.0, 2.0, CONTEST_S + 1.0):
        output = scene.hello("alice", at=second)
        assert sent(output, Welcome) == sent(output, Round) == []
    assert scene.rounds.phase is Phase.WAITING
    assert scene.roster.eligible(1) == []


def test_run_reports_a_duplicate_once_and_refuses_both_trainers() -> None:
    scene = started()
    contested(scene)
    assert CONTEST_S > HEARTBEAT_TIMEOUT_MS / 1000, "an old connection may be what remains of the only trainer"
    assert scene.rounds.wake_at is not None
    assert scene.rounds.wake_at <= CONTEST_S
    early = scene.take(Tick(), CONTEST_S - 0.1)
    assert told(early, events.TrainerBarred) == sent(early, Refused) == []

    output = scene.take(Tick(), CONTEST_S)

    assert told(output, events.TrainerBarred) == DUPLICATED
    ((topic, message),) = sent(output, Refused)
    assert (topic, message.round, message.reason) == ("to/alice/", 0, "duplicate")
    assert "--name" in message.detail
    later = scene.take(Tick(), CONTEST_S + 1.0)
    assert told(later, events.TrainerBarred) == sent(later, Refused) == []
    assert reasons(scene.hello("alice")) == ["duplicate"]
    assert reasons(scene.result("alice", 1)) == ["duplicate"]


def test_second_trainer_during_a_round_is_not_awaited_and_no_result_counts() -> None:
    scene = opened("alice", "bob")
    contested(scene, 1.0)
    assert kept(scene.result("alice", 1, at=1.1)) == []

    output = scene.result("bob", 1, at=1.2)

    assert [close.results for close in closes(output)] == [1]
    assert scene.rounds.phase is Phase.WAITING, "two trainers are needed"
    assert kept(scene.result("alice", 1, at=2.0)) == []


def test_result_from_before_the_second_trainer_counts() -> None:
    scene = opened("alice", "bob")
    scene.result("alice", 1)
    contested(scene, 1.0)
    assert [close.results for close in closes(scene.result("bob", 1))] == [2]


def test_trainer_takes_part_again_once_the_other_has_ended() -> None:
    scene = opened("alice", "bob")
    contested(scene, 1.0)
    scene.result("bob", 1, at=1.5)
    scene.take(Tick(), 1.0 + CONTEST_S)

    output = scene.present("alice", True, 20.0)

    assert told(output, events.TrainerReadmitted) == READMITTED
    assert [message.round for _, message in sent(output, Round)] == [2]
    assert kept(scene.result("alice", 2)) == [(2, "alice", 2)]


def test_old_connection_that_ends_in_time_is_no_duplicate() -> None:
    scene = opened("alice", "bob")
    contested(scene, 1.0)
    assert sent(scene.result("alice", 1, at=1.5), Accepted) == []
    scene.present("alice", True, CONTEST_S)
    output = scene.take(Tick(), 3 * CONTEST_S)
    assert told(output, events.TrainerBarred) == told(output, events.TrainerReadmitted) == []
    assert kept(scene.result("alice", 1, attempt=2)) == [(1, "alice", 1)]


def test_broker_that_goes_down_ends_a_contest() -> None:
    scene = opened("alice", "bob")
    contested(scene, 1.0)
    scene.take(BrokerDisconnected(), 2.0)
    scene.take(BrokerConnected(), 30.0)
    scene.present("alice", True, 30.1)
    assert told(scene.take(Tick(), 60.0), events.TrainerBarred) == []
    assert "alice" in scene.roster.eligible(1)


def test_duplicate_ends_unless_a_new_broker_reports_two_connections_in_the_grace() -> None:
    for again in (False, True):
        scene = opened("alice", "bob")
        contested(scene, 1.0)
        scene.take(Tick(), 1.0 + CONTEST_S)
        scene.take(BrokerDisconnected(), 20.0)
        scene.take(BrokerConnected(), 21.0)
        grace_s = scene.config.limits.grace_s
        if again:
            contested(scene, 20.9 + grace_s)
        early = scene.take(Tick(), 20.9 + grace_s)
        assert told(early, events.TrainerReadmitted) == []
        assert reasons(scene.hello("alice")) == ["duplicate"]
        output = scene.take(Tick(), 21.0 + grace_s)
        assert told(output, events.TrainerReadmitted) == ([] if again else READMITTED)
        assert reasons(scene.hello("alice")) == (["duplicate"] if again else [])


@pytest.mark.parametrize("seed", range(50))
def test_roster_and_broker_agree_after_lost_and_late_reports(seed: int) -> None:
    draws, broker, scene = Random(seed), Routing(), opened("alice", "bob")
    reports: list[Deliver] = []
    for number in range(6):
        inboxes = broker.inboxes.get("alice", 0)
        comes = number < 2 or inboxes == 0 or (inboxes < INBOXES_OF_NAME_MAX and draws.random() < 0.5)
        effects = broker.step(Subscribed("to/alice/") if comes else Unsubscribed("to/alice/"))
        reports += [effect for effect in effects if isinstance(effect, Deliver) and draws.random() < 0.7]
    draws.shuffle(reports)
    list(broker.hand_over(0.0))
    for report in (*reports, *broker.hand_over(REPEAT_S)):
        scene.take(MessageReceived(decode(report.frames)), REPEAT_S)
    inboxes = broker.inboxes.get("alice", 0)
    assert scene.roster.is_contested("alice") is (inboxes > 1)
    assert ("alice" in scene.roster.eligible(1)) is (inboxes == 1)


def test_end_of_both_trainers_ends_the_duplicate() -> None:
    scene = opened("alice", "bob")
    contested(scene, 1.0)
    scene.take(Tick(), 1.0 + CONTEST_S)
    assert told(scene.present("alice", False, 20.0), events.TrainerReadmitted) == READMITTED
    assert "alice" not in scene.roster.present


def test_duplicate_delays_the_end_of_a_run_for_a_while_only() -> None:
    """Half of the rows may be its own; but no trainer can keep a run from its end by connecting twice."""
    scene = opened("alice", "bob")
    scene.result("alice", 1)
    scene.result("bob", 1)
    contested(scene, 1.0)
    assert scene.roster.pending(2.0, 2) == ["alice"]
    assert scene.roster.members(2.0, 2) == ["alice", "bob"]
    later = 1.0 + FORGET_S
    assert scene.roster.pending(later, 2) == []
    assert scene.roster.members(later, 2) == ["bob"]
    scene.present("alice", True, later)
    contested(scene, later + 1.0)
    assert scene.roster.pending(later + 2.0, 2) == []

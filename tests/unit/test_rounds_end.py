"""How a run continues and ends: broker restarts, beacons, later lives of the aggregator, and Finished."""

from __future__ import annotations

import numpy as np
import pytest
from rounds_scene import FORGET_S, Guess, MeanOfNumbers, Scene, closes, kept, opened, sent, told

from fedmq.aggregator.machine import Output, Phase
from fedmq.algorithms.base import Update
from fedmq.observe import events
from fedmq.protocol.messages import Accepted, Beacon, Finished, Goodbye, Refused, Round, Welcome
from fedmq.transport.link import BrokerConnected, BrokerDisconnected, Tick


def beacons(output: Output) -> list[tuple[int, bytes]]:
    return [(message.round, message.acknowledged) for _, message in sent(output, Beacon)]


def finished(scene: Scene) -> bool:
    return scene.rounds.phase is Phase.FINISHED


def learnt(number: float, *members: str) -> Guess:
    """The state after a round in which all `members` said `number` to a guess of 0."""
    strategy, state = MeanOfNumbers(), Guess()
    for name in members:
        state = strategy.tell(state, Update(name, 1, 0, 2, {"model": np.array([number])}))
    return strategy.close(state, members)


# The end


def test_run_ends_once_the_target_is_reached_on_all_rows() -> None:
    scene = opened("bob", "alice")
    scene.result("bob", 1, 0.0)
    output = scene.result("alice", 1, 0.2)
    assert finished(scene)
    assert scene.rounds.solved
    assert len(closes(output)) == 1
    assert told(output, events.RunFinished) == [events.RunFinished(solved=True, rounds=1, value=0.2, why="solved")]
    assert sent(output, Finished) == [("round/run", Finished(run="run", term=2, rounds=1, solved=True))]
    assert sent(output, Round) == []


def test_target_does_not_end_the_run_before_all_members_scored_the_model() -> None:
    scene = opened("bob", "alice", deadline_s=5.0)
    scene.result("bob", 1, 3.0)
    scene.result("alice", 1, 3.0)
    scene.result("bob", 2, 3.0)
    scene.take(Tick(), at=5.0)
    assert scene.rounds.evaluation is not None
    assert scene.rounds.evaluation.coverage == 0.5
    assert not finished(scene), "bob's loss is 0, alice's is not known"


def test_trainer_that_works_on_after_a_goodbye_counts_again() -> None:
    scene = opened("alice", "bob", "carol", min_trainers=2)
    for name in ("alice", "bob", "carol"):
        scene.result(name, 1, 9.0)
    scene.hear(Goodbye(run="run", term=2, trainer="alice"))  # of the one whose place another has taken, in time
    scene.result("bob", 2)
    (without,) = closes(scene.result("carol", 2, 5.0))
    scene.result("alice", 2)  # however late
    scene.result("bob", 3)
    (close,) = closes(scene.result("carol", 3))
    assert (without.members, close.members) == (("bob", "carol"), ("alice", "bob", "carol"))


def test_repeated_result_after_a_goodbye_does_not_readd_its_trainer() -> None:
    scene = opened("alice", "bob", "carol")
    scene.result("alice", 1)
    scene.hear(Goodbye(run="run", term=2, trainer="alice"))
    scene.result("alice", 1, attempt=2)
    scene.result("bob", 1)
    (close,) = closes(scene.result("carol", 1))
    assert close.members == ("bob", "carol")


def test_resent_result_of_a_departed_trainer_is_accepted_without_a_wait() -> None:
    scene = opened("alice", "bob", "carol", min_trainers=2, deadline_s=60.0)
    scene.result("bob", 1)
    scene.result("carol", 1)
    scene.take(Tick(), at=61.0)  # alice's first was late, or lost
    scene.hear(Goodbye(run="run", term=2, trainer="alice"))
    scene.result("alice", 1, attempt=4)
    scene.result("bob", 2)
    (close,) = closes(scene.result("carol", 2))
    assert close.members == ("bob", "carol")


def test_goodbye_to_an_earlier_term_is_rejected() -> None:
    scene = opened("alice", "bob")
    output = scene.hear(Goodbye(run="run", term=1, trainer="alice"))
    assert told(output, events.TrainerLeft) == []
    assert (scene.rounds.rejections, scene.roster.present) == ({"term": 1}, ["alice", "bob"])


def test_target_does_not_end_the_run_before_each_first_result() -> None:
    scene = opened("bob", "alice")
    scene.hello("carol")
    scene.result("bob", 1, 0.0)
    scene.result("alice", 1, 0.0)
    assert not finished(scene)
    for name in ("bob", "alice", "carol"):
        scene.result(name, 2, 0.0)
    assert finished(scene)


def test_silent_trainer_delays_the_end_for_a_limited_time() -> None:
    scene = opened("bob", "alice", deadline_s=5.0)
    scene.hello("mute")
    scene.present("mute", True)
    number = 0
    while not finished(scene):
        number += 1
        scene.result("bob", number, 0.0)
        scene.result("alice", number, 0.0)
        scene.take(Tick(), at=scene.now + 5.0)
    assert scene.rounds.solved
    assert FORGET_S <= scene.now <= FORGET_S + 10.0


def test_target_does_not_end_the_run_with_too_few_members() -> None:
    scene = opened("bob", "alice", deadline_s=5.0)
    scene.result("bob", 1, 0.0)
    scene.take(Tick(), at=5.0)
    assert scene.rounds.evaluation is not None
    assert scene.rounds.evaluation.coverage == 1.0, "alice is no member before her first result"
    assert not finished(scene)


def test_run_ends_after_its_last_round() -> None:
    scene = opened("bob", rounds_max=2)
    scene.result("bob", 1, 5.0)
    output = scene.result("bob", 2, 9.0)
    assert told(output, events.RunFinished) == [events.RunFinished(solved=False, rounds=2, value=4.0, why="rounds")]
    assert sent(output, Finished) == [("round/run", Finished(run="run", term=2, rounds=2, solved=False))]


def test_hello_after_the_end_is_answered_with_finished() -> None:
    scene = opened("bob", rounds_max=1)
    scene.result("bob", 1, 5.0)
    over = Finished(run="run", term=2, rounds=1, solved=False)
    output = scene.hello("carol")
    assert sent(output, Finished) == [("to/carol/", over)]
    assert (sent(output, Welcome), sent(output, Round)) == ([], [])
    assert len(sent(scene.result("bob", 1), Accepted)) == 1, "an acknowledgement may have been lost"
    assert [message.reason for _, message in sent(scene.result("carol", 1), Refused)] == ["round"]
    assert sent(scene.take(BrokerConnected()), Finished) == [("round/run", over)]
    assert (beacons(scene.take(Tick(), at=99.0)), scene.rounds.wake_at) == ([], None)


# Beacons


def test_beacons_acknowledge_saved_results_at_their_interval() -> None:
    scene = opened("bob", "alice", "carol", beacon_s=0.25)
    assert beacons(scene.take(Tick(), at=0.24)) == []
    assert beacons(scene.take(Tick(), at=0.25)) == [(1, bytes([0b000]))]
    scene.result("carol", 1)
    scene.result("bob", 1)
    assert scene.rounds.wake_at == 0.5
    assert beacons(scene.take(Tick(), at=0.5)) == [(1, bytes([0b101]))]
    scene.result("alice", 1)
    assert beacons(scene.take(Tick(), at=0.75)) == [(2, bytes([0b000]))]


def test_bitmap_has_a_byte_for_eight_trainers() -> None:
    names = [f"t{number}" for number in range(10)]
    scene = opened(*names)
    scene.result("t9", 1)
    assert beacons(scene.take(Tick(), at=0.25)) == [(1, bytes([0, 0b10]))]


def test_beacon_between_two_rounds_is_about_the_closed_one() -> None:
    scene = Scene(min_trainers=2)
    assert beacons(scene.take(BrokerConnected())) == [(0, b"")]
    scene = opened("bob", "alice")
    scene.result("bob", 1)
    scene.present("alice", present=False)
    assert beacons(scene.take(Tick(), at=0.25)) == [(1, bytes([0b01]))]
    (beacon,) = [message for _, message in sent(scene.take(Tick(), at=0.5), Beacon)]
    assert not beacon.open


def test_unknown_trainer_that_appears_gets_a_beacon() -> None:
    scene = opened("bob")
    output = scene.present("carol", present=True)
    assert [topic for topic, _ in sent(output, Beacon)] == ["to/carol/"]
    assert "carol" not in scene.roster


# Brokers


def test_new_broker_gets_the_open_round_and_a_beacon_at_once() -> None:
    scene = opened("bob", "alice")
    assert beacons(scene.take(BrokerDisconnected(), at=1.0)) == []
    assert scene.rounds.wake_at is None
    output = scene.take(BrokerConnected(), at=2.0)
    assert [(topic, message.round) for topic, message in sent(output, Round)] == [("round/run", 1)]
    assert beacons(output) == [(1, b"\0")]


def test_trainers_stay_present_during_the_grace_after_a_broker_restart() -> None:
    scene = opened("bob", "alice", grace_s=3.0)
    scene.result("bob", 1)
    scene.take(BrokerDisconnected(), at=1.0)
    scene.take(BrokerConnected(), at=2.0)
    scene.present("bob", present=True, at=2.1)
    assert closes(scene.take(Tick(), at=4.9)) == []
    output = scene.take(Tick(), at=5.0)
    assert told(output, events.TrainerLeft) == [events.TrainerLeft(trainer="alice", goodbye=False)]
    assert [close.why for close in closes(output)] == ["complete"]


def test_trainer_that_a_new_broker_announces_early_is_present() -> None:
    scene = opened("bob", "alice", grace_s=3.0, deadline_s=100.0)
    scene.take(BrokerDisconnected(), at=1.0)
    scene.present("bob", present=True, at=1.9)  # the two ways to a broker are ready one after the other
    scene.take(BrokerDisconnected(), at=1.95)
    scene.take(BrokerConnected(), at=2.0)
    assert told(scene.take(Tick(), at=5.0), events.TrainerLeft) == [events.TrainerLeft(trainer="alice", goodbye=False)]


def test_new_broker_without_a_disconnect_marks_all_trainers_unconfirmed() -> None:
    scene = opened("bob", "alice", grace_s=3.0, deadline_s=100.0)
    scene.take(BrokerConnected(), at=2.0)
    scene.present("bob", present=True, at=2.1)
    assert told(scene.take(Tick(), at=5.0), events.TrainerLeft) == [events.TrainerLeft(trainer="alice", goodbye=False)]


def test_trainers_do_not_expire_without_a_broker() -> None:
    scene = opened("bob", "alice", grace_s=3.0, deadline_s=100.0)
    scene.result("bob", 1)
    scene.take(BrokerConnected(), at=1.0)
    scene.take(BrokerDisconnected(), at=2.0)
    output = scene.take(Tick(), at=50.0)
    assert (output.records, output.events) == ([], [])
    scene.take(BrokerConnected(), at=51.0)
    assert scene.take(Tick(), at=53.9).records == []
    assert len(closes(scene.take(Tick(), at=54.0))) == 1


def test_wake_at_is_the_next_deadline() -> None:
    scene = opened("bob", "alice", deadline_s=5.0, beacon_s=60.0, grace_s=3.0)
    assert scene.rounds.wake_at == 5.0
    scene.take(BrokerConnected(), at=1.0)
    assert scene.rounds.wake_at == 4.0
    scene.present("bob", present=True)
    scene.present("alice", present=True)
    scene.take(Tick(), at=4.0)
    assert scene.rounds.wake_at == 5.0
    scene.take(Tick(), at=5.0)
    assert scene.rounds.wake_at == 61.0


# A later life


def test_later_life_opens_the_same_round_with_its_accepted_results() -> None:
    scene = Scene(round=3, accepted={(2, "bob"), (2, "alice"), (3, "bob")}, away=("alice", "bob"), term=5)
    scene.take(BrokerConnected())
    scene.hello("bob")
    assert [message.round for _, message in sent(scene.hello("alice"), Round)] == [3]
    again = scene.result("bob", 3)
    assert (again.records, len(sent(again, Accepted))) == ([], 1)
    assert beacons(scene.take(Tick(), at=0.25)) == [(3, bytes([0b10]))]
    (close,) = closes(scene.result("alice", 3))
    assert (close.round, close.why, close.results) == (3, "complete", 2)


def test_later_life_accepts_late_results_of_rounds_closed_before() -> None:
    scene = Scene(round=3, accepted={(2, "bob")}, away=("bob",), min_trainers=1)
    scene.take(BrokerConnected())
    scene.hello("bob")
    assert kept(scene.result("alice", 2)) == [(2, "alice", 3)]
    assert kept(scene.result("bob", 2)) == []


@pytest.mark.parametrize(
    ("state", "members", "solved"),
    [(learnt(0.1, "bob", "alice"), 2, True), (learnt(0.1, "bob"), 1, False), (learnt(3.0, "bob", "alice"), 2, False)],
    ids=["reached", "too few members", "not reached"],
)
def test_later_life_of_a_finished_run_is_finished(state: Guess, members: int, solved: bool) -> None:
    scene = Scene(round=2, state=state, members=members, away=("alice", "bob"))
    assert finished(scene) is solved
    output = scene.take(BrokerConnected())
    assert [event.solved for event in told(output, events.RunFinished)] == [True] * solved


def test_later_life_without_rounds_left_is_finished() -> None:
    scene = Scene(round=3, state=learnt(3.0, "bob", "alice"), members=2, rounds_max=2)
    assert finished(scene)
    assert [event.rounds for event in told(scene.take(Tick()), events.RunFinished)] == [2]


def test_later_life_with_more_rounds_continues() -> None:
    scene = Scene(round=3, state=learnt(3.0, "bob", "alice"), members=2, rounds_max=3)
    assert not finished(scene)

"""The rules of the rounds, one by one: inputs and the time in, outputs out."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import structs
from rounds_scene import TASK, MeanOfNumbers, Scene, closes, kept, opened, sent, told

from fedmq.aggregator import rounds
from fedmq.aggregator.event_publisher import REJECTION_EVENTS_MAX
from fedmq.algorithms.averaging.query import GradientLearner, Train
from fedmq.algorithms.base import encode_query
from fedmq.errors import Rejected
from fedmq.observe import events
from fedmq.observe.run_state import STALLED_S
from fedmq.protocol import messages
from fedmq.protocol.codec import Packet, decode
from fedmq.protocol.messages import (
    Accepted,
    Beacon,
    Goodbye,
    Hello,
    Message,
    Presence,
    Refused,
    Round,
    Welcome,
)
from fedmq.runs.records import StoredResult
from fedmq.trainer.session import HELLO_AGAIN_S
from fedmq.transport.link import BrokerConnected, MessageReceived, MessageRejected, Tick

# Selection


def test_no_round_opens_with_too_few_trainers_and_waiting_is_reported_once() -> None:
    scene = Scene()
    assert told(scene.take(BrokerConnected()), events.Waiting) == [events.Waiting(present=0, needed=2)]
    assert told(scene.take(Tick(), at=1.0), events.Waiting) == []
    assert told(scene.hello("bob"), events.Waiting) == [events.Waiting(present=1, needed=2)]
    assert told(scene.hello("bob"), events.Waiting) == []
    output = scene.hello("alice")
    assert told(output, events.RoundPublished) == [events.RoundPublished(round=1, invited=2)]


def test_no_round_opens_without_a_broker() -> None:
    scene = Scene(min_trainers=1)
    assert sent(scene.hello("bob"), Round) == []
    assert [topic for topic, _ in sent(scene.take(BrokerConnected()), Round)] == ["round/run"]


def test_round_is_published_once_with_everything_a_trainer_needs() -> None:
    scene = Scene(deadline_s=10.0)
    scene.take(BrokerConnected())
    scene.hello("bob")
    (packet,) = [one for one in map(decode, scene.hello("alice").sends) if isinstance(one.message, Round)]
    assert packet.topic == "round/run"
    work, no_bits, sent_task = Train(GradientLearner()), b"\0", msgspec.structs.replace(TASK, parameters={})
    assert structs.replace(packet.message, arrays=()) == Round(
        run="run",
        term=2,
        round=1,
        seed=7,
        deadline_s=10.0,
        task=sent_task,
        query=encode_query(work),
        acknowledged=no_bits,
    )
    assert packet.arrays["model"].tolist() == [0.0]


def test_hello_is_answered_with_a_roster_index() -> None:
    scene = Scene(min_trainers=3)
    scene.hello("bob")
    output = scene.hello("alice")
    assert sent(output, Welcome) == [("to/alice/", Welcome(run="run", term=2, trainer="alice", index=1))]
    assert told(output, events.TrainerJoined) == [events.TrainerJoined(trainer="alice", num_examples=2, version="test")]
    assert told(scene.hello("alice"), events.TrainerJoined) == []


# Results


def test_result_is_saved_as_received() -> None:
    scene = opened("bob", "alice")
    output = scene.result("bob", 1)
    (save,) = output.records
    assert isinstance(save, StoredResult)
    assert save[:3] == (1, "bob", 1)
    assert decode(save.frames).message.trainer == "bob"  # type: ignore[union-attr]
    assert told(output, events.ResultAccepted) == [
        events.ResultAccepted(round=1, trainer="bob", staleness=0, train_s=0.1)
    ]


def test_next_round_or_beacon_acknowledges_timely_results() -> None:
    scene = opened("bob", "alice")
    assert sent(scene.result("bob", 1), Accepted) == []
    assert [message.acknowledged for _, message in sent(scene.take(Tick(), at=0.25), Beacon)] == [bytes([0b01])]
    output = scene.result("alice", 1)
    assert kept(output) == [(1, "alice", 1)]
    assert [message.acknowledged for _, message in sent(output, Round)] == [bytes([0b11])]


def test_late_result_is_acknowledged_directly() -> None:
    scene = opened("bob", "alice", deadline_s=5.0)
    scene.result("bob", 1)
    scene.take(Tick(), at=5.0)
    output = scene.result("alice", 1)
    assert kept(output) == [(1, "alice", 2)]
    assert sent(output, Accepted) == [("to/alice/", Accepted(run="run", term=2, trainer="alice", round=1))]


def test_repeated_result_is_acknowledged_but_neither_saved_nor_counted() -> None:
    scene = opened("bob", "alice")
    scene.result("bob", 1, 3.0)
    for attempt in (1, 2):
        again = scene.result("bob", 1, 5.0, attempt=attempt)
        assert again.records == []
        assert len(sent(again, Accepted)) == 1
    (close,) = closes(scene.result("alice", 1, 1.0))
    assert close.results == 2
    assert (scene.roster["bob"].results, scene.roster["bob"].resent) == (1, 2)
    assert scene.rounds._state.value == 2.0


def test_result_of_unknown_trainer_counts_and_adds_it_to_the_roster() -> None:
    scene = opened("bob", "alice")
    output = scene.result("carol", 1)
    assert [topic for topic, _ in sent(output, Welcome)] == ["to/carol/"]
    assert kept(output) == [(1, "carol", 1)]


def test_order_of_results_does_not_change_the_close() -> None:
    for order in (("bob", "alice"), ("alice", "bob")):
        scene = opened("bob", "alice")
        assert closes(scene.result(order[0], 1)) == []
        (close,) = closes(scene.result(order[1], 1))
        assert (close.round, close.why, close.members) == (1, "complete", ("alice", "bob"))


def test_next_round_opens_in_the_step_that_closes_the_last() -> None:
    scene = opened("bob", "alice")
    scene.result("bob", 1)
    output = scene.result("alice", 1, at=0.5)
    assert [message.round for _, message in sent(output, Round)] == [2]
    (closed,) = told(output, events.RoundClosed)
    assert (closed.round_s, closed.present, closed.results) == (0.5, 2, 2)


# When a round closes


def test_round_closes_at_the_deadline_with_a_quorum() -> None:
    scene = opened("bob", "alice", deadline_s=5.0)
    scene.result("bob", 1, at=1.0)
    assert closes(scene.take(Tick(), at=4.9)) == []
    (close,) = closes(scene.take(Tick(), at=5.0))
    assert (close.why, close.results) == ("deadline", 1)


def test_round_without_quorum_closes_once_it_is_reached_after_the_deadline() -> None:
    scene = opened("a", "b", "c", "d", quorum=0.75, deadline_s=5.0)
    scene.result("a", 1)
    scene.result("b", 1)
    assert closes(scene.take(Tick(), at=500.0)) == []
    assert [close.why for close in closes(scene.result("c", 1))] == ["deadline"]


def test_quorum_is_at_least_one_result() -> None:
    scene = opened("bob", "alice", quorum=0.0, deadline_s=5.0)
    for name in ("bob", "alice"):
        scene.present(name, present=False)
    assert closes(scene.take(Tick(), at=500.0)) == []


@pytest.mark.parametrize("how", ["presence", "goodbye"])
def test_round_closes_without_a_trainer_that_left(how: str) -> None:
    scene = opened("bob", "alice")
    scene.result("bob", 1)
    goodbye = how == "goodbye"
    left: Message = Presence(trainer="alice", present=False)
    output = scene.hear(Goodbye(run="run", term=2, trainer="alice") if goodbye else left)
    assert told(output, events.TrainerLeft) == [events.TrainerLeft(trainer="alice", goodbye=goodbye)]
    assert [(close.why, close.members) for close in closes(output)] == [("complete", ("bob",))]


def test_rate_of_answered_hellos_is_limited() -> None:
    scene = opened("bob", "alice")
    labelled = [
        Hello(run="run", term=2, trainer="carol", num_examples=2, round=0, version="", labels=(one,)) for one in "ab"
    ]
    first, *rest = [scene.hear(labelled[number % 2]) for number in range(100)]
    assert [kind.__name__ for kind in (Welcome, Round) if sent(first, kind)] == ["Welcome", "Round"]
    assert [(output.sends, output.events) for output in rest] == 99 * [([], [])]
    again = scene.hello("carol", at=HELLO_AGAIN_S)  # as one does that has really lost it
    assert [message.round for _, message in sent(again, Round)] == [1]


def test_trainer_that_joins_mid_round_counts_but_does_not_delay_the_close() -> None:
    scene = opened("bob", "alice")
    output = scene.hello("carol")
    assert [(topic, message.round) for topic, message in sent(output, Round)] == [("to/carol/", 1)]
    assert sent(scene.hello("carol", round=1), Round) == []
    scene.result("bob", 1)
    (close,) = closes(scene.result("alice", 1))
    assert close.results == 2
    scene.hello("dave")
    scene.result("dave", 2)
    scene.result("bob", 2)
    scene.result("carol", 2)
    assert [close.results for close in closes(scene.result("alice", 2))] == [4]


# Late results


def test_late_result_counts_in_the_open_round_but_does_not_answer_it() -> None:
    scene = opened("bob", "alice", deadline_s=5.0)
    scene.result("bob", 1)
    scene.take(Tick(), at=5.0)
    output = scene.result("alice", 1)
    assert kept(output) == [(1, "alice", 2)]
    assert [event.staleness for event in told(output, events.ResultAccepted)] == [1]
    assert closes(scene.result("bob", 2)) == []
    assert [close.results for close in closes(scene.result("alice", 2))] == [3]
    assert scene.roster["alice"].late == 1


@pytest.mark.parametrize(("staleness", "late", "counts"), [(2, 2, True), (2, 3, False), (0, 0, True), (0, 1, False)])
def test_late_result_is_rejected_after_staleness_limit(staleness: int, late: int, counts: bool) -> None:
    scene = opened("bob", "alice", staleness=staleness, deadline_s=5.0)
    for number in range(1, late + 1):
        scene.result("bob", number)
        scene.take(Tick(), at=scene.now + 5.0)
    assert scene.rounds.round == late + 1
    output = scene.result("alice", 1)
    assert bool(kept(output)) is counts
    assert [message.reason for _, message in sent(output, Refused)] == ([] if counts else ["round"])


def test_result_of_a_future_round_is_refused() -> None:
    scene = opened("bob", "alice")
    assert [message.reason for _, message in sent(scene.result("bob", 2), Refused)] == ["round"]


# What cannot be used


def test_result_rejected_by_the_strategy_is_refused_and_changes_nothing() -> None:
    scene = opened("bob", "alice")
    output = scene.hear(scene.result_of("bob", 1))
    assert output.records == []
    (refused,) = sent(output, Refused)
    assert refused[1] == Refused(run="run", term=2, trainer="bob", round=1, reason="arrays", detail="expected a model")
    assert told(output, events.ResultRejected) == [
        events.ResultRejected(trainer="bob", reason="arrays", detail="expected a model")
    ]
    assert (scene.rounds.rejections, scene.roster["bob"].rejected) == ({"arrays": 1}, 1)
    assert kept(scene.result("bob", 1)) == [(1, "bob", 1)], "a good one may still come"


def test_refusal_with_a_long_reason_fits_a_header(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = opened("bob")

    def fail(*_: object) -> None:
        raise Rejected("arrays", "x" * 5000)

    monkeypatch.setattr(MeanOfNumbers, "tell", fail)
    ((_, refused),) = sent(scene.result("bob", 1), Refused)
    assert "x" * 100 in refused.detail


def test_message_of_another_run_is_counted_but_not_answered() -> None:
    scene = opened("bob", "alice")
    other = scene.result_of("bob", 1, run="other")
    output = scene.hear(other, 1.0)
    assert (output.records, output.sends) == ([], []), "a refusal would make bob forget its result of this run"
    assert scene.rounds.rejections == {"run": 1}


def test_message_with_a_higher_term_is_rejected() -> None:
    scene = opened("bob", "alice")
    later = scene.result_of("bob", 1, term=3)
    output = scene.hear(later, 1.0)
    assert output.records == []
    assert scene.rounds.rejections == {"term": 1}
    assert all(message.term == 2 for _, message in sent(output, Refused)), "which a trainer of term 3 ignores"


def test_malformed_frames_and_misdirected_messages_are_counted() -> None:
    scene = opened("bob", "alice")
    output = scene.take(MessageRejected(Rejected("sha256", "array model: other bytes")))
    assert [event.trainer for event in told(output, events.ResultRejected)] == [""]
    scene.hear(Accepted(run="run", term=2, trainer="bob", round=1))
    assert scene.rounds.rejections == {"sha256": 1, "header": 1}


def test_only_the_first_rejections_are_reported_and_all_are_counted() -> None:
    scene = Scene()
    many = REJECTION_EVENTS_MAX + 20
    said = [scene.take(MessageRejected(Rejected("frames", "none"))).events for _ in range(many)]
    assert sum(isinstance(event, events.ResultRejected) for step in said for event in step) == REJECTION_EVENTS_MAX
    assert scene.rounds.rejections == {"frames": many}


def test_late_and_rejected_results_are_reported_with_the_next_close_only() -> None:
    scene = opened("bob", "alice", min_trainers=2)
    told_of = []
    for number in (1, 2, 3):
        if number == 1:
            scene.take(MessageRejected(Rejected("frames", "none")))
        if number == 2:
            scene.result("carol", 1)
        scene.result("bob", number, 10.0 * number)
        (event,) = told(scene.result("alice", number, 10.0 * number), events.RoundClosed)
        told_of.append((event.late, event.rejected))
        scene.hear(Goodbye(run="run", term=2, trainer="carol"))
    assert told_of == [(0, 1), (1, 0), (0, 0)]


def test_result_of_a_later_attempt_counts_as_resent() -> None:
    scene = opened("bob", "alice")
    scene.result("bob", 1, attempt=2)
    scene.result("alice", 1)
    assert [scene.roster[name].resent for name in ("bob", "alice")] == [1, 0]


def test_round_stalls_without_results_and_each_result_delays_it() -> None:
    scene = opened("bob", "alice", "carol", deadline_s=600.0)
    scene.result("bob", 1, at=STALLED_S - 1)
    assert told(scene.take(Tick(), at=STALLED_S), events.Stalled) == []
    stalled = events.Stalled(round=1, seconds=STALLED_S, missing=("alice", "carol"))
    assert told(scene.take(Tick(), at=2 * STALLED_S - 1), events.Stalled) == [stalled]
    assert told(scene.take(Tick(), at=3 * STALLED_S), events.Stalled) == [], "it is told once"


# Presence that was lost


def test_result_marks_its_trainer_as_present_without_a_notice_of_the_broker() -> None:
    scene = opened("alice", "bob")
    scene.present("alice", False)
    assert told(scene.result("alice", 1), events.TrainerJoined) == [
        events.TrainerJoined(trainer="alice", num_examples=2, version="test")
    ]
    assert [round.round for _, round in sent(scene.result("bob", 1), Round)] == [2]


def test_unconfirmed_trainer_delays_one_round_at_most() -> None:
    scene = Scene(deadline_s=5.0)
    scene.take(BrokerConnected())
    for name in ("alice", "bob", "carol"):  # the round opens for the first two
        scene.hello(name)
        if name != "bob":
            scene.present(name, True)
    scene.result("alice", 1)
    assert told(scene.take(Tick(), at=5.0), events.TrainerLeft) == [events.TrainerLeft(trainer="bob", goodbye=False)]
    scene.result("alice", 2)
    assert [message.round for _, message in sent(scene.result("carol", 2, 9.0), Round)] == [3]


def test_beacon_says_that_the_run_waits_for_trainers() -> None:
    scene = opened("alice", "bob")
    (during,) = [message for _, message in sent(scene.take(Tick(), at=0.25), Beacon)]
    scene.present("alice", False)
    scene.result("bob", 1)
    (after,) = [message for _, message in sent(scene.take(Tick(), at=0.5), Beacon)]
    assert (during.waiting, after.waiting) == (False, True)


class Farewell(messages.RunHeader, frozen=True, kw_only=True, tag="farewell"):
    """A message from a trainer that a later version may add."""

    trainer: str


def test_new_kind_of_message_is_no_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "FromTrainer", rounds.FromTrainer | Farewell)
    scene = opened("bob", "alice")
    message: Any = Farewell(run="run", term=2, trainer="bob")
    with pytest.raises(AssertionError, match="Farewell"):
        scene.take(MessageReceived(Packet("up/run", message, {}, [])))
    assert scene.roster["bob"].present

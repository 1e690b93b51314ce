"""Who takes part in a round: samples in turns, selection by labels, and rounds that close after some results."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds_scene import Scene, closes, opened, sent, told

from fedmq.aggregator.machine import Output
from fedmq.aggregator.sampling import Invitations, invite, sample_size
from fedmq.observe import events
from fedmq.protocol.messages import Refused, Round, Welcome
from fedmq.runs.records import Invitation
from fedmq.runs.store import Store
from fedmq.transport.link import BrokerConnected, Tick

NAMES = tuple(f"t{number:02}" for number in range(20))


def rounds_of(count: int, rounds: int, seed: int = 7) -> list[Invitation]:
    """The invitations of a run whose trainers are all present."""
    drawn: list[Invitation] = []
    for number in range(1, rounds + 1):
        drawn.append(invite(drawn[-1] if drawn else None, seed, number, NAMES, count))
    return drawn


def invited(output: Output) -> list[tuple[str, ...]]:
    return [record.trainers for record in output.records if isinstance(record, Invitation)]


# Draws


@pytest.mark.parametrize(
    ("sample", "present", "size"),
    [(0.1, 100, 10), (0.1, 3, 1), (0.5, 7, 4), (1.0, 9, 1), (10.0, 3, 10), (0.99, 100, 99)],
)
def test_sample_below_one_is_a_share_else_a_number(sample: float, present: int, size: int) -> None:
    assert sample_size(sample, present) == size


@settings(max_examples=30)
@given(st.integers(1, 20), st.integers(1, 60), st.integers(0, 9))
def test_turns_of_present_trainers_differ_by_one_at_most(count: int, rounds: int, seed: int) -> None:
    drawn = rounds_of(count, rounds, seed)
    assert {len(one.trainers) for one in drawn} == {count}
    turns = Counter(name for one in drawn for name in one.trainers)
    assert max(turns[name] for name in NAMES) - min(turns[name] for name in NAMES) <= 1


@settings(max_examples=30)
@given(st.lists(st.sets(st.sampled_from(NAMES), min_size=1), min_size=1, max_size=20), st.integers(1, 20))
def test_sample_has_the_size_and_present_trainers_only(present: list[set[str]], count: int) -> None:
    last = None
    for number, names in enumerate(present, 1):
        last = invite(last, 7, number, names, count)
        assert set(last.trainers) <= names
        assert len(last.trainers) == min(count, len(names))


def test_draw_depends_on_the_seed_and_not_on_the_order_of_trainers() -> None:
    first = invite(None, 7, 1, NAMES, 5)
    assert invite(None, 7, 1, NAMES[::-1], 5) == first
    assert len({invite(None, seed, 1, NAMES, 5).trainers for seed in range(20)}) > 15
    assert len({one.trainers for one in rounds_of(5, 40)}) > 35, "each cycle has an order of its own"


def test_silent_trainer_has_its_turn_and_takes_no_place() -> None:
    last, turns = None, Counter[str]()
    for number in range(1, 21):
        last = invite(last, 7, number, NAMES, 5, silent=NAMES[:4])
        assert len(set(last.trainers) - set(NAMES[:4])) == 5
        turns.update(last.trainers)
    assert all(turns[name] >= 4 for name in NAMES)


def test_trainer_that_returns_does_not_catch_up() -> None:
    last, turns = None, Counter[str]()
    for number in range(1, 101):
        last = invite(last, 7, number, NAMES if number > 80 else NAMES[1:], 5)
        turns.update(last.trainers)
    assert turns[NAMES[0]] in (5, 6)


def test_more_invitations_to_a_round_add_others() -> None:
    before = Invitations(7)
    first = before.draw(1, NAMES, 5)
    both = before.draw(1, NAMES, 3)
    assert set(first.trainers) < set(both.trainers)
    assert len(both.trainers) == 8
    assert before.of(1) == set(both.trainers)
    assert Invitations(7, [both]).draw(2, NAMES, 5) == before.draw(2, NAMES, 5), "a later life draws the same"


def test_store_keeps_the_invitations_that_late_results_need() -> None:
    store = Store(":memory:")
    for one in rounds_of(5, 40):
        store.save(one)
    assert list(store.invitations()) == rounds_of(5, 40)[-16:]
    assert store.verify() == ["it holds no run"]


# Rounds


def test_sampled_round_asks_and_awaits_its_sample_only() -> None:
    scene = Scene(min_trainers=4, sample=2)
    scene.take(BrokerConnected())
    outputs = [scene.hello(name) for name in "abcd"]
    ((one, two),) = invited(outputs[-1])
    ((topic, message),) = sent(outputs[-1], Round)
    assert (topic, message.invited) == ("round/run", bytes([sum(1 << "abcd".index(name) for name in (one, two))]))
    assert [event.invited for event in told(outputs[-1], events.RoundPublished)] == [2]
    others = [name for name in "abcd" if name not in (one, two)]
    ((_, refused),) = sent(scene.result(others[0], 1), Refused)
    assert refused.reason == "uninvited"
    assert closes(scene.result(one, 1)) == []
    output = scene.result(two, 1)
    assert [(close.why, close.results) for close in closes(output)] == [("complete", 2)]
    assert invited(output) == [tuple(others)], "the others have their turns"


def test_dead_sampled_trainer_delays_its_round_no_longer_than_the_deadline() -> None:
    scene = opened(*"abcd", sample=2, deadline_s=5.0)
    one, two = sorted(scene.rounds._participants.missing)
    scene.result(one, 1, at=1.0)
    assert closes(scene.take(Tick(), 4.9)) == []
    assert [close.why for close in closes(scene.take(Tick(), 5.1))] == ["deadline"]
    assert two not in scene.rounds._participants.missing, "the next turn is of the others"


def test_sampled_round_without_quorum_invites_others_at_its_deadline() -> None:
    scene = opened(*"abcd", sample=1, deadline_s=5.0)
    (first,) = scene.rounds._participants.missing
    output = scene.take(Tick(), 5.1)
    (both,) = invited(output)
    (second,) = set(both) - {first}
    assert closes(output) == []
    assert len(sent(output, Round)) == 1, "the same round, with one more bit"
    assert closes(scene.take(Tick(), 10.0)) == []
    assert [close.results for close in closes(scene.result(second, 1, at=10.05))] == [1]
    assert sent(scene.result(first, 1, at=10.06), Refused) == [], "a late result counts"


def test_sampled_round_invites_others_at_once_if_its_trainers_left() -> None:
    scene = opened(*"abcd", sample=1)
    (first,) = scene.rounds._participants.missing
    output = scene.present(first, False, at=0.1)
    assert len(invited(output)) == 1
    (second,) = scene.rounds._participants.missing
    assert second != first


def test_first_sampled_round_waits_for_slow_work() -> None:
    """Before an answer is known, the deadline is a guess: local work may take hours."""
    scene = opened(*"abcd", sample=1)
    assert invited(scene.take(Tick(), 3600.0)) == []


def test_later_life_invites_the_same_trainers_and_waits_for_them() -> None:
    kept = Invitation(round=3, trainers=("a", "d"), served=("a", "d"))
    scene = Scene(min_trainers=2, sample=2, deadline_s=5.0, round=3, away="abcd", invitations=[kept])
    scene.take(BrokerConnected())
    scene.hello("a", at=1.0)
    output = scene.hello("b", at=1.0)
    assert invited(output) == []
    assert [event.invited for event in told(output, events.RoundPublished)] == [2]
    assert closes(scene.result("a", 3, at=1.1)) == [], "it waits for d, which may be on its way back"
    scene.hello("d", at=1.2)
    assert [close.results for close in closes(scene.result("d", 3, at=1.3))] == [2]


def test_invited_trainer_that_never_returns_costs_one_deadline() -> None:
    kept = Invitation(round=3, trainers=("a", "d"), served=("a", "d"))
    scene = Scene(min_trainers=2, sample=2, deadline_s=5.0, round=3, away="abc", invitations=[kept])
    scene.take(BrokerConnected())
    scene.hello("a", at=1.0)
    scene.hello("b", at=1.0)
    scene.result("a", 3, at=1.1)
    assert [close.why for close in closes(scene.take(Tick(), 6.1))] == ["deadline"]


# Labels


def test_run_selects_trainers_by_labels_and_refuses_others_with_the_reason() -> None:
    scene = Scene(min_trainers=1, select=("gpu=yes", "site=eu"))
    scene.take(BrokerConnected())
    output = scene.hello("us", labels=("site=us", "gpu=yes"))
    ((topic, refused),) = sent(output, Refused)
    assert (topic, refused.round, refused.reason) == ("to/us/", 0, "uninvited")
    assert refused.detail == "expected the labels gpu=yes,site=eu, got site=us,gpu=yes"
    assert told(output, events.TrainerBarred) == [events.TrainerBarred(trainer="us", how="unselected")]
    assert [event.labels for event in told(output, events.TrainerJoined)] == [("site=us", "gpu=yes")]
    assert sent(output, Welcome) == sent(output, Round) == []
    output = scene.hello("eu", labels=("gpu=yes", "site=eu", "rack=3"))
    assert [message.invited for _, message in sent(output, Round)] == [b"\2"]
    ((_, refused),) = sent(scene.result("us", 1), Refused)
    assert refused.reason == "uninvited"
    assert [close.members for close in closes(scene.result("eu", 1))] == [("eu",)]


def test_trainer_with_other_labels_than_before_takes_part() -> None:
    scene = Scene(min_trainers=1, select=("site=eu",))
    scene.take(BrokerConnected())
    scene.hello("bob")
    output = scene.hello("bob", labels=("site=eu",), at=61.0)
    assert told(output, events.TrainerReadmitted) == [events.TrainerReadmitted(trainer="bob")]
    assert len(sent(output, Round)) == 1


# Buffered rounds


def test_buffered_round_closes_after_so_many_results_late_ones_too() -> None:
    scene = opened(*"abcd", buffer=2)
    scene.result("a", 1)
    (close,) = closes(scene.result("b", 1))
    assert (close.why, close.results) == ("buffer", 2)
    scene.result("c", 1)
    (close,) = closes(scene.result("d", 1))
    assert (close.round, close.why, close.results) == (2, "buffer", 2)
    output = scene.take(Tick())
    assert told(output, events.TrainerSuspected) == []
    assert not any(scene.roster[name].is_silent for name in "abcd")


def test_buffered_round_says_that_older_work_is_of_use() -> None:
    scene = Scene(min_trainers=1, buffer=1)
    scene.take(BrokerConnected())
    assert [message.staleness for _, message in sent(scene.hello("a"), Round)] == [15]


def test_round_with_a_larger_buffer_than_trainers_closes_when_all_have_answered() -> None:
    scene = opened("a", "b", buffer=5)
    scene.result("a", 1)
    assert [close.why for close in closes(scene.result("b", 1))] == ["complete"]

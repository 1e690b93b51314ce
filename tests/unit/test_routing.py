"""The broker's rules: presence, late trainers, and which messages are dropped. No socket is opened."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmq.broker import repeats, routing
from fedmq.broker.repeats import REPEAT_S, REPORTS
from fedmq.broker.routing import (
    INBOXES_OF_NAME_MAX,
    RUNS_KEPT_MAX,
    Allow,
    Deliver,
    Disconnect,
    Effect,
    Publish,
    Routing,
)
from fedmq.protocol.codec import FRAMES_MAX, decode, encode
from fedmq.protocol.messages import Presence
from fedmq.transport.link import LinkMessage, Listening, Published, Pushed, Subscribed, Unsubscribed

MIB = 1 << 20


def presence(name: str, inboxes: int) -> Deliver:
    return Deliver(encode(f"presence/{name}", Presence(trainer=name, present=inboxes > 0, inboxes=inboxes)))


def effects(broker: Routing, *messages: LinkMessage, now: float = 0.0) -> list[Effect]:
    return [effect for one in messages for effect in [*broker.step(one), *broker.hand_over(now)]]


@pytest.fixture
def broker() -> Routing:
    return Routing()


# --- presence ------------------------------------------------------------------------------------------------------


def test_first_subscription_of_an_inbox_reports_presence(broker: Routing) -> None:
    assert effects(broker, Subscribed("to/alice/")) == [Allow("to/alice/"), presence("alice", 1)]


def test_end_of_the_last_subscription_reports_absence(broker: Routing) -> None:
    effects(broker, Subscribed("to/alice/"))
    assert effects(broker, Unsubscribed("to/alice/")) == [presence("alice", 0)]
    assert not broker.inboxes


def test_old_connection_that_closes_after_a_new_one_is_not_absence(broker: Routing) -> None:
    effects(broker, Subscribed("to/alice/"))
    assert effects(broker, Subscribed("to/alice/")) == [Allow("to/alice/"), presence("alice", 2)]
    assert effects(broker, Unsubscribed("to/alice/")) == [presence("alice", 1)]
    assert effects(broker, Unsubscribed("to/alice/")) == [presence("alice", 0)]


def test_name_has_few_inboxes_and_further_connections_are_closed(broker: Routing) -> None:
    wanted = [[presence("alice", 1)], [presence("alice", 2)], []]
    assert len(wanted) == INBOXES_OF_NAME_MAX
    for reported in wanted:
        assert effects(broker, Subscribed("to/alice/", "alice")) == [Allow("to/alice/"), *reported]
    for _ in range(50):
        assert effects(broker, Subscribed("to/alice/", "alice")) == [Disconnect(violation=False)]
    ends = [effects(broker, Unsubscribed("to/alice/")) for _ in range(3)]
    assert ends == [[], [presence("alice", 1)], [presence("alice", 0)]]
    assert effects(broker, Subscribed("to/alice/", "alice")) == [Allow("to/alice/"), presence("alice", 1)]


def test_new_aggregator_is_informed_of_two_inboxes_of_a_name(broker: Routing) -> None:
    effects(broker, Subscribed("to/bob/"), *[Subscribed("to/alice/")] * 3)
    assert effects(broker, Listening("presence/")) == [presence("bob", 1), presence("alice", 2)]


def test_reports_of_several_inboxes_are_repeated_and_for_a_while_those_after_them(broker: Routing) -> None:
    effects(broker, *[Subscribed("to/alice/")] * 2, Subscribed("to/bob/"))
    assert broker.wake_at == REPEAT_S
    for second in (1, 2, 3):
        assert list(broker.hand_over(second * REPEAT_S - 0.1)) == []
        assert list(broker.hand_over(second * REPEAT_S)) == [presence("alice", 2)]
    effects(broker, Unsubscribed("to/alice/"), now=3.0)
    later = [list(broker.hand_over(4.0 + second)) for second in range(REPORTS)]
    assert later == [[presence("alice", 1)]] * REPORTS
    assert broker.wake_at is None


def test_report_of_absence_is_repeated_after_several_inboxes(broker: Routing) -> None:
    effects(broker, *[Subscribed("to/alice/")] * 2, *[Unsubscribed("to/alice/")] * 2)
    assert list(broker.hand_over(REPEAT_S)) == [presence("alice", 0)]


def test_reports_of_many_names_are_repeated_in_turns(broker: Routing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "REPORTS_AT_ONCE_MAX", 2)
    monkeypatch.setattr(repeats, "NAMES_MAX", 3)
    effects(broker, *[Subscribed(f"to/{name}/") for name in "abcd" for _ in range(2)])
    turns = [list(broker.hand_over(second * REPEAT_S)) for second in (1, 2, 3)]
    assert turns == [[presence(name, 2) for name in names] for names in ("ab", "ca", "bc")]


def test_presence_names_the_trainer_in_topic_and_header(broker: Routing) -> None:
    (_, effect) = effects(broker, Subscribed("to/alice/"))
    assert isinstance(effect, Deliver)
    packet = decode(effect.frames)
    assert packet.topic == "presence/alice"
    assert packet.message == Presence(trainer="alice", present=True, inboxes=1)


@pytest.mark.parametrize("topic", ["to/alice/", "to/nobody/", "to/", "", "round/", "presence/"])
def test_end_of_an_unknown_subscription_has_no_effect(broker: Routing, topic: str) -> None:
    assert effects(broker, Unsubscribed(topic)) == []


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40))
def test_trainer_is_present_while_it_has_a_connection(steps: list[tuple[str, bool]]) -> None:
    broker, connections, known = Routing(), Counter[str](), dict.fromkeys("abc", 0)
    for name, comes in steps:
        if connections[name] == (INBOXES_OF_NAME_MAX if comes else 0):
            continue
        connections[name] += 1 if comes else -1
        for effect in effects(broker, Subscribed(f"to/{name}/") if comes else Unsubscribed(f"to/{name}/")):
            if isinstance(effect, Deliver):
                message = decode(effect.frames).message
                assert isinstance(message, Presence)
                assert known[message.trainer] != message.inboxes  # never reported twice
                assert message.present is (message.inboxes > 0)
                known[message.trainer] = message.inboxes
        assert known == {name: min(connections[name], 2) for name in "abc"}


def test_new_aggregator_receives_the_present_trainers(broker: Routing) -> None:
    effects(broker, Subscribed("to/bob/"), Subscribed("to/alice/"), Subscribed("to/carol/"), Unsubscribed("to/bob/"))
    assert effects(broker, Listening("presence/")) == [presence("alice", 1), presence("carol", 1)]


@pytest.mark.parametrize("topic", ["up/r/", "", "presence", "presence/alice", "to/"])
def test_listening_to_other_topics_has_no_effect(broker: Routing, topic: str) -> None:
    effects(broker, Subscribed("to/alice/"))
    assert effects(broker, Listening(topic)) == []


# --- late trainers -------------------------------------------------------------------------------------------------


def test_late_trainer_receives_the_newest_round_of_each_run(broker: Routing) -> None:
    for frames in ([b"round/r", b"1"], [b"round/s", b"7", b"", b"array"], [b"round/r", b"2"]):
        effects(broker, Published(frames))
    assert effects(broker, Subscribed("to/alice/")) == [
        Allow("to/alice/"),
        presence("alice", 1),
        Publish([b"to/alice/", b"7", b"", b"array"]),
        Publish([b"to/alice/", b"2"]),
    ]


def test_inbox_is_allowed_before_a_round_is_sent_to_it(broker: Routing) -> None:
    effects(broker, Published([b"round/r", b"1"]))
    first, *others = effects(broker, Subscribed("to/alice/"))
    assert first == Allow("to/alice/")
    assert others[-1] == Publish([b"to/alice/", b"1"])


def test_only_the_late_trainer_receives_a_copy(broker: Routing) -> None:
    effects(broker, Subscribed("round/"), Subscribed("to/alice/"), Published([b"round/r", b"1"]))
    published = [effect for effect in effects(broker, Subscribed("to/bob/")) if isinstance(effect, Publish)]
    assert [effect.frames[0] for effect in published] == [b"to/bob/"]


def test_second_connection_receives_the_round_too(broker: Routing) -> None:
    """The broker may not have noticed yet that the old one is dead."""
    effects(broker, Published([b"round/r", b"1"]), Subscribed("to/alice/"))
    assert effects(broker, Subscribed("to/alice/")) == [
        Allow("to/alice/"),
        presence("alice", 2),
        Publish([b"to/alice/", b"1"]),
    ]


def stored_rounds(broker: Routing, runs: int, size: int) -> None:
    for number in range(runs):
        effects(broker, Published([b"round/r%d" % number, bytes(size)]))


def owed(broker: Routing, now: float) -> list[tuple[str, int]]:
    """Return inbox and size of what is handed over now."""
    return [(effect.frames[0].decode(), len(effect.frames[1])) for effect in broker.hand_over(now)]


def test_stored_rounds_are_handed_over_at_a_bounded_rate(broker: Routing) -> None:
    stored_rounds(broker, RUNS_KEPT_MAX, 16 * MIB)
    list(broker.step(Subscribed("to/alice/")))

    assert len(owed(broker, 100.0)) == 4  # of a second
    assert owed(broker, 100.0) == []
    assert broker.wake_at == pytest.approx(100.0, abs=0.001)
    assert len(owed(broker, 101.0)) == 4
    assert sum(len(owed(broker, 101.0 + second)) for second in range(1, 60)) == RUNS_KEPT_MAX - 8
    assert broker.wake_at is None


def test_newcomer_gets_its_share_beside_a_name_that_subscribes_again_and_again(broker: Routing) -> None:
    stored_rounds(broker, RUNS_KEPT_MAX, 16 * MIB)
    list(broker.step(Subscribed("to/mallory/")))
    list(broker.hand_over(100.0))
    list(broker.step(Subscribed("to/alice/")))
    came = []
    for tenth in range(1, 31):
        list(broker.step(Unsubscribed("to/mallory/")))
        list(broker.step(Subscribed("to/mallory/")))
        came += owed(broker, 100.0 + tenth / 10)
    of_alice = [size for inbox, size in came if inbox == "to/alice/"]
    assert len(came) == 12
    assert len(of_alice) >= 6


def test_newcomer_does_not_wait_for_all_rounds_of_those_before_it(broker: Routing) -> None:
    stored_rounds(broker, RUNS_KEPT_MAX, 16 * MIB)
    for name in ("bob", "carol", "alice"):
        list(broker.step(Subscribed(f"to/{name}/")))

    served = [inbox for second in range(6) for inbox, _ in owed(broker, 100.0 + second)]

    assert served == ["to/bob/", "to/carol/", "to/alice/"] * 8


def test_nothing_is_owed_to_an_inbox_that_has_ended(broker: Routing) -> None:
    stored_rounds(broker, 8, 64 * MIB)
    list(broker.step(Subscribed("to/alice/")))
    list(broker.hand_over(100.0))
    list(broker.step(Unsubscribed("to/alice/")))
    assert owed(broker, 200.0) == []
    assert broker.wake_at is None


def test_observers_do_not_delay_the_rounds_of_trainers(broker: Routing) -> None:
    for number in range(8):
        effects(broker, Published([b"snapshot/r%d" % number, bytes(16 * MIB)]))
    stored_rounds(broker, 1, 16 * MIB)
    for number in range(100):
        list(broker.step(Subscribed(f"watch/{number}/", "")))
    list(broker.hand_over(100.0))
    list(broker.step(Subscribed("to/alice/", "alice")))
    assert ("to/alice/", 16 * MIB) in owed(broker, 100.5)


def test_only_rounds_are_stored(broker: Routing) -> None:
    for topic in (b"beacon/r", b"event/r", b"to/bob/"):
        effects(broker, Published([topic, b"x"]))
    assert not broker.newest


def test_run_without_a_round_for_the_longest_time_is_dropped_first(broker: Routing) -> None:
    for number in range(RUNS_KEPT_MAX):
        effects(broker, Published([f"round/r{number}".encode(), b"1"]))
    effects(broker, Published([b"round/r0", b"2"]), Published([b"round/new", b"1"]))
    assert len(broker.newest) == RUNS_KEPT_MAX
    assert "round/r1" not in broker.newest
    assert broker.newest["round/r0"] == [b"round/r0", b"2"]


# --- topics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", [b"round/r", b"beacon/r", b"sum/r", b"event/r", b"to/alice/"])
def test_message_of_an_aggregator_is_published_unchanged(broker: Routing, topic: bytes) -> None:
    frames = [topic, b"header", b"", b"array"]
    assert effects(broker, Published(frames)) == [Publish(frames)]


def test_message_of_a_trainer_is_delivered_with_its_sender(broker: Routing) -> None:
    assert effects(broker, Pushed("alice", [b"up/r", b"h", b"", b"a"])) == [Deliver([b"up/r/alice", b"h", b"", b"a"])]
    assert effects(broker, Pushed("", [b"up/r", b"h"])) == [Deliver([b"up/r/", b"h"])]


BAD_TOPICS = [
    b"",
    b"/",
    b"r",
    b"round",
    b"round/",
    b"rounds/r",
    b"round/a/b",
    b"round/ r",
    b"round/r\n",
    b"round/\xff",
    b"ROUND/r",
    b"round/" + b"r" * 65,
    b"to/",
    b"to/../etc",
    b"beacon/",
    b"event/",
    b"up/",
    b"up/a/b",
    b"up/r/alice",
    b"up/\xff",
    b"up/.r",
    b"presence/",
    b"presence/alice",
    b"\x01round/r",
]


@pytest.mark.parametrize("topic", BAD_TOPICS)
def test_message_with_an_unknown_topic_is_dropped(broker: Routing, topic: bytes) -> None:
    assert effects(broker, Published([topic, b"h"]), Pushed("", [topic, b"h"])) == []
    assert broker.dropped == 2
    assert not broker.newest


@pytest.mark.parametrize("topic", [b"round/r", b"beacon/r", b"to/alice/"])
def test_trainer_cannot_publish(broker: Routing, topic: bytes) -> None:
    assert effects(broker, Pushed("mallory", [topic, b"h"])) == []
    assert broker.dropped == 1


def test_aggregator_cannot_push(broker: Routing) -> None:
    assert effects(broker, Published([b"up/r", b"h"])) == []


def test_message_with_too_many_frames_is_dropped(broker: Routing) -> None:
    effects(broker, Published([b"round/r"] * (FRAMES_MAX + 1)), Pushed("", [b"up/r"] * (FRAMES_MAX + 1)))
    assert broker.dropped == 2
    assert effects(broker, Published([b"round/r"] * FRAMES_MAX)) == [Publish([b"round/r"] * FRAMES_MAX)]


@pytest.mark.parametrize("topic", ["round/", "round/r", "beacon/", "sum/", "sum/r", "event/", "event/r"])
def test_rounds_beacons_and_events_may_be_subscribed(broker: Routing, topic: str) -> None:
    assert effects(broker, Subscribed(topic)) == [Allow(topic)]
    assert effects(broker, Unsubscribed(topic)) == []


@pytest.mark.parametrize(
    "topic", ["", "t", "to", "to/", "to/a/b", "to/*", "to/a\n", "to/" + "a" * 65, "r", "up/r/", "presence/", "\ufffd"]
)
def test_all_topics_or_all_inboxes_cannot_be_subscribed(broker: Routing, topic: str) -> None:
    assert effects(broker, Subscribed(topic)) == []
    assert not broker.inboxes


def test_number_of_inboxes_is_limited(broker: Routing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "INBOXES_MAX", 2)
    effects(broker, Subscribed("to/a/"), Subscribed("to/b/"))
    assert effects(broker, Subscribed("to/c/")) == []
    assert effects(broker, Unsubscribed("to/c/")) == []
    assert set(broker.inboxes) == {"a", "b"}

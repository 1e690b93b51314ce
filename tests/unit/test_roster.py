"""The roster: who is here, who counts, and for how long."""

from __future__ import annotations

import pytest

from fedmq.aggregator.roster import Roster
from fedmq.errors import Rejected
from fedmq.tasks.task import TRAINERS_MAX

FORGET_S, GRACE_S = 30.0, 3.0


def roster_of(*names: str) -> Roster:
    roster = Roster(FORGET_S)
    for name in names:
        roster.join(name, 2, now=0.0)
    return roster


def with_results(*names: str) -> Roster:
    roster = roster_of(*names)
    for name in names:
        roster[name].results = 1
    return roster


def test_a_trainer_is_new_when_it_was_not_here_before() -> None:
    roster = Roster(FORGET_S)
    assert roster.join("bob", 2, now=0.0)
    assert not roster.join("bob", 2, now=1.0)
    roster.leave("bob", now=2.0)
    assert roster.join("bob", 2, now=3.0)


def test_a_trainer_keeps_its_index_however_often_it_comes_and_goes() -> None:
    roster = roster_of("bob", "alice")
    roster.leave("bob", now=1.0, for_good=True)
    roster.join("carol", 2, now=2.0)
    roster.join("bob", 2, now=3.0)
    assert {trainer.name: trainer.index for trainer in roster.trainers} == {"bob": 0, "alice": 1, "carol": 2}


def test_who_comes_back_with_other_rows_counts_with_those() -> None:
    roster = roster_of("bob")
    roster.join("bob", 7, now=1.0)
    assert roster["bob"].num_examples == 7


def test_leaving_is_told_once_and_a_stranger_cannot_leave() -> None:
    roster = roster_of("bob")
    assert roster.leave("bob", now=1.0)
    assert not roster.leave("bob", now=2.0)
    assert not roster.leave("nobody", now=2.0)
    assert roster.present == []


def test_a_member_is_who_has_sent_a_result_by_name() -> None:
    roster = with_results("bob", "alice")
    roster.join("carol", 2, now=0.0)
    assert roster.members(now=1.0, round=1) == ["alice", "bob"]


def test_the_rows_of_an_absent_member_count_until_it_is_forgotten() -> None:
    roster = with_results("bob")
    roster.leave("bob", now=10.0)
    roster.leave("bob", now=20.0)  # its absence began at the first one
    assert roster.members(now=10.0 + FORGET_S - 0.1, round=1) == ["bob"]
    assert roster.members(now=10.0 + FORGET_S, round=1) == []


def test_a_goodbye_ends_membership_at_once_and_a_return_brings_it_back() -> None:
    roster = with_results("bob")
    roster.leave("bob", now=1.0, for_good=True)
    assert roster.members(now=1.0, round=1) == []
    roster.join("bob", 2, now=2.0)
    assert roster.members(now=2.0, round=1) == ["bob"]


def test_a_goodbye_after_the_connection_was_seen_to_end_still_counts() -> None:
    roster = with_results("bob")
    roster.leave("bob", now=1.0)
    assert not roster.leave("bob", now=1.1, for_good=True)
    assert roster.members(now=1.1, round=1) == []


def test_who_is_here_without_a_result_is_unheard_until_nothing_is_expected_of_it() -> None:
    roster = roster_of("bob")
    assert roster.pending(now=FORGET_S - 0.1, round=1) == ["bob"]
    assert roster.pending(now=FORGET_S, round=1) == []
    roster["bob"].results = 1
    assert roster.pending(now=1.0, round=1) == []


def test_in_the_grace_nobody_is_gone_and_at_its_end_who_was_not_seen_is() -> None:
    roster = roster_of("bob", "alice", "carol")
    roster.mark_unconfirmed()
    roster.begin_grace(now=10.0, grace_s=GRACE_S)
    assert roster.grace_until == 10.0 + GRACE_S
    roster.join("alice", 2, now=11.0)
    assert roster.expire(now=10.0 + GRACE_S - 0.1) == []
    assert roster.present == ["bob", "alice", "carol"]
    assert roster.expire(now=10.0 + GRACE_S) == ["bob", "carol"]
    assert roster.present == ["alice"]
    assert roster.grace_until is None
    assert roster.expire(now=99.0) == []


def test_who_is_seen_before_the_grace_begins_is_not_in_doubt() -> None:
    roster = roster_of("bob", "alice")
    roster.mark_unconfirmed()
    roster.join("alice", 2, now=9.0)
    roster.begin_grace(now=10.0, grace_s=GRACE_S)
    assert roster.expire(now=10.0 + GRACE_S) == ["bob"]


def test_a_second_restart_begins_the_grace_anew() -> None:
    roster = roster_of("bob")
    roster.mark_unconfirmed()
    roster.begin_grace(now=10.0, grace_s=GRACE_S)
    roster.mark_unconfirmed()
    roster.begin_grace(now=12.0, grace_s=GRACE_S)
    assert roster.expire(now=14.0) == []
    assert roster.expire(now=15.0) == ["bob"]


def test_a_trainer_of_an_earlier_life_is_away_but_counts() -> None:
    roster = Roster(FORGET_S)
    roster.restore("bob", 2, 3, now=5.0)
    assert roster.present == []
    assert roster.members(now=5.0, round=1) == ["bob"]
    assert roster.members(now=5.0 + FORGET_S, round=1) == []
    assert roster.join("bob", 2, now=6.0)


def test_a_trainer_that_was_gone_in_an_earlier_life_does_not_count_until_it_is_back() -> None:
    roster = Roster(FORGET_S)
    roster.restore("bob", 2, 3, now=5.0, gone=True)
    assert roster.members(now=5.0, round=1) == []
    roster.join("bob", 2, now=6.0)
    assert roster.members(now=6.0, round=1) == ["bob"]


def test_a_roster_holds_no_more_names_than_a_beacon_has_bits() -> None:
    roster = roster_of(*(f"t{number}" for number in range(TRAINERS_MAX)))
    with pytest.raises(Rejected, match=f"names: expected at most {TRAINERS_MAX} trainers"):
        roster.join("one-more", 2, now=1.0)
    assert "one-more" not in roster
    assert not roster.join("t0", 2, now=1.0)


def test_so_many_names_are_barred_and_no_more() -> None:
    roster = roster_of()
    assert sum(roster.bar(f"name-{number}", 0) for number in range(TRAINERS_MAX + 3)) == TRAINERS_MAX


def test_of_whom_only_its_own_messages_say_that_it_is_here_is_away_when_it_misses_a_deadline() -> None:
    roster = roster_of("alice", "bob")
    assert not roster.join("alice", 2, now=1.0, confirmed=True)
    assert roster.time_out({"alice", "bob"}, now=2.0) == ["bob"]
    assert roster.present == ["alice"]
    assert roster.time_out({"bob"}, now=3.0) == [], "it is told once"


def test_the_brokers_word_ends_with_the_absence() -> None:
    roster = roster_of("bob")
    roster.join("bob", 2, now=1.0, confirmed=True)
    roster.leave("bob", now=2.0)
    roster.join("bob", 2, now=3.0)
    assert roster.time_out({"bob"}, now=4.0) == ["bob"]

"""The roster: which trainers are present, which are members, and for how long."""

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


def test_first_join_of_a_trainer_is_new() -> None:
    roster = Roster(FORGET_S)
    assert roster.join("bob", 2, now=0.0)
    assert not roster.join("bob", 2, now=1.0)
    roster.leave("bob", now=2.0)
    assert roster.join("bob", 2, now=3.0)


def test_trainer_keeps_its_index_across_joins() -> None:
    roster = roster_of("bob", "alice")
    roster.leave("bob", now=1.0, for_good=True)
    roster.join("carol", 2, now=2.0)
    roster.join("bob", 2, now=3.0)
    assert {trainer.name: trainer.index for trainer in roster.trainers} == {"bob": 0, "alice": 1, "carol": 2}


def test_rejoining_trainer_counts_with_its_new_rows() -> None:
    roster = roster_of("bob")
    roster.join("bob", 7, now=1.0)
    assert roster["bob"].num_examples == 7


def test_leave_is_reported_once_and_only_for_known_trainers() -> None:
    roster = roster_of("bob")
    assert roster.leave("bob", now=1.0)
    assert not roster.leave("bob", now=2.0)
    assert not roster.leave("nobody", now=2.0)
    assert roster.present == []


def test_members_are_trainers_with_a_result() -> None:
    roster = with_results("bob", "alice")
    roster.join("carol", 2, now=0.0)
    assert roster.members(now=1.0, round=1) == ["alice", "bob"]


def test_rows_of_an_absent_member_count_until_it_is_forgotten() -> None:
    roster = with_results("bob")
    roster.leave("bob", now=10.0)
    roster.leave("bob", now=20.0)  # its absence began at the first one
    assert roster.members(now=10.0 + FORGET_S - 0.1, round=1) == ["bob"]
    assert roster.members(now=10.0 + FORGET_S, round=1) == []


def test_goodbye_ends_membership_and_a_return_restores_it() -> None:
    roster = with_results("bob")
    roster.leave("bob", now=1.0, for_good=True)
    assert roster.members(now=1.0, round=1) == []
    roster.join("bob", 2, now=2.0)
    assert roster.members(now=2.0, round=1) == ["bob"]


def test_goodbye_after_a_disconnect_still_counts() -> None:
    roster = with_results("bob")
    roster.leave("bob", now=1.0)
    assert not roster.leave("bob", now=1.1, for_good=True)
    assert roster.members(now=1.1, round=1) == []


def test_present_trainer_without_a_result_is_pending_for_a_limited_time() -> None:
    roster = roster_of("bob")
    assert roster.pending(now=FORGET_S - 0.1, round=1) == ["bob"]
    assert roster.pending(now=FORGET_S, round=1) == []
    roster["bob"].results = 1
    assert roster.pending(now=1.0, round=1) == []


def test_unseen_trainers_expire_at_the_end_of_the_grace() -> None:
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


def test_trainer_seen_before_the_grace_is_confirmed() -> None:
    roster = roster_of("bob", "alice")
    roster.mark_unconfirmed()
    roster.join("alice", 2, now=9.0)
    roster.begin_grace(now=10.0, grace_s=GRACE_S)
    assert roster.expire(now=10.0 + GRACE_S) == ["bob"]


def test_second_restart_restarts_the_grace() -> None:
    roster = roster_of("bob")
    roster.mark_unconfirmed()
    roster.begin_grace(now=10.0, grace_s=GRACE_S)
    roster.mark_unconfirmed()
    roster.begin_grace(now=12.0, grace_s=GRACE_S)
    assert roster.expire(now=14.0) == []
    assert roster.expire(now=15.0) == ["bob"]


def test_trainer_of_an_earlier_life_is_absent_but_counts() -> None:
    roster = Roster(FORGET_S)
    roster.restore("bob", 2, 3, now=5.0)
    assert roster.present == []
    assert roster.members(now=5.0, round=1) == ["bob"]
    assert roster.members(now=5.0 + FORGET_S, round=1) == []
    assert roster.join("bob", 2, now=6.0)


def test_trainer_gone_in_an_earlier_life_counts_once_it_is_back() -> None:
    roster = Roster(FORGET_S)
    roster.restore("bob", 2, 3, now=5.0, gone=True)
    assert roster.members(now=5.0, round=1) == []
    roster.join("bob", 2, now=6.0)
    assert roster.members(now=6.0, round=1) == ["bob"]


def test_roster_is_limited_by_the_bits_of_a_beacon() -> None:
    roster = roster_of(*(f"t{number}" for number in range(TRAINERS_MAX)))
    with pytest.raises(Rejected, match=f"names: expected at most {TRAINERS_MAX} trainers"):
        roster.join("one-more", 2, now=1.0)
    assert "one-more" not in roster
    assert not roster.join("t0", 2, now=1.0)


def test_number_of_barred_names_is_limited() -> None:
    roster = roster_of()
    assert sum(roster.bar(f"name-{number}", 0) for number in range(TRAINERS_MAX + 3)) == TRAINERS_MAX


def test_unconfirmed_trainer_times_out_at_a_missed_deadline() -> None:
    roster = roster_of("alice", "bob")
    assert not roster.join("alice", 2, now=1.0, confirmed=True)
    assert roster.time_out({"alice", "bob"}, now=2.0) == ["bob"]
    assert roster.present == ["alice"]
    assert roster.time_out({"bob"}, now=3.0) == [], "it is reported once"


def test_confirmation_ends_with_the_absence() -> None:
    roster = roster_of("bob")
    roster.join("bob", 2, now=1.0, confirmed=True)
    roster.leave("bob", now=2.0)
    roster.join("bob", 2, now=3.0)
    assert roster.time_out({"bob"}, now=4.0) == ["bob"]

"""A trainer's pace: one result at a time is under way; of many that return at once each waits a while of its own."""

from __future__ import annotations

import pytest
from test_session import Scene, holding, sent

from fedmq.protocol.messages import Accepted, Beacon, Hello, Result, Welcome
from fedmq.trainer.machine import BrokerConnected, BrokerDisconnected, Tick
from fedmq.trainer.session import HELLO_AGAIN_S, PENDING_MAX, RESEND_MAX_S, RESEND_S

TRAINERS = 200


def rounds_sent(scene: Scene, at: float) -> list[int]:
    return [result.round for result in sent(scene.take(Tick(), at=at), Result)]


def beacon(spread_s: float, *, term: int = 1) -> Beacon:
    return Beacon(run="run", term=term, round=0, open=False, spread_s=spread_s)


def wait_of(scene: Scene) -> float:
    """How long until it sends what it holds."""
    assert scene.session.wake_at is not None
    return scene.session.wake_at - scene.now


# One at a time


def test_of_several_results_of_a_run_only_the_newest_is_sent_until_it_is_answered_for() -> None:
    scene = Scene(connected=False)
    for number in (1, 2, 3):
        scene.round(number)
        scene.worked(number)
    scene.take(BrokerConnected(), at=1.0)
    assert rounds_sent(scene, at=1.2) == [3]
    seen = {number for tick in range(100) for number in rounds_sent(scene, at=1.2 + tick)}
    assert seen == {3}


def test_when_the_newest_is_answered_for_the_next_one_follows_in_the_same_step() -> None:
    scene = Scene(connected=False)
    for number in (1, 2):
        scene.round(number)
        scene.worked(number)
    scene.take(BrokerConnected(), at=1.0)
    rounds_sent(scene, at=1.2)
    effects = scene.hear(Accepted(run="run", term=1, trainer="bob", round=2))
    assert (effects.drops, [result.round for result in sent(effects, Result)]) == ([("run", 2)], [1])


def test_a_newer_result_goes_before_an_older_one_that_waits() -> None:
    scene = holding(1)
    scene.round(2)
    assert [result.round for result in sent(scene.worked(2), Result)] == [2]
    assert scene.held() == [1, 2]


def test_each_run_has_one_under_way() -> None:
    scene = Scene(connected=False)
    for run in ("one", "two"):
        scene.round(1, run=run)
        scene.worked(1, run=run)
    scene.take(BrokerConnected(), at=1.0)
    assert sorted(result.run for result in sent(scene.take(Tick(), at=1.2), Result)) == ["one", "two"]


def test_nothing_wakes_it_for_results_that_are_not_under_way() -> None:
    scene = holding(1)
    scene.round(2)
    scene.worked(2)
    for _ in range(10):
        assert scene.session.wake_at is not None
        assert rounds_sent(scene, at=scene.session.wake_at) == [2], "else it would wake up for nothing"
    assert wait_of(scene) >= 0.5 * RESEND_MAX_S


def test_a_later_life_is_sent_what_is_held_at_once_and_the_pauses_grow_anew() -> None:
    scene = holding(1)
    for _ in range(6):
        assert scene.session.wake_at is not None
        rounds_sent(scene, at=scene.session.wake_at)
    assert wait_of(scene) > 1.5 * RESEND_S
    assert [result.round for result in sent(scene.hear(beacon(0.0, term=2)), Result)] == [1]
    assert wait_of(scene) <= 1.5 * RESEND_S


# What is kept, and what is dropped


def test_what_is_saved_and_what_is_forgotten_is_said_in_the_step_in_which_it_is_so() -> None:
    scene = Scene()
    scene.round(1)
    effects = scene.worked(1)
    assert [(kept.run, kept.term, kept.round, kept.train_s) for kept in effects.keeps] == [("run", 1, 1, 0.1)]
    assert effects.drops == []
    effects = scene.hear(Accepted(run="run", term=1, trainer="bob", round=1))
    assert (effects.keeps, effects.drops) == ([], [("run", 1)])
    assert scene.hear(Accepted(run="run", term=1, trainer="bob", round=1)).drops == []


def test_what_is_crowded_out_is_dropped_too() -> None:
    scene = Scene(connected=False)
    dropped = []
    for number in range(1, PENDING_MAX + 3):
        scene.round(number)
        dropped += scene.worked(number).drops
    assert dropped == [("run", 1), ("run", 2)]


# Many that return at once


@pytest.mark.parametrize("spread_s", [0.0, 0.002, HELLO_AGAIN_S])
def test_a_few_trainers_do_not_wait_for_each_other(spread_s: float) -> None:
    scene = holding()
    scene.hear(beacon(spread_s))
    scene.take(BrokerDisconnected())
    scene.take(BrokerConnected(), at=10.0)
    assert wait_of(scene) <= 0.2
    assert len(sent(scene.hear(beacon(spread_s, term=2)), Hello)) == 1


def test_many_trainers_send_again_over_the_spread_when_the_broker_is_back() -> None:
    scene = holding()
    scene.hear(beacon(8.0))
    waits = []
    for number in range(TRAINERS):  # the same one, again and again: each time it draws anew
        scene.take(BrokerDisconnected())
        scene.take(BrokerConnected(), at=100.0 * (number + 1))
        waits.append(wait_of(scene))
        assert rounds_sent(scene, at=scene.now + waits[-1]) == [1]
    assert max(waits) <= 8.0
    assert max(waits) > 7.0
    assert 3.0 < sum(waits) / len(waits) < 5.0


def test_many_trainers_say_hello_and_send_again_over_the_spread_when_the_aggregator_is_back() -> None:
    waits = []
    scene = holding()
    scene.hear(beacon(8.0))
    for term in range(2, TRAINERS):
        began = 100.0 * term
        assert sent(scene.hear(beacon(8.0, term=term), at=began), Hello) == []
        waits.append(wait_of(scene))
        assert sent(scene.hear(beacon(8.0, term=term), at=began + waits[-1] - 0.001), Hello) == []
        effects = scene.hear(beacon(8.0, term=term), at=began + waits[-1])
        assert [len(sent(effects, kind)) for kind in (Hello, Result)] == [1, 1]
    assert max(waits) <= 8.0
    assert 3.0 < sum(waits) / len(waits) < 5.0


def test_a_trainer_that_meets_a_run_for_the_first_time_does_not_wait() -> None:
    assert len(sent(Scene().hear(beacon(8.0)), Hello)) == 1


# A run that waits for trainers


def test_who_is_here_says_hello_to_a_run_that_waits_but_not_at_every_beacon() -> None:
    scene = Scene()
    scene.round(1)
    waiting = Beacon(run="run", term=1, round=0, open=False, waiting=True)
    scene.hear(Welcome(run="run", term=1, trainer="bob", index=0))
    said = [at / 4 for at in range(4, 28) if sent(scene.hear(waiting, at=at / 4), Hello)]
    assert said == [1.0, 3.0, 5.0]

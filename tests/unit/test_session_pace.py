"""The rate of a session's messages: one result in flight, and a spread when many trainers return at once."""

from __future__ import annotations

import pytest
from test_session import Scene, holding, sent

from fedmq.protocol.messages import Accepted, Beacon, Hello, Result, Welcome
from fedmq.trainer.followed_run import RESEND_S
from fedmq.trainer.session import HELLO_AGAIN_S, PENDING_MAX, RESEND_MAX_S
from fedmq.transport.link import BrokerConnected, BrokerDisconnected, Tick

TRAINERS = 200


def rounds_sent(scene: Scene, at: float) -> list[int]:
    return [result.round for result in sent(scene.take(Tick(), at=at), Result)]


def beacon(spread_s: float, *, term: int = 1) -> Beacon:
    return Beacon(run="run", term=term, round=0, open=False, spread_s=spread_s)


def wait_of(scene: Scene) -> float:
    """Return the time until the next result is sent."""
    assert scene.session.wake_at is not None
    return scene.session.wake_at - scene.now


# One in flight


def test_only_newest_result_of_a_run_is_sent_until_answered() -> None:
    scene = Scene(connected=False)
    for number in (1, 2, 3):
        scene.round(number)
        scene.worked(number)
    scene.take(BrokerConnected(), at=1.0)
    assert rounds_sent(scene, at=1.2) == [3]
    seen = {number for tick in range(100) for number in rounds_sent(scene, at=1.2 + tick)}
    assert seen == {3}


def test_next_result_is_sent_in_the_step_of_the_answer() -> None:
    scene = Scene(connected=False)
    for number in (1, 2):
        scene.round(number)
        scene.worked(number)
    scene.take(BrokerConnected(), at=1.0)
    rounds_sent(scene, at=1.2)
    effects = scene.hear(Accepted(run="run", term=1, trainer="bob", round=2))
    assert (effects.drops, [result.round for result in sent(effects, Result)]) == ([("run", 2)], [1])


def test_newer_result_is_sent_before_a_waiting_older_one() -> None:
    scene = holding(1)
    scene.round(2)
    assert [result.round for result in sent(scene.worked(2), Result)] == [2]
    assert scene.held() == [1, 2]


def test_each_run_has_one_result_in_flight() -> None:
    scene = Scene(connected=False)
    for run in ("one", "two"):
        scene.round(1, run=run)
        scene.worked(1, run=run)
    scene.take(BrokerConnected(), at=1.0)
    assert sorted(result.run for result in sent(scene.take(Tick(), at=1.2), Result)) == ["one", "two"]


def test_results_not_in_flight_cause_no_wake_up() -> None:
    scene = holding(1)
    scene.round(2)
    scene.worked(2)
    for _ in range(10):
        assert scene.session.wake_at is not None
        assert rounds_sent(scene, at=scene.session.wake_at) == [2], "else it would wake up for nothing"
    assert wait_of(scene) >= 0.5 * RESEND_MAX_S


def test_new_term_resets_the_back_off_of_pending_results() -> None:
    scene = holding(1)
    for _ in range(6):
        assert scene.session.wake_at is not None
        rounds_sent(scene, at=scene.session.wake_at)
    assert wait_of(scene) > 1.5 * RESEND_S
    assert [result.round for result in sent(scene.hear(beacon(0.0, term=2)), Result)] == [1]
    assert wait_of(scene) <= 1.5 * RESEND_S


# Saves and drops


def test_saves_and_drops_are_in_the_output_of_their_step() -> None:
    scene = Scene()
    scene.round(1)
    effects = scene.worked(1)
    assert [(kept.run, kept.term, kept.round, kept.train_s) for kept in effects.keeps] == [("run", 1, 1, 0.1)]
    assert effects.drops == []
    effects = scene.hear(Accepted(run="run", term=1, trainer="bob", round=1))
    assert (effects.keeps, effects.drops) == ([], [("run", 1)])
    assert scene.hear(Accepted(run="run", term=1, trainer="bob", round=1)).drops == []


def test_results_over_the_limit_are_dropped() -> None:
    scene = Scene(connected=False)
    dropped = []
    for number in range(1, PENDING_MAX + 3):
        scene.round(number)
        dropped += scene.worked(number).drops
    assert dropped == [("run", 1), ("run", 2)]


# Spread of many trainers


@pytest.mark.parametrize("spread_s", [0.0, 0.002, HELLO_AGAIN_S])
def test_few_trainers_do_not_spread_their_messages(spread_s: float) -> None:
    scene = holding()
    scene.hear(beacon(spread_s))
    scene.take(BrokerDisconnected())
    scene.take(BrokerConnected(), at=10.0)
    assert wait_of(scene) <= 0.2
    assert len(sent(scene.hear(beacon(spread_s, term=2)), Hello)) == 1


def test_reconnection_spreads_results_of_many_trainers() -> None:
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


def test_new_term_spreads_messages_of_many_trainers() -> None:
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


def test_first_hello_to_a_run_is_not_delayed() -> None:
    assert len(sent(Scene().hear(beacon(8.0)), Hello)) == 1


# Runs that wait for trainers


def test_waiting_run_gets_hello_but_not_at_every_beacon() -> None:
    scene = Scene()
    scene.round(1)
    waiting = Beacon(run="run", term=1, round=0, open=False, waiting=True)
    scene.hear(Welcome(run="run", term=1, trainer="bob", index=0))
    said = [at / 4 for at in range(4, 28) if sent(scene.hear(waiting, at=at / 4), Hello)]
    assert said == [1.0, 3.0, 5.0]

"""How long a round waits for stragglers, and how reconnections are spread."""

from __future__ import annotations

import pytest
from rounds_scene import Scene, closes, opened, sent, told

from fedmq.aggregator.deadline import (
    DEADLINE_FIRST_S,
    DEADLINE_MAX_S,
    DEADLINE_MIN_S,
    DEADLINE_TIMES,
    AdaptiveDeadline,
)
from fedmq.aggregator.machine import Output
from fedmq.aggregator.rounds import SPREAD_MAX_S, SPREAD_S
from fedmq.observe import events
from fedmq.protocol.messages import Beacon, Round
from fedmq.transport.link import BrokerConnected, Tick


def deadlines(output: Output) -> list[float]:
    return [message.deadline_s for _, message in sent(output, Round)]


def answer(scene: Scene, name: str, round: int, at: float | None = None) -> Output:
    """Return a result that does not end the run: each trainer sends another number in each round."""
    return scene.result(name, round, 10.0 * round, at=at)


def after(answer_s: float, *, rounds: int = 3, **chosen: float) -> float:
    """The deadline of the round after some in which bob and alice took so long to answer."""
    scene = opened("bob", "alice", **chosen)
    found: list[float] = []
    for number in range(1, rounds + 1):
        first, second = answer(scene, "bob", number, at=scene.now + answer_s), answer(scene, "alice", number)
        found = deadlines(first) or deadlines(second)
    return found[0]


# Deadlines


def test_configured_deadline_never_changes() -> None:
    assert after(1.0, deadline_s=7.0) == 7.0
    assert after(0.001, deadline_s=0.5) == 0.5


def test_first_round_has_a_long_deadline() -> None:
    scene = Scene(min_trainers=1)
    scene.take(BrokerConnected())
    assert deadlines(scene.hello("bob")) == [DEADLINE_FIRST_S]


def test_later_life_starts_with_the_first_deadline() -> None:
    scene = Scene(min_trainers=1, round=7, accepted={(6, "bob")}, away=("bob",))
    scene.take(BrokerConnected())
    assert deadlines(scene.hello("bob")) == [DEADLINE_FIRST_S]


def test_quick_survey_does_not_shorten_the_first_round_that_trains() -> None:
    adaptive = AdaptiveDeadline(None, [0.5])
    adaptive.begin("spread")
    assert adaptive.deadline_s == pytest.approx(0.5 * DEADLINE_TIMES)  # of an earlier life
    adaptive.begin("train")
    assert (adaptive.is_known, adaptive.deadline_s) == (False, DEADLINE_FIRST_S)
    adaptive.add(3.0)
    adaptive.begin("spread")
    assert adaptive.deadline_s == pytest.approx(0.5 * DEADLINE_TIMES)
    adaptive.begin("train")
    assert adaptive.deadline_s == pytest.approx(3.0 * DEADLINE_TIMES)


def test_result_before_its_round_reopens_does_not_change_the_deadline() -> None:
    scene = Scene(min_trainers=2, round=7)
    scene.take(BrokerConnected())
    answer(scene, "bob", 7, at=20.0)
    assert deadlines(scene.hello("alice")) == [DEADLINE_FIRST_S]


@pytest.mark.parametrize(
    ("answer_s", "deadline_s"),
    [
        (1.5, 1.5 * DEADLINE_TIMES),
        (0.002, DEADLINE_MIN_S),
        (0.0, DEADLINE_MIN_S),
        (1000.0, DEADLINE_MAX_S),
    ],
    ids=["usual", "quick", "at once", "slow"],
)
def test_deadline_is_a_multiple_of_the_median_answer_within_limits(answer_s: float, deadline_s: float) -> None:
    assert after(answer_s) == pytest.approx(deadline_s)


def test_minority_of_stragglers_does_not_change_the_deadline() -> None:
    scene = opened("a", "b", "c", "d", "straggler")
    found = [0.0]
    for number in range(1, 6):
        for name in ("a", "b", "c", "d"):
            answer(scene, name, number, at=scene.now + 0.1)
        found = deadlines(answer(scene, "straggler", number, at=scene.now + 25.0))
    assert DEADLINE_MIN_S < found[0] < 5.0


def test_late_results_do_not_change_the_deadline() -> None:
    scene = opened("bob", "alice", deadline_s=None)
    answer(scene, "bob", 1, at=1.0)
    (deadline_s,) = deadlines(scene.take(Tick(), at=DEADLINE_FIRST_S))
    assert deadline_s == 1.0 * DEADLINE_TIMES
    answer(scene, "alice", 1, at=scene.now + 5.0)  # 35 s after that round was opened
    answer(scene, "bob", 2, at=scene.now + 1.0)
    assert deadlines(scene.take(Tick(), at=scene.now + 60.0)) == [pytest.approx(3.5 * DEADLINE_TIMES)]


def test_deadline_grows_with_slower_answers() -> None:
    scene = opened("bob", "alice")
    seen = []
    for number in range(1, 100):
        answer_s = 0.3 if number < 60 else 0.9
        answer(scene, "bob", number, at=scene.now + answer_s)
        seen += deadlines(answer(scene, "alice", number))
    assert seen[15] == pytest.approx(3.0)
    assert seen[-1] == pytest.approx(9.0)


def test_round_closes_at_its_published_deadline() -> None:
    scene = opened("bob", "alice")
    answer(scene, "bob", 1, at=0.5)
    (deadline_s,) = deadlines(answer(scene, "alice", 1, at=0.5))
    opened_at = scene.now
    answer(scene, "bob", 2, at=opened_at + 0.1)
    assert closes(scene.take(Tick(), at=opened_at + deadline_s - 0.01)) == []
    (close,) = closes(scene.take(Tick(), at=opened_at + deadline_s))
    assert close.why == "deadline"


def test_trainer_that_joins_mid_round_gets_the_same_deadline() -> None:
    scene = opened("bob", "alice")
    answer(scene, "bob", 1, at=0.5)
    published = deadlines(answer(scene, "alice", 1))
    answer(scene, "bob", 2, at=9.0)
    assert deadlines(scene.hello("carol")) == published


def test_adaptive_deadline_never_closes_a_round_without_quorum() -> None:
    scene = opened("bob", "alice", "carol")
    answer(scene, "bob", 1)
    assert told(scene.take(Tick(), at=DEADLINE_MAX_S), events.RoundClosed) == []
    assert [closed.why for closed in told(answer(scene, "carol", 1), events.RoundClosed)] == ["deadline"]


# Those who return at once


@pytest.mark.parametrize(
    ("trainers", "spread_s"), [(0, 0.0), (2, 2 * SPREAD_S), (1000, 1000 * SPREAD_S), (16_000, SPREAD_MAX_S)]
)
def test_beacon_spreads_reconnections_by_their_number(trainers: int, spread_s: float) -> None:
    scene = Scene(away=[f"t{number}" for number in range(trainers)])
    ((_, beacon),) = sent(scene.take(BrokerConnected()), Beacon)
    assert beacon.spread_s == pytest.approx(spread_s)

"""The picture of a run: what each event changes in it, how it stands, and that it never grows without an end."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from fedmq.observe import events
from fedmq.observe import run_state as view
from fedmq.observe.run_state import STALLED_S, RunState
from fedmq.testing import run_started

STARTED = run_started(run="one", term=1, round=1, task="xor", algorithm="evolution", seed=7, rounds_max=200)
BEST = events.Best(value=0.75, coverage=1.0, fitness=-0.25, fitness_mean=-0.5, fitness_worst=-2.0, diversity=0.3)


STOPPED = "not solved, stopped by an operator"


def closed(number: int, results: int = 2) -> events.RoundClosed:
    return events.RoundClosed(
        round=number, why="complete", results=results, round_s=0.5, present=2, best=BEST, bytes_up=10, bytes_down=20
    )


def accepted(number: int, trainer: str = "bob", **more: float) -> events.ResultAccepted:
    return events.ResultAccepted(round=number, trainer=trainer, train_s=0.1, **{"staleness": 0, **more})  # type: ignore[arg-type]


def seen(*told: events.AnyEvent, begin: float = 100.0) -> RunState:
    """One event a second."""
    picture = RunState()
    for second, event in enumerate((STARTED, *told)):
        picture.apply(begin + second, event)
    return picture


def test_every_kind_of_event_is_taken() -> None:
    assert set(get_args(events.AnyEvent)) == set(view._APPLY)


def test_a_round_goes_from_its_publication_to_its_close() -> None:
    picture = seen(events.RoundPublished(round=1, invited=2), accepted(1), accepted(1, "amy", staleness=1))
    (one,) = picture.rounds
    assert (one.published_at, one.closed_at, one.results, one.late) == (101.0, None, 2, 1)
    picture.apply(104.0, closed(1))
    assert (one.closed_at, one.why, one.best, one.bytes_up, one.bytes_down) == (104.0, "complete", BEST, 10, 20)
    assert picture.best == BEST


def test_a_new_life_has_seen_nobody_yet_and_bars_nobody() -> None:
    picture = seen(
        events.TrainerJoined(trainer="bob", num_examples=2), events.TrainerBarred(trainer="bob", how="banned")
    )
    bob = picture.trainers["bob"]
    assert (bob.presence, bob.barred) == ("alive", "banned")
    picture.apply(200.0, msgspec.structs.replace(STARTED, term=2))
    assert (bob.presence, bob.barred, bob.touched) == ("gone", "", picture.seq)


def test_who_is_suspected_is_here_until_it_has_left() -> None:
    picture = seen(events.TrainerJoined(trainer="bob", num_examples=2), events.TrainerSuspected(trainer="bob"))
    assert picture.present == 1
    picture.apply(200.0, events.TrainerLeft(trainer="bob", goodbye=False))
    assert picture.present == 0


def test_the_best_is_that_of_the_last_closed_round_while_another_is_open() -> None:
    picture = seen(events.RoundPublished(round=1, invited=2), closed(1), events.RoundPublished(round=2, invited=2))
    assert picture.newest is not None
    assert picture.newest.closed_at is None
    assert picture.best == BEST


def test_of_a_run_that_went_back_no_later_round_is_left() -> None:
    """As after `fedmq runs recover --to-round 1`."""
    rounds = [(events.RoundPublished(round=number, invited=2), closed(number)) for number in (1, 2, 3)]
    told = [event for pair in rounds for event in pair]
    changed = [events.BestChanged(round=number, genes=bytes(8)) for number in (1, 3)]
    picture = seen(*told, *changed, msgspec.structs.replace(STARTED, term=2), *rounds[1])
    assert [one.round for one in picture.rounds] == [1, 2]
    assert [one.round for one in picture.bests] == [1]


def test_of_a_run_that_is_over_no_round_is_open() -> None:
    rounds = [events.RoundPublished(round=1, invited=2), closed(1), events.RoundPublished(round=2, invited=2)]
    picture = seen(*rounds, events.RunFinished(solved=False, rounds=1, value=0.5, why="stopped"))
    assert [one.round for one in picture.rounds] == [1]
    assert picture.newest is not None
    assert picture.newest.closed_at is not None


def test_closes_without_publications_do_not_grow_without_an_end() -> None:
    picture = seen(*(closed(number) for number in range(1, view.ROUNDS_KEPT_MAX + 2)))
    assert len(picture.rounds) < view.ROUNDS_KEPT_MAX
    assert picture.rounds[-1].round == view.ROUNDS_KEPT_MAX + 1


def test_a_round_that_a_later_life_opens_again_is_one_round() -> None:
    again = msgspec.structs.replace(STARTED, term=2)
    published = events.RoundPublished(round=1, invited=2)
    picture = seen(published, accepted(1), again, published)
    assert [one.round for one in picture.rounds] == [1]
    assert picture.rounds[0].published_at == 104.0
    assert picture.started_at == 100.0


def test_a_trainer_is_alive_then_suspect_then_gone_and_back() -> None:
    joined = events.TrainerJoined(trainer="bob", num_examples=3, version="1", labels=("north",), fingerprint="ab12")
    picture = seen(joined)
    bob = picture.trainers["bob"]
    assert (bob.presence, bob.num_examples, bob.version, bob.labels, bob.fingerprint) == (
        "alive",
        3,
        "1",
        ("north",),
        "ab12",
    )
    picture.apply(102.0, events.TrainerSuspected(trainer="bob"))
    assert bob.presence == "suspect"
    picture.apply(103.0, accepted(1))
    assert bob.presence == "alive"
    picture.apply(104.0, events.TrainerLeft(trainer="bob", goodbye=False))
    assert (bob.presence, bob.seen_at, picture.present) == ("gone", 103.0, 0)
    picture.apply(105.0, events.TrainerJoined(trainer="bob", num_examples=4))
    assert (bob.presence, bob.num_examples, bob.version) == ("alive", 4, "1")


def test_a_trainers_figures_come_from_its_results() -> None:
    picture = seen(accepted(1, answer_s=0.4, cpu_s=10.0, memory=5), accepted(2, answer_s=0.3, cpu_s=10.25, memory=6))
    bob = picture.trainers["bob"]
    assert bob.results == 2
    assert bob.train_s == 0.1
    assert bob.round_trip_s == pytest.approx(0.2)
    assert bob.cpu == pytest.approx(0.25)
    assert bob.memory == 6
    assert [(one.round, one.began_at, one.ended_at) for one in picture.works] == [(1, 100.6, 101.0), (2, 101.7, 102.0)]


def test_nobody_is_here_for_a_new_life_of_the_aggregator_until_it_is_seen() -> None:
    picture = seen(events.TrainerJoined(trainer="bob", num_examples=3), msgspec.structs.replace(STARTED, term=2))
    assert picture.trainers["bob"].presence == "gone"


def test_what_cannot_be_used_is_counted_and_told() -> None:
    picture = seen(
        events.TrainerJoined(trainer="bob", num_examples=3),
        events.ResultRejected(trainer="bob", reason="sha256", detail="x"),
        events.ResultRejected(trainer="", reason="sha256", detail="x"),
        events.ResultResent(round=1, trainer="bob"),
    )
    assert picture.rejections == {"sha256": 2}
    assert (picture.trainers["bob"].rejected, picture.trainers["bob"].resent, picture.resent) == (1, 1, 1)
    assert [type(one.event).__name__ for one in picture.feed] == [
        "RunStarted",
        "TrainerJoined",
        "ResultRejected",
        "ResultRejected",
        "ResultResent",
    ]


@pytest.mark.parametrize(
    ("told", "connected", "now", "said"),
    [
        ([], True, 100.0, "running"),
        ([], False, 100.0, "interrupted"),
        ([events.Waiting(present=1, needed=2)], True, 200.0, "waiting for trainers (1 of 2)"),
        ([events.RoundPublished(round=1, invited=2)], True, 101.0 + STALLED_S + 27.0, "stalled for 42 s"),
        ([events.RoundPublished(round=1, invited=2), accepted(1)], True, 102.0 + STALLED_S - 1.0, "running"),
        ([events.RunPaused()], True, 200.0, "paused"),
        ([events.RunPaused(), events.RunResumed()], True, 102.0, "running"),
        ([events.RunFinished(solved=True, rounds=1, value=1.0)], False, 200.0, "solved"),
        ([events.RunFinished(solved=False, rounds=1, value=1.0)], True, 200.0, "not solved"),
        ([events.RunFinished(solved=False, rounds=1, value=0.5, why="stopped")], False, 200.0, STOPPED),
    ],
)
def test_how_a_run_stands(told: list[events.AnyEvent], connected: bool, now: float, said: str) -> None:
    assert seen(*told).status_text(now, connected=connected) == said


def test_however_long_a_run_is_its_picture_is_bounded_and_goes_from_the_first_round_to_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("ROUNDS_KEPT_MAX", "BESTS_KEPT_MAX", "WORKS_KEPT_MAX", "FEED_KEPT_MAX", "TRAINERS_KEPT_MAX"):
        monkeypatch.setattr(view, name, 16)
    picture = RunState()
    picture.apply(0.0, STARTED)
    for number in range(1, 1000):
        picture.apply(float(number), events.RoundPublished(round=number, invited=2))
        picture.apply(number + 0.4, accepted(number, f"trainer-{number}"))
        picture.apply(number + 0.5, closed(number))
        picture.apply(number + 0.5, events.BestChanged(round=number, genes=bytes(8)))
    rounds = [one.round for one in picture.rounds]
    assert len(rounds) <= 16
    assert rounds == sorted(set(rounds))
    assert rounds[0] == 1
    assert rounds[-8:] == list(range(992, 1000))
    assert len(picture.trainers) == 16
    assert len(picture.bests) <= 16
    assert max(len(picture.works), len(picture.feed)) < 32
    assert picture.results == 999


def test_however_many_rounds_are_closed_what_else_has_happened_stays_in_the_feed() -> None:
    rounds = [closed(number) for number in range(1, 2000)]
    left = events.TrainerLeft(trainer="bob", goodbye=False)
    picture = seen(left, *rounds[:1000], events.RunPaused(), *rounds[1000:])
    others = [one.event for one in picture.feed if not isinstance(one.event, events.RoundClosed)]
    assert others == [STARTED, left, events.RunPaused()]
    assert picture.feed[-1].event == rounds[-1]
    assert [one.touched for one in picture.feed] == sorted(one.touched for one in picture.feed)
    assert len(picture.feed) < 2 * view.FEED_KEPT_MAX


def test_a_picture_survives_the_wire() -> None:
    picture = seen(events.TrainerJoined(trainer="bob", num_examples=3), accepted(1), closed(1), events.RunPaused())
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(picture), type=RunState) == picture


def test_the_time_left_is_that_of_all_rounds_that_are_allowed_at_the_pace_of_the_last_ones() -> None:
    assert seen(closed(1)).left_s(110.0, connected=True) is None
    picture = seen(*(closed(number) for number in range(1, 31)))
    now = picture.event_at
    assert picture.left_s(now, connected=True) == 170.0
    assert picture.left_s(now, connected=False) is None
    assert picture.left_s(now + STALLED_S, connected=True) is None
    picture.apply(now, events.RunPaused())
    assert picture.left_s(now, connected=True) is None


@pytest.mark.parametrize(
    "wrong",
    [{"event_at": float("nan")}, {"started_at": float("inf")}, {"train_s": -1.0}, {"rounds": [[1, 1e12]]}],
)
def test_a_picture_that_could_not_be_drawn_is_none(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(wrong), type=RunState)

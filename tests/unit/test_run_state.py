"""The state of a run: the effect of each event, its condition, and its bounds."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from fedmq.observe import events
from fedmq.observe import run_state as module
from fedmq.observe.run_state import STALLED_S, ObservedRun, RunState
from fedmq.testing import run_started

STARTED = run_started(run="one", term=1, round=1, task="xor", algorithm="evolution", seed=7, rounds_max=200)
BEST = events.Best(value=0.75, coverage=1.0, fitness=-0.25, fitness_mean=-0.5, fitness_worst=-2.0, diversity=0.3)


STOPPED = "stopped by an operator"


def closed(number: int, results: int = 2) -> events.RoundClosed:
    return events.RoundClosed(
        round=number, why="complete", results=results, round_s=0.5, present=2, best=BEST, bytes_up=10, bytes_down=20
    )


def accepted(number: int, trainer: str = "bob", **more: float) -> events.ResultAccepted:
    return events.ResultAccepted(round=number, trainer=trainer, train_s=0.1, **{"staleness": 0, **more})  # type: ignore[arg-type]


def seen(*happened: events.AnyEvent, begin: float = 100.0) -> RunState:
    """Return the state after these events, one a second."""
    state = RunState()
    for second, event in enumerate((STARTED, *happened)):
        state.apply(begin + second, event)
    return state


def test_every_kind_of_event_is_applied() -> None:
    assert set(get_args(events.AnyEvent)) == set(module._APPLY)


def test_round_is_updated_from_publication_to_close() -> None:
    state = seen(events.RoundPublished(round=1, invited=2), accepted(1), accepted(1, "amy", staleness=1))
    (one,) = state.rounds
    assert (one.published_at, one.closed_at, one.results, one.late) == (101.0, None, 2, 1)
    state.apply(104.0, closed(1))
    assert (one.closed_at, one.why, one.best, one.bytes_up, one.bytes_down) == (104.0, "complete", BEST, 10, 20)
    assert state.best == BEST


def test_restart_resets_presence_and_bars() -> None:
    state = seen(events.TrainerJoined(trainer="bob", num_examples=2), events.TrainerBarred(trainer="bob", how="banned"))
    bob = state.trainers["bob"]
    assert (bob.presence, bob.barred) == ("alive", "banned")
    state.apply(200.0, msgspec.structs.replace(STARTED, term=2))
    assert (bob.presence, bob.barred, bob.touched) == ("gone", "", state.seq)


def test_suspected_trainer_is_present_until_it_leaves() -> None:
    state = seen(events.TrainerJoined(trainer="bob", num_examples=2), events.TrainerSuspected(trainer="bob"))
    assert state.present == 1
    state.apply(200.0, events.TrainerLeft(trainer="bob", goodbye=False))
    assert state.present == 0


def test_best_is_of_the_last_closed_round() -> None:
    state = seen(events.RoundPublished(round=1, invited=2), closed(1), events.RoundPublished(round=2, invited=2))
    assert state.newest is not None
    assert state.newest.closed_at is None
    assert state.best == BEST


def test_rounds_after_a_recovered_round_are_dropped() -> None:
    """`fedmq runs recover --to-round 1` repeats rounds."""
    rounds = [(events.RoundPublished(round=number, invited=2), closed(number)) for number in (1, 2, 3)]
    happened = [event for pair in rounds for event in pair]
    changed = [events.BestChanged(round=number, parameters=bytes(8)) for number in (1, 3)]
    state = seen(*happened, *changed, msgspec.structs.replace(STARTED, term=2), *rounds[1])
    assert [one.round for one in state.rounds] == [1, 2]
    assert [one.round for one in state.bests] == [1]


def test_finished_run_has_no_open_round() -> None:
    rounds = [events.RoundPublished(round=1, invited=2), closed(1), events.RoundPublished(round=2, invited=2)]
    state = seen(*rounds, events.RunFinished(solved=False, rounds=1, value=0.5, why="stopped"))
    assert [one.round for one in state.rounds] == [1]
    assert state.newest is not None
    assert state.newest.closed_at is not None


def test_rounds_from_closes_alone_are_bounded() -> None:
    state = seen(*(closed(number) for number in range(1, module.ROUNDS_KEPT_MAX + 2)))
    assert len(state.rounds) < module.ROUNDS_KEPT_MAX
    assert state.rounds[-1].round == module.ROUNDS_KEPT_MAX + 1


def test_reopened_round_is_one_round() -> None:
    again = msgspec.structs.replace(STARTED, term=2)
    published = events.RoundPublished(round=1, invited=2)
    state = seen(published, accepted(1), again, published)
    assert [one.round for one in state.rounds] == [1]
    assert state.rounds[0].published_at == 104.0
    assert state.started_at == 100.0


def test_trainer_presence_follows_events() -> None:
    joined = events.TrainerJoined(trainer="bob", num_examples=3, version="1", labels=("north",), fingerprint="ab12")
    state = seen(joined)
    bob = state.trainers["bob"]
    assert (bob.presence, bob.num_examples, bob.version, bob.labels, bob.fingerprint) == (
        "alive",
        3,
        "1",
        ("north",),
        "ab12",
    )
    state.apply(102.0, events.TrainerSuspected(trainer="bob"))
    assert bob.presence == "suspect"
    state.apply(103.0, accepted(1))
    assert bob.presence == "alive"
    state.apply(104.0, events.TrainerLeft(trainer="bob", goodbye=False))
    assert (bob.presence, bob.seen_at, state.present) == ("gone", 103.0, 0)
    state.apply(105.0, events.TrainerJoined(trainer="bob", num_examples=4))
    assert (bob.presence, bob.num_examples, bob.version) == ("alive", 4, "1")


def test_trainer_figures_come_from_its_results() -> None:
    state = seen(accepted(1, answer_s=0.4, cpu_s=10.0, memory=5), accepted(2, answer_s=0.3, cpu_s=10.25, memory=6))
    bob = state.trainers["bob"]
    assert bob.results == 2
    assert bob.train_s == 0.1
    assert bob.round_trip_s == pytest.approx(0.2)
    assert bob.cpu == pytest.approx(0.25)
    assert bob.memory == 6
    assert [(one.round, one.began_at, one.ended_at) for one in state.works] == [(1, 100.6, 101.0), (2, 101.7, 102.0)]


def test_no_trainer_is_present_after_a_restart_until_it_joins() -> None:
    state = seen(events.TrainerJoined(trainer="bob", num_examples=3), msgspec.structs.replace(STARTED, term=2))
    assert state.trainers["bob"].presence == "gone"


def test_rejections_are_counted_and_in_the_feed() -> None:
    state = seen(
        events.TrainerJoined(trainer="bob", num_examples=3),
        events.ResultRejected(trainer="bob", reason="sha256", detail="x"),
        events.ResultRejected(trainer="", reason="sha256", detail="x"),
        events.ResultResent(round=1, trainer="bob"),
    )
    assert state.rejections == {"sha256": 2}
    assert (state.trainers["bob"].rejected, state.trainers["bob"].resent, state.resent) == (1, 1, 1)
    assert [type(one.event).__name__ for one in state.feed] == [
        "RunStarted",
        "TrainerJoined",
        "ResultRejected",
        "ResultRejected",
        "ResultResent",
    ]


@pytest.mark.parametrize(
    ("happened", "connected", "now", "text"),
    [
        ([], True, 100.0, "running"),
        ([], False, 100.0, "interrupted"),
        ([events.Waiting(present=1, needed=2)], True, 200.0, "waiting for trainers (1 of 2)"),
        ([events.RoundPublished(round=1, invited=2)], True, 101.0 + STALLED_S + 27.0, "stalled for 42 s"),
        ([events.RoundPublished(round=1, invited=2), accepted(1)], True, 102.0 + STALLED_S - 1.0, "running"),
        ([events.RunPaused()], True, 200.0, "paused"),
        ([events.RunPaused(), events.RunResumed()], True, 102.0, "running"),
        ([events.RunFinished(solved=True, rounds=1, value=1.0)], False, 200.0, "solved"),
        ([events.RunFinished(solved=False, rounds=1, value=1.0)], True, 200.0, "finished"),
        ([events.RunFinished(solved=False, rounds=1, value=0.5, why="stopped")], False, 200.0, STOPPED),
    ],
)
def test_condition_and_status_text(happened: list[events.AnyEvent], connected: bool, now: float, text: str) -> None:
    assert ObservedRun(seen(*happened), now, connected).status_text == text


def test_state_is_bounded_from_the_first_to_the_last_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("ROUNDS_KEPT_MAX", "BESTS_KEPT_MAX", "WORKS_KEPT_MAX", "FEED_KEPT_MAX", "TRAINERS_KEPT_MAX"):
        monkeypatch.setattr(module, name, 16)
    state = RunState()
    state.apply(0.0, STARTED)
    for number in range(1, 1000):
        state.apply(float(number), events.RoundPublished(round=number, invited=2))
        state.apply(number + 0.4, accepted(number, f"trainer-{number}"))
        state.apply(number + 0.5, closed(number))
        state.apply(number + 0.5, events.BestChanged(round=number, parameters=bytes(8)))
    rounds = [one.round for one in state.rounds]
    assert len(rounds) <= 16
    assert rounds == sorted(set(rounds))
    assert rounds[0] == 1
    assert rounds[-8:] == list(range(992, 1000))
    assert len(state.trainers) == 16
    assert len(state.bests) <= 16
    assert max(len(state.works), len(state.feed)) < 32
    assert state.results == 999


def test_closed_rounds_do_not_displace_other_events() -> None:
    rounds = [closed(number) for number in range(1, 2000)]
    left = events.TrainerLeft(trainer="bob", goodbye=False)
    state = seen(left, *rounds[:1000], events.RunPaused(), *rounds[1000:])
    others = [one.event for one in state.feed if not isinstance(one.event, events.RoundClosed)]
    assert others == [STARTED, left, events.RunPaused()]
    assert state.feed[-1].event == rounds[-1]
    assert [one.touched for one in state.feed] == sorted(one.touched for one in state.feed)
    assert len(state.feed) < 2 * module.FEED_KEPT_MAX


def test_state_survives_encoding() -> None:
    state = seen(events.TrainerJoined(trainer="bob", num_examples=3), accepted(1), closed(1), events.RunPaused())
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=RunState) == state


def test_time_left_is_at_the_rate_of_the_last_rounds() -> None:
    assert ObservedRun(seen(closed(1)), 110.0, connected=True).left_s is None
    state = seen(*(closed(number) for number in range(1, 31)))
    now = state.event_at
    assert ObservedRun(state, now, connected=True).left_s == 170.0
    assert ObservedRun(state, now, connected=False).left_s is None
    assert ObservedRun(state, now + STALLED_S, connected=True).left_s is None
    state.apply(now, events.RunPaused())
    assert ObservedRun(state, now, connected=True).left_s is None


@pytest.mark.parametrize(
    "wrong",
    [{"event_at": float("nan")}, {"started_at": float("inf")}, {"train_s": -1.0}, {"rounds": [[1, 1e12]]}],
)
def test_invalid_state_is_rejected_by_the_decoder(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(wrong), type=RunState)

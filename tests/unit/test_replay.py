"""Replay: a store gives the evaluation of its run bit for bit, or is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from strategy_rounds import strategy_of

from fedmq.aggregator.machine import Phase
from fedmq.algorithms.base import Evaluation
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import StoreError
from fedmq.observe import events
from fedmq.protocol.codec import Frames, Packet, decode, encode
from fedmq.protocol.messages import Accepted
from fedmq.protocol.run_config import Limits
from fedmq.runs.records import Close, StoredResult
from fedmq.runs.replay import Replayed, replay
from fedmq.runs.store import Store
from fedmq.simulation import Federation
from fedmq.tasks.task_file import find_task, task_rows
from fedmq.testing import Faults, run_config

ROUNDS = 4
TASKS = {"evolution": "xor", "fedavg": "xor", "clipped": "linear"}
NAMES = ("alice", "bob")
# Slow and unequal work, so that rounds close at their deadline and results come late.
UNEVEN = Faults(delay_s=(0.001, 0.3), reorder=True, duplicate=0.2)


def trained(strategy: str, *, seed: int = 3, rounds: int = ROUNDS) -> Federation:
    """A run that has ended, and did not reach its target before its rounds were used up."""
    task = msgspec.structs.replace(find_task(TASKS[strategy]), metric="loss", target=0.0)
    rows = {name: task_rows(TASKS[strategy], part, 2) for part, name in enumerate(NAMES, start=1)}
    limits = Limits(rounds_max=rounds, min_trainers=2, deadline_s=0.2)
    federation = Federation(task, strategy_of(strategy), rows, seed=seed, limits=limits, faults=UNEVEN)
    federation.train()
    assert federation.finished
    return federation


def replayed(federation: Federation, store: Store | None = None) -> Replayed:
    return replay(store or federation.store, federation.task, federation.strategy, federation.seed)


def bits(evaluation: Evaluation | None) -> dict[str, Any]:
    """A standing as values that are equal only when each bit is."""
    assert evaluation is not None
    return {**vars(evaluation), "parameters": evaluation.parameters.tobytes()}


def copied(federation: Federation, change: Any = None, *, without_round: int = 0) -> Store:
    """The run's store again, each result through `change`."""
    config = federation.store.config
    assert config is not None
    store = Store(":memory:")
    store.begin(config)
    for close in federation.store.closes():
        for result in federation.store.results(close.round):
            store.save(result if change is None else change(result))
        if close.round != without_round:
            store.save(close)
    store.commit()
    return store


@pytest.fixture(params=TASKS, scope="module")
def federation(request: pytest.FixtureRequest) -> Federation:
    return trained(request.param)


@pytest.fixture(scope="module")
def linear() -> Federation:
    return trained("clipped")


def test_replay_gives_the_same_evaluation_bit_for_bit(federation: Federation) -> None:
    assert federation.aggregator is not None
    again = replayed(federation)
    assert bits(federation.strategy.evaluation(again.state)) == bits(federation.aggregator.rounds.evaluation)
    assert (again.round, len(again.closes), again.open_results) == (ROUNDS + 1, ROUNDS, 0)


def test_replay_publishes_the_same_next_round(federation: Federation) -> None:
    assert federation.aggregator is not None
    theirs = federation.strategy.ask(replayed(federation).state)
    ours = federation.strategy.ask(federation.aggregator.rounds._state)
    assert theirs.query == ours.query
    assert {name: array.tobytes() for name, array in theirs.arrays.items()} == {
        name: array.tobytes() for name, array in ours.arrays.items()
    }


def test_replayed_runs_had_late_results() -> None:
    """Else the tests above would say less than they seem to."""
    late = [result for seed in range(3) for result in all_results(trained("clipped", seed=seed))]
    assert any(result.counted_in > result.round for result in late)


def all_results(federation: Federation) -> list[StoredResult]:
    return [result for number in range(1, ROUNDS + 1) for result in federation.store.results(number)]


def test_replay_restores_trainers_with_rows_and_results(linear: Federation) -> None:
    results = [result.trainer for result in all_results(linear)]
    assert replayed(linear).trainers == {name: (2, results.count(name)) for name in NAMES}


def test_replay_of_an_empty_store_is_at_round_one() -> None:
    store, strategy = Store(":memory:"), find_algorithm("averaging", parameters={"standardize": False})
    empty = replay(store, find_task("linear"), strategy, 1)
    assert (empty.round, empty.closes, empty.open_results, empty.trainers) == (1, [], 0, {})
    assert strategy.evaluation(empty.state) is None


def test_replay_includes_results_of_the_open_round(linear: Federation) -> None:
    last = copied(linear, without_round=ROUNDS)
    again = replayed(linear, last)
    assert again.round == ROUNDS
    assert again.open_results == len(list(linear.store.results(ROUNDS)))
    closed = linear.strategy.close(again.state, list(linear.store.closes())[-1].members)
    assert linear.aggregator is not None
    assert bits(linear.strategy.evaluation(closed)) == bits(linear.aggregator.rounds.evaluation)


# What has been tampered with


def flipped(frames: Frames, index: int) -> list[bytes]:
    """The frames with one bit of one of them changed."""
    frame = bytearray(frames[index])
    frame[-1] ^= 1
    return [*frames[:index], bytes(frame), *frames[index + 1 :]]


def with_changed_bit(result: StoredResult) -> StoredResult:
    return result._replace(frames=flipped(result.frames, 3))


def under_another_name(result: StoredResult) -> StoredResult:
    return result._replace(trainer=f"not-{result.trainer}")


def as_another_message(result: StoredResult) -> StoredResult:
    accepted = Accepted(run="run", term=1, trainer=result.trainer, round=result.round)
    return result._replace(frames=encode("up/run/", accepted))


def with_losses_that_are_no_integers(result: StoredResult) -> StoredResult:
    packet: Packet = decode(result.frames)
    return result._replace(frames=encode(packet.topic, packet.message, {**packet.arrays, "losses": np.array([1.0])}))


def of_another_round(result: StoredResult) -> StoredResult:
    packet: Packet = decode(result.frames)
    other = msgspec.structs.replace(packet.message, round=packet.message.round + 7)
    return result._replace(frames=encode(packet.topic, other, packet.arrays))


def with_impossible_numbers(result: StoredResult) -> StoredResult:
    packet: Packet = decode(result.frames)
    arrays = {**packet.arrays, "losses": np.array([-1])}
    return result._replace(frames=encode(packet.topic, packet.message, arrays))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_changed_bit, "sha256"),
        (under_another_name, "header"),
        (as_another_message, "header"),
        (of_another_round, "header"),
        (with_losses_that_are_no_integers, "dtype"),
        (with_impossible_numbers, "values"),
    ],
)
def test_changed_result_is_refused(linear: Federation, change: Any, reason: str) -> None:
    store = copied(linear, change)
    with pytest.raises(StoreError, match=rf"the result of \S+ in round 1 cannot .* \({reason}: .*another --out"):
        replayed(linear, store)


def test_missing_close_is_detected(linear: Federation) -> None:
    store = copied(linear, without_round=2)
    with pytest.raises(StoreError, match=r"round 3 is not as it was written; .* --to-round N"):
        replayed(linear, store)


@pytest.mark.parametrize("round", range(1, ROUNDS + 1))
def test_missing_result_is_detected(linear: Federation, round: int) -> None:
    store = copied(linear)
    gone = next(store.results(round))
    store._connection.execute("DELETE FROM results WHERE round = ? AND trainer = ?", gone[:2])
    with pytest.raises(StoreError, match=rf"round {round} is not as it was written; .* --to-round N"):
        replayed(linear, store)


# The next life of an aggregator


def endless(store: Store | None = None) -> Federation:
    """A run of alice and bob that no model ends."""
    task = msgspec.structs.replace(find_task("linear"), target=0.0)
    rows = {name: task_rows("linear", 1, 1) for name in NAMES}
    limits = Limits(rounds_max=1000, min_trainers=1)
    return Federation(
        task, find_algorithm("averaging", parameters={"standardize": False}), rows, limits=limits, store=store
    )


def until_closed(federation: Federation, rounds: int) -> list[Close]:
    """All closes, once there are so many."""
    assert federation.simulation.run(lambda: len(list(federation.store.closes())) >= rounds, 60.0)
    return list(federation.store.closes())


def test_goodbye_holds_in_the_next_life() -> None:
    federation = endless()
    federation.start()
    before = until_closed(federation, 3)
    federation.simulation.stop("bob")
    left = until_closed(federation, len(before) + 2)
    federation.simulation.crash("aggregator")
    federation.simulation.start("aggregator")
    again = until_closed(federation, len(left) + 2)
    assert [close.members for close in (before[-1], left[-1], again[-1])] == [NAMES, ("alice",), ("alice",)]


@pytest.mark.parametrize(("why", "deadline_s"), [("complete", 50.0), ("deadline", 30.0)])
def test_round_closed_by_its_deadline_does_not_set_the_usual_time(why: events.Why, deadline_s: float) -> None:
    store = Store(":memory:")
    store.begin(run_config("run", find_task("linear"), "clipped", seed=0, started=0.0))
    store.save(Close(1, why, (), 0, 5.0, 1.0, None, bytes(32)))
    store.commit()
    federation = endless(store)
    federation.start()
    assert federation.simulation.run(lambda: federation.aggregator.rounds.phase is Phase.COLLECTING, 60.0)  # type: ignore[union-attr]
    assert federation.aggregator is not None
    assert federation.aggregator.rounds._deadline_s == deadline_s

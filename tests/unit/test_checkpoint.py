"""Checkpoints: a state loads bit for bit, and a run continues from one as if it had never stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from splits import bits
from store_scene import CONFIG, a_close, a_result, filled, reopened
from strategy_rounds import CASES, LINEAR, XOR, shards, strategy_of, task_for, trained

from fedmq.algorithms.averaging.strategy import AveragingState
from fedmq.algorithms.base import Strategy, Update
from fedmq.algorithms.checkpoint import dump, load
from fedmq.algorithms.evolution.archive import Archive
from fedmq.algorithms.evolution.strategy import EvolutionState
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import StoreError
from fedmq.runs.records import Checkpoint
from fedmq.runs.store import Store
from fedmq.runtime.rng import derive_rng
from fedmq.tasks.task import Task
from fedmq.tasks.task_file import find_task

ROUNDS = 12
SMALL = {"population": 20, "generations": 1, "restart_after": 3}  # restarts now and then


def again(state: Any) -> Any:
    """The state, from its bytes."""
    return load(dump(state), type(state))


def rounds(strategy: Strategy[Any], task: Task, *, stored: bool, parts: int = 2) -> Iterator[Any]:
    """The states of a run, before and after each close; late and absent trainers; each `stored` and loaded, or not."""
    rows, chance = shards(task, parts), derive_rng(5, "chance")
    state, underway = strategy.init(task, 5), list[Update]()
    for number in range(1, ROUNDS + 1):
        plan, arrived = strategy.ask(state), [replace(one, staleness=number - one.round) for one in underway]
        underway = []
        for name in rows:
            update = trained(task, plan, rows, name, number)
            [arrived, underway, []][chance.choice(3, p=[0.6, 0.2, 0.2])].append(update)
        for update in arrived:
            state = strategy.tell(state, update)
        state = again(state) if stored else state
        yield state
        state = strategy.close(state, rows.keys())
        state = again(state) if stored else state
        yield state


@pytest.fixture(params=tuple(CASES))
def strategy(request: pytest.FixtureRequest) -> Strategy[Any]:
    return strategy_of(request.param, **(SMALL if request.param == "evolution" else {}))


def test_every_state_of_a_run_loads_bit_for_bit(strategy: Strategy[Any]) -> None:
    task = task_for(strategy)
    for state in [strategy.init(task, 5), *rounds(strategy, task, stored=False)]:
        assert bits(again(state)) == bits(state)


def test_run_loaded_at_every_step_is_the_same(strategy: Strategy[Any]) -> None:
    task = task_for(strategy)
    undisturbed = [bits(state) for state in rounds(strategy, task, stored=False)]
    assert [bits(state) for state in rounds(strategy, task, stored=True)] == undisturbed


def test_memory_layout_of_arrays_changes_no_sum() -> None:
    """With so many trainers NumPy sums in another order along another axis; a loaded array may lie otherwise."""
    task, evolution = find_task("parity4"), find_algorithm("evolution", parameters=SMALL)
    undisturbed = [bits(state) for state in rounds(evolution, task, stored=False, parts=16)]
    assert [bits(state) for state in rounds(evolution, task, stored=True, parts=16)] == undisturbed


def test_the_evolution_above_has_restarted_and_had_late_results() -> None:
    """Else the tests above would say less than they seem to."""
    states = list(rounds(find_algorithm("evolution", parameters=SMALL), XOR, stored=False))
    assert any(state.champion is not None for state in states)
    assert any(waiting.round < state.round for state in states for waiting in state.inbox.waiting.values())


def test_loaded_array_is_writable() -> None:
    archive = again(Archive.of(np.arange(2), np.zeros((2, 3))))
    archive.genes[0, 0] = 1.0
    assert archive.genes[0, 0] == 1.0


@pytest.mark.parametrize(
    "genes",
    [
        np.array([[-0.0, np.nan, np.inf, -np.inf, 5e-324]]),
        np.frombuffer(b"\x01\x00\x00\x00\x00\x00\xf8\x7f", np.float64)[None],
        np.arange(6.0).reshape(2, 3).T,
        np.arange(12.0).reshape(3, 4)[:, ::2],
        np.empty((0, 22)),
        np.empty((3, 0)),
    ],
    ids=["not finite", "a payload in a NaN", "transposed", "strided", "no candidates", "no genes"],
)
def test_arrays_of_all_kinds_load_bit_for_bit(genes: Any) -> None:
    archive = Archive.of(np.arange(len(genes)), genes)
    assert bits(again(archive)) == bits(archive)


# What is no checkpoint


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\xc1",
        b"\x07",
        dump({}),
        dump({"task": 7}),
        dump(find_algorithm("averaging", parameters={"learner": "evolution"}).init(XOR, 1)),
    ],
    ids=["empty", "no msgpack", "a number", "no field", "another field", "another strategy"],
)
def test_bytes_that_are_no_state_are_refused(blob: bytes) -> None:
    with pytest.raises(StoreError, match=r"^expected the state of a strategy \(EvolutionState\)[^\n]*$"):
        load(blob, EvolutionState)


def test_truncated_state_is_refused() -> None:
    blob = dump(find_algorithm("averaging", parameters={"standardize": False}).init(LINEAR, 1))
    for length in range(len(blob)):
        with pytest.raises(StoreError):
            load(blob[:length], AveragingState)


def test_unsupported_value_in_a_state_is_refused() -> None:
    with pytest.raises(NotImplementedError, match=r"a \w*Path in the state of a strategy"):
        dump(Path("somewhere"))


# In a store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "store.sqlite3")
    opened.begin(CONFIG)
    yield opened
    opened.close()


def test_newest_checkpoint_up_to_a_round_is_returned(store: Store) -> None:
    assert store.checkpoint() is None
    store.save(Checkpoint(3, b"old"))
    store.save(Checkpoint(3, b"three"))
    store.save(Checkpoint(9, b"nine"))
    store.commit()
    kept = reopened(store)
    assert [kept.checkpoint(), kept.checkpoint(8), kept.checkpoint(3)] == [(9, b"nine"), (3, b"three"), (3, b"three")]
    assert kept.checkpoint(2) is None
    kept.close()


@pytest.mark.parametrize(("rounds", "dropped"), [(9, 0), (6, 0), (5, 1), (2, 4), (1, 5), (0, 6)])
def test_only_rounds_before_a_checkpoint_are_dropped(store: Store, rounds: int, dropped: int) -> None:
    assert filled(store, rounds=6).keep_last(rounds) == dropped
    kept = reopened(store)
    assert [close.round for close in kept.closes()] == list(range(dropped + 1, 7))
    assert [len(list(kept.results(number))) for number in range(1, 7)] == [0] * dropped + [2] * (6 - dropped)
    assert kept.checkpoint(dropped + 1) == (None if dropped == 0 else (dropped + 1, b"state %d" % dropped))
    assert kept.verify() == []
    kept.save(a_result(7, "bob"))
    kept.save(a_close(7))
    kept.commit()
    assert kept.verify() == []
    kept.close()


def test_nothing_is_dropped_without_a_checkpoint(store: Store) -> None:
    store.save(a_result(1, "bob"))
    store.save(a_close(1))
    store.commit()
    assert store.keep_last(1) == 0
    assert list(store.closes()) == [a_close(1)]

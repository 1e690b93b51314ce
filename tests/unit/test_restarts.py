"""Restarts of the pool of `evolution`: the round that searches in a new pool is marked."""

from __future__ import annotations

from itertools import pairwise

import msgspec

from fedmq.algorithms.evolution.strategy import Evolution, EvolutionParameters
from fedmq.observe import events
from fedmq.observe.event_text import event_line
from fedmq.simulation import Federation
from fedmq.tasks.task_file import find_task, task_rows


def test_first_round_of_a_new_pool_is_marked() -> None:
    """There the best fitness may be worse than before, although the best model is kept."""
    rows = {name: task_rows("parity4", part, 2) for part, name in enumerate(("alice", "bob"), 1)}
    strategy = Evolution(EvolutionParameters(population=10, generations=0, restart_after=2))
    federation = Federation(msgspec.structs.replace(find_task("parity4"), rounds=30), strategy, rows, seed=3)
    federation.train()
    closes = [event for event in federation.events if isinstance(event, events.RoundClosed)]
    restarted = {close.round for close in closes if close.restarted}
    fell = {
        close.round
        for before, close in pairwise(closes)
        if before.best and close.best and close.best.fitness < before.best.fitness
    }
    assert fell, "the case is seen"
    assert fell <= restarted < {close.round for close in closes}
    assert "the pool restarted at random" in (event_line(closes[min(fell) - 1], "accuracy") or "")
    values = [close.best.value for close in closes if close.best]
    assert values == sorted(values), "the best model is kept"

"""One liar among five trainers: with the default settings split XOR is learnt all the same.

tests/benchmarks/byzantine.py plays more seeds, more attacks and other strategies, and prints a table.
"""

from __future__ import annotations

import pytest
from liars import HONEST, LIAR, is_right, learning, play, rows_of

from fedmq.algorithms.registry import find_algorithm
from fedmq.observe import events
from fedmq.protocol.run_config import Limits
from fedmq.simulation import Federation
from fedmq.tasks.task_file import find_task

XOR = find_task("xor")
SEEDS = 20
ROUNDS = {"garbage": 60, "inverted": 15, "favours": 60}  # the task has 200; whoever denies what is right uses them up


@pytest.mark.parametrize("attack", ["garbage", "inverted", "scaled", "NaN", "copies"])
def test_one_liar_in_five_does_not_keep_split_xor_from_being_learnt(attack: str) -> None:
    outcomes = {
        seed: play(XOR, find_algorithm("evolution"), attack, seed, ROUNDS.get(attack, 200)) for seed in range(SEEDS)
    }
    assert [seed for seed, outcome in outcomes.items() if not outcome.right] == []


def test_not_even_one_who_knows_all_rows_and_denies_whatever_is_right_about_them() -> None:
    outcomes = [play(XOR, find_algorithm("evolution"), "favours", seed, ROUNDS["favours"]) for seed in range(2)]
    assert [outcome.right for outcome in outcomes] == [True] * 2
    assert not any(outcome.said for outcome in outcomes), "nobody can claim that the liar's rows are right"


@pytest.mark.parametrize("attack", ["garbage", "inverted", "scaled", "NaN", "copies"])
def test_the_same_with_all_services_and_the_default_limits(attack: str) -> None:
    federation = Federation(XOR, find_algorithm("evolution"), rows_of(XOR, attack), seed=3, learn=learning(attack))
    model = federation.train()
    assert federation.finished
    assert model is not None
    assert is_right(XOR, model.parameters)
    refused = [event for event in federation.events if isinstance(event, events.ResultRejected)]
    assert {event.reason for event in refused} == ({"not-finite"} if attack == "NaN" else set())


def test_a_trainer_that_claims_more_rows_than_it_may_is_refused() -> None:
    rows, limits = rows_of(XOR, "greedy"), Limits(rounds_max=200, min_trainers=4, num_examples_max=2)
    federation = Federation(XOR, find_algorithm("evolution"), rows, limits=limits, learn=learning("greedy"))
    model = federation.train()
    assert model is not None
    assert is_right(XOR, model.parameters)
    refused = [event for event in federation.events if isinstance(event, events.ResultRejected)]
    assert {(event.trainer, event.detail) for event in refused} == {(LIAR, "expected at most 2 rows, got 100")}
    accepted = [event for event in federation.events if isinstance(event, events.ResultAccepted)]
    assert {event.trainer for event in accepted} == set(HONEST)

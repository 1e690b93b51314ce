"""One Byzantine trainer among five: with the default settings split XOR is still learned.

tests/benchmarks/byzantine.py plays more seeds, more attacks and other strategies, and prints a table.
"""

from __future__ import annotations

import pytest
from byzantine_trainers import BYZANTINE, HONEST, is_right, learning, play, rows_of

from fedmq.algorithms.registry import find_algorithm
from fedmq.observe import events
from fedmq.protocol.run_config import Limits
from fedmq.simulation import Federation
from fedmq.tasks.task_file import find_task

XOR = find_task("xor")
SEEDS = 20
ROUNDS = {"garbage": 60, "inverted": 15, "favours": 60}  # the task has 200; attacks on the right model use all of them


@pytest.mark.parametrize("attack", ["garbage", "inverted", "scaled", "NaN", "copies"])
def test_split_xor_is_learned_with_one_byzantine_trainer_in_five(attack: str) -> None:
    outcomes = {
        seed: play(XOR, find_algorithm("evolution"), attack, seed, ROUNDS.get(attack, 200)) for seed in range(SEEDS)
    }
    assert [seed for seed, outcome in outcomes.items() if not outcome.right] == []


def test_attacker_that_knows_all_rows_does_not_prevent_the_right_model() -> None:
    outcomes = [play(XOR, find_algorithm("evolution"), "favours", seed, ROUNDS["favours"]) for seed in range(2)]
    assert [outcome.right for outcome in outcomes] == [True] * 2
    assert not any(outcome.said for outcome in outcomes), "the rows of the Byzantine trainer are never right"


@pytest.mark.parametrize("attack", ["garbage", "inverted", "scaled", "NaN", "copies"])
def test_services_with_default_limits_learn_despite_a_byzantine_trainer(attack: str) -> None:
    federation = Federation(XOR, find_algorithm("evolution"), rows_of(XOR, attack), seed=3, learn=learning(attack))
    model = federation.train()
    assert federation.finished
    assert model is not None
    assert is_right(XOR, model.parameters)
    refused = [event for event in federation.events if isinstance(event, events.ResultRejected)]
    assert {event.reason for event in refused} == ({"not-finite"} if attack == "NaN" else set())


def test_trainer_with_more_rows_than_the_limit_is_rejected() -> None:
    rows, limits = rows_of(XOR, "greedy"), Limits(rounds_max=200, min_trainers=4, num_examples_max=2)
    federation = Federation(XOR, find_algorithm("evolution"), rows, limits=limits, learn=learning("greedy"))
    model = federation.train()
    assert model is not None
    assert is_right(XOR, model.parameters)
    refused = [event for event in federation.events if isinstance(event, events.ResultRejected)]
    assert {(event.trainer, event.detail) for event in refused} == {(BYZANTINE, "expected at most 2 rows, got 100")}
    accepted = [event for event in federation.events if isinstance(event, events.ResultAccepted)]
    assert {event.trainer for event in accepted} == set(HONEST)

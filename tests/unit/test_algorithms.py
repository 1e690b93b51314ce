"""Evolution and averaging: federations learn with them, and the steps of each."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from strategy_rounds import LINEAR, XOR, one_round, rounds_needed, shards, spoilt, strategy_of, trained

from fedmq.algorithms.base import Update
from fedmq.algorithms.evolution.query import Evolve
from fedmq.algorithms.inbox import ROUNDS_REMEMBERED
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import BadConfiguration
from fedmq.models.fourier import Fourier
from fedmq.tasks.task_file import find_task

# Learning


def test_evolution_solves_split_xor_for_every_seed() -> None:
    needed = {seed: rounds_needed(find_algorithm("evolution"), XOR, seed) for seed in range(60)}
    assert [seed for seed, rounds in needed.items() if rounds is None] == []
    rounds = sorted(rounds for rounds in needed.values() if rounds is not None)
    assert rounds[len(rounds) // 2] <= 5
    assert rounds[-1] <= 30


def test_evolution_solves_split_xor_while_trainers_drop_out_and_are_late() -> None:
    needed = {seed: rounds_needed(find_algorithm("evolution"), XOR, seed, absent=0.3, late=0.3) for seed in range(25)}
    assert [seed for seed, rounds in needed.items() if rounds is None] == []


def test_evolution_fits_the_linear_task_for_every_seed() -> None:
    needed = {seed: rounds_needed(find_algorithm("evolution", LINEAR), LINEAR, seed) for seed in range(15)}
    assert [seed for seed, rounds in needed.items() if rounds is None or rounds > 50] == []


def test_evolution_solves_parity_over_four_trainers() -> None:
    task = find_task("parity4")
    needed = {seed: rounds_needed(find_algorithm("evolution", task), task, seed, parts=4) for seed in (0, 1)}
    assert [seed for seed, rounds in needed.items() if rounds is None] == []


def test_averaging_of_evolved_models_solves_split_xor_for_most_seeds() -> None:
    task = msgspec.structs.replace(XOR, rounds=60)
    solved = [
        seed
        for seed in range(8)
        if rounds_needed(find_algorithm("averaging", parameters={"learner": "evolution"}), task, seed)
    ]
    assert len(solved) >= 5, f"solved only seeds {solved}"


def test_ten_local_steps_and_one_average_match_the_tutorial() -> None:
    strategy = strategy_of("averaging", epochs=10, batch_size=0, learning_rate=0.2, standardize=False)
    state = one_round(strategy, strategy.init(LINEAR, 1), LINEAR)
    np.testing.assert_allclose(
        strategy.ask(state).arrays["model"], [0.9914640896, 0.0968729600, 0.1977464320], atol=2e-8
    )


def test_averaging_of_gradient_steps_reaches_the_pooled_optimum() -> None:
    strategy = find_algorithm("averaging", LINEAR)
    state = strategy.init(LINEAR, 1)
    for _ in range(500):
        state = one_round(strategy, state, LINEAR)
    np.testing.assert_allclose(strategy.ask(state).arrays["model"], [1.5, 0.5, -0.25], atol=5e-5)
    evaluation = strategy.evaluation(state)
    assert evaluation is not None
    assert evaluation.loss == pytest.approx(0.25, abs=1e-6)


# Evolution


def test_elites_of_a_pool_are_the_best_scored_candidates() -> None:
    strategy = find_algorithm("evolution")
    start = strategy.init(XOR, 1)
    plan = strategy.ask(one_round(strategy, start, XOR))
    assert isinstance(plan.query, Evolve)
    assert plan.query.elites == 10
    rows = shards(XOR, 2)
    before = strategy.ask(start).arrays
    losses = sum(XOR.score(before["pool"], one).losses for one in rows.values())
    best = before["ids"][np.argsort(losses, kind="stable")[:10]]
    np.testing.assert_array_equal(plan.arrays["ids"][:10], best)
    assert plan.arrays["pool"].shape == (100, 22)
    assert len(set(plan.arrays["ids"].tolist())) == 100


def test_proposals_and_their_weighted_mean_enter_the_next_pool() -> None:
    strategy = find_algorithm("evolution")
    state = strategy.init(XOR, 1)
    plan, rows = strategy.ask(state), shards(XOR, 2)
    updates = [trained(XOR, plan, rows, name, 1) for name in rows]
    updates[1] = replace(updates[1], num_examples=6)
    for update in updates:
        state = strategy.tell(state, update)
    pool = strategy.ask(strategy.close(state, rows)).arrays["pool"]
    published = {candidate.tobytes() for candidate in pool}
    assert all(elite.tobytes() in published for update in updates for elite in update.arrays["elites"])
    mean = (2 * updates[0].arrays["elites"][0] + 6 * updates[1].arrays["elites"][0]) / 8
    assert np.isclose(pool, mean).all(axis=1).any()


def test_late_score_completes_a_candidate_in_the_archive() -> None:
    strategy = find_algorithm("evolution")
    start = strategy.init(XOR, 1)
    rows = shards(XOR, 2)
    both = [trained(XOR, strategy.ask(start), rows, name, 1) for name in rows]
    state = strategy.close(strategy.tell(start, both[0]), rows)
    early = strategy.evaluation(state)
    state = strategy.close(strategy.tell(state, replace(both[1], staleness=1)), rows)
    late = strategy.evaluation(state)
    assert early is not None
    assert early.coverage == 0.5
    assert late is not None
    assert late.coverage == 1.0
    assert late.rows == 4


def test_scores_of_a_trainer_count_again_when_it_returns() -> None:
    strategy = find_algorithm("evolution")
    state = one_round(strategy, strategy.init(XOR, 1), XOR)
    before = strategy.evaluation(state)
    rows = shards(XOR, 2)
    update = trained(XOR, strategy.ask(state), rows, "trainer-1", 2)
    without = strategy.close(strategy.tell(state, update), {"trainer-1"})
    returned = strategy.close(
        strategy.tell(without, trained(XOR, strategy.ask(without), rows, "trainer-1", 3)), rows.keys()
    )
    alone, together = strategy.evaluation(without), strategy.evaluation(returned)
    assert alone is not None
    assert alone.rows == 2
    assert before is not None
    assert together is not None
    assert together.coverage == 1.0
    assert together.correct >= before.correct


def test_stagnant_search_restarts_and_keeps_the_best() -> None:
    strategy = find_algorithm("evolution")
    state = strategy.init(XOR, 1)
    state = replace(one_round(strategy, state, XOR), progress=replace(state.progress, best=0.0, stagnant=14))
    elites = strategy.ask(state).arrays["ids"][:10]
    state = one_round(strategy, state, XOR)
    plan, best = strategy.ask(state), strategy.evaluation(state)
    assert isinstance(plan.query, Evolve)
    assert plan.query.elites == 0
    assert not set(elites.tolist()) & set(plan.arrays["ids"].tolist())
    assert plan.arrays["pool"].min() >= -2.0
    after = strategy.evaluation(one_round(strategy, state, XOR))
    assert best is not None
    assert after is not None
    assert (after.correct, -after.loss) >= (best.correct, -best.loss)


def test_late_results_alone_do_not_break_a_restarted_search() -> None:
    strategy = find_algorithm("evolution")
    rows = shards(XOR, 2)
    state = one_round(strategy, strategy.init(XOR, 1), XOR)
    old = state
    state = replace(state, progress=replace(state.progress, best=0.0, stagnant=14))
    state = strategy.close(strategy.tell(state, trained(XOR, strategy.ask(old), rows, "trainer-1", 2)), rows)
    restarted = strategy.ask(state).arrays["ids"]
    late = trained(XOR, strategy.ask(old), rows, "trainer-2", 2, staleness=1)
    state = strategy.close(strategy.tell(state, late), rows)
    np.testing.assert_array_equal(strategy.ask(state).arrays["ids"], restarted)


def test_archive_stays_bounded() -> None:
    strategy = find_algorithm("evolution")
    state = strategy.init(LINEAR, 1)
    for _ in range(40):
        state = one_round(strategy, state, LINEAR)
    assert len(state.archive.ids) <= 4 * 100 + 1
    assert len(state.pools) <= ROUNDS_REMEMBERED


def test_each_of_more_trainers_than_places_may_be_published() -> None:
    strategy = find_algorithm("evolution")
    state = strategy.init(XOR, 1)
    plan, rows = strategy.ask(state), shards(XOR, 2)
    update = trained(XOR, plan, rows, "trainer-1", 1)
    names = [f"t{number:03}" for number in range(60)]
    for number, name in enumerate(names):
        elites = np.full((1, 22), 1.0 + number / 64)
        state = strategy.tell(state, replace(spoilt(update, "elites", elites), trainer=name))
    pool = strategy.ask(strategy.close(state, names)).arrays["pool"]
    same = 64 * (pool[(pool == pool[:, :1]).all(axis=1), 0] - 1.0)
    chosen = {int(number) for number in same if number == int(number)}
    assert pool.shape == (100, 22)
    assert len(chosen) == 25
    assert max(chosen) > 30


# Averaging


def test_weight_of_a_model_is_rows_divided_by_one_plus_staleness() -> None:
    strategy = find_algorithm("averaging", parameters={"learner": "evolution"})
    state = strategy.init(LINEAR, 1)
    scores = {"losses": np.ones(1), "correct": np.zeros(1, np.int64)}
    for _ in range(2):
        state = strategy.close(state, {"a", "b"})
    models = {"a": np.array([3.0, 0.0, 0.0]), "b": np.array([0.0, 6.0, 0.0])}
    state = strategy.tell(state, Update("a", 3, 0, 2, {**scores, "model": models["a"]}))
    state = strategy.tell(state, Update("b", 1, 2, 12, {**scores, "model": models["b"]}))
    state = strategy.close(state, {"a", "b"})
    np.testing.assert_allclose(strategy.ask(state).arrays["model"], [3 * 2 / 6, 6 * 4 / 6, 0.0])


def test_gradient_averaging_refuses_a_model_without_gradients() -> None:
    task = msgspec.structs.replace(LINEAR, model=Fourier(2, 1, 8))
    with pytest.raises(BadConfiguration, match=r"learner=gradient, got Fourier of task linear: use learner=evolution"):
        find_algorithm("averaging").init(task, 1)


def test_deployed_model_is_the_one_that_was_scored() -> None:
    strategy = find_algorithm("averaging", LINEAR)
    start = strategy.init(LINEAR, 1)
    evaluation = strategy.evaluation(one_round(strategy, start, LINEAR))
    assert evaluation is not None
    np.testing.assert_array_equal(evaluation.parameters, strategy.ask(start).arrays["model"])
    assert evaluation.loss == 5.0

"""The strategies: what they publish, what they refuse, and that federations of them learn. No network, no time."""

from __future__ import annotations

import doctest
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

import aggregator.strategies
from aggregator.strategies import STRATEGY_NAMES, Plan, Standing, Strategy, Update, find_strategy
from aggregator.strategies.averaging import FedAvg
from aggregator.strategies.inbox import ROUNDS_REMEMBERED
from fedmq.errors import BadConfiguration, Rejected
from fedmq.messages import Evolve, GradientLearner
from fedmq.streams import stream
from fedmq.tasks import Rows, Task, find_task, task_rows
from trainer.learning import learn

XOR, LINEAR = find_task("xor"), find_task("linear")
Shards = Mapping[str, Rows]


def shards(task: Task, parts: int) -> Shards:
    return {f"trainer-{part}": task_rows(task.name, part, parts) for part in range(1, parts + 1)}


def trained(
    task: Task, plan: Plan, rows: Shards, name: str, number: int, *, seed: int = 1, staleness: int = 0
) -> Update:
    generator = stream(seed, "trainer", name, number)
    arrays = learn(task, plan.work, plan.arrays, rows[name], generator, lambda: False)
    return Update(name, number, staleness, len(rows[name].inputs), arrays)


def good_enough(task: Task, standing: Standing | None, rows: Shards) -> bool:
    """What the run would say; if it says yes, the union of the rows must agree."""
    if standing is None or standing.coverage < 1 or not task.reached(standing.loss, standing.correct, standing.rows):
        return False
    together = Rows(
        np.concatenate([one.inputs for one in rows.values()]), np.concatenate([one.targets for one in rows.values()])
    )
    losses, correct = task.score(standing.genes[None], together)
    assert losses[0] == pytest.approx(standing.loss)
    assert correct[0] == standing.correct
    return True


def rounds_needed(
    strategy: Strategy[Any], task: Task, seed: int, *, parts: int = 2, absent: float = 0.0, late: float = 0.0
) -> int | None:
    """The round in which the target was reached; None: not within the task's rounds."""
    rows, chance = shards(task, parts), stream(seed, "chance")
    state, underway = strategy.init(task, seed), list[Update]()
    for number in range(1, task.rounds + 1):
        plan = strategy.ask(state)
        arrived = [replace(update, staleness=number - update.round) for update in underway]
        underway = []
        for name in rows:
            if chance.random() >= absent:
                update = trained(task, plan, rows, name, number, seed=seed)
                (underway if chance.random() < late else arrived).append(update)
        for update in arrived:
            state = strategy.tell(state, update)
        state = strategy.close(state, rows.keys())
        if good_enough(task, strategy.standing(state), rows):
            return number
    return None


def one_round(strategy: Strategy[Any], state: Any, task: Task, members: Collection[str] | None = None) -> Any:
    """The state after a round in which every trainer answers."""
    rows, plan, number = shards(task, 2), strategy.ask(state), state.round
    for name in rows:
        state = strategy.tell(state, trained(task, plan, rows, name, number))
    return strategy.close(state, rows.keys() if members is None else members)


def same_plan(first: Plan, second: Plan) -> bool:
    return first.work == second.work and all(
        first.arrays[name].tobytes() == second.arrays[name].tobytes() for name in first.arrays.keys() | second.arrays
    )


def task_for(name: str) -> Task:
    return LINEAR if name == "fedsgd" else XOR


# Learning


def test_evolution_solves_split_xor_for_every_seed() -> None:
    needed = {seed: rounds_needed(find_strategy("evolution"), XOR, seed) for seed in range(60)}
    assert [seed for seed, rounds in needed.items() if rounds is None] == []
    rounds = sorted(rounds for rounds in needed.values() if rounds is not None)
    assert rounds[len(rounds) // 2] <= 5
    assert rounds[-1] <= 30


def test_evolution_solves_split_xor_while_trainers_drop_out_and_are_late() -> None:
    needed = {seed: rounds_needed(find_strategy("evolution"), XOR, seed, absent=0.3, late=0.3) for seed in range(25)}
    assert [seed for seed, rounds in needed.items() if rounds is None] == []


def test_evolution_fits_the_linear_task_for_every_seed() -> None:
    needed = {seed: rounds_needed(find_strategy("evolution"), LINEAR, seed) for seed in range(15)}
    assert [seed for seed, rounds in needed.items() if rounds is None or rounds > 50] == []


def test_evolution_solves_parity_over_four_trainers() -> None:
    needed = {seed: rounds_needed(find_strategy("evolution"), find_task("parity4"), seed, parts=4) for seed in (0, 1)}
    assert [seed for seed, rounds in needed.items() if rounds is None] == []


def test_fedavg_of_evolved_models_solves_split_xor_for_most_seeds() -> None:
    task = msgspec.structs.replace(XOR, rounds=60)
    solved = [seed for seed in range(8) if rounds_needed(find_strategy("fedavg"), task, seed)]
    assert len(solved) >= 5, f"solved only seeds {solved}"


def test_ten_local_steps_and_one_average_give_the_tutorials_numbers() -> None:
    strategy = FedAvg(GradientLearner(steps=10))
    state = one_round(strategy, strategy.init(LINEAR, 1), LINEAR)
    np.testing.assert_allclose(
        strategy.ask(state).arrays["model"], [0.9914640896, 0.0968729600, 0.1977464320], atol=1e-9
    )


def test_fedsgd_reaches_the_pooled_optimum() -> None:
    strategy = find_strategy("fedsgd")
    state = strategy.init(LINEAR, 1)
    for _ in range(1000):
        state = one_round(strategy, state, LINEAR)
    np.testing.assert_allclose(strategy.ask(state).arrays["model"], [1.5, 0.5, -0.25], atol=1e-9)
    standing = strategy.standing(state)
    assert standing is not None
    assert standing.loss == pytest.approx(0.25, abs=1e-9)


# The promises of every strategy


@pytest.fixture(params=STRATEGY_NAMES)
def strategy(request: pytest.FixtureRequest) -> Strategy[Any]:
    return find_strategy(request.param)


def test_the_toy_strategy_in_the_docstring_runs() -> None:
    results = doctest.testmod(aggregator.strategies)
    assert results.attempted > 5
    assert results.failed == 0


def test_strategies_are_found_by_name(strategy: Strategy[Any]) -> None:
    assert strategy.name in STRATEGY_NAMES
    with pytest.raises(BadConfiguration, match="evolution, fedavg, fedsgd, got 'nonesuch'"):
        find_strategy("nonesuch")


def test_nothing_stands_before_anything_was_told(strategy: Strategy[Any]) -> None:
    state = strategy.init(task_for(strategy.name), 1)
    assert strategy.standing(state) is None
    assert strategy.standing(strategy.close(state, {"bob"})) is None


def test_asking_twice_publishes_the_same(strategy: Strategy[Any]) -> None:
    task = task_for(strategy.name)
    state = one_round(strategy, strategy.init(task, 1), task)
    assert same_plan(strategy.ask(state), strategy.ask(state))


def test_a_round_without_results_publishes_the_same_again(strategy: Strategy[Any]) -> None:
    task = task_for(strategy.name)
    state = one_round(strategy, strategy.init(task, 1), task)
    assert same_plan(strategy.ask(strategy.close(state, {"trainer-1"})), strategy.ask(state))


def test_a_round_that_nobody_answered_does_not_spoil_the_next(strategy: Strategy[Any]) -> None:
    task = task_for(strategy.name)
    state = strategy.close(strategy.init(task, 1), ())
    standing = strategy.standing(one_round(strategy, state, task))
    assert standing is not None
    assert standing.coverage == 1.0


def test_who_counts_is_asked_at_each_close(strategy: Strategy[Any]) -> None:
    task = task_for(strategy.name)
    state = one_round(strategy, strategy.init(task, 1), task)
    for members, coverage, rows in [(("trainer-1",), 1.0, 2), (("trainer-1", "trainer-2", "new"), 2 / 3, 4)]:
        standing = strategy.standing(strategy.close(state, members))
        assert standing is not None
        assert standing.coverage == pytest.approx(coverage)
        assert standing.rows == rows


def test_the_order_of_arrival_changes_no_bit(strategy: Strategy[Any]) -> None:
    task = task_for(strategy.name)
    rows = shards(task, 3)
    start = strategy.init(task, 1)
    second = strategy.close(start, rows)  # so that one of the results is late
    updates = [
        trained(task, strategy.ask(start), rows, "trainer-1", 1, staleness=1),
        *(trained(task, strategy.ask(second), rows, name, 2) for name in rows),
    ]
    plans, standings = [], []
    for order in itertools.permutations(updates):
        state = second
        for update in order:
            state = strategy.tell(state, update)
        state = strategy.close(state, rows)
        plans.append(strategy.ask(state))
        standings.append(strategy.standing(state))
    assert all(same_plan(plans[0], plan) for plan in plans)
    first = standings[0]
    assert first is not None
    assert all(one is not None and one.loss == first.loss and one.diversity == first.diversity for one in standings)


def test_the_same_result_told_again_changes_nothing_in_that_round_or_later(strategy: Strategy[Any]) -> None:
    task = task_for(strategy.name)
    rows = shards(task, 2)
    start = strategy.init(task, 1)
    updates = [trained(task, strategy.ask(start), rows, name, 1) for name in rows]
    state = strategy.tell(strategy.tell(start, updates[0]), updates[1])
    assert strategy.tell(state, updates[0]) is state
    closed = strategy.close(state, rows)
    assert strategy.tell(closed, replace(updates[1], staleness=1)) is closed


def test_telling_leaves_the_state_that_was_given_untouched(strategy: Strategy[Any]) -> None:
    task = task_for(strategy.name)
    rows = shards(task, 2)
    start = strategy.init(task, 1)
    told = strategy.tell(start, trained(task, strategy.ask(start), rows, "trainer-1", 1))
    assert strategy.standing(strategy.close(start, rows)) is None
    assert strategy.standing(strategy.close(told, rows)) is not None


def test_one_silent_member_keeps_the_coverage_below_one(strategy: Strategy[Any]) -> None:
    task = task_for(strategy.name)
    rows = shards(task, 2)
    start = strategy.init(task, 1)
    told = strategy.tell(start, trained(task, strategy.ask(start), rows, "trainer-1", 1))
    standing = strategy.standing(strategy.close(told, rows))
    alone = strategy.standing(strategy.close(told, {"trainer-1"}))
    assert standing is not None
    assert standing.coverage == 0.5
    assert standing.rows == 2
    assert alone is not None
    assert alone.coverage == 1.0


def test_whoever_is_no_member_decides_nothing(strategy: Strategy[Any]) -> None:
    task = task_for(strategy.name)
    rows = shards(task, 2)
    start = strategy.init(task, 1)
    state = start
    for name in rows:
        state = strategy.tell(state, trained(task, strategy.ask(start), rows, name, 1))
    standing = strategy.standing(strategy.close(state, {"trainer-2"}))
    assert standing is not None
    assert standing.rows == 2
    assert standing.loss == pytest.approx(task.score(standing.genes[None], rows["trainer-2"]).losses[0])


def spoilt(update: Update, name: str, array: npt.NDArray[Any]) -> Update:
    return replace(update, arrays={**update.arrays, name: array})


def first_changed(array: npt.NDArray[Any], value: float) -> npt.NDArray[Any]:
    changed = array.copy()
    changed.ravel()[0] = value
    return changed


def impossible_updates(update: Update, genes: str) -> Sequence[tuple[str, Update]]:
    """Each with the reason for which it must be refused; `genes` names the array that holds genes."""
    arrays = update.arrays
    return [
        ("arrays", replace(update, arrays={name: array for name, array in arrays.items() if name != "losses"})),
        ("arrays", spoilt(update, "more", np.zeros(1))),
        ("dtype", spoilt(update, "losses", arrays["losses"].astype(np.float32))),
        ("dtype", spoilt(update, "correct", arrays["correct"].astype(np.float64))),
        ("shape", spoilt(update, "losses", arrays["losses"][:-1])),
        ("shape", spoilt(update, "correct", arrays["correct"][None])),
        ("shape", spoilt(update, genes, arrays[genes][..., :-1])),
        ("not-finite", spoilt(update, "losses", first_changed(arrays["losses"], np.nan))),
        ("not-finite", spoilt(update, genes, first_changed(arrays[genes], np.inf))),
        ("values", spoilt(update, genes, first_changed(arrays[genes], 1e300))),
        ("values", spoilt(update, "losses", first_changed(arrays["losses"], -1e-9))),
        ("values", spoilt(update, "correct", first_changed(arrays["correct"], 3))),
        ("values", spoilt(update, "correct", first_changed(arrays["correct"], -1))),
        ("values", replace(update, samples=0)),
        ("round", replace(update, round=0)),
        ("round", replace(update, round=2)),
    ]


def test_what_cannot_be_is_refused_for_its_reason(strategy: Strategy[Any]) -> None:
    task = task_for(strategy.name)
    rows = shards(task, 2)
    state = strategy.init(task, 1)
    update = trained(task, strategy.ask(state), rows, "trainer-1", 1)
    genes = "elites" if strategy.name == "evolution" else "model"
    for reason, impossible in impossible_updates(update, genes):
        with pytest.raises(Rejected) as refused:
            strategy.tell(state, impossible)
        assert refused.value.reason == reason
    assert strategy.standing(strategy.close(state, rows)) is None


def test_a_result_that_is_much_too_late_is_refused(strategy: Strategy[Any]) -> None:
    task = task_for(strategy.name)
    rows = shards(task, 2)
    state = strategy.init(task, 1)
    update = trained(task, strategy.ask(state), rows, "trainer-1", 1)
    for _ in range(ROUNDS_REMEMBERED - 1):
        state = strategy.close(state, rows)
    strategy.tell(state, update)
    with pytest.raises(Rejected) as refused:
        strategy.tell(strategy.close(state, rows), update)
    assert refused.value.reason == "round"


# Evolution


def test_the_elites_of_a_pool_are_the_best_of_what_was_scored() -> None:
    strategy = find_strategy("evolution")
    start = strategy.init(XOR, 1)
    plan = strategy.ask(one_round(strategy, start, XOR))
    assert isinstance(plan.work, Evolve)
    assert plan.work.elites == 10
    rows = shards(XOR, 2)
    before = strategy.ask(start).arrays
    losses = sum(XOR.score(before["pool"], one).losses for one in rows.values())
    best = before["ids"][np.argsort(losses, kind="stable")[:10]]
    np.testing.assert_array_equal(plan.arrays["ids"][:10], best)
    assert plan.arrays["pool"].shape == (100, 22)
    assert len(set(plan.arrays["ids"].tolist())) == 100


def test_what_the_trainers_found_enters_the_next_pool_with_their_weighted_mean() -> None:
    strategy = find_strategy("evolution")
    state = strategy.init(XOR, 1)
    plan, rows = strategy.ask(state), shards(XOR, 2)
    updates = [trained(XOR, plan, rows, name, 1) for name in rows]
    updates[1] = replace(updates[1], samples=6)
    for update in updates:
        state = strategy.tell(state, update)
    pool = strategy.ask(strategy.close(state, rows)).arrays["pool"]
    published = {candidate.tobytes() for candidate in pool}
    assert all(elite.tobytes() in published for update in updates for elite in update.arrays["elites"])
    mean = (2 * updates[0].arrays["elites"][0] + 6 * updates[1].arrays["elites"][0]) / 8
    assert np.isclose(pool, mean).all(axis=1).any()


def test_a_late_score_completes_a_candidate_that_still_lives() -> None:
    strategy = find_strategy("evolution")
    start = strategy.init(XOR, 1)
    rows = shards(XOR, 2)
    both = [trained(XOR, strategy.ask(start), rows, name, 1) for name in rows]
    state = strategy.close(strategy.tell(start, both[0]), rows)
    early = strategy.standing(state)
    state = strategy.close(strategy.tell(state, replace(both[1], staleness=1)), rows)
    late = strategy.standing(state)
    assert early is not None
    assert early.coverage == 0.5
    assert late is not None
    assert late.coverage == 1.0
    assert late.rows == 4


def test_the_scores_of_one_who_left_count_again_when_it_returns() -> None:
    strategy = find_strategy("evolution")
    state = one_round(strategy, strategy.init(XOR, 1), XOR)
    before = strategy.standing(state)
    rows = shards(XOR, 2)
    update = trained(XOR, strategy.ask(state), rows, "trainer-1", 2)
    without = strategy.close(strategy.tell(state, update), {"trainer-1"})
    returned = strategy.close(
        strategy.tell(without, trained(XOR, strategy.ask(without), rows, "trainer-1", 3)), rows.keys()
    )
    alone, together = strategy.standing(without), strategy.standing(returned)
    assert alone is not None
    assert alone.rows == 2
    assert before is not None
    assert together is not None
    assert together.coverage == 1.0
    assert together.correct >= before.correct


def test_a_search_that_stands_still_starts_anew_and_keeps_the_best() -> None:
    strategy = find_strategy("evolution")
    state = strategy.init(XOR, 1)
    state = replace(one_round(strategy, state, XOR), progress=replace(state.progress, best=0.0, stagnant=14))
    elites = strategy.ask(state).arrays["ids"][:10]
    state = one_round(strategy, state, XOR)
    plan, best = strategy.ask(state), strategy.standing(state)
    assert isinstance(plan.work, Evolve)
    assert plan.work.elites == 0
    assert not set(elites.tolist()) & set(plan.arrays["ids"].tolist())
    assert plan.arrays["pool"].min() >= -2.0
    after = strategy.standing(one_round(strategy, state, XOR))
    assert best is not None
    assert after is not None
    assert (after.correct, -after.loss) >= (best.correct, -best.loss)


def test_late_results_alone_do_not_break_a_search_that_just_started_anew() -> None:
    strategy = find_strategy("evolution")
    rows = shards(XOR, 2)
    state = one_round(strategy, strategy.init(XOR, 1), XOR)
    old = state
    state = replace(state, progress=replace(state.progress, best=0.0, stagnant=14))
    state = strategy.close(strategy.tell(state, trained(XOR, strategy.ask(old), rows, "trainer-1", 2)), rows)
    restarted = strategy.ask(state).arrays["ids"]
    late = trained(XOR, strategy.ask(old), rows, "trainer-2", 2, staleness=1)
    state = strategy.close(strategy.tell(state, late), rows)
    np.testing.assert_array_equal(strategy.ask(state).arrays["ids"], restarted)


def test_the_archive_stays_bounded() -> None:
    strategy = find_strategy("evolution")
    state = strategy.init(LINEAR, 1)
    for _ in range(40):
        state = one_round(strategy, state, LINEAR)
    assert len(state.archive.ids) <= 4 * LINEAR.search.population + 1
    assert len(state.pools) <= ROUNDS_REMEMBERED


def test_more_trainers_than_places_all_have_a_chance_of_being_published() -> None:
    strategy = find_strategy("evolution")
    state = strategy.init(XOR, 1)
    plan, rows = strategy.ask(state), shards(XOR, 2)
    update = trained(XOR, plan, rows, "trainer-1", 1)
    names = [f"t{number:03}" for number in range(60)]
    for number, name in enumerate(names):
        elites = np.full((1, 22), float(number + 10))
        state = strategy.tell(state, replace(spoilt(update, "elites", elites), trainer=name))
    pool = strategy.ask(strategy.close(state, names)).arrays["pool"]
    chosen = {int(value) - 10 for value in pool[(pool == pool[:, :1]).all(axis=1), 0] if value == int(value)}
    assert pool.shape == (100, 22)
    assert len(chosen) == 25
    assert max(chosen) > 30


# Averaging


def test_a_model_weighs_its_rows_divided_by_one_plus_its_staleness() -> None:
    strategy = find_strategy("fedsgd")
    state = strategy.init(LINEAR, 1)
    scores = {"losses": np.ones(1), "correct": np.zeros(1, np.int64)}
    for _ in range(2):
        state = strategy.close(state, {"a", "b"})
    models = {"a": np.array([3.0, 0.0, 0.0]), "b": np.array([0.0, 6.0, 0.0])}
    state = strategy.tell(state, Update("a", 3, 0, 2, {**scores, "model": models["a"]}))
    state = strategy.tell(state, Update("b", 1, 2, 12, {**scores, "model": models["b"]}))
    state = strategy.close(state, {"a", "b"})
    np.testing.assert_allclose(strategy.ask(state).arrays["model"], [3 * 2 / 6, 6 * 4 / 6, 0.0])


def test_fedsgd_refuses_a_model_that_is_not_linear() -> None:
    with pytest.raises(BadConfiguration, match=r"^strategy: expected a task with a linear model for fedsgd, got xor"):
        find_strategy("fedsgd").init(XOR, 1)


def test_the_deployed_model_is_the_one_that_was_scored() -> None:
    strategy = find_strategy("fedsgd")
    start = strategy.init(LINEAR, 1)
    standing = strategy.standing(one_round(strategy, start, LINEAR))
    assert standing is not None
    np.testing.assert_array_equal(standing.genes, strategy.ask(start).arrays["model"])
    assert standing.loss == 5.0

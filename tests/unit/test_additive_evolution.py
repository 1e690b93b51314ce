"""`evolution` by totals: which total ranks, which candidate is deployed, and what is asked without any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from strategy_rounds import rounds_needed

import fedmq
from fedmq.algorithms.additive import Additive
from fedmq.algorithms.base import Evaluation, Total
from fedmq.algorithms.evolution.genetic import AdditiveGenetic
from fedmq.algorithms.evolution.strategy import EvolutionParameters
from fedmq.algorithms.evolution.totals import AdditiveEvolution, PoolState
from fedmq.algorithms.registry import algorithm_of_query, find_algorithm
from fedmq.errors import BadConfiguration
from fedmq.models.arrays import Floats
from fedmq.models.networks import Code
from fedmq.models.trained_model import TrainedModel
from fedmq.simulation.cli import simulate
from fedmq.tasks.task import Task
from fedmq.tasks.task_file import find_task
from fedmq.testing import check_algorithm

XOR = find_task("xor")
SIZE = 20
PYGAD = {"sol_per_pop": 30, "gene_space": [-2, -1, 0, 1, 2], "gene_type": "int", "num_generations": 20}


def algorithm(**parameters: Any) -> AdditiveEvolution:
    return AdditiveEvolution(EvolutionParameters(additive=True, population=SIZE, **parameters))


def begun(search: AdditiveEvolution) -> PoolState:
    return search.init(XOR, 1)


def pool_of(state: PoolState) -> Floats:
    return state.pools[state.number]


def total(best: int, *, coverage: float = 1.0, rows: int = 4, size: int = SIZE) -> Total:
    """The total whose best candidate is at this place; the others are the worse the later they come."""
    losses = 100 + np.arange(size)
    losses[best] = 1
    correct = (losses == 1).astype(np.int64)
    return Total({"losses": losses << 16, "correct": correct}, rows, 2, coverage, 16)


def champion(state: PoolState) -> Evaluation:
    assert state.champion is not None
    return state.champion


@pytest.mark.parametrize("parameters", [{}, {"sol_per_pop": 12}])
def test_conformance_suite_accepts_both_forms(parameters: dict[str, Any]) -> None:
    strategy = find_algorithm("evolution", XOR, {"additive": True, **parameters})
    assert isinstance(strategy, Additive)
    check_algorithm(strategy)


def test_answer_holds_two_sums_for_each_candidate_and_no_candidate() -> None:
    plan = algorithm().ask(begun(algorithm()))
    answer = plan.query.answer(XOR, plan.shapes, 3)
    assert {name: one.shape for name, one in answer.items()} == {"losses": (SIZE,), "correct": (SIZE,)}
    assert all(one.rows_max is None for one in answer.values())
    assert algorithm_of_query(plan.query.kind) == "evolution"


def test_split_xor_is_solved_by_totals(tmp_path: Path) -> None:
    words = ["xor", "--trainers", "3", "--param", "additive=true", "--seed", "2", "--json", "--out", str(tmp_path)]
    done = CliRunner().invoke(simulate, words)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["solved"]
    assert report["rounds"] < 20


@pytest.mark.parametrize("task", ["xor", "linear"])
def test_search_by_totals_ends_while_trainers_drop_out_and_are_late(task: str) -> None:
    """The totals of the model that ends a run are those of all rows: `rounds_needed` compares them."""
    of_task = find_task(task)
    strategy = find_algorithm("evolution", of_task, {"additive": True})
    needed = [rounds_needed(strategy, of_task, seed, parts=3, absent=0.3, late=0.3) for seed in range(5)]
    assert None not in needed


def test_round_without_a_total_asks_about_other_candidates() -> None:
    """A question that was opened and cut short may not be asked again: see decision 37."""
    search = algorithm()
    for state in (begun(search), search.close(begun(search), total(3), {})):
        again = search.close(state, None, {})
        assert again.champion is state.champion
        assert not np.array_equal(pool_of(again), pool_of(state))
        np.testing.assert_array_equal(pool_of(search.close(state, None, {})), pool_of(again))


def test_best_of_a_total_is_deployed_and_published_again() -> None:
    search = algorithm()
    state = search.close(begun(search), total(7), {})
    best = pool_of(begun(search))[7]
    np.testing.assert_array_equal(champion(state).parameters, best)
    np.testing.assert_array_equal(pool_of(state)[0], best)
    assert len(pool_of(state)) == len(np.unique(pool_of(state), axis=0)) == SIZE


def test_total_of_fewer_members_breeds_but_does_not_choose() -> None:
    search = algorithm()
    state = search.close(begun(search), total(7), {})
    best, other = champion(state).parameters, pool_of(state)[5]
    some = search.close(state, total(5, coverage=0.5, rows=2), {})
    np.testing.assert_array_equal(champion(some).parameters, best)
    assert (champion(some).coverage, champion(some).rows, champion(some).correct) == (0.5, 2, 0)
    np.testing.assert_array_equal(some.parents[0], other)
    np.testing.assert_array_equal(pool_of(some)[:2], [best, other])
    everyone = search.close(some, total(1), {})
    np.testing.assert_array_equal(champion(everyone).parameters, other)
    assert champion(everyone).coverage == 1.0


def test_late_total_chooses_only_if_it_covers_more() -> None:
    search = algorithm()
    first = search.close(begun(search), total(7, coverage=0.5), {})
    covers = search.close(first, total(5, coverage=0.5), {1: total(2)})
    np.testing.assert_array_equal(champion(covers).parameters, pool_of(begun(search))[2])
    second = search.close(first, total(5), {})
    for late in ({1: total(2)}, {1: total(2, coverage=0.7)}):
        after = search.close(second, None, late)
        np.testing.assert_array_equal(champion(after).parameters, champion(second).parameters)
        np.testing.assert_array_equal(after.parents, second.parents)


def test_late_total_of_a_forgotten_pool_is_ignored() -> None:
    search, state = algorithm(), begun(algorithm())
    for _ in range(3):
        state = search.close(state, None, {})
    assert search.close(state, None, {1: total(2)}).champion is None


def test_search_that_stagnates_restarts_beside_the_champion() -> None:
    search = algorithm(restart_after=2)
    state = search.close(begun(search), total(7), {})
    best = champion(state).parameters
    for _ in range(2):
        state = search.close(state, total(0), {})
    np.testing.assert_array_equal(pool_of(state)[0], best)
    assert np.abs(pool_of(state)[1:]).max() <= 2.0  # random
    state = search.close(state, total(0), {})
    assert champion(state).restarted
    assert not (state.parents == best).all(axis=1).any()
    better = search.close(state, total(4), {})
    assert not champion(better).restarted
    assert (better.parents[0] == champion(better).parameters).all()


def test_totals_of_other_rows_are_no_progress() -> None:
    search = algorithm(restart_after=2)
    state = search.close(begun(search), total(7), {})
    for rows in (2, 4, 2, 4):
        state = search.close(state, total(0, rows=rows), {})
        assert not state.apart


def test_run_begins_with_an_earlier_model() -> None:
    model = TrainedModel(XOR.model, np.full(XOR.model.num_parameters, 0.5), "xor")
    state = algorithm().starting_at(begun(algorithm()), model)
    assert (pool_of(state)[0] == 0.5).all()


def test_bounds_of_a_loss_are_those_of_the_task() -> None:
    linear = find_task("linear")
    for task, bits in ((XOR, 5), (linear, 20)):
        query = algorithm().ask(algorithm().init(task, 1)).query
        assert query.row_bits == 16 + bits  # type: ignore[attr-defined]
        assert query.rows_max == 1 << (46 - bits if task is linear else 32)  # type: ignore[attr-defined]


def test_pygad_finds_the_same_by_totals() -> None:
    digests = {
        fedmq.simulate("xor", parameters={**PYGAD, "additive": additive}, trainers=3, seed=3).report.model_sha256
        for additive in (False, True)
    }
    assert len(digests) == 1


def test_pygad_asks_again_without_a_total_and_late_ones_of_the_population_count() -> None:
    search = AdditiveGenetic(EvolutionParameters(additive=True, sol_per_pop=SIZE))
    first = search.init(XOR, 1)
    second = search.close(first, None, {})
    np.testing.assert_array_equal(search.ask(second).arrays["candidates"], search.ask(first).arrays["candidates"])
    third = search.close(second, total(4, coverage=0.5), {1: total(3)})
    assert third.generation == 1
    assert third.evaluation is not None
    assert third.evaluation.coverage == 1.0
    assert search.close(third, None, {2: total(3)}).generation == 1  # of an earlier population


@pytest.mark.parametrize(
    ("keywords", "named"),
    [
        ({"local_generations": 2}, "local_generations"),
        ({"fitness_over_trainers": "mean"}, "fitness_over_trainers=mean"),
        ({"mutation_type": "adaptive", "mutation_num_genes": [3, 1]}, "mutation_type=adaptive"),
    ],
)
def test_keyword_that_needs_single_answers_is_refused(keywords: dict[str, Any], named: str) -> None:
    with pytest.raises(BadConfiguration, match=rf"^parameter additive: .*{named}"):
        find_algorithm("evolution", XOR, {"additive": True, **keywords})
    find_algorithm("evolution", XOR, {"additive": False, **keywords})


def test_fitness_of_the_site_is_refused() -> None:
    task = Task(name="genes", model=Code(num_parameters=4, inputs=1, objectives=2), loss="own", metric="loss")
    for keywords in ({}, {"sol_per_pop": 8}):
        with pytest.raises(BadConfiguration, match=r"^parameter additive: .*fitness_func"):
            find_algorithm("evolution", task, {"additive": True, **keywords}).init(task, 1)
    scored = msgspec.structs.replace(task, model=Code(num_parameters=4, inputs=1))
    find_algorithm("evolution", scored, {"additive": True, "sol_per_pop": 8}).init(scored, 1)

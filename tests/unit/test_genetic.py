"""`evolution` with PyGAD's keywords: the populations of PyGAD alone, with the fitness of all trainers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pygad
import pytest

from fedmq.algorithms.base import Update
from fedmq.algorithms.checkpoint import dump, load
from fedmq.algorithms.evolution.genetic import Genetic, GeneticState
from fedmq.algorithms.evolution.stock import front
from fedmq.algorithms.evolution.strategy import Evolution
from fedmq.algorithms.parameters import parameters_of
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import BadConfiguration, Rejected
from fedmq.models.genes import population_of
from fedmq.models.networks import Code
from fedmq.simulation.federation import Federation
from fedmq.tasks.task import Task
from fedmq.tasks.task_file import find_task, task_rows
from fedmq.testing import check_algorithm

GENES, SIZE, GENERATIONS, SEED = 4, 10, 8, 7
Fitness = Callable[[Any], Any]


def near(solution: Any) -> float:
    """Best at (0, 1, 2, 3)."""
    return -float(sum((float(value) - place) ** 2 for place, value in enumerate(solution)))


def near_and_large(solution: Any) -> list[float]:
    return [near(solution), float(sum(solution))]


def larger(solution: Any, values: Any) -> list[Any]:
    return [value for value in values if value > solution[0]]


SPACE = [range(6), [1, 3, 5], {"low": 0, "high": 9}, {"low": 0, "high": 9, "step": 3}]
CASES: list[tuple[Fitness, dict[str, Any]]] = [
    (near, {"keep_elitism": 2}),
    (near, {"gene_type": int, "gene_space": range(8), "num_parents_mating": 3}),
    (near, {"mutation_type": "adaptive", "mutation_num_genes": [3, 1], "stop_criteria": "saturate_3"}),
    (near, {"parent_selection_type": "rws", "crossover_type": "uniform", "keep_elitism": 0, "keep_parents": 2}),
    (near, {"crossover_type": "sbx", "mutation_type": "polynomial", "init_range_low": 0, "stop_criteria": "reach_-2"}),
    (near_and_large, {"gene_type": int, "gene_space": SPACE, "parent_selection_type": "nsga2"}),
    (
        near_and_large,
        {
            "gene_type": [int, [float, 2], np.int8, np.float32],
            "parent_selection_type": "tournament_nsga2",
            "init_range_low": [0, 0, 1, 2],
            "init_range_high": [5, 6, 7, 8],
            "gene_constraint": [None, larger, None, None],
        },
    ),
    (near_and_large, {"mutation_type": "adaptive", "mutation_probability": [0.5, 0.1], "gene_space": [0, 1, 2, 3]}),
    (near_and_large, {"parent_selection_type": "nsga3", "nsga3_num_divisions": 4, "mutation_type": "swap"}),
]


def task_with(keywords: dict[str, Any], objectives: int = 1, rounds: int = 200) -> Task:
    return Task(
        name="genes",
        model=Code(num_parameters=GENES, inputs=1, objectives=objectives),
        loss="own",
        metric="loss",
        rounds=rounds,
        parameters={"evolution": {"sol_per_pop": SIZE, "num_generations": GENERATIONS, **keywords}},
    )


def strategy_of(task: Task) -> Genetic:
    strategy = find_algorithm("evolution", task)
    assert isinstance(strategy, Genetic)
    return strategy


def run(
    task: Task, fitness: Fitness, shares: Sequence[float] = (1.0,), rounds: int = 40
) -> tuple[Genetic, GeneticState]:
    """Return the state at the end of a run whose trainers each have a share of the fitness."""
    strategy = strategy_of(task)
    state = strategy.init(task, SEED)
    names = [f"site{place}" for place in range(len(shares))]
    for _ in range(rounds):
        plan = strategy.ask(state)
        population = population_of(plan.arrays["integers"], plan.arrays["numbers"], strategy.types)
        values = np.array([fitness(one) for one in population], np.float64).reshape(len(population), -1)
        for name, share in zip(names, shares, strict=True):
            state = strategy.tell(state, Update(name, state.round, 0, 5, {"fitness": values * share}))
        state = strategy.close(state, names)
        if strategy.finished(state):
            break
    return strategy, state


def alone(keywords: dict[str, Any], fitness: Fitness) -> pygad.GA:
    """Return PyGAD's own run with the same arguments."""
    ga = pygad.GA(
        fitness_func=lambda _ga, solution, _place: fitness(solution),
        random_seed=SEED,
        sol_per_pop=SIZE,
        num_genes=GENES,
        suppress_warnings=True,
        **{"num_generations": GENERATIONS, "num_parents_mating": SIZE // 2, **keywords},
    )
    ga.run()
    return ga


@pytest.mark.parametrize(("fitness", "keywords"), CASES)
def test_one_trainer_finds_what_pygad_finds_alone(fitness: Fitness, keywords: dict[str, Any]) -> None:
    strategy, state = run(task_with(keywords, 2 if fitness is near_and_large else 1), fitness)
    ga = alone(keywords, fitness)
    population = population_of(state.brood.integers, state.brood.numbers, strategy.types)
    assert population.dtype == ga.population.dtype
    assert (population == ga.population).all()
    assert state.generation == ga.generations_completed
    assert state.evaluation is not None
    assert tuple(state.evaluation.parameters) == tuple(ga.best_solution(ga.last_generation_fitness)[0])


def test_front_is_that_of_pygad_with_integers() -> None:
    fitness, keywords = CASES[5]
    strategy, state = run(task_with({**keywords, "gene_names": ["a", "b", "c", "d"]}, 2), fitness)
    ga = alone(keywords, fitness)
    expected = {tuple(ga.population[int(place)].tolist()) for place in ga.pareto_fronts[0][:, 0]}
    findings = strategy.findings(state)
    assert findings is not None
    assert {one.genes for one in findings.front} == expected
    assert all(isinstance(gene, int) for one in findings.front for gene in one.genes)
    assert findings.gene_names == ("a", "b", "c", "d")
    assert state.evaluation is not None
    assert state.evaluation.parameters.dtype == np.int64
    fitnesses = [one.fitness for one in findings.front]
    assert fitnesses == sorted(fitnesses, reverse=True)


def test_fitness_that_adds_up_gives_the_same_run_for_any_split() -> None:
    keywords = {"gene_type": int, "gene_space": [0, 1, 2, 3]}
    _, one = run(task_with(keywords), near)
    _, three = run(task_with(keywords), near, (0.5, 0.25, 0.25))
    np.testing.assert_array_equal(one.brood.integers, three.brood.integers)
    assert three.evaluation is not None
    assert one.evaluation is not None
    assert (three.evaluation.rows, one.evaluation.rows) == (15, 5)


def test_mean_weighs_trainers_by_rows() -> None:
    task = task_with({"fitness_over_trainers": "mean"})
    strategy = strategy_of(task)
    state = strategy.init(task, SEED)
    for name, rows, value in (("a", 3, 1.0), ("b", 1, 5.0)):
        state = strategy.tell(state, Update(name, 1, 0, rows, {"fitness": np.full((SIZE, 1), value)}))
    state = strategy.close(state, ["a", "b"])
    assert state.evaluation is not None
    assert state.evaluation.fitness_best == 2.0


def test_state_survives_a_checkpoint() -> None:
    fitness, keywords = CASES[7]
    strategy, state = run(task_with(keywords, 2), fitness, rounds=4)
    assert not strategy.finished(state)
    again = load(dump(state), GeneticState)
    assert dump(again) == dump(state)
    np.testing.assert_array_equal(strategy.ask(again).arrays["numbers"], strategy.ask(state).arrays["numbers"])


def test_round_without_an_answer_asks_again_and_late_answers_count() -> None:
    task = task_with({})
    strategy = strategy_of(task)
    first = strategy.init(task, SEED)
    second = strategy.close(first, ["a"])
    np.testing.assert_array_equal(strategy.ask(second).arrays["numbers"], strategy.ask(first).arrays["numbers"])
    late = strategy.tell(second, Update("a", 1, 1, 5, {"fitness": np.zeros((SIZE, 1))}))
    third = strategy.close(late, ["a"])
    assert third.generation == 1
    assert strategy.tell(third, Update("b", 1, 2, 5, {"fitness": np.zeros((SIZE, 1))})) is third


def test_stop_criterion_that_some_of_the_trainers_meet_does_not_end_the_run() -> None:
    task = task_with({"stop_criteria": "reach_-5", "num_generations": 100})
    strategy = strategy_of(task)
    state = strategy.close(told(strategy, strategy.init(task, SEED), ["a", "b"]), ["a", "b"])
    state = strategy.close(told(strategy, state, ["a"]), ["a", "b"])  # -4 of one site: b misses the deadline
    assert not strategy.finished(state)
    for _ in range(2):
        state = strategy.close(told(strategy, state, ["a", "b"]), ["a", "b"])  # -8 of both
        assert not strategy.finished(state)
    assert state.generation == 4
    state = strategy.close(told(strategy, state, ["a"]), ["a"])
    assert strategy.finished(state)


def told(strategy: Genetic, state: GeneticState, trainers: Sequence[str]) -> GeneticState:
    for name in trainers:
        state = strategy.tell(state, Update(name, state.round, 0, 5, {"fitness": np.full((SIZE, 1), -4.0)}))
    return state


@pytest.mark.parametrize("selection", ["sss", "rws", "sus", "rank", "tournament", "random"])
@pytest.mark.parametrize("values", [[0.0], [1e100, -1e100], [5e-324, 0.0], [-1e100]])
def test_no_fitness_that_a_trainer_may_send_ends_the_run(selection: str, values: list[float]) -> None:
    task = task_with({"parent_selection_type": selection, "mutation_type": "adaptive", "mutation_num_genes": [3, 1]})
    strategy = strategy_of(task)
    state = strategy.init(task, SEED)
    for _ in range(3):
        size = len(strategy.ask(state).arrays["numbers"])
        fitness = np.resize(np.array(values), (size, 1))
        for name in ("a", "b"):
            state = strategy.tell(state, Update(name, state.round, 0, 2**53, {"fitness": fitness}))
        state = strategy.close(state, ["a", "b"])
    assert state.evaluation is not None
    assert np.isfinite(state.evaluation.loss)


def test_answer_that_does_not_fit_is_rejected() -> None:
    task = task_with({}, objectives=2)
    strategy = strategy_of(task)
    state = strategy.init(task, SEED)
    for wrong in (
        {"fitness": np.zeros((SIZE, 1))},
        {"losses": np.zeros(SIZE)},
        {"fitness": np.full((SIZE, 2), np.nan)},
    ):
        with pytest.raises(Rejected):
            strategy.tell(state, Update("a", 1, 0, 5, wrong))


@pytest.mark.parametrize(
    ("keywords", "named"),
    [
        ({"num_genes": 5}, "num_genes"),
        ({"gene_names": ["a"]}, "gene_names"),
        ({"gene_type": ["int", "int"]}, "gene_type"),
        ({"gene_type": "complex"}, "gene_type"),
        ({"gene_type": ["float", 10**9]}, "gene_type: expected a precision"),
        ({"gene_type": "object"}, "^gene_type: expected one of"),
        ({"gene_space": []}, "gene_space"),
        ({"gene_space": {"range": ["a"]}}, "gene_space"),
        ({"parent_selection_type": "best"}, "best"),
        ({"parent_selection_type": "nsga2"}, "objectives"),
        ({"mutation_type": "adaptive"}, "Adaptive"),
        ({"stop_criteria": "time_5"}, "stop_criteria"),
        ({"stop_criteria": "soon"}, "stop criterion"),
        ({"stop_criteria": "reach_1_2"}, "stop_criteria"),
        ({"gene_constraint": ["lambda s, v: s.x", None, None, None]}, "gene_constraint"),
        ({"gene_constraint": ["lambda s, v: [w for w in v if w > s[99]]", None, None, None]}, "PyGAD"),
        ({"initial_population": [[1, 2], [3, 4]]}, "initial_population"),
        ({"num_generations": 200}, "rounds"),
        ({"keep_elitism": 11}, "keep_elitism"),
        ({"crossover_probability": 1.5}, "crossover_probability"),
    ],
)
def test_keyword_that_pygad_or_the_task_refuses_is_named(keywords: dict[str, Any], named: str) -> None:
    task = task_with(keywords)
    with pytest.raises(BadConfiguration, match=named) as caught:
        strategy_of(task).init(task, SEED)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keywords", "named"),
    [
        ({"fitness_func": near}, "in the task's file"),
        ({"mutation_type": larger}, "function"),
        ({"gene_type": complex}, "gene_type"),
    ],
)
def test_python_value_that_is_no_data_is_named(keywords: dict[str, Any], named: str) -> None:
    with pytest.raises(BadConfiguration, match=named):
        task_with(keywords)


def test_values_of_python_become_data() -> None:
    task = task_with({"gene_type": [int, [float, 2], np.int8, np.float32], "gene_space": [range(3), *[None] * 3]})
    kept = msgspec.json.decode(msgspec.json.encode(task), type=Task)
    assert kept.parameters["evolution"]["gene_type"] == ["int", ["float", 2], "int8", "float32"]
    assert kept.parameters["evolution"]["gene_space"] == [{"range": [0, 3, 1]}, None, None, None]
    again = find_algorithm("evolution", None, parameters_of(strategy_of(task)))
    assert parameters_of(again) == parameters_of(strategy_of(task))


def test_defaults_take_the_fast_path() -> None:
    assert isinstance(find_algorithm("evolution"), Evolution)
    assert isinstance(find_algorithm("evolution", find_task("parity4")), Evolution)


@pytest.mark.parametrize(
    "keywords",
    [
        {"gene_space": [-2, -1, 0, 1, 2], "gene_type": "int", "sol_per_pop": 40, "local_generations": 2},
        {"gene_space": {"low": -3, "high": 3}, "mutation_type": "adaptive", "mutation_num_genes": [6, 2]},
    ],
)
def test_network_is_trained_within_the_gene_space(keywords: dict[str, Any]) -> None:
    task = find_task("xor")
    strategy = find_algorithm("evolution", task, {"sol_per_pop": 60, **keywords})
    rows = {name: task_rows("xor", place, 2) for place, name in enumerate(("alice", "bob"), start=1)}
    model = Federation(task, strategy, rows, seed=3).train()
    assert model is not None
    assert (model.predict([[0, 0], [0, 1], [1, 0], [1, 1]]) == [0, 1, 1, 0]).all()
    if keywords.get("gene_type") == "int":
        assert set(model.parameters) <= {-2.0, -1.0, 0.0, 1.0, 2.0}
    else:
        assert np.abs(model.parameters).max() <= 3.0


def test_conformance_suite_accepts_the_strategy() -> None:
    keywords = {"sol_per_pop": 12, "gene_space": {"low": -2, "high": 2}, "local_generations": 1}
    check_algorithm(find_algorithm("evolution", find_task("xor"), keywords), find_task("xor"))


@pytest.mark.parametrize("seed", range(10))
def test_front_is_the_first_one_of_pygad(seed: int) -> None:
    draws = np.random.default_rng(seed)
    fitness = draws.integers(0, 2 + seed, (1 + 5 * seed, 1 + seed % 4)).astype(float)  # with candidates that are equal
    fronts, _ = pygad.GA.non_dominated_sorting(pygad.GA.__new__(pygad.GA), fitness)
    assert front(fitness) == sorted(np.asarray(fronts[0])[:, 0].astype(int)), f"seed {seed}"

"""Benchmark: one PyGAD generation in fedmq's adapter, compared with stock `pygad.gann` and the bare matrix products.

Run it: `python tests/benchmarks/pygad_generation.py [--json]`. The three alternate in one process, so that load on the
machine affects all; the result is the ratio of the medians. Exit code 1 if a target is missed.

A second table is the work of the aggregator for one generation, in CPU time and without the trainers: the defaults of
`evolution`, and the same population with keywords of PyGAD, in turns.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: the products are too small for threads

import argparse
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pygad
import pygad.gann
import pygad.nn

from fedmq.algorithms.base import Update
from fedmq.algorithms.evolution.local_search import evolve
from fedmq.algorithms.registry import find_algorithm
from fedmq.models.networks import MLP, Code, Linear
from fedmq.tasks.task import Rows, Task

POPULATION = 50
SILENT = logging.getLogger("benchmark")


class Case(NamedTuple):
    """A network, its rows, and the target speed as a multiple of stock PyGAD."""

    name: str
    task: Task
    rows: Rows
    target: float
    turns: int
    generations: int  # of one measurement with the adapter; stock runs two


class Outcome(NamedTuple):
    """Milliseconds per generation, medians over all turns."""

    name: str
    stock_ms: float
    fedmq_ms: float
    products_ms: float
    target: float

    @property
    def ratio(self) -> float:
        """Return the number of generations of fedmq during one of stock PyGAD."""
        return self.stock_ms / self.fedmq_ms


def cases() -> list[Case]:
    """Return XOR, and a network of the size for the 8 x 8 digits."""
    generator = np.random.default_rng(0)
    xor = Rows(np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0]))
    digits = Rows(generator.random((300, 64)), generator.integers(0, 10, 300))
    return [
        Case("xor 2-4-2, 4 rows", _task((2, 4, 2)), xor, target=15.0, turns=15, generations=20),
        Case("digits 64-32-10, 300 rows", _task((64, 32, 10)), digits, target=50.0, turns=5, generations=10),
    ]


def _task(sizes: tuple[int, ...]) -> Task:
    """Return the network without biases, which stock PyGAD does not have."""
    return Task(
        name="benchmark", model=MLP(sizes, bias=False), loss="cross-entropy", metric="accuracy", target=1.0, trainers=1
    )


def stock(case: Case) -> Callable[[], int]:
    """Run two generations as in PyGAD's documentation: `pygad.nn.predict` for each solution."""
    sizes = case.task.model.sizes  # type: ignore[union-attr]
    networks = pygad.gann.GANN(
        num_solutions=POPULATION,
        num_neurons_input=sizes[0],
        num_neurons_hidden_layers=list(sizes[1:-1]),
        num_neurons_output=sizes[-1],
        hidden_activations=["relu"] * (len(sizes) - 2),
        output_activation="None",
    )

    def fitness(_: pygad.GA, __: Any, index: int) -> float:
        predictions = pygad.nn.predict(networks.population_networks[index], case.rows.inputs)
        return float(np.mean(np.asarray(predictions) == case.rows.targets))

    def after_generation(search: pygad.GA) -> None:
        matrices = pygad.gann.population_as_matrices(networks.population_networks, search.population)
        networks.update_population_trained_weights(matrices)

    def run() -> int:
        search = pygad.GA(
            num_generations=2,
            num_parents_mating=POPULATION // 5,
            initial_population=pygad.gann.population_as_vectors(networks.population_networks),
            fitness_func=fitness,
            on_generation=after_generation,
            mutation_percent_genes=10,
            suppress_warnings=True,
            logger=SILENT,
        )
        search.run()
        return 2

    return run


def adapter(case: Case) -> Callable[[], int]:
    """Run generations with fedmq's adapter, including its construction."""
    generator = np.random.default_rng(1)
    population = generator.uniform(-0.1, 0.1, (POPULATION, case.task.model.num_parameters))

    def run() -> int:
        evolve(
            population,
            lambda candidates: -case.task.score(candidates, case.rows).losses,
            case.generations,
            generator,
            elites=POPULATION // 10,
            parents=POPULATION // 4,
            mutation=(-1.5, 0.3),
            cancelled=lambda: False,
        )
        return case.generations

    return run


def products(case: Case) -> Callable[[], int]:
    """Run only the matrix products of a generation."""
    generator = np.random.default_rng(2)
    sizes = case.task.model.sizes  # type: ignore[union-attr]
    first = generator.random((sizes[0], POPULATION * sizes[1]))
    later = [generator.random((POPULATION, above, below)) for above, below in pairwise(sizes[1:])]
    hidden = generator.random((POPULATION, len(case.rows.inputs), sizes[1]))

    def run() -> int:
        for _ in range(case.generations):
            case.rows.inputs @ first
            values = hidden
            for weights in later:
                values = values @ weights
        return case.generations

    return run


KEYWORDS: dict[str, dict[str, Any]] = {
    "defaults": {"population": POPULATION},
    "sol_per_pop": {"sol_per_pop": POPULATION},
    "gene_type, gene_space": {"sol_per_pop": POPULATION, "gene_type": "int", "gene_space": {"range": [-9, 10]}},
    "adaptive mutation": {"sol_per_pop": POPULATION, "mutation_type": "adaptive", "mutation_percent_genes": [20, 5]},
    "nsga2, two objectives": {"sol_per_pop": POPULATION, "parent_selection_type": "nsga2"},
}


def breeding(genes: int, keywords: dict[str, Any], rounds: int) -> Callable[[], float]:
    """Return a function that computes rounds of one trainer, and returns the CPU milliseconds of one generation."""
    objectives = 2 if "parent_selection_type" in keywords else 1
    of_code = "population" not in keywords
    model = Code(genes, 1, objectives=objectives) if of_code else Linear(genes - 1, 1)
    task = Task(name="benchmark", model=model, loss="own" if of_code else "squared-error", metric="loss", trainers=1)
    strategy: Any = find_algorithm("evolution", task, keywords)
    generator = np.random.default_rng(3)

    def run() -> float:
        state, spent = strategy.init(task, 1), 0.0
        for _ in range(rounds):
            plan = strategy.ask(state)
            size = len(next(iter(plan.arrays.values())))
            losses = generator.random((size, objectives))
            answer = {"fitness": -losses}
            if not of_code:
                answer = {"losses": losses[:, 0], "correct": np.zeros(size, np.int64), "elites": np.zeros((0, genes))}
            began = time.process_time()
            state = strategy.close(strategy.tell(state, Update("alice", state.round, 0, 9, answer)), ["alice"])
            spent += time.process_time() - began
        return 1e3 * spent / getattr(state, "generation", rounds)

    return run


def measure_aggregator(genes: int, turns: int = 5, rounds: int = 8) -> dict[str, float]:
    """Return the median CPU milliseconds of a generation by keywords, measured in turns."""
    runs = {name: breeding(genes, keywords, rounds) for name, keywords in KEYWORDS.items()}
    found = [{name: run() for name, run in runs.items()} for _ in range(turns)]
    return {name: statistics.median(one[name] for one in found) for name in runs}


def measure(case: Case) -> Outcome:
    """Measure the three in turns."""
    runs = [stock(case), adapter(case), products(case)]
    times: list[list[float]] = [[], [], []]
    for turn in range(case.turns + 1):
        for run, found in zip(runs, times, strict=True):
            start = time.perf_counter()
            generations = run()
            if turn:  # the first turn warms up
                found.append(1e3 * (time.perf_counter() - start) / generations)
    stock_ms, fedmq_ms, products_ms = (statistics.median(found) for found in times)
    return Outcome(case.name, stock_ms, fedmq_ms, products_ms, case.target)


def main() -> int:
    """Run the benchmark, print the table and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    asked = parser.parse_args()
    outcomes = [measure(case) for case in cases()]
    aggregator = {
        case.task.model.num_parameters: measure_aggregator(case.task.model.num_parameters) for case in cases()
    }
    if asked.json:
        named = [{**outcome._asdict(), "ratio": outcome.ratio} for outcome in outcomes]
        print(json.dumps({"generations": named, "aggregator_cpu_ms": aggregator}))
    else:
        print(
            f"{'one generation of 50':28}{'stock ms':>10}{'fedmq ms':>10}{'products ms':>13}{'ratio':>9}{'target':>9}"
        )
        for one in outcomes:
            print(
                f"{one.name:28}{one.stock_ms:10.2f}{one.fedmq_ms:10.3f}{one.products_ms:13.3f}"
                f"{one.ratio:8.0f}x{one.target:8.0f}x"
            )
        print(f"{'the aggregator, CPU ms':28}" + "".join(f"{f'{genes} genes':>16}" for genes in aggregator))
        for name in KEYWORDS:
            print(f"{name:28}" + "".join(f"{found[name]:16.2f}" for found in aggregator.values()))
    return 0 if all(outcome.ratio >= outcome.target for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())

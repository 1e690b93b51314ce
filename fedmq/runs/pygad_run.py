"""A run of `evolution` with PyGAD's keywords as a `pygad.GA`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedmq.algorithms.base import Strategy
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import BadConfiguration
from fedmq.runs.maintenance import open_store
from fedmq.runs.replay import Replayed, replay


def pygad_instance(folder: str | Path) -> Any:
    """Return a `pygad.GA` with the last population of the run in a folder, computed again from its results.

    It has the fitness over all trainers, the generations, and the best fitness of each, so that `best_solution()`,
    `pareto_fronts` and `plot_fitness()` work. It cannot `run()`: only the trainers can compute other fitness.

    Raises:
        BadConfiguration: the folder holds no such run, or nothing is scored yet.
    """
    store, config = open_store(Path(folder))
    with store:
        strategy: Strategy[Any] = find_algorithm(config.algorithm, config.task, config.parameters)
        instance = getattr(strategy, "instance", None)
        if instance is None:
            raise BadConfiguration(
                f"{folder}: expected a run of evolution with PyGAD's keywords, such as sol_per_pop, and without "
                f"additive, got {strategy.name}"
            )
        history: dict[int, Any] = {}  # the best fitness by generation

        def watch(replayed: Replayed) -> None:
            if replayed.state.scored is not None:
                history[replayed.state.scored.generation] = replayed.state.best

        replayed = replay(store, config.task, strategy, config.seed, from_start=True, watch=watch)
        watch(replayed)
    ga = instance(replayed.state)
    if ga is None:
        raise BadConfiguration(f"{folder}: expected a run with a scored population, got none: let it close a round")
    ga.best_solutions_fitness = [best if len(best) > 1 else float(best[0]) for best in history.values()]
    ga.best_solutions_generations = list(history)
    ga.run_completed = True
    ga._update_best_solution_generation()
    return ga

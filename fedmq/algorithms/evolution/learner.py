"""The trainer's half of `evolution`: scores the pool on its rows, then searches from it."""

from typing import Any

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.base import Assignment, Learner
from fedmq.algorithms.evolution.local_search import evolve
from fedmq.algorithms.evolution.query import Evolve
from fedmq.models.arrays import Floats


def evolve_pool(query: Evolve, work: Assignment) -> dict[str, npt.NDArray[Any]]:
    """Score the pool, then evolve offspring from it and pick the best that are new."""
    pool = work.arrays["pool"]
    losses, correct = work.score(pool)
    start = _starting_rows(query, losses)
    proposals = np.empty((0, work.task.model.num_parameters))
    if query.generations and query.proposals and len(start) > 1:
        population, fitness = evolve(
            pool[start],
            lambda candidates: -work.score(candidates).losses,
            query.generations,
            work.generator,
            mutation=query.mutation,
            cancelled=work.cancelled,
            known=-losses[start],
        )
        proposals = _newcomers(population, fitness, pool[start], query.proposals)
    return {"losses": losses, "correct": correct, "elites": proposals}


def _starting_rows(query: Evolve, losses: Floats) -> npt.NDArray[np.intp]:
    """Return the rows of the pool where the search starts: half are its elites, half the trainer's own best."""
    elites = np.arange(min(query.elites, query.population // 2))
    order = np.argsort(losses, kind="stable")
    own = order[order >= len(elites)][: query.population - len(elites)]
    return np.concatenate([elites, own])


def _newcomers(population: Floats, fitness: Floats, start: Floats, most: int) -> Floats:
    """Return the best new candidates of the population, best first, (at most `most`, genes)."""
    known = {candidate.tobytes() for candidate in start}
    best_first = population[np.argsort(-fitness, kind="stable")]
    new = [candidate for candidate in best_first[: most + len(known)] if candidate.tobytes() not in known]
    return np.array(new[:most], dtype=np.float64).reshape(-1, population.shape[1])


LEARNER = Learner(Evolve, evolve_pool)

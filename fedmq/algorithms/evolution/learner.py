"""The trainer's half of `evolution`: scores the pool on its rows, then searches from it; by PyGAD, if asked to."""

from typing import Any

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.base import Assignment, Learner
from fedmq.algorithms.evaluation.learner import score_candidates
from fedmq.algorithms.evolution.local_search import evolve
from fedmq.algorithms.evolution.query import Evolve, Generation, ScorePool
from fedmq.algorithms.evolution.stock import SEEDS, best_first, searched
from fedmq.errors import BadConfiguration, WorkCancelled, WorkError
from fedmq.models.arrays import Floats
from fedmq.models.genes import Population, parted, population_of


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
SCORES = Learner(ScorePool, score_candidates)


def fitness_of_generation(query: Generation, work: Assignment) -> dict[str, npt.NDArray[Any]]:
    """Compute the fitness of a population; then let PyGAD evolve it on these rows alone, if asked to."""
    population = population_of(work.arrays["integers"], work.arrays["numbers"], query.types)
    answer, _ = _fitness(query, work, population)
    if query.generations and query.keywords is not None:
        found = _found(query, work, population)
        answer["found_integers"], answer["found_numbers"] = parted(found, query.types)
    return answer


def _fitness(query: Generation, work: Assignment, population: Population) -> tuple[dict[str, npt.NDArray[Any]], Floats]:
    """Return the answer's arrays, and the fitness as PyGAD takes it."""
    if work.fitness is not None:
        fitness = work.fitness(population, query.types)
        return {"fitness": fitness}, fitness[:, 0] if fitness.shape[1] == 1 else fitness
    scores = work.score(population.astype(np.float64))
    return {"losses": scores.losses, "correct": scores.correct}, -scores.losses


def _found(query: Generation, work: Assignment, population: Population) -> Population:
    """Return the best new candidates of a local search, (at most `proposals`, genes)."""
    assert query.keywords is not None

    def fitness_of(candidates: Population) -> Floats:
        if work.cancelled():
            raise WorkCancelled("the local search was cancelled: a newer round makes it needless")
        return _fitness(query, work, candidates)[1]

    seed = int(work.generator.integers(SEEDS))
    try:
        evolved, fitness = searched(query.keywords.given, population, fitness_of, query.generations, seed)
    except BadConfiguration as error:
        raise WorkError(f"the local search failed: {error}") from error
    start = {tuple(candidate) for candidate in population}
    new = [place for place in best_first(fitness) if tuple(evolved[place]) not in start]
    return evolved[new[: query.proposals]]


GENERATION = Learner(Generation, fitness_of_generation)

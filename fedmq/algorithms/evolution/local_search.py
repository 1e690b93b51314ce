"""A trainer's local search by PyGAD with operators of its own, on whole arrays: the fast path of the defaults."""

from collections.abc import Callable
from typing import Any, Generic

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.evolution.stock import GA, SILENT
from fedmq.algorithms.evolution.variation import Float, crossover, mutate
from fedmq.errors import BadConfiguration, WorkCancelled

Fitness = npt.NDArray[np.float64]  # (population,), higher is better
ELITES_SHARE, PARENTS_SHARE = 10, 4


def evolve(
    population: npt.NDArray[Float],
    fitness: Callable[[npt.NDArray[Float]], Fitness],
    generations: int,
    generator: np.random.Generator,
    *,
    mutation: tuple[float, float],
    cancelled: Callable[[], bool],
    known: Fitness | None = None,
    elites: int | None = None,
    parents: int | None = None,
) -> tuple[npt.NDArray[Float], Fitness]:
    """Return the population `(population, genes)` and its fitness `(population,)` after `generations` of PyGAD.

    The best `elites` survive each generation unchanged (one in ten, at least one), the best `parents` breed the others
    (one in four, at least two).
    `fitness` scores a whole population at once; `known` is the fitness of the given one, if it is known. `mutation` is
    log10 of the smallest and the largest step. The dtype of the genes is kept.

    Raises:
        BadConfiguration: the sizes do not fit together.
        WorkCancelled: `cancelled()` is true; it is called before each generation is scored.
    """
    elites = max(1, len(population) // ELITES_SHARE) if elites is None else elites
    parents = max(2, len(population) // PARENTS_SHARE) if parents is None else parents
    _check_sizes(population, elites, parents)
    if generations < 1:
        return population.copy(), fitness(population) if known is None else known.copy()
    search = _LocalSearch(
        population,
        fitness,
        known,
        cancelled,
        num_generations=generations,
        num_parents_mating=parents,
        keep_elitism=elites,
        crossover_type=lambda pairs, size, _search: crossover(pairs, size[0], generator),
        mutation_type=lambda children, _search: mutate(children, mutation, generator),
        random_seed=int(generator.integers(2**32)),
    )
    search.run()
    return search.population, search.last_generation_fitness


class _LocalSearch(GA, Generic[Float]):  # type: ignore[misc]  # PyGAD has no types
    """A pygad.GA that scores a population in one call and draws from the generator that it is given.

    Made anew for each search: PyGAD keeps stale fitness between two runs of one instance. Stock PyGAD looks each
    row up in a cache by its hash (12.7 ms a generation of 50 x 2,368 genes; 2.9 without) and looks at
    genes and fitness values one by one: the overridden methods do the same on whole arrays.
    """

    def __init__(
        self,
        start: npt.NDArray[Float],
        fitness_of: Callable[[npt.NDArray[Float]], Fitness],
        known: Fitness | None,
        cancelled: Callable[[], bool],
        **options: Any,
    ) -> None:
        self.start: npt.NDArray[Float] = start
        self.fitness_of: Callable[[npt.NDArray[Float]], Fitness] = fitness_of
        self.known, self.cancelled = known, cancelled
        super().__init__(
            fitness_func=lambda _search, _candidate, _row: 0.0,  # required; `cal_pop_fitness` replaces it
            sol_per_pop=len(start),
            num_genes=start.shape[1],
            gene_type=start.dtype.type,
            keep_parents=0,
            parent_selection_type="sss",
            suppress_warnings=True,
            logger=SILENT,
            **options,
        )

    def initialize_population(self, *_: object) -> None:
        """Take the given population; given as `initial_population`, PyGAD would check it gene by gene."""
        self.population: npt.NDArray[Float] = self.start.copy()
        self.initial_population: npt.NDArray[Float] = self.start
        self.pop_size = self.start.shape

    def change_population_dtype_and_round(self, population: npt.NDArray[Float]) -> npt.NDArray[Float]:
        """Return the population as it is: the operators keep the dtype, and there is nothing to round."""
        return population

    def cal_pop_fitness(self) -> Fitness:
        """Return the fitness; that of the elites, the first rows, is known from the generation before."""
        if self.cancelled():
            raise WorkCancelled("the local search was cancelled: a newer round makes it needless")
        if self.generations_completed == 0:
            return self._scored(self.population) if self.known is None else self.known
        if self.keep_elitism == 0:
            return self._scored(self.population)
        elites: Fitness = self.previous_generation_fitness[self.last_generation_elitism_indices]
        return np.concatenate([elites, self._scored(self.population[self.keep_elitism :])])

    def _scored(self, population: npt.NDArray[Float]) -> Fitness:
        fitness = np.asarray(self.fitness_of(population), dtype=np.float64)
        if fitness.shape != (len(population),):
            raise BadConfiguration(f"expected one fitness per candidate, {len(population)}, got shape {fitness.shape}")
        return fitness

    def best_solution(self, pop_fitness: Fitness | None = None) -> tuple[npt.NDArray[Float], np.float64, int]:
        """Return the best candidate's genes, fitness and row."""
        fitness = self.last_generation_fitness if pop_fitness is None else pop_fitness
        best = int(np.argmax(fitness))
        return self.population[best], fitness[best], best

    def steady_state_selection(
        self, fitness: Fitness, num_parents: int
    ) -> tuple[npt.NDArray[Float], npt.NDArray[np.intp]]:
        """Return the best `num_parents` candidates, `(num_parents, genes)`, and their rows."""
        rows = np.argsort(-fitness, kind="stable")[:num_parents]
        return self.population[rows], rows


def _check_sizes(population: npt.NDArray[Float], elites: int, parents: int) -> None:
    """Check in one line what PyGAD reports in five."""
    size = len(population)
    if population.ndim != 2 or population.dtype not in (np.float64, np.float32):
        raise BadConfiguration(
            f"expected a population (population, genes) of float64 or float32, "
            f"got {population.dtype} of shape {population.shape}"
        )
    if size < 2 or not 0 <= elites < size or not 1 <= parents <= size:
        raise BadConfiguration(
            f"expected at least 2 candidates with fewer elites and no more parents than that, "
            f"got {size} candidates, {elites} elites, {parents} parents"
        )

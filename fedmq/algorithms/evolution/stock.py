"""Stock PyGAD, one generation at a time: the population of a `pygad.GA` whose fitness the federation computes.

The one door to PyGAD's search. A `pygad.GA` is made anew for each generation from a value, the `Brood`, so that a
run that is replayed or continued has the same bits. It takes the steps of `pygad.GA.run`, and draws what that draws:
a population whose fitness is the same has the same offspring as in PyGAD alone.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pygad

from fedmq.algorithms.evolution.keywords import is_pair, types_of
from fedmq.errors import BadConfiguration, FedmqError, one_line
from fedmq.models.arrays import Floats, Integers
from fedmq.models.gene_constraints import constraint_of
from fedmq.models.genes import Population, parted, population_of, type_named

GA = pygad.GA
Fitness = Floats  # (candidates,), or (candidates, objectives) if there are several; higher is better
PARENTS_SHARE = 2  # one in so many mates, unless num_parents_mating says otherwise
SEEDS = 2**32  # of PyGAD
PRECISION_MAX = 100  # decimals

# Outside of the logger tree: prints nothing.
SILENT = logging.Logger("fedmq.pygad", level=logging.CRITICAL + 1)  # noqa: LOG001


@dataclass(frozen=True, eq=False)
class Brood:
    """A population, and the state of the generators that its offspring are drawn from."""

    integers: Integers  # (candidates, genes that are integers)
    numbers: Floats  # (candidates, other genes)
    words: npt.NDArray[np.uint32]  # of both Mersenne Twisters, then two positions and two flags
    normals: Floats  # (2,): the normal deviate that each keeps


class Unscored(Exception):
    """The fitness of these offspring is needed before they mutate: `adaptive` mutation compares them."""

    def __init__(self, offspring: Population) -> None:
        super().__init__("the fitness of offspring is not known yet")
        self.offspring = offspring


def first_brood(keywords: Mapping[str, Any], genes: int, size: int, seed: int) -> Brood:
    """Return the initial population of PyGAD.

    Raises:
        BadConfiguration: PyGAD does not accept the keywords, or fedmq does not support one.
    """
    seed = int(keywords.get("random_seed", seed % SEEDS))
    return _brood(_made(keywords, genes, size, random_seed=seed), keywords)


def next_brood(
    keywords: Mapping[str, Any], brood: Brood, fitness: Fitness, generation: int, offspring: Fitness | None = None
) -> Brood:
    """Return the population after one generation of PyGAD: selection, crossover, mutation, replacement.

    `fitness` is of the population, `offspring` of what `Unscored` had. `generation` counts from 0.

    Raises:
        Unscored: the mutation is adaptive, and the fitness of the offspring is not given.
        BadConfiguration: PyGAD fails, for example because a constraint does.
    """

    def known(_ga: object, population: Population, _rows: object) -> list[Any]:
        if offspring is None:
            raise Unscored(np.atleast_2d(population).copy())
        return list(offspring)

    ga = _continued(keywords, brood, fitness, generation, known)
    with _errors_of_pygad(f"PyGAD stopped in generation {generation + 1}"):
        ga.run_select_parents()
        ga.run_crossover()
        ga.run_mutation()
        ga.run_update_population()
    return _brood(ga, keywords)


def instance(keywords: Mapping[str, Any], brood: Brood, fitness: Fitness, generation: int) -> Any:
    """Return a `pygad.GA` with this population, its fitness and its front after so many generations."""
    population = population_of(brood.integers, brood.numbers, types_of(keywords))
    known = {tuple(one): value for one, value in zip(population, fitness, strict=True)}
    ga = _continued(keywords, brood, fitness, generation, partial(_known_fitness, known))
    if fitness.ndim == 2:
        ga.sort_solutions_nsga2(fitness)  # sets ga.pareto_fronts
    return ga


def _continued(
    keywords: Mapping[str, Any], brood: Brood, fitness: Fitness, generation: int, fitness_func: Callable[..., Any]
) -> Any:
    """Return a `pygad.GA` for the next generation; selection sorts several objectives, which takes most of it."""
    population = population_of(brood.integers, brood.numbers, types_of(keywords))
    genes, size = population.shape[1], len(population)
    ga = _made(keywords, genes, size, population=population, fitness_func=fitness_func, random_seed=0)
    ga.population = population
    ga.last_generation_fitness = ga.previous_generation_fitness = fitness
    ga.generations_completed = generation
    if fitness.ndim == 2 and str(ga.parent_selection_type).endswith("nsga3"):
        objectives, divisions = fitness.shape[1], ga.nsga3_num_divisions
        if (points := math.comb(objectives + divisions - 1, divisions)) > size:  # too many to make them
            raise BadConfiguration(
                f"sol_per_pop: expected at least the {points} reference points of NSGA-III, got {size}"
            )
        ga.nsga3_reference_points = ga.nsga3_generate_reference_points(objectives, divisions)
    version = ga.python_random_generator.getstate()[0]
    words, flags = brood.words, brood.words[-3:].tolist()
    carried = float(brood.normals[0]) if flags[2] else None
    ga.python_random_generator.setstate((version, tuple(words[:625].tolist()), carried))
    ga.numpy_random_generator.set_state(("MT19937", words[625:1249], flags[0], flags[1], float(brood.normals[1])))
    return ga


def searched(
    keywords: Mapping[str, Any],
    population: Population,
    fitness_of: Callable[[Population], Fitness],
    generations: int,
    seed: int,
) -> tuple[Population, Fitness]:
    """Return the population after so many generations of PyGAD alone, and its fitness; `fitness_of` scores in batches.

    Raises:
        BadConfiguration: PyGAD fails, or does not accept the keywords.
    """
    size, genes = population.shape
    ga = _made(
        keywords,
        genes,
        size,
        population=population,
        fitness_func=lambda _ga, candidates, _rows: list(fitness_of(np.atleast_2d(candidates))),
        random_seed=seed,
        num_generations=generations,
    )
    with _errors_of_pygad("PyGAD stopped"):
        ga.run()
    return ga.population, ga.last_generation_fitness


def front(fitness: Fitness) -> list[int]:
    """Return the places of the candidates that no other dominates, ascending: the first front of NSGA-II.

    PyGAD sorts all fronts, in Python, which takes a minute for 5,000 candidates.
    """
    if fitness.ndim == 1:
        return np.flatnonzero(fitness == fitness.max()).tolist()

    def is_dominated(one: Fitness) -> bool:
        return bool(((fitness >= one).all(axis=1) & (fitness > one).any(axis=1)).any())

    return [place for place, one in enumerate(fitness) if not is_dominated(one)]


def stops(keywords: Mapping[str, Any], fitness: Fitness, unchanged: int) -> bool:
    """Return whether a stop criterion is met: reach_X and saturate_N as in PyGAD."""
    objectives = np.atleast_2d(fitness.T)
    for criterion in criteria(keywords):
        word, *values = criterion.split("_")
        limits = [float(value) for value in values]
        if word == "saturate" and unchanged >= limits[0]:
            return True
        wanted = limits * len(objectives) if len(limits) == 1 else limits
        if word == "reach" and all(one.max() >= limit for one, limit in zip(objectives, wanted, strict=True)):
            return True
    return False


def criteria(keywords: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the stop criteria as texts."""
    given = keywords.get("stop_criteria", ())
    return (given,) if isinstance(given, str) else tuple(given)


def best_first(fitness: Fitness) -> list[int]:
    """Return the places of the candidates, the best first, as PyGAD sorts them."""
    return [int(place) for place in GA.__new__(GA).sort_solutions_nsga2(fitness, find_best_solution=True)]


def best(fitness: Fitness) -> int:
    """Return the place of the best candidate, as `pygad.GA.best_solution` chooses it."""
    if fitness.ndim == 1:
        return int(np.argmax(fitness))
    return best_first(fitness)[0]


def is_allowed(candidate: Population, ga: Any) -> bool:
    """Return whether a candidate (genes,) has values of the gene space, and keeps the constraints."""
    return all(
        ga.is_bounded_operator_gene_value_in_space(place, value) for place, value in enumerate(candidate)
    ) and bool(ga.solution_satisfies_gene_constraints(candidate))


def _made(
    keywords: Mapping[str, Any],
    genes: int,
    size: int,
    *,
    population: Population | None = None,
    fitness_func: Callable[..., Any] | None = None,
    random_seed: int,
    num_generations: int = 1,
) -> Any:
    """Return a `pygad.GA`; its constructor checks the keywords."""
    own = {
        name: value for name, value in keywords.items() if name not in ("num_generations", "num_genes", "sol_per_pop")
    }
    own["num_parents_mating"] = keywords.get("num_parents_mating", max(2, size // PARENTS_SHARE))
    for name in ("crossover_type", "mutation_type"):
        if own.get(name) == "none":  # TOML has no null
            own[name] = None
    own["gene_type"] = _type(keywords.get("gene_type", "float"))
    if "gene_space" in own:
        own["gene_space"] = _space(own["gene_space"])
    if "gene_constraint" in own:
        own["gene_constraint"] = [constraint_of(text) if text else None for text in own["gene_constraint"]]
    start = own.pop("initial_population", None) if population is None else population
    with _errors_of_pygad("PyGAD does not accept the parameters"):
        ga = GA(
            **{
                **own,
                "num_generations": num_generations,
                "fitness_func": fitness_func or _no_fitness,
                "fitness_batch_size": size,
                "initial_population": start,
                "sol_per_pop": size,
                "num_genes": genes,
                "random_seed": random_seed,
                "suppress_warnings": True,
                "logger": SILENT,
            }
        )
    if ga.population.shape != (size, genes):
        raise BadConfiguration(
            f"initial_population: expected {size} candidates of {genes} genes, got {ga.population.shape}"
        )
    return ga


@contextmanager
def _errors_of_pygad(what: str) -> Iterator[None]:
    """Raise what PyGAD raises, which may be anything, as one line; warn of no number: trainers may send any."""
    try:
        with np.errstate(all="ignore"):
            yield
    except (FedmqError, Unscored):
        raise
    except Exception as error:
        raise BadConfiguration(f"{what}: {one_line(error)}") from error


def _known_fitness(known: Mapping[Any, Any], _ga: object, candidates: Population, _rows: object) -> list[Any]:
    """Return the fitness of candidates of the population; that of others is the federation's to compute."""
    try:
        return [known[tuple(one)] for one in np.atleast_2d(candidates)]
    except KeyError as error:
        raise BadConfiguration("expected a candidate of the population, got another: only a round scores it") from error


def _no_fitness(_ga: object, _population: object, _rows: object) -> list[float]:
    raise BadConfiguration("expected no call of the fitness function, got one")


def _brood(ga: Any, keywords: Mapping[str, Any]) -> Brood:
    integers, numbers = parted(ga.population, types_of(keywords))
    _, state, carried = ga.python_random_generator.getstate()
    _, own, position, has_normal, normal = ga.numpy_random_generator.get_state()
    flags = [position, has_normal, int(carried is not None)]
    words = np.concatenate([np.array(state, np.uint32), own.astype(np.uint32), np.array(flags, np.uint32)])
    return Brood(integers, numbers, words, np.array([carried or 0.0, normal]))


def _type(kind: Any) -> Any:
    """Return types of genes by name as PyGAD takes them."""
    if isinstance(kind, str):
        return type_named(kind)
    if not isinstance(kind, list | tuple):
        raise BadConfiguration(f'gene_type: expected a name such as "int", or a list of them, got {kind!r:.80}')
    if is_pair(kind):
        return [type_named(kind[0]), _precision(kind[1])]
    return [
        [type_named(one[0]), *map(_precision, one[1:])] if isinstance(one, list | tuple) and one else type_named(one)
        for one in kind
    ]


def _precision(digits: Any) -> Any:
    """Return the decimals of a type; of many, a power of ten would be computed that fills the memory."""
    if isinstance(digits, int) and abs(digits) > PRECISION_MAX:
        raise BadConfiguration(f"gene_type: expected a precision of at most {PRECISION_MAX}, got {digits}")
    return digits


def _space(space: Any) -> Any:
    """Return a gene space as PyGAD takes it: ranges and nothing else differ."""
    if isinstance(space, Mapping) and set(space) == {"range"}:
        try:
            return range(*space["range"])
        except (TypeError, ValueError) as error:
            raise BadConfiguration(f"gene_space: expected range = [start, stop, step], got {space!r:.80}") from error
    if isinstance(space, Sequence) and not isinstance(space, str):
        return [_space(one) for one in space]
    return space

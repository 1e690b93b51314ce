"""A trainer's local search by PyGAD, and a trained model as a network of `pygad.nn`.

The only module that imports PyGAD. Its exceptions and log lines do not leave this module.
"""

import logging
from collections.abc import Callable
from itertools import pairwise
from typing import Generic

import numpy as np
import numpy.typing as npt
import pygad
import pygad.nn

from fedmq.algorithms.evolution.variation import Float, crossover, mutate
from fedmq.errors import BadConfiguration, WorkCancelled
from fedmq.models.networks import Linear
from fedmq.models.trained_model import TrainedModel

Fitness = npt.NDArray[np.float64]  # (population,), higher is better

# Outside of the logger tree: prints nothing.
_SILENT = logging.Logger("fedmq.trainer.pygad", level=logging.CRITICAL + 1)  # noqa: LOG001
_SATURATION = 40.0  # sigmoid(40) is 1.0 to the last bit of a float64


def evolve(
    population: npt.NDArray[Float],
    fitness: Callable[[npt.NDArray[Float]], Fitness],
    generations: int,
    generator: np.random.Generator,
    *,
    elites: int,
    parents: int,
    mutation: tuple[float, float],
    cancelled: Callable[[], bool],
    known: Fitness | None = None,
) -> tuple[npt.NDArray[Float], Fitness]:
    """Return the population `(population, genes)` and its fitness `(population,)` after `generations` of PyGAD.

    The best `elites` survive each generation unchanged, the best `parents` breed the others.
    `fitness` scores a whole population at once; `known` is the fitness of the given one, if it is known. `mutation` is
    log10 of the smallest and the largest step. The dtype of the genes is kept.

    Raises:
        BadConfiguration: the sizes do not fit together.
        WorkCancelled: `cancelled()` is true; it is called before each generation is scored.
    """
    _check_sizes(population, elites, parents)
    if generations < 1:
        return population.copy(), fitness(population) if known is None else known.copy()
    search = _LocalSearch(
        fitness_of=fitness,
        known=known,
        generator=generator,
        scales=mutation,
        cancelled=cancelled,
        population=population,
        generations=generations,
        elites=elites,
        parents=parents,
    )
    search.run()
    return search.population, search.last_generation_fitness


class _LocalSearch(pygad.GA, Generic[Float]):  # type: ignore[misc]  # PyGAD has no types
    """A pygad.GA that scores a population in one call and draws from the generator that it is given.

    Made anew for each search: PyGAD keeps stale fitness between two runs of one instance. Stock PyGAD looks each
    row up in a cache by its hash (12.7 ms a generation of 50 x 2,368 genes; 2.9 without) and looks at
    genes and fitness values one by one: the overridden methods do the same on whole arrays.
    """

    def __init__(
        self,
        *,
        fitness_of: Callable[[npt.NDArray[Float]], Fitness],
        known: Fitness | None,
        generator: np.random.Generator,
        scales: tuple[float, float],
        cancelled: Callable[[], bool],
        population: npt.NDArray[Float],
        generations: int,
        elites: int,
        parents: int,
    ) -> None:
        self.fitness_of: Callable[[npt.NDArray[Float]], Fitness] = fitness_of
        self.known = known
        self.start: npt.NDArray[Float] = population
        self.generator = generator
        self.scales = scales
        self.cancelled = cancelled
        super().__init__(
            fitness_func=_never_called,
            num_generations=generations,
            num_parents_mating=parents,
            sol_per_pop=len(population),
            num_genes=population.shape[1],
            gene_type=population.dtype.type,
            keep_elitism=elites,
            keep_parents=0,
            parent_selection_type=_select_best,
            crossover_type=_cross,
            mutation_type=_mutate,
            random_seed=int(generator.integers(2**32)),
            suppress_warnings=True,
            logger=_SILENT,
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
        return _select_best(fitness, num_parents, self)


def _select_best(
    fitness: Fitness, count: int, search: _LocalSearch[Float]
) -> tuple[npt.NDArray[Float], npt.NDArray[np.intp]]:
    rows = np.argsort(-fitness, kind="stable")[:count]
    return search.population[rows], rows


def _cross(parents: npt.NDArray[Float], size: tuple[int, int], search: _LocalSearch[Float]) -> npt.NDArray[Float]:
    return crossover(parents, size[0], search.generator)


def _mutate(children: npt.NDArray[Float], search: _LocalSearch[Float]) -> npt.NDArray[Float]:
    return mutate(children, search.scales, search.generator)


def _never_called(search: _LocalSearch[Float], solution: npt.NDArray[Float], row: int) -> float:
    """Satisfy PyGAD, which requires a fitness function; `cal_pop_fitness` replaces it."""
    raise NotImplementedError


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


def as_pygad_network(trained: TrainedModel) -> pygad.nn.DenseLayer:
    """Return the trained model as a PyGAD network: its last layer, for `pygad.nn.predict(layer, inputs)`.

    `pygad.nn` has no biases. For a model with biases the network expects one more input column, the last, that is
    always 1: `np.column_stack([inputs, np.ones(len(inputs))])`; each hidden layer gets one unit that keeps the 1
    (exact: relu(1) = 1, sigmoid(40) = 1). The outputs are raw: use `problem_type="regression"` for values.

    Raises:
        BadConfiguration: the hidden activation is tanh, which `pygad.nn` lacks, or the model is code.
    """
    weights = _layer_weights(trained)
    model = trained.network()
    hidden = "None" if isinstance(model, Linear) else model.hidden
    if hidden == "tanh" and len(weights) > 1:
        raise BadConfiguration(
            "expected hidden relu or sigmoid, which pygad.nn knows, got tanh: keep the model as .npz instead"
        )
    activations = [hidden] * (len(weights) - 1) + ["None"]
    # pygad.nn draws unused initial weights from numpy's global generator: restore its state.
    before = np.random.get_state()  # noqa: NPY002
    layer = pygad.nn.InputLayer(len(weights[0]))
    for matrix, activation in zip(weights, activations, strict=True):
        layer = pygad.nn.DenseLayer(matrix.shape[1], layer, activation)
        layer.initial_weights = matrix
        layer.trained_weights = matrix.copy()
    np.random.set_state(before)  # noqa: NPY002
    return layer


def _layer_weights(trained: TrainedModel) -> list[npt.NDArray[np.float64]]:
    """Return the weights of each layer, `(inputs, outputs)`, biases folded into one constant unit more per layer."""
    model, genes, start = trained.network(), trained.parameters, 0
    sizes = (model.inputs, model.outputs) if isinstance(model, Linear) else model.sizes
    bias = isinstance(model, Linear) or model.bias
    one = 1.0 if isinstance(model, Linear) or model.hidden == "relu" else _SATURATION
    layers: list[npt.NDArray[np.float64]] = []
    for number, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        count = (inputs + bias) * outputs
        matrix = genes[start : start + count].reshape(inputs + bias, outputs)  # the biases follow the weights
        start += count
        if bias and number < len(sizes) - 1:
            matrix = np.column_stack([matrix, np.eye(inputs + 1)[:, -1] * one])
        layers.append(np.array(matrix))
    return layers

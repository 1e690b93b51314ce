"""The local search by PyGAD: seeded, silent, cancellable."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
import pytest

from fedmq.algorithms.evolution.local_search import evolve
from fedmq.errors import BadConfiguration, WorkCancelled

Floats = npt.NDArray[np.float64]


def fitness(population: Floats) -> Floats:
    """Best at all ones."""
    values: Floats = -np.square(population - 1.0).sum(axis=1)
    return values


def start(size: int = 20, genes: int = 6) -> Floats:
    return np.random.default_rng(3).uniform(-2, 2, (size, genes))


def search(population: Floats, generations: int = 5, seed: int = 1, elites: int = 2) -> tuple[Floats, Floats]:
    return evolve(
        population,
        fitness,
        generations,
        np.random.default_rng(seed),
        elites=elites,
        parents=5,
        mutation=(-1.5, 0.3),
        cancelled=lambda: False,
    )


def test_evolution_finds_better_candidates() -> None:
    population = start()
    evolved, scores = search(population, generations=60)
    assert scores.max() > fitness(population).max() / 10
    assert evolved.shape == population.shape


@pytest.mark.parametrize("elites", [0, 1, 7])
def test_returned_fitness_is_that_of_the_returned_population(elites: int) -> None:
    evolved, scores = search(start(), elites=elites)
    np.testing.assert_array_equal(scores, fitness(evolved))


def test_elites_survive_unchanged() -> None:
    population = start()
    best = population[np.argsort(-fitness(population))[:2]]
    evolved, _ = search(population, generations=1)
    np.testing.assert_array_equal(evolved[:2], best)


def test_same_seed_gives_the_same_search() -> None:
    np.testing.assert_array_equal(search(start(), seed=5)[0], search(start(), seed=5)[0])
    assert (search(start(), seed=5)[0] != search(start(), seed=6)[0]).any()


def test_given_population_is_not_changed() -> None:
    population = start()
    before = population.copy()
    search(population)
    np.testing.assert_array_equal(population, before)


def test_known_fitness_is_not_computed_again() -> None:
    sizes: list[int] = []

    def counted(population: Floats) -> Floats:
        sizes.append(len(population))
        return fitness(population)

    population = start()
    evolve(
        population,
        counted,
        3,
        np.random.default_rng(1),
        elites=2,
        parents=5,
        mutation=(-1.5, 0.3),
        cancelled=lambda: False,
        known=fitness(population),
    )
    assert sizes == [18, 18, 18]  # not the start, and never the elites


def test_float32_genes_stay_float32() -> None:
    evolved, _ = evolve(
        start().astype(np.float32),
        lambda population: fitness(population.astype(np.float64)),
        2,
        np.random.default_rng(1),
        elites=2,
        parents=5,
        mutation=(-1.5, 0.3),
        cancelled=lambda: False,
    )
    assert evolved.dtype == np.float32


def test_zero_generations_return_the_population_unchanged() -> None:
    population = start()
    evolved, scores = search(population, generations=0)
    np.testing.assert_array_equal(evolved, population)
    np.testing.assert_array_equal(scores, fitness(population))


def test_search_is_cancelled_between_two_generations() -> None:
    asked = iter([False, False, False, True])
    with pytest.raises(WorkCancelled, match="newer round"):
        evolve(
            start(),
            fitness,
            50,
            np.random.default_rng(1),
            elites=2,
            parents=5,
            mutation=(-1.5, 0.3),
            cancelled=lambda: next(asked),
        )
    assert next(asked, None) is None


def test_pygad_prints_and_logs_nothing(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(WorkCancelled):
        evolve(
            start(),
            fitness,
            5,
            np.random.default_rng(1),
            elites=2,
            parents=5,
            mutation=(-1.5, 0.3),
            cancelled=lambda: True,
        )
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_error_of_the_fitness_function_is_raised_unchanged() -> None:
    def broken(_: Floats) -> Floats:
        raise ZeroDivisionError("in the fitness")

    with pytest.raises(ZeroDivisionError, match="in the fitness"):
        evolve(
            start(),
            broken,
            1,
            np.random.default_rng(1),
            elites=2,
            parents=5,
            mutation=(-1.5, 0.3),
            cancelled=lambda: False,
        )


@pytest.mark.parametrize(("size", "elites", "parents"), [(1, 0, 1), (4, 4, 2), (4, 1, 5), (4, 1, 0), (4, -1, 2)])
def test_impossible_sizes_are_refused_in_one_line(size: int, elites: int, parents: int) -> None:
    with pytest.raises(BadConfiguration, match=r"^expected at least 2 candidates .* got"):
        evolve(
            start(size),
            fitness,
            1,
            np.random.default_rng(1),
            elites=elites,
            parents=parents,
            mutation=(-1.5, 0.3),
            cancelled=lambda: False,
        )

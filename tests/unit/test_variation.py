"""The operators of evolution: crossover, mutation and new candidates."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.evolution.variation import crossover, fresh, mutate


def generator() -> np.random.Generator:
    return np.random.default_rng(7)


def test_fresh_candidates_fill_the_interval() -> None:
    genes = fresh(500, 4, (-2.0, 3.0), generator())
    assert genes.shape == (500, 4)
    assert genes.min() >= -2.0
    assert genes.max() < 3.0
    assert abs(genes.mean() - 0.5) < 0.2


def test_each_gene_of_a_child_is_one_of_its_parents() -> None:
    parents = np.arange(12.0).reshape(3, 4)
    children = crossover(parents, 400, generator())
    assert (children % 4 == np.arange(4)).all()
    sources = children // 4
    assert all(len(set(child)) <= 2 for child in sources)
    assert 0.2 < (sources == 0).mean() < 0.5


def bits_of_each_gene(population: npt.NDArray[np.generic]) -> list[set[bytes]]:
    return [{gene.tobytes() for gene in column} for column in population.T]


def test_crossover_copies_genes_to_the_last_bit() -> None:
    parents = np.array([[0.0, -0.0, 1e-300, np.pi], [-1.5, 1e30, 0.1, -np.e]])
    assert bits_of_each_gene(crossover(parents, 50, generator())) == bits_of_each_gene(parents)


def test_crossover_keeps_float32() -> None:
    parents = np.array([[0.1, -0.0, 1e-30], [-1.5, 1e30, 0.1]], np.float32)
    children = crossover(parents, 50, generator())
    assert children.dtype == np.float32
    assert bits_of_each_gene(children) == bits_of_each_gene(parents)


def test_parents_are_not_changed() -> None:
    parents = np.arange(40.0).reshape(4, 10)
    before = parents.copy()
    crossover(parents, 20, generator())
    mutate(parents, (-1.0, 0.0), generator())
    np.testing.assert_array_equal(parents, before)


def test_mutation_changes_each_child_and_some_in_few_genes() -> None:
    population = np.zeros((2000, 100))
    changed = np.count_nonzero(mutate(population, (-1.5, 0.3), generator()), axis=1)
    assert changed.min() >= 1
    assert changed.min() <= 3
    assert changed.max() > 50


def test_mutation_draws_steps_between_the_two_scales() -> None:
    steps = mutate(np.zeros((5000, 1)), (-3.0, 0.0), generator()).ravel()
    sizes = np.log10(np.abs(steps))
    assert -2.0 < np.median(sizes) < -1.0  # log-uniform: half of the steps are below the middle scale
    assert sizes.max() < 0.7


def test_single_gene_is_always_mutated() -> None:
    assert np.all(mutate(np.zeros((50, 1)), (-1.0, 0.0), generator()) != 0.0)


def test_mutation_keeps_float32() -> None:
    assert mutate(np.zeros((3, 5), np.float32), (-1.0, 0.0), generator()).dtype == np.float32


def test_same_generator_gives_the_same_children() -> None:
    parents = fresh(10, 22, (-1.0, 1.0), generator())

    def bred() -> npt.NDArray[np.float64]:
        draws = generator()
        return mutate(crossover(parents, 30, draws), (-1.5, 0.3), draws)

    np.testing.assert_array_equal(bred(), bred())

"""Typed genes: integers and other numbers apart on the wire, together in the types of PyGAD."""

from __future__ import annotations

import numpy as np
import pytest

from fedmq.errors import BadConfiguration
from fedmq.models.genes import from_floats, parted, population_of

MIXED = ("int", "float32", "int8", "float")


def test_one_type_for_all_genes_gives_an_array_of_that_type() -> None:
    population = population_of(np.array([[1, 2]]), np.empty((1, 0)), ("int16",))
    assert population.dtype == np.int16
    assert population.tolist() == [[1, 2]]


def test_types_of_their_own_give_objects_of_these_types() -> None:
    population = population_of(np.array([[7, -1]]), np.array([[0.5, 2.0]]), MIXED)
    assert [type(value) for value in population[0]] == [int, np.float32, np.int8, float]
    assert population[0].tolist() == [7, 0.5, -1, 2.0]


@pytest.mark.parametrize("types", [("int",), ("float",), MIXED])
def test_parted_population_is_joined_again(types: tuple[str, ...]) -> None:
    population = from_floats(np.array([[3.0, 0.25, -4.0, 9.0], [1.0, 2.0, 3.0, 4.0]]), types)
    integers, numbers = parted(population, types)
    assert integers.dtype == np.int64
    assert (population_of(integers, numbers, types) == population).all()


def test_integer_beyond_float64_is_refused() -> None:
    with pytest.raises(BadConfiguration, match="integer genes"):
        parted(np.array([[2**53 + 1]]), ("int",))


def test_unknown_type_is_refused() -> None:
    with pytest.raises(BadConfiguration, match="gene_type"):
        from_floats(np.zeros((1, 1)), ("complex",))

"""Typed genes: the numbers of candidates in the types that PyGAD's `gene_type` gives them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmq.errors import BadConfiguration
from fedmq.models.arrays import Floats, Integers

INTEGER_MAX = 2**53  # larger integers are not exact as float64
GENE_TYPES: Mapping[str, type[Any]] = {
    "float": float,
    "int": int,
    **{one.__name__: one for one in (np.float16, np.float32, np.float64)},
    **{one.__name__: one for one in (np.int8, np.int16, np.int32, np.int64)},
    **{one.__name__: one for one in (np.uint8, np.uint16, np.uint32, np.uint64)},
}
Population = npt.NDArray[Any]  # (candidates, genes); of objects if the genes have types of their own


def type_named(name: object) -> type[Any]:
    """Return the type of a gene by its name.

    Raises:
        BadConfiguration: it is none of GENE_TYPES.
    """
    try:
        return GENE_TYPES[name]  # type: ignore[index]
    except (KeyError, TypeError):
        raise BadConfiguration(f"gene_type: expected one of {', '.join(GENE_TYPES)}, got {name!r:.80}") from None


def is_integer(name: str) -> bool:
    """Return whether genes of this type are integers."""
    return np.issubdtype(np.dtype(type_named(name)), np.integer)


def integer_genes(types: Sequence[str], genes: int) -> npt.NDArray[np.bool_]:
    """Return which of the genes are integers, (genes,). `types` has one name for all genes, or one for each."""
    each = [is_integer(name) for name in types]
    return np.array(each * genes if len(each) == 1 else each, np.bool_)


def population_of(integers: Integers, numbers: Floats, types: Sequence[str]) -> Population:
    """Return the population (candidates, genes) with these genes that are integers and these that are not.

    With one type for all genes it is an array of that type; else of objects, each of its gene's type, as in PyGAD.
    """
    genes = integers.shape[1] + numbers.shape[1]
    if len(types) == 1:
        of_all = integers if is_integer(types[0]) else numbers
        return of_all.astype(type_named(types[0]))
    whole = integer_genes(types, genes)
    population = np.empty((len(integers), genes), dtype=object)
    population[:, whole], population[:, ~whole] = integers, numbers
    for place, name in enumerate(types):
        kind = type_named(name)
        population[:, place] = [kind(value) for value in population[:, place]]
    return population


def parted(population: Population, types: Sequence[str]) -> tuple[Integers, Floats]:
    """Return the genes that are integers, (candidates, integers), and the others: the inverse of `population_of`.

    Raises:
        BadConfiguration: an integer that float64 cannot hold exactly.
    """
    whole = integer_genes(types, population.shape[1])
    integers, numbers = population[:, whole].astype(np.int64), population[:, ~whole].astype(np.float64)
    if integers.size and max(int(integers.max()), -int(integers.min())) > INTEGER_MAX:
        raise BadConfiguration(f"expected integer genes from {-INTEGER_MAX} to {INTEGER_MAX}, got larger ones")
    return integers, numbers


def from_floats(values: Floats, types: Sequence[str]) -> Population:
    """Return a population of float64 numbers in the types of its genes."""
    whole = integer_genes(types, values.shape[1])
    return population_of(values[:, whole].astype(np.int64), values[:, ~whole], types)

"""PyGAD's keywords as data, under their own names: what a task file may give to `evolution`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from fedmq.algorithms.base import CANDIDATES_MAX, GENERATIONS_MAX
from fedmq.models.networks import OBJECTIVES_MAX
from fedmq.tasks.task import ROUNDS_MAX

Number = int | float
PerGene = Number | tuple[Number, ...]
Size = Annotated[int, Meta(ge=2, le=CANDIDATES_MAX)]
Name = Annotated[str, Meta(max_length=64)]
NAMES_MAX = 10_000


class PygadKeywords(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `pygad.GA`; those that are not given have PyGAD's defaults, if any is given.

    What they may be is PyGAD's to say: `fedmq.algorithms.evolution.stock` makes a `pygad.GA` of them. Types are named
    ("int", ["float", 2]), a range is {"range": [start, stop, step]}, a constraint is its text.
    """

    sol_per_pop: Size | UnsetType = UNSET
    num_genes: int | UnsetType = UNSET  # must be that of the model
    num_generations: Annotated[int, Meta(ge=1, le=ROUNDS_MAX // 2)] | UnsetType = UNSET
    num_parents_mating: int | UnsetType = UNSET
    initial_population: tuple[tuple[Number, ...], ...] | UnsetType = UNSET
    init_range_low: PerGene | UnsetType = UNSET
    init_range_high: PerGene | UnsetType = UNSET
    gene_type: Any = UNSET
    gene_space: Any = UNSET
    gene_constraint: tuple[str | None, ...] | UnsetType = UNSET
    gene_categorical: bool | tuple[bool, ...] | UnsetType = UNSET
    allow_duplicate_genes: bool | UnsetType = UNSET
    sample_size: Annotated[int, Meta(ge=1, le=10_000)] | UnsetType = UNSET
    parent_selection_type: str | UnsetType = UNSET
    K_tournament: int | UnsetType = UNSET
    keep_parents: int | UnsetType = UNSET
    keep_elitism: int | UnsetType = UNSET
    nsga3_num_divisions: int | UnsetType = UNSET
    crossover_type: str | UnsetType | None = UNSET
    crossover_probability: Number | UnsetType = UNSET
    sbx_crossover_eta: Number | UnsetType = UNSET
    mutation_type: str | UnsetType | None = UNSET
    mutation_probability: PerGene | UnsetType = UNSET
    mutation_percent_genes: PerGene | str | UnsetType = UNSET
    mutation_num_genes: int | tuple[int, ...] | UnsetType = UNSET
    mutation_by_replacement: bool | UnsetType = UNSET
    polynomial_mutation_eta: Number | UnsetType = UNSET
    random_mutation_min_val: PerGene | UnsetType = UNSET
    random_mutation_max_val: PerGene | UnsetType = UNSET
    stop_criteria: str | tuple[str, ...] | UnsetType = UNSET
    random_seed: int | UnsetType = UNSET

    @property
    def given(self) -> dict[str, Any]:
        """The keywords that are given, by name."""
        values: dict[str, Any] = {
            name: value for name in PygadKeywords.__struct_fields__ if (value := getattr(self, name)) is not UNSET
        }
        return values


class FederatedKeywords(PygadKeywords, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a federation adds to PyGAD's keywords."""

    gene_names: Annotated[tuple[Name, ...], Meta(max_length=NAMES_MAX)] | UnsetType = UNSET
    objective_names: Annotated[tuple[Name, ...], Meta(max_length=OBJECTIVES_MAX)] | UnsetType = UNSET
    fitness_over_trainers: Literal["sum", "mean"] | UnsetType = UNSET  # mean: weighted by rows
    local_generations: Annotated[int, Meta(ge=0, le=GENERATIONS_MAX)] | UnsetType = UNSET  # of a trainer, a round

    @property
    def speaks_pygad(self) -> bool:
        """Whether any of these keywords is given: then PyGAD itself evolves the population."""
        return any(getattr(self, name) is not UNSET for name in FederatedKeywords.__struct_fields__)


def types_of(keywords: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the types of the genes: one for all genes, or one for each."""
    kind = keywords.get("gene_type", "float")
    if isinstance(kind, str):
        return (kind,)
    if is_pair(kind):
        return (str(kind[0]),)
    return tuple(str(one[0]) if isinstance(one, list | tuple) and one else str(one) for one in kind)


def is_pair(kind: Any) -> bool:
    """Return whether a type is one with its precision, such as ["float", 2]."""
    return (
        isinstance(kind, list | tuple)
        and len(kind) == 2
        and isinstance(kind[0], str)
        and (kind[1] is None or isinstance(kind[1], int))
    )

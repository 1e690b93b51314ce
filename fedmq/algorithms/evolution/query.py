"""The query `evolve`: score a pool of candidates on your rows, evolve offspring from it, send the best back."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from fedmq.algorithms.base import (
    CANDIDATES_MAX,
    SEARCH_COPIES,
    ArrayBounds,
    Candidates,
    Demand,
    Generations,
    Mutation,
    Population,
    Query,
    Shapes,
    demand_of_scores,
)
from fedmq.algorithms.inbox import GENE_MAX
from fedmq.errors import Rejected
from fedmq.tasks.task import Task


class Evolve(Query, frozen=True, tag="evolve"):
    """Score a pool and search from it.

    Down: `ids` (pool,) int64, `pool` (pool, genes) float64. Up: `losses` (pool,) int64, the summed loss of each
    candidate in units of 2**-fraction_bits; `correct` (pool,) int64; `elites` (proposals or fewer, genes) float64.
    """

    sends: ClassVar[str] = "the summed losses of candidates, and a few new candidates"

    elites: Candidates  # the first so many rows of the pool are its elites
    generations: Generations = 5  # of the local search; 0: score only
    population: Population = 20  # of the local search: half pool elites, half the trainer's own best of the pool
    proposals: Candidates = 3  # the most elites to send back
    mutation: Mutation = (-1.5, 0.3)

    def arrays(self, task: Task) -> Mapping[str, ArrayBounds]:
        return {"ids": ArrayBounds((-1,), np.int64), "pool": ArrayBounds((-1, task.model.num_parameters))}

    def answer(self, task: Task, shapes: Shapes, num_examples: int) -> Mapping[str, ArrayBounds]:
        size = shapes["pool"][:1]
        return {
            "losses": ArrayBounds(size, np.float64, 0),
            "correct": ArrayBounds(size, np.int64, 0, num_examples),
            "elites": ArrayBounds(
                (-1, task.model.num_parameters), np.float64, -GENE_MAX, GENE_MAX, rows_max=self.proposals
            ),
        }

    def evaluations(self, shapes: Shapes) -> int:
        """See `Query`: each candidate of the pool; those of the local search stay with the trainer."""
        return max(1, *shapes.get("pool", ())[:1], 0)

    def demand(self, task: Task, shapes: Shapes, num_examples: int) -> Demand:
        """See `Query`: the pool is scored once, then a population of its own is searched."""
        pool = demand_of_scores(task, shapes["pool"][0], num_examples)
        search = demand_of_scores(task, self.population, num_examples, times=self.generations, copies=SEARCH_COPIES)
        return Demand(pool.memory_bytes + search.memory_bytes, pool.operations + search.operations)

    def check(self, _task: Task, shapes: Shapes) -> None:
        size, least = shapes["pool"][0], max(1, self.elites)
        if shapes["ids"] != (size,):
            raise Rejected("shape", f"expected ids of shape {(size,)}, got {shapes['ids']}")
        if not least <= size <= CANDIDATES_MAX:
            raise Rejected("values", f"expected a pool of {least} to {CANDIDATES_MAX}, got {size}")

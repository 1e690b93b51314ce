"""The queries of `evolution`.

`evolve` scores a pool of candidates on the trainer's rows, evolves offspring from it, and sends the best back.
`generation` computes the fitness of the population of a genetic algorithm that PyGAD evolves.
"""

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np

from fedmq.algorithms.base import (
    CANDIDATES_MAX,
    SEARCH_COPIES,
    SUM_BITS_MAX,
    ArrayBounds,
    Candidates,
    Demand,
    Generations,
    Mutation,
    Population,
    Query,
    Shapes,
    demand_of_scores,
    objectives_of,
)
from fedmq.algorithms.evaluation.query import Evaluate
from fedmq.algorithms.evolution.keywords import PygadKeywords
from fedmq.algorithms.inbox import GENE_MAX
from fedmq.errors import BadConfiguration, Rejected
from fedmq.models.genes import INTEGER_MAX, integer_genes
from fedmq.protocol.fixed_point import FRACTION_BITS
from fedmq.tasks.task import Task

CLASS_LOSS_BITS = 5  # of a row: its cross-entropy is at most 20 nats. What a row may add is all that bounds a total
VALUE_LOSS_BITS = 20  # of a row of values: squared errors up to 2**20, in units of the task's output scale
FITNESS_MAX = 1e100  # times the rows of all trainers it is still a number


class Evolve(Query, frozen=True, tag="evolve"):
    """Score a pool and search from it.

    Down: `ids` (pool,) int64, `pool` (pool, genes) float64. Up: `losses` (pool,) int64, the summed loss of each
    candidate in units of 2**-fraction_bits; `correct` (pool,) int64; `elites` (proposals or fewer, genes) float64.
    """

    partial: ClassVar[bool] = True
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


class ScorePool(Evaluate, frozen=True, tag="score-pool"):
    """Score a pool of candidates, for an algorithm that needs only the total: see `Evaluate`."""

    partial: ClassVar[bool] = False  # candidates that some of the trainers rank are wrong for the others

    @classmethod
    def of(cls, task: Task) -> Self:
        """Return the query for a task.

        Raises:
            BadConfiguration: the task has no loss.
        """
        if objectives_of(task):
            raise BadConfiguration(
                "parameter additive: expected a task with a loss, got one with fitness_func, whose numbers have no "
                "bounds for a sum: define score, or leave additive out"
            )
        bits = CLASS_LOSS_BITS if task.loss == "cross-entropy" else VALUE_LOSS_BITS
        return cls(row_loss_bits=bits, rows_max=1 << min(32, SUM_BITS_MAX - FRACTION_BITS - bits))


class Generation(Query, frozen=True, tag="generation"):
    """Compute the fitness of each candidate of a population, and search from it with PyGAD if asked to.

    Down: `integers` (population, integer genes) int64, `numbers` (population, other genes) float64. Up, for a model
    with objectives: `fitness` (population, objectives) float64, as the site's fitness function returns it; else
    `losses` and `correct` as of `evolve`. With a local search, `found_integers` and `found_numbers` are new candidates
    (proposals or fewer).
    """

    sends: ClassVar[str] = "the fitness of candidates, and perhaps a few new candidates"

    types: tuple[str, ...]  # of the genes: one for all, or one for each
    generations: Generations = 0  # of the local search; 0: fitness only
    proposals: Candidates = 0
    keywords: PygadKeywords | None = None  # of the local search

    def __post_init__(self) -> None:
        try:
            integer_genes(self.types, 1)
        except BadConfiguration as error:
            raise ValueError(str(error)) from error

    def arrays(self, task: Task) -> Mapping[str, ArrayBounds]:
        whole, other = self._sizes(task)
        return {
            "integers": ArrayBounds((-1, whole), np.int64, -INTEGER_MAX, INTEGER_MAX),
            "numbers": ArrayBounds((-1, other)),
        }

    def answer(self, task: Task, shapes: Shapes, num_examples: int) -> Mapping[str, ArrayBounds]:
        size = shapes["integers"][0]
        answer = {
            "losses": ArrayBounds((size,), np.float64, 0),
            "correct": ArrayBounds((size,), np.int64, 0, num_examples),
        }
        if objectives := objectives_of(task):
            answer = {"fitness": ArrayBounds((size, objectives), np.float64, -FITNESS_MAX, FITNESS_MAX)}
        if self.generations:
            whole, other = self._sizes(task)
            most = self.proposals
            answer["found_integers"] = ArrayBounds((-1, whole), np.int64, -INTEGER_MAX, INTEGER_MAX, rows_max=most)
            answer["found_numbers"] = ArrayBounds((-1, other), np.float64, -GENE_MAX, GENE_MAX, rows_max=most)
        return answer

    def evaluations(self, shapes: Shapes) -> int:
        """See `Query`: each candidate; those of the local search stay with the trainer."""
        return max(1, *shapes.get("integers", ())[:1], 0)

    def demand(self, task: Task, shapes: Shapes, num_examples: int) -> Demand:
        """See `Query`: the population is scored once, and again in each generation of the local search."""
        times = self.generations + 1
        return demand_of_scores(task, shapes["integers"][0], num_examples, times=times, copies=SEARCH_COPIES)

    def check(self, _task: Task, shapes: Shapes) -> None:
        size = shapes["integers"][0]
        if shapes["numbers"][0] != size:
            raise Rejected("shape", f"expected numbers of {size} candidates, got {shapes['numbers'][0]}")
        if not 1 <= size <= CANDIDATES_MAX:
            raise Rejected("values", f"expected a population of 1 to {CANDIDATES_MAX}, got {size}")
        if self.generations and self.keywords is None:
            raise Rejected("query", "expected the keywords of the local search, got none")

    def _sizes(self, task: Task) -> tuple[int, int]:
        """Return how many genes are integers, and how many are not.

        Raises:
            Rejected: there is not one type for each gene.
        """
        genes = task.model.num_parameters
        if len(self.types) not in (1, genes):
            raise Rejected("query", f"expected 1 or {genes} types of genes, got {len(self.types)}")
        whole = int(np.count_nonzero(integer_genes(self.types, genes)))
        return whole, genes - whole

"""A trainer's cap on candidate evaluations, run by run.

Each score reveals a little about the rows, and an aggregator that chooses candidates freely can combine them
(docs/privacy.md). What is spent stays spent: a spool keeps it.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from fedmq.algorithms.base import PREPARATION, AdditiveQuery, Learner, Query, Shapes
from fedmq.algorithms.registry import decode_query
from fedmq.errors import QueryRefused, named
from fedmq.protocol.messages import Round

RUNS_REMEMBERED = 1000  # forged names of runs get a new budget each, remembered or not


class Spent(NamedTuple):
    """The candidates of a run that were scored and reported; 0: the run is forgotten."""

    run: str
    evaluations: int


class Cost(NamedTuple):
    """What an answer to a round reveals: candidate evaluations, and the fraction bits of its losses."""

    evaluations: int
    fraction_bits: int


def shapes_of(message: Round) -> Shapes:
    """Return the shapes of the query's own arrays in a round."""
    return {info.name: info.shape for info in message.arrays if info.name not in PREPARATION}


def open_query(message: Round, shapes: Shapes | None = None) -> tuple[Query, Learner, int]:
    """Return the query of a round, its learner, and how many candidate evaluations an answer reveals, at least 1.

    `shapes` are those of its arrays, if the round has a delta in their place.

    Raises:
        QueryRefused: an unknown kind, a malformed query, or one whose cost is not known.
    """
    query, learner = decode_query(message.query)
    try:
        evaluations = query.evaluations(shapes_of(message) if shapes is None else shapes)
    except (Exception, SystemExit) as error:  # the code of a package: without a cost there is no answer
        raise QueryRefused(f"the cost of {type(query).__name__} is not known: {named(error)}") from error
    return query, learner, max(1, evaluations)


def cost_of(message: Round, fraction_bits: int, shapes: Shapes | None = None) -> Cost:
    """Return the cost of a round for a trainer that sends losses with `fraction_bits`; see `open_query` for `shapes`.

    The losses are no finer than the query sums them. A query that is refused costs nothing: the worker refuses it
    before it reads a row.
    """
    try:
        query, _, evaluations = open_query(message, shapes)
    except QueryRefused:
        return Cost(0, fraction_bits)
    return Cost(evaluations, sent_bits(query, fraction_bits))


def sent_bits(query: Query, fraction_bits: int) -> int:
    """Return the fraction bits of the losses that a trainer with `fraction_bits` sends for a query."""
    return min(fraction_bits, query.fraction_bits) if isinstance(query, AdditiveQuery) else fraction_bits


class Budget:
    """The rest of each run's `cap` on evaluations; None: no cap. `spent` is from an earlier start."""

    def __init__(self, cap: int | None = None, spent: Iterable[Spent] = ()) -> None:
        self.cap = cap
        self._spent: OrderedDict[str, int] = OrderedDict(spent)

    def allows(self, run: str, evaluations: int) -> bool:
        return self.cap is None or self._spent.get(run, 0) + evaluations <= self.cap

    def spend(self, run: str, evaluations: int) -> list[Spent]:
        """Count so many evaluations; return what is to be stored."""
        if self.cap is None:
            return []
        self._spent[run] = self._spent.get(run, 0) + evaluations
        self._spent.move_to_end(run)
        news = [Spent(run, self._spent[run])]
        while len(self._spent) > RUNS_REMEMBERED:
            news.append(Spent(self._spent.popitem(last=False)[0], 0))
        return news

    def close(self, run: str) -> list[Spent]:
        """Use up the rest of a run's budget, so that a smaller round that would still fit is not answered either."""
        left = (self.cap or 0) - self._spent.get(run, 0)
        return self.spend(run, left) if left > 0 else []

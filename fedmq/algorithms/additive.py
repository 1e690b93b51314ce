"""Totals for additive algorithms: answers are summed per round as integers, so no order changes a bit.

An answer's losses arrive in units of 2**-fraction_bits that the trainer chose, no finer than the query's; they are
brought to the query's unit by an exact shift. An answer that could make a sum overflow is rejected.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.base import (
    AdditiveAlgorithm,
    AdditiveQuery,
    ArrayBounds,
    Evaluation,
    Plan,
    Total,
    Update,
    check_bounds,
    check_down,
    is_asked_again,
    is_finished,
)
from fedmq.algorithms.growing_map import GrowingMap
from fedmq.algorithms.inbox import ROUNDS_REMEMBERED, check_round
from fedmq.algorithms.starting import starting_at
from fedmq.errors import BadConfiguration, Rejected
from fedmq.models.trained_model import TrainedModel
from fedmq.tasks.task import Task

LOSSES = "losses"


@dataclass(frozen=True, eq=False)
class RowBounds:
    """One array of an answer: its shape, and the smallest and largest number that one row may add to an element.

    An answer may be `room` beyond what its rows add: see `AdditiveQuery.room`.
    """

    shape: tuple[int, ...]
    smallest: int
    largest: int
    room: int = 0

    def of(self, rows: int, shift: int, answers: int) -> ArrayBounds:
        """Return the bounds of the sum of so many answers, in units that are coarser by `shift` bits."""
        smallest, largest = self.smallest * rows - self.room * answers, self.largest * rows + self.room * answers
        return ArrayBounds(self.shape, np.int64, -(-smallest >> shift), largest >> shift)


@dataclass(frozen=True, eq=False)
class RoundSum:
    """The answers to one round, added up."""

    bounds: Mapping[str, RowBounds]
    fraction_bits: int
    rows_max: int
    arrays: Mapping[str, npt.NDArray[np.int64]]
    num_examples: int = 0
    trainers: GrowingMap[str, int] = field(default_factory=GrowingMap)  # rows by name
    grown: bool = False  # since the last close

    def __post_init__(self) -> None:
        if {name: one.shape for name, one in self.bounds.items()} != {n: a.shape for n, a in self.arrays.items()}:
            raise BadConfiguration("expected a sum of the right shape for each array of an answer")  # a changed file

    def plus(self, update: Update) -> RoundSum:
        """Return the sum with one more answer, or with the total of several; itself if it has these already.

        Raises:
            Rejected: the answer is out of bounds, the total could overflow, or a total has some answers already.
        """
        if counted := [name for name in update.rows if name in self.trainers]:
            if len(counted) < len(update.rows):
                raise Rejected("duplicate", f"expected a total of new answers, got one with that of {counted[0]} again")
            return self
        rows, shift = update.num_examples, self.fraction_bits - update.fraction_bits
        if rows < 0 or self.num_examples + rows > self.rows_max:
            raise Rejected(
                "values", f"expected 0 to {self.rows_max - self.num_examples} more rows, got {rows}: raise rows_max"
            )
        if shift < 0:
            raise Rejected(
                "values", f"expected losses of at most {self.fraction_bits} fraction bits, got {update.fraction_bits}"
            )
        self._check_losses(update)
        shifts = {name: shift if name == LOSSES else 0 for name in self.bounds}
        check_bounds(
            {name: one.of(rows, shifts[name], len(update.rows)) for name, one in self.bounds.items()}, update.arrays
        )
        return replace(
            self,
            arrays={
                name: array + (update.arrays[name] << shifts[name] if shifts[name] else update.arrays[name])
                for name, array in self.arrays.items()
            },
            num_examples=self.num_examples + rows,
            trainers=self.trainers.plus_all(update.rows),
            grown=True,
        )

    def _check_losses(self, update: Update) -> None:
        """Check that the losses fit the bits of a row, with an error that names the fix."""
        losses, bounds = update.arrays.get(LOSSES), self.bounds.get(LOSSES)
        if losses is None or bounds is None or losses.dtype != np.int64 or not losses.size:
            return  # `check_bounds` rejects what is wrong
        row, most = (int(losses.max()) / max(1, update.num_examples) * 2.0**-update.fraction_bits), bounds.largest
        if row > most * 2.0**-self.fraction_bits:
            raise Rejected(
                "values",
                f"expected losses of at most {most * 2.0**-self.fraction_bits:g} a row, got {row:g}: "
                "raise row_loss_bits of the query, or set output_scale in the task",
            )

    @classmethod
    def empty(cls, name: str, plan: Plan, task: Task) -> RoundSum:
        """Return the sum of no answers to a plan of the algorithm `name`.

        Raises:
            BadConfiguration: the query is not additive, or the plan does not fit it.
        """
        query = plan.query
        if not isinstance(query, AdditiveQuery):
            raise BadConfiguration(
                f"algorithm {name}: expected an additive query such as Evaluate, got {type(query).__name__}: "
                "ask another, or set additive = False"
            )
        try:
            check_down(query, task, plan.arrays)
        except Rejected as rejected:
            raise BadConfiguration(f"algorithm {name}: {rejected.detail}") from rejected
        room = query.room(task, plan.shapes)
        bounds = {
            key: RowBounds(one.shape, int(one.smallest), int(one.largest), room.get(key, 0))
            for key, one in query.answer(task, plan.shapes, 1).items()
        }
        nothing = {key: np.zeros(one.shape, np.int64) for key, one in bounds.items()}
        return cls(bounds, query.fraction_bits, query.rows_max, nothing)

    def is_part_of(self, members: frozenset[str]) -> bool:
        """Return whether some of the members have answered, not all of them, and no other trainer.

        If the same question is asked again, such a sum goes on: so it is complete as soon as each has answered once.
        """
        return bool(self.trainers) and self.trainers.keys() < members

    def total(self, members: frozenset[str]) -> Total:
        """Return the total as the algorithm gets it."""
        coverage = sum(name in members for name in self.trainers) / max(1, len(members))
        return Total(self.arrays, self.num_examples, len(self.trainers), coverage, self.fraction_bits)


def total_of(updates: Sequence[Update]) -> Update:
    """Return the total of answers to one round, all of them of the same fraction bits."""
    first = updates[0]
    arrays = {name: np.sum([one.arrays[name] for one in updates], axis=0) for name in first.arrays}
    rows = {one.trainer: one.num_examples for one in updates}
    return replace(first, trainer="", num_examples=sum(rows.values()), arrays=arrays, site_figures=False, total_of=rows)


def same_question(one: Plan, other: Plan) -> bool:
    """Return whether two plans ask the same, bit for bit."""
    return (
        one.query == other.query
        and one.arrays.keys() == other.arrays.keys()
        and all(array.tobytes() == other.arrays[name].tobytes() for name, array in one.arrays.items())
    )


class Additive:
    """An additive algorithm as a strategy: see `fedmq.algorithms.base.Strategy` for each method."""

    additive = True
    fields: ClassVar[tuple[tuple[str, Any, Any], ...]] = ()  # of the state, beside the usual ones

    def __init__(self, algorithm: AdditiveAlgorithm[Any], name: str, parameters: Any) -> None:
        self.algorithm, self.name, self.parameters = algorithm, name, parameters

    @property
    def needs_survey(self) -> bool:
        """Whether the algorithm begins with what is known about the columns: `init(task, seed, survey)`."""
        return bool(getattr(self.algorithm, "needs_survey", False))

    @property
    def keeps_survey(self) -> bool:
        """Whether the algorithm goes on with the survey that it has begun with when the rows have changed."""
        return bool(getattr(self.algorithm, "keeps_survey", False))

    @property
    def survey_buckets(self) -> int:
        """The buckets of the histograms that the algorithm needs; 0 for none."""
        return int(getattr(self.algorithm, "survey_buckets", 0))

    @property
    def components(self) -> int:
        """The principal axes along which the algorithm trains; 0: it trains on all inputs."""
        return int(getattr(self.algorithm, "components", 0))

    @property
    def held_out_every(self) -> int | None:
        """After how many rounds the model is measured on held-out rows; None for the usual number."""
        every: int | None = getattr(self.algorithm, "held_out_every", None)
        return every

    @property
    def uses(self) -> tuple[str, ...]:
        """What the algorithm uses of rows beside inputs and targets: `weight`, `offset`."""
        return tuple(getattr(self.algorithm, "uses", ()))

    def init(self, task: Task, seed: int, survey: Any = None) -> Any:
        about = (survey,) if self.needs_survey else ()
        inner = self.algorithm.init(task, seed, *about)
        # A type of its own, so that a checkpoint knows which type the algorithm's own state has.
        kind = make_dataclass(
            f"Additive{type(inner).__name__}",
            [("task", Task), ("round", int), ("inner", type(inner)), ("sums", dict[int, RoundSum]), *self.fields],
            frozen=True,
            eq=False,
        )
        return self._opened(kind(task=task, round=1, inner=inner, sums={}))

    def starting_at(self, state: Any, trained: TrainedModel) -> Any:
        """Return the state of round 1 that begins with an earlier model: the optional method of the algorithm."""
        inner = starting_at(self.algorithm, state.inner, trained)
        return self._opened(replace(state, inner=inner, sums={}))

    def ask(self, state: Any) -> Plan:
        return self.algorithm.ask(state.inner)

    def tell(self, state: Any, update: Update) -> Any:
        """Add an answer to the sum of its round."""
        check_round(update, state.round)
        total: RoundSum | None = state.sums.get(update.round)
        if total is None:  # a checkpoint that was changed
            raise Rejected("round", f"expected a round that is remembered, got {update.round}")
        more = total.plus(update)
        return state if more is total else replace(state, sums={**state.sums, update.round: more})

    def close(self, state: Any, members: Collection[str]) -> Any:
        """Give the algorithm the total of the round, and those of earlier rounds that have grown; none without rows."""
        members = frozenset(members)
        totals = {
            number: one.total(members) for number, one in state.sums.items() if one.grown and one.num_examples > 0
        }
        inner = self.algorithm.close(state.inner, totals.pop(state.round, None), totals)
        oldest = state.round + 1 - ROUNDS_REMEMBERED
        sums = {number: replace(one, grown=False) for number, one in state.sums.items() if number > oldest}
        after = self._opened(replace(state, round=state.round + 1, inner=inner, sums=sums))
        asked: RoundSum | None = state.sums.get(state.round)
        # A result that is that of the surveyed rows is made of sums: a trainer answers the same to the same question.
        sums_rows = self.needs_survey and not self.keeps_survey
        if asked is None or not sums_rows or not asked.is_part_of(members):
            return after
        if same_question(self.ask(state), self.ask(after)):
            return replace(after, sums={**after.sums, after.round: replace(asked, grown=True)})
        return after

    def evaluation(self, state: Any) -> Evaluation | None:
        return self.algorithm.evaluation(state.inner)

    def measured(self, state: Any, evaluation: Evaluation) -> Any:
        """Tell the algorithm the figures of its model on held-out rows, if it has a method `measured(state, ...)`."""
        told = getattr(self.algorithm, "measured", None)
        if told is None:
            return state
        return self._opened(replace(state, inner=told(state.inner, evaluation)))

    def result(self, state: Any) -> Any:
        """Return what the algorithm found beside the model, a value of its own type; None if there is none."""
        find = getattr(self.algorithm, "result", None)
        return None if find is None else find(state.inner)

    def findings(self, state: Any) -> Any:
        """Return what the algorithm found as plain data, see `fedmq.algorithms.findings`; None if there is none."""
        find = getattr(self.algorithm, "findings", None)
        return None if find is None else find(state.inner)

    def forget(self, state: Any, arrays: Mapping[str, npt.NDArray[Any]]) -> Any:
        """Return what the algorithm makes of the rows without those of one answer, if it has a method `forget`."""
        return self.algorithm.forget(state.inner, arrays)  # type: ignore[attr-defined]

    def finished(self, state: Any) -> bool:
        """Return whether the algorithm has nothing left to learn; False if it never has."""
        return is_finished(self.algorithm, state.inner)

    def asked_again(self, state: Any) -> bool:
        """Return whether the open round repeats the last one; False if it never does."""
        return is_asked_again(self.algorithm, state.inner)

    def _opened(self, state: Any) -> Any:
        """Return the state with an empty sum for its round."""
        empty = RoundSum.empty(self.name, self.ask(state), state.task)
        return replace(state, sums={**state.sums, state.round: empty})

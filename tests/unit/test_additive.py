"""Totals of additive algorithms: exact, in any order, each answer once, and never beyond an int64."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmq.algorithms.additive import Additive, total_of
from fedmq.algorithms.base import Plan, Update
from fedmq.algorithms.checkpoint import dump
from fedmq.algorithms.evaluation.query import Evaluate
from fedmq.algorithms.inbox import ROUNDS_REMEMBERED
from fedmq.errors import BadConfiguration, Rejected
from fedmq.tasks.task_file import find_task

XOR = find_task("xor")
CANDIDATES = np.zeros((2, XOR.model.num_parameters))


@dataclass(frozen=True, eq=False)
class Totals:
    totals: tuple[Any, ...] = ()


class Recorder:
    """Keeps what each close was given."""

    name = "recorder"

    def __init__(self, query: Evaluate | None = None) -> None:
        self.query = query or Evaluate()

    def init(self, _task: Any, _seed: int) -> Totals:
        return Totals()

    def ask(self, _state: Totals) -> Plan:
        return Plan(self.query, {"candidates": CANDIDATES})

    def close(self, state: Totals, total: Any, late: Any) -> Totals:
        return Totals((*state.totals, (total, dict(late))))

    def evaluation(self, _state: Totals) -> None:
        return None


def additive(query: Evaluate | None = None) -> Additive:
    return Additive(Recorder(query), "recorder", None)


def answer(trainer: str, losses: list[int], *, round: int = 1, rows: int = 4, bits: int = 16) -> Update:
    arrays = {"losses": np.array(losses), "correct": np.array([1, 2])}
    return Update(trainer, round, 0, rows, arrays, bits)


def told(strategy: Additive, state: Any, *updates: Update) -> Any:
    for update in updates:
        state = strategy.tell(state, update)
    return state


@given(st.permutations(range(4)), st.lists(st.integers(0, 4 << 26), min_size=4, max_size=4))
def test_total_is_the_exact_sum_in_any_order(order: list[int], losses: list[int]) -> None:
    strategy = additive()
    state = told(strategy, strategy.init(XOR, 1), *(answer(f"t{one}", [losses[one], one]) for one in order))
    total, late = strategy.close(state, ["t0", "t1", "absent"]).inner.totals[-1]
    assert total.arrays["losses"].tolist() == [sum(losses), 6]
    assert total.arrays["correct"].tolist() == [4, 8]
    assert (total.num_examples, total.trainers, late) == (16, 4, {})
    assert total.coverage == pytest.approx(2 / 3)


def test_coarser_losses_are_shifted_exactly() -> None:
    strategy = additive()
    state = told(strategy, strategy.init(XOR, 1), answer("a", [3, 5], bits=0), answer("b", [1, 1], bits=16))
    (total, _) = strategy.close(state, ["a", "b"]).inner.totals[-1]
    assert total.arrays["losses"].tolist() == [(3 << 16) + 1, (5 << 16) + 1]
    assert total.losses.tolist() == [3 + 2**-16, 5 + 2**-16]


def test_late_answer_is_added_to_the_total_of_its_own_round() -> None:
    strategy = additive()
    state = strategy.close(told(strategy, strategy.init(XOR, 1), answer("a", [1, 1])), ["a", "b"])
    state = told(strategy, state, answer("b", [10, 10]), answer("a", [7, 7], round=2))
    total, late = strategy.close(state, ["a", "b"]).inner.totals[-1]
    assert total.arrays["losses"].tolist() == [7, 7]
    assert late[1].arrays["losses"].tolist() == [11, 11]
    assert late[1].coverage == 1.0


def test_answer_that_is_repeated_counts_once() -> None:
    strategy = additive()
    state = told(strategy, strategy.init(XOR, 1), answer("a", [1, 1]))
    assert strategy.tell(state, answer("a", [1, 1])) is state


def test_total_of_several_trainers_counts_each_of_them_once() -> None:
    strategy = additive()
    first, answers = strategy.init(XOR, 1), [answer("a", [1, 2]), answer("b", [3, 4], rows=2)]
    singly, at_once = told(strategy, first, *answers), told(strategy, first, total_of(answers))
    assert dump(strategy.close(singly, ["a", "b", "c"])) == dump(strategy.close(at_once, ["a", "b", "c"]))
    assert strategy.tell(at_once, total_of(answers)) is at_once
    assert strategy.tell(at_once, answers[0]) is at_once
    with pytest.raises(Rejected, match="duplicate") as again:
        strategy.tell(told(strategy, first, answers[0]), total_of(answers))
    assert again.value.reason == "duplicate"
    too_large = answer("b", [3, 4 << 30], rows=2)
    with pytest.raises(Rejected, match="a row"):
        strategy.tell(first, total_of([answers[0], too_large]))


def test_round_without_answers_has_no_total() -> None:
    strategy = additive()
    assert strategy.close(strategy.init(XOR, 1), []).inner.totals == ((None, {}),)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (answer("a", [-1, 0]), "values"),
        (answer("a", [(4 << 26) + 1, 0]), "values"),
        (answer("a", [(4 << 10) + 1, 0], bits=0), "values"),
        (answer("a", [1, 1], bits=17), "values"),
        (answer("a", [1, 1], rows=0), "values"),
        (answer("a", [1, 1], rows=(1 << 32) + 1), "values"),
        (answer("a", [1, 1, 1]), "shape"),
        (answer("a", [1, 1], round=2), "round"),
        (answer("a", [1, 1], round=0), "round"),
    ],
)
def test_answer_out_of_bounds_is_rejected(bad: Update, reason: str) -> None:
    strategy = additive()
    with pytest.raises(Rejected) as rejected:
        strategy.tell(strategy.init(XOR, 1), bad)
    assert rejected.value.reason == reason


def test_rows_beyond_the_limit_are_rejected_before_a_sum_can_overflow() -> None:
    strategy = additive(Evaluate(rows_max=10))
    state = told(strategy, strategy.init(XOR, 1), answer("a", [1, 1], rows=7))
    with pytest.raises(Rejected) as rejected:
        strategy.tell(state, answer("b", [1, 1], rows=4))
    assert rejected.value.reason == "values"


def test_losses_beyond_the_bits_of_a_row_are_rejected_with_the_fix() -> None:
    strategy = additive(Evaluate(row_loss_bits=10))
    with pytest.raises(
        Rejected, match="at most 1024 a row, got 1025: raise row_loss_bits of the query, or set output_s"
    ):
        strategy.tell(strategy.init(XOR, 1), answer("a", [2 * 1025 << 16, 0], rows=2))


def test_largest_answers_sum_below_the_limit() -> None:
    query = Evaluate(fraction_bits=30, row_loss_bits=22, rows_max=1 << 10)
    strategy = additive(query)
    most = 512 << 52
    state = told(strategy, strategy.init(XOR, 1), *(answer(name, [most, 0], rows=512, bits=30) for name in "ab"))
    (total, _) = strategy.close(state, "ab").inner.totals[-1]
    assert total.arrays["losses"].tolist() == [1 << 62, 0]


def test_query_whose_sum_could_overflow_is_refused_when_asking() -> None:
    with pytest.raises(BadConfiguration, match="62 bits"):
        additive(Evaluate(fraction_bits=30, row_loss_bits=10, rows_max=1 << 23)).init(XOR, 1)


def test_answer_to_a_round_too_long_ago_is_rejected() -> None:
    strategy = additive()
    state = strategy.init(XOR, 1)
    for _ in range(ROUNDS_REMEMBERED - 1):
        state = strategy.close(state, [])
    strategy.tell(state, answer("a", [1, 1]))
    with pytest.raises(Rejected):
        strategy.tell(strategy.close(state, []), replace(answer("a", [1, 1])))

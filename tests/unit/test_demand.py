"""What a round's work needs: declared by its query, bounded before any work, on both sides by one function."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from fedmq.algorithms.averaging.query import EvolutionLearner, GradientLearner, Train
from fedmq.algorithms.base import (
    MEMORY_BYTES_MAX,
    OPERATIONS_PER_S,
    Assignment,
    Query,
    WorkLimits,
    check_down,
    encode_query,
)
from fedmq.algorithms.conformance import check_first_plan
from fedmq.algorithms.evaluation.query import Evaluate
from fedmq.algorithms.evolution.query import Evolve
from fedmq.algorithms.registry import decode_query, find_algorithm
from fedmq.errors import BadConfiguration, LimitExceeded, Rejected
from fedmq.models.networks import MLP, Linear
from fedmq.protocol.codec import decode, encode
from fedmq.protocol.messages import Round
from fedmq.tasks.task import Rows, Task
from fedmq.tasks.task_file import find_task, task_rows
from fedmq.trainer.round_handler import on_rows

WIDE = Task(name="wide", model=MLP((2, 65536, 2)), loss="cross-entropy", metric="accuracy", target=1.0)
XOR = find_task("xor")
ROWS = task_rows("xor", 1, 2)


def allocated(action: Callable[[], object]) -> int:
    """Return the most bytes that an action held at once; numpy reports its arrays to tracemalloc."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def arrays_of(query: Query, task: Task, size: int = 4) -> dict[str, Any]:
    parameters = task.model.num_parameters
    if isinstance(query, Train):
        return {"model": np.zeros(parameters)}
    if isinstance(query, Evaluate):
        return {"candidates": np.zeros((size, parameters))}
    return {"ids": np.arange(size), "pool": np.zeros((size, parameters))}


@pytest.mark.parametrize("population", [300, 4000])
def test_small_message_with_a_large_population_is_refused_before_any_work(population: int) -> None:
    query = Train(EvolutionLearner(population=population, generations=10_000))
    message = Round(run="r", term=1, round=1, seed=1, deadline_s=1.0, task=WIDE, query=encode_query(query))
    packet = decode(encode("round/r", message, arrays_of(query, WIDE)))
    answer = on_rows(ROWS, "bob")

    def refused() -> None:
        with pytest.raises(LimitExceeded, match="lower the population"):
            answer(packet, lambda: False)

    assert allocated(refused) < 1 << 20


@pytest.mark.parametrize(
    "query",
    [
        Train(EvolutionLearner(generations=10_000, population=1000)),
        Train(GradientLearner(10_000)),
        Evolve(elites=0, generations=10_000, population=1000),
        Evaluate(),
    ],
    ids=["train", "gradient", "evolve", "evaluate"],
)
def test_work_that_cannot_end_in_time_is_refused_before_it_begins(query: Query) -> None:
    task = find_task("linear") if isinstance(query, Train) and isinstance(query.learner, GradientLearner) else XOR
    arrays = arrays_of(query, task)
    needed = query.demand(task, {name: array.shape for name, array in arrays.items()}, 1000)
    least_s = needed.operations / OPERATIONS_PER_S
    check_down(query, task, arrays, 1000, WorkLimits(seconds=2 * least_s))
    with pytest.raises(LimitExceeded, match="which no machine does"):
        check_down(query, task, arrays, 1000, WorkLimits(seconds=least_s / 2))


def test_operations_are_generations_times_population_times_rows() -> None:
    def operations(generations: int, population: int, rows: int) -> int:
        query = Evolve(elites=0, generations=generations, population=population)
        return query.demand(XOR, {"pool": (1, 22)}, rows).operations

    one = operations(10, 100, 10)
    for more in (operations(20, 100, 10), operations(10, 200, 10), operations(10, 100, 20)):
        assert more == pytest.approx(2 * one, rel=0.01)


def test_trainer_may_give_less_memory_than_the_aggregator_allows() -> None:
    query = Evaluate()
    arrays = arrays_of(query, XOR, 100)
    check_down(query, XOR, arrays)
    with pytest.raises(LimitExceeded, match="expected work in at most 1 MiB"):
        check_down(query, XOR, arrays, 2, WorkLimits(memory_bytes=1 << 20))


@pytest.mark.parametrize(
    ("algorithm", "task", "parameters", "words"),
    [
        ("averaging", WIDE, {"learner": "evolution", "population": 4000}, "lower the population"),
        ("evolution", XOR, {"local_population": 100_000, "generations": 10_000, "proposals": 0}, None),
        ("evolution", WIDE, {"population": 4, "local_population": 1000}, "lower the population"),
    ],
)
def test_aggregator_refuses_such_a_configuration_in_one_line(
    algorithm: str, task: Task, parameters: dict[str, Any], words: str | None
) -> None:
    strategy = find_algorithm(algorithm, task, parameters)
    if words is None:
        check_first_plan(strategy, task)  # slow, but a trainer's --work-seconds-max bounds it
        return
    with pytest.raises(BadConfiguration, match=words) as refused:
        check_first_plan(strategy, task)
    assert "\n" not in str(refused.value)
    assert str(MEMORY_BYTES_MAX >> 20) in str(refused.value)


def _case(query: Query, task: Task, size: int, rows: int) -> Any:
    generator = np.random.default_rng(1)
    inputs = generator.random((rows, task.model.inputs))
    targets = generator.integers(0, 2, rows).astype(np.float64)
    return query, task, arrays_of(query, task, size), task.fit(Rows(inputs, targets))


MIDDLE = Task(name="middle", model=MLP((2, 2048, 2)), loss="cross-entropy", metric="accuracy", target=1.0)
LONG = Task(name="long", model=Linear(50), loss="squared-error", metric="loss", target=0.0)
CASES = {
    "train": lambda: _case(Train(EvolutionLearner(generations=2, population=400)), MIDDLE, 1, 10),
    "evolve": lambda: _case(Evolve(elites=0, generations=2, population=300), MIDDLE, 300, 10),
    "evaluate": lambda: _case(Evaluate(), MIDDLE, 1000, 10),
    "gradient": lambda: _case(Train(GradientLearner(1, 50_000, 1e-9)), LONG, 1, 100_000),
}


@pytest.mark.parametrize("case", CASES)
def test_declared_memory_is_an_upper_bound_and_not_far_above_it(case: str) -> None:
    query, task, arrays, rows = CASES[case]()
    declared = query.demand(task, {name: array.shape for name, array in arrays.items()}, len(rows.inputs)).memory_bytes
    _, learner = decode_query(encode_query(query))
    work = Assignment(task, arrays, rows, partial(task.score, rows=rows), np.random.default_rng(1))
    used = allocated(lambda: learner.learn(query, work))
    assert used <= declared <= 5 * used


def test_sum_over_more_rows_than_the_question_allows_is_rejected() -> None:
    query, arrays = Evaluate(rows_max=1000), {"candidates": np.zeros((1, XOR.model.num_parameters))}
    check_down(query, XOR, arrays, 1000)
    with pytest.raises(Rejected, match="at most 1000 rows in all"):
        check_down(query, XOR, arrays, 1001)

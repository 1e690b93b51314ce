"""The same rows, split over trainers in many ways: exact algorithms must give the same bits for each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import numpy as np

from fedmq.algorithms.base import (
    AdditiveQuery,
    Assignment,
    Plan,
    Strategy,
    Update,
    check_down,
    encode_query,
    without_preparation,
)
from fedmq.algorithms.checkpoint import dump
from fedmq.algorithms.registry import decode_query
from fedmq.exact.draws import normals, words
from fedmq.models.networks import MLP, Linear, Network
from fedmq.tables.table import Table
from fedmq.tasks.row_views import RowViews
from fedmq.tasks.task import Rows, Task

Shards = Sequence[Rows | Table]


def regression(inputs: int, model: Network | None = None) -> Task:
    return Task(
        name="values", model=model or Linear(inputs), loss="squared-error", metric="loss", target=0.0, trainers=1
    )


def classification(inputs: int, classes: int, model: Network | None = None) -> Task:
    model = model or MLP((inputs, classes))
    return Task(name="classes", model=model, loss="cross-entropy", metric="accuracy", target=1.0, trainers=1)


def inputs_of(rows: int, columns: int, name: str) -> np.ndarray:
    """Inputs of very different scales, the same on every machine."""
    scales = np.ldexp(1.0, np.arange(columns) * 7 % 23 - 9)
    return normals(rows * columns, 1, name).reshape(rows, columns) * scales + 3.0 * scales


def part(rows: Rows, chosen: np.ndarray) -> Rows:
    return Rows(np.ascontiguousarray(rows.inputs[chosen]), np.ascontiguousarray(rows.targets[chosen]))


def splits(rows: Rows) -> Iterator[tuple[str, Shards]]:
    """Yield the rows at one trainer, at three, at ten sorted by target, shuffled at seven, and one row alone."""
    everything = np.arange(len(rows.inputs))
    by_target = np.argsort(rows.targets, kind="stable")
    shuffled = np.argsort(words(len(everything), 7, "shuffle"), kind="stable")
    yield "one trainer", [rows]
    yield "one trainer, reversed", [part(rows, everything[::-1])]
    for name, order, count in (("three", everything, 3), ("ten by target", by_target, 10), ("seven", shuffled, 7)):
        yield name, [part(rows, chosen) for chosen in np.array_split(order, count)]
    yield "one row alone", [part(rows, shuffled[:1]), part(rows, shuffled[1:])]


def answer(task: Task, plan: Plan, views: RowViews | Rows, name: str, number: int) -> Update:
    query, learner = decode_query(encode_query(plan.query))
    assert isinstance(query, AdditiveQuery)
    arrays, preparation = without_preparation(query, task, plan.arrays)
    check_down(query, task, arrays)
    rows = views.view(query.rows, preparation) if isinstance(views, RowViews) else views
    if not len(rows.inputs):
        nothing = {key: np.zeros(one.shape, np.int64) for key, one in query.answer(task, plan.shapes, 0).items()}
        return Update(name, number, 0, 0, nothing, query.fraction_bits)
    score = partial(task.score, rows=rows)
    work = Assignment(task, arrays, rows, score, np.random.default_rng(1))
    return Update(name, number, 0, len(rows.inputs), learner.learn(query, work), query.fraction_bits)


def closed(
    strategy: Strategy[Any],
    state: Any,
    task: Task,
    shards: Sequence[RowViews | Rows],
    absent: Callable[[int, int], bool] | None = None,
) -> Any:
    """The state after one round; `absent(round, place)` names trainers that miss it."""
    plan, number = strategy.ask(state), state.round
    names = [f"trainer-{place}" for place in range(len(shards))]
    for place, (name, rows) in enumerate(zip(names, shards, strict=True)):
        if absent is None or not absent(number, place):
            state = strategy.tell(state, answer(task, plan, rows, name, number))
    return strategy.close(state, names)


def state_after(strategy: Strategy[Any], task: Task, shards: Shards, rounds: int, seed: int = 1, **options: Any) -> Any:
    fitted = [RowViews(task, one) for one in shards]
    state = strategy.init(task, seed)
    for _ in range(rounds):
        state = closed(strategy, state, task, fitted, **options)
    return state


def bits(value: Any) -> Any:
    """A state as values that are equal only when each type, shape and bit is."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, Mapping):
        return [(key, bits(one)) for key, one in sorted(value.items())]
    if is_dataclass(value):
        return type(value).__name__, [(field.name, bits(getattr(value, field.name))) for field in fields(value)]
    if isinstance(value, tuple):
        return tuple(map(bits, value))
    if isinstance(value, Set):
        return sorted(value)
    return value.hex() if isinstance(value, float) else value


def model_sha256(strategy: Strategy[Any], task: Task, state: Any) -> str:
    evaluation = strategy.evaluation(state)
    assert evaluation is not None
    return hashlib.sha256(task.trained(evaluation.parameters, evaluation.preparation).to_bytes()).hexdigest()


def outcome(strategy: Strategy[Any], task: Task, shards: Shards, rounds: int, **options: Any) -> tuple[str, str]:
    """The SHA-256 of the model, and that of the algorithm's whole state."""
    state = state_after(strategy, task, shards, rounds, **options)
    return model_sha256(strategy, task, state), hashlib.sha256(dump(state.inner.inner)).hexdigest()

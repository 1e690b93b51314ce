"""A network of 1,210 weights, as in docs/measurements/digits.py: `averaging` learns similar rows faster."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedmq import MLP, Task
from fedmq.algorithms.registry import find_algorithm
from fedmq.simulation import Federation
from fedmq.tasks.task import Rows

TASK = Task(name="blobs", model=MLP([64, 16, 10]), loss="cross-entropy", metric="accuracy", target=1.0, rounds=10)


def accuracy(algorithm: str, parameters: dict[str, Any]) -> float:
    """Return the accuracy on all rows: ten clouds, of which each trainer has as many rows."""
    generator = np.random.default_rng(1)
    targets = np.repeat(np.arange(10), 20)
    inputs = generator.normal(size=(10, 64))[targets] + 1.5 * generator.normal(size=(len(targets), 64))
    rows = {f"trainer-{part}": Rows(inputs[part::4], targets[part::4]) for part in range(4)}
    model = Federation(TASK, find_algorithm(algorithm, TASK, parameters), rows, seed=1).train()
    assert model is not None
    return float((model.predict(inputs) == targets).mean())


def test_averaging_learns_a_network_on_similar_rows_faster_than_evolution() -> None:
    averaged, evolved = accuracy("averaging", {"learner": "evolution"}), accuracy("evolution", {})
    assert averaged > evolved + 0.1 > 0.3, (averaged, evolved)

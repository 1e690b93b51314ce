"""Bob and Alice: two virtual workers in one process train a linear model on rows that neither shows the other.

The classic first example of federated learning: send the model, train it where the rows are, average, get it back.
The workers are plain objects here, on an in-memory network; the same classes run as processes over ZeroMQ.
"""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from fedmq import Rows, find_task
from fedmq.algorithms.registry import find_algorithm
from fedmq.protocol.run_config import Limits
from fedmq.simulation import Federation

BOB = Rows(np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([2.0, 0.0]))
ALICE = Rows(np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([1.0, 0.0]))


def train(rows: dict[str, Rows], steps: int, averages: int) -> np.ndarray:
    """Two weights and a bias after so many averages of models that were each trained for so many steps."""
    task = replace(find_task("linear"), target=0.0)  # go on to the last round
    local = {"method": "fedavg", "epochs": steps, "batch_size": 0, "learning_rate": 0.2}  # all rows in each step
    averaging = find_algorithm("averaging", task, local)
    limits = Limits(rounds_max=averages + 1, min_trainers=len(rows))  # one round more, to score the last average
    model = Federation(task, averaging, rows, limits=limits).train()  # send, train, average; again; get
    return model.parameters


if __name__ == "__main__":
    print("10 steps, one average   ", train({"bob": BOB, "alice": ALICE}, steps=10, averages=1).round(10))
    print("Bob alone               ", train({"bob": BOB}, steps=10, averages=1).round(10))
    print("Alice alone             ", train({"alice": ALICE}, steps=10, averages=1).round(10))
    print("1 step, 1,000 averages  ", train({"bob": BOB, "alice": ALICE}, steps=1, averages=1000).round(10))
    print("all rows in one place   ", np.array([1.5, 0.5, -0.25]))

"""Bob and Alice with PyTorch: two workers train a linear module on rows that neither shows the other.

The same example as `bob_and_alice.py`, with the same figures to a millionth: PyTorch computes in float32. The workers
are virtual here; `fedmq demo examples/bob_and_alice_torch.py` gives each a process, with messages over ZeroMQ.
"""

import numpy as np
from torch import nn

from fedmq import Task, simulate, torch_model

BOB = np.array([[1, 1], [0, 1]], float), np.array([2, 0], float)  # inputs, targets
ALICE = np.array([[1, 0], [0, 0]], float), np.array([1, 0], float)


def linear():
    module = nn.Linear(2, 1)
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    return module


def rows(part, parts):
    return (BOB, ALICE)[part - 1]


task = Task(
    name="bob-and-alice",
    model=torch_model(linear, inputs=2, output="identity"),
    loss="squared-error",
    metric="loss",
    trainers=2,
    rounds=200,
    algorithm="averaging",
    parameters={"averaging": {"learner": "torch", "epochs": 1, "batch_size": 0, "learning_rate": 0.2}},
)


def train(workers: dict, steps: int, averages: int) -> np.ndarray:
    """Two weights and a bias after so many averages of modules that were each trained for so many steps."""
    run = simulate(
        task,
        workers,
        parameters={"epochs": steps},
        rounds=averages + 1,  # one round more, to score the last average
        seed=1,
    )
    bias, *weights = run.model.parameters  # tensors in the order of their names
    return np.array([*weights, bias])


if __name__ == "__main__":
    print("10 steps, one average ", train({"bob": BOB, "alice": ALICE}, steps=10, averages=1).round(6))
    print("Bob alone             ", train({"bob": BOB}, steps=10, averages=1).round(6))
    print("Alice alone           ", train({"alice": ALICE}, steps=10, averages=1).round(6))
    print("1 step, 300 averages  ", train({"bob": BOB, "alice": ALICE}, steps=1, averages=300).round(6))
    print("all rows in one place ", np.array([1.5, 0.5, -0.25]))

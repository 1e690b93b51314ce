"""Measure `evolution` and `averaging` on handwritten digits: a 64-16-10 network of 1,210 weights, four trainers.

    pip install scikit-learn
    python docs/measurements/digits.py [--seeds 3] [--rounds 100]

The rows are those of `sklearn.datasets.load_digits`, divided by 16. A quarter is held out; accuracies are on it. The
trainers hold *similar* rows (drawn at random), or *different* ones (sorted by digit: two or three digits each). Each
line is the mean over the seeds, and the lowest and the highest. The figures in docs/explanation/how-it-learns.md are
from here.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: the products are too small for threads

import argparse
import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmq import MLP, Task
from fedmq.algorithms.registry import find_algorithm
from fedmq.simulation import Federation
from fedmq.tasks.task import Rows

TRAINERS = 4
SPLITS = ("similar", "different")
SETTINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("evolution", {}),
    ("evolution", {"generations": 0}),
    ("averaging", {"learner": "evolution"}),
)


def accuracy(rows: Rows, split: str, algorithm: str, parameters: dict[str, Any], seed: int, rounds: int) -> float:
    """Return the accuracy on held-out rows after these rounds."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(rows.targets))
    held_out, used = np.split(order, [len(order) // 4])
    if split == "different":
        used = used[np.argsort(rows.targets[used], kind="stable")]
    task = Task(
        name="digits",
        model=MLP([64, 16, 10]),
        loss="cross-entropy",
        metric="accuracy",
        target=1.0,
        trainers=TRAINERS,
        rounds=rounds,
    )
    parts = {f"trainer-{index}": part for index, part in enumerate(np.array_split(used, TRAINERS), 1)}
    strategy = find_algorithm(algorithm, task, parameters)
    model = Federation(task, strategy, {name: _at(rows, part) for name, part in parts.items()}, seed=seed).train()
    assert model is not None
    return float((model.predict(rows.inputs[held_out]) == rows.targets[held_out]).mean())


def _at(rows: Rows, places: npt.NDArray[np.intp]) -> Rows:
    return Rows(rows.inputs[places], rows.targets[places])


def main() -> None:
    """Print a line for each split and setting."""
    parser = argparse.ArgumentParser(description="Accuracy on digits, by split and algorithm.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=100)
    given = parser.parse_args()
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        sys.exit("expected scikit-learn, for its digits: pip install scikit-learn")
    inputs, targets = load_digits(return_X_y=True)
    rows = Rows(inputs / 16.0, targets.astype(np.int64))
    print(f"{'rows':<10} {'algorithm':<38} mean   lowest highest  (held out, round {given.rounds})")
    for split in SPLITS:
        for algorithm, parameters in SETTINGS:
            began = time.monotonic()
            found = [accuracy(rows, split, algorithm, parameters, seed, given.rounds) for seed in range(given.seeds)]
            title = " ".join([algorithm, *(f"{name}={value}" for name, value in parameters.items())])
            figures = f"{np.mean(found):.3f}  {min(found):.3f}  {max(found):.3f}"
            print(f"{split:<10} {title:<38} {figures}  {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()

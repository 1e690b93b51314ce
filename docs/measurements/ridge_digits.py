"""Measure `ridge` with random Fourier features on handwritten digits: one round of products, four trainers.

    pip install scikit-learn
    python docs/measurements/ridge_digits.py [--seeds 5] [--features 512 1024]

The rows are those of `sklearn.datasets.load_digits`. A quarter is held out; accuracies are on it. The trainers hold
rows sorted by digit. The penalty and the number of features are chosen by the algorithm, from training rows. A seed
draws the held-out rows and the features; the kernel has its default width. Each line is the mean over the seeds, the
lowest and the highest. The figures in docs/how-to/regression.md are from here.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: the products are too small for threads

import argparse
import sys
import time

import numpy as np

from fedmq import Task
from fedmq.algorithms.registry import find_algorithm
from fedmq.models.fourier import Fourier
from fedmq.simulation import Federation
from fedmq.tasks.task import Rows

TRAINERS = 4


def accuracy(rows: Rows, features: int, seed: int) -> float:
    """Return the accuracy on held-out rows."""
    order = np.random.default_rng(seed).permutation(len(rows.targets))
    held_out, used = np.split(order, [len(order) // 4])
    used = used[np.argsort(rows.targets[used], kind="stable")]
    task = Task(
        name="digits",
        model=Fourier(64, 10, features, output="softmax", seed=seed),
        loss="cross-entropy",
        metric="accuracy",
        target=1.0,
        trainers=TRAINERS,
    )
    parts = {f"trainer-{index}": part for index, part in enumerate(np.array_split(used, TRAINERS), 1)}
    shards = {name: Rows(rows.inputs[part], rows.targets[part]) for name, part in parts.items()}
    model = Federation(task, find_algorithm("ridge", task), shards, seed=seed).train()
    assert model is not None
    return float((model.predict(rows.inputs[held_out]) == rows.targets[held_out]).mean())


def main() -> None:
    """Print a line for each number of features."""
    parser = argparse.ArgumentParser(description="Accuracy of ridge on digits, by the number of features.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--features", type=int, nargs="+", default=[512, 1024])
    given = parser.parse_args()
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        sys.exit("expected scikit-learn, for its digits: pip install scikit-learn")
    inputs, targets = load_digits(return_X_y=True)
    rows = Rows(inputs, targets.astype(np.int64))
    print("features  mean   lowest highest  (held out, one round of products)")
    for features in given.features:
        began = time.monotonic()
        found = [accuracy(rows, features, seed) for seed in range(given.seeds)]
        figures = f"{np.mean(found):.4f} {min(found):.4f} {max(found):.4f}"
        print(f"{features:<9} {figures}  {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()

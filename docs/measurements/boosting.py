"""Measure `boosting` on four data sets, against scikit-learn's HistGradientBoostingClassifier on the pooled rows.

    pip install scikit-learn
    python docs/measurements/boosting.py [--seeds 5] [--first 300] [--pooled] [DATA ...]

A quarter of the rows is held out; accuracies are on it. The trainers hold rows that are sorted by class, so that none
has all classes. Both have their default parameters: 100 trees; `boosting` has depth 6 and 64 bins, scikit-learn 31
leaves and 255 bins. *Same* says whether the forest, and so each prediction, is the one of a single trainer with all
rows, bit for bit; with --pooled only that one is trained, which is quicker. Each line is the mean over the seeds, which
draw the split (and the synthetic rows). The figures in docs/explanation/how-it-learns.md are from here.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: the products are too small for threads
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedmq import Task, TrainedModel, Trees
from fedmq.algorithms.registry import find_algorithm
from fedmq.simulation import Federation
from fedmq.tasks.task import Rows


class Case(NamedTuple):
    """A data set: its rows for a seed, and the number of trainers."""

    rows: Callable[[int], Rows]
    trainers: int


class Outcome(NamedTuple):
    """What one seed gave."""

    federated: float  # accuracy
    pooled: float  # of scikit-learn
    same: bool
    rounds: int
    bytes_per_tree: float  # that one trainer sends, on average
    seconds: float  # of the federated run, all trainers in one process


def loaded(name: str) -> Callable[[int], Rows]:
    """Return a function that loads a data set of scikit-learn, the same for any seed."""

    def rows(_seed: int) -> Rows:
        import sklearn.datasets

        inputs, targets = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)
        return Rows(inputs.astype(np.float64), targets.astype(np.int64))

    return rows


def synthetic(seed: int) -> Rows:
    """Return 10,000 rows of 50 columns: 12 informative, 8 redundant, two classes of six clusters each, 5 % noise."""
    from sklearn.datasets import make_classification

    inputs, targets = make_classification(
        10_000, 50, n_informative=12, n_redundant=8, n_clusters_per_class=6, flip_y=0.05, random_state=seed
    )
    return Rows(inputs, targets.astype(np.int64))


CASES = {
    "breast_cancer": Case(loaded("breast_cancer"), 5),
    "wine": Case(loaded("wine"), 3),
    "digits": Case(loaded("digits"), 10),
    "synthetic": Case(synthetic, 10),
}


def trained(task: Task, shards: list[Rows]) -> tuple[TrainedModel, int, int, int]:
    """Return the model, the rounds, the trees and the bytes that all trainers sent."""
    rows = {f"trainer-{place}": one for place, one in enumerate(shards, 1)}
    strategy = find_algorithm("boosting", task)
    federation = Federation(task, strategy, rows)
    model = federation.train()
    assert model is not None
    assert federation.aggregator is not None
    forest, _ = task.model.split_parameters(model.parameters)  # type: ignore[union-attr]
    service = federation.aggregator.rounds
    return model, service.round - 1, int(forest.any(axis=(1, 2)).sum()), service.bytes_received


def measure(case: Case, seed: int, *, pooled: bool) -> Outcome:
    """Train on the rows of all trainers, on the pooled rows, and with scikit-learn; without trainers if `pooled`."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    rows = case.rows(seed)
    held_out, used = np.split(np.random.default_rng(seed).permutation(len(rows.targets)), [len(rows.targets) // 4])
    by_class = used[np.argsort(rows.targets[used], kind="stable")]
    classes = int(rows.targets.max()) + 1
    task = Task(
        name="rows",
        model=Trees(rows.inputs.shape[1], classes, "softmax"),
        loss="cross-entropy",
        metric="accuracy",
        trainers=1 if pooled else case.trainers,
        rounds=1000,
    )
    began = time.perf_counter()
    trainers = 1 if pooled else case.trainers
    model, rounds, trees, sent = trained(task, [_at(rows, part) for part in np.array_split(by_class, trainers)])
    seconds = time.perf_counter() - began
    alone = model if pooled else trained(task, [_at(rows, used)])[0]
    reference = HistGradientBoostingClassifier(early_stopping=False).fit(rows.inputs[used], rows.targets[used])
    truth, inputs = rows.targets[held_out], rows.inputs[held_out]
    return Outcome(
        federated=float((model.predict(inputs) == truth).mean()),
        pooled=float((reference.predict(inputs) == truth).mean()),
        same=model.to_bytes() == alone.to_bytes(),
        rounds=rounds,
        bytes_per_tree=sent / trainers / max(1, trees),
        seconds=seconds,
    )


def _at(rows: Rows, places: npt.NDArray[np.int64]) -> Rows:
    return Rows(rows.inputs[places], rows.targets[places])


def main() -> None:
    """Print a line for each data set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", nargs="*", metavar="DATA", help=f"some of {', '.join(CASES)} (default: all)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=300, metavar="SEED")
    parser.add_argument("--pooled", action="store_true", help="one trainer with all rows: the same trees, in less time")
    options = parser.parse_args()
    if unknown := [name for name in options.data if name not in CASES]:
        parser.error(f"expected some of {', '.join(CASES)}, got {unknown[0]}")
    for name in options.data or CASES:
        seeds = range(options.first, options.first + options.seeds)
        found = [measure(CASES[name], seed, pooled=options.pooled) for seed in seeds]
        gaps = [100.0 * (one.federated - one.pooled) for one in found]
        print(
            f"{name:13} {'1 trainer: ' if options.pooled else f'{CASES[name].trainers} trainers, sorted by class: '}"
            f"boosting {100.0 * np.mean([one.federated for one in found]):.2f} %, "
            f"scikit-learn pooled {100.0 * np.mean([one.pooled for one in found]):.2f} %, "
            f"difference {np.mean(gaps):+.2f} ({min(gaps):+.2f} to {max(gaps):+.2f}), "
            f"same {sum(one.same for one in found)} of {len(found)}, "
            f"{np.mean([one.rounds for one in found]):.0f} rounds, "
            f"{np.mean([one.bytes_per_tree for one in found]) / 1e3:.0f} kB up a trainer and tree, "
            f"{np.mean([one.seconds for one in found]):.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())

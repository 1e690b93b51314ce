"""Handwritten digits at ten sites that have ever fewer digits each: what three algorithms lose by it.

    python examples/digits_noniid.py [ROUNDS]

A network 64-16-10 (1,210 weights). The table has the accuracy on the quarter of the rows that is held out: with rows at
random, with shares by a Dirichlet distribution, and with two digits for each site. `es` sums slopes over rows, so its
model is the same for any split, bit for bit, at half a kilobyte up for each site and round.
"""

import sys

import numpy as np
from sklearn.datasets import load_digits

import fedmq

SPLITS = ("iid", "dirichlet:0.3", "classes:2")
SETTINGS = {
    "averaging (FedAvg)": ("averaging", {"l2": 0.005}),
    "averaging (SCAFFOLD)": ("averaging", {"l2": 0.005, "method": "scaffold"}),
    "es": ("es", {}),
}


def main(rounds=100):
    digits = load_digits()
    rows = digits.data, digits.target.astype(np.float64)
    model = fedmq.MLP([64, 16, 10])
    print("".join([f"{'':<22}", *(f"{split:>15}" for split in SPLITS)]) + "  models")
    for name, (algorithm, parameters) in SETTINGS.items():
        task = fedmq.Task(name="digits", model=model, loss="cross-entropy", metric="accuracy", holdout=0.25)
        runs = [
            fedmq.simulate(
                task, rows, algorithm=algorithm, parameters=parameters, trainers=10, split=split, rounds=rounds, seed=1
            )
            for split in SPLITS
        ]
        figures = "".join(f"{100 * run.report.held_out.accuracy:>14.1f}%" for run in runs)
        print(f"{name:<22}{figures}  {len({run.model_sha256 for run in runs})}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

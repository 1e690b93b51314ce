"""Measure split XOR: how many seeds each algorithm solves, in how many rounds, and one digest of all its models.

    python docs/measurements/split_xor.py [--seeds 50] [--first 0] [--algorithm evolution] [--trainers 2 3 4]
        [--dropout 0.3]
    python docs/measurements/split_xor.py --data breast_cancer [--seeds 50] [--rounds 20 60] [--splits iid classes:1]

Neither of two trainers can learn XOR from its own rows. A change that keeps the bits of an algorithm keeps the digest.
With more trainers, some have a row alone. `evolution additive` needs only totals, as secure sums give them.

--data: a data set of scikit-learn, three trainers, a quarter of the rows held out, on which accuracies are. `classes:1`
gives each trainer rows of one class, `sorted:target` rows in the order of their classes.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
from typing import Any

import fedmq

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "evolution": ("evolution", {}),
    "evolution additive": ("evolution", {"additive": True}),
    "es": ("es", {}),
}


def solved(form: str, trainers: int, dropout: float, seeds: range) -> str:
    """Return how many seeds are solved, and in how many rounds."""
    algorithm, parameters = FORMS[form]
    settings = {"algorithm": algorithm, "parameters": parameters, "trainers": trainers, "dropout": dropout}
    reports = [fedmq.simulate("xor", seed=seed, **settings).report for seed in seeds]
    rounds = [one.rounds for one in reports if one.solved] or [0]
    digest = hashlib.sha256("".join(str(one.model_sha256) for one in reports).encode()).hexdigest()
    return (
        f"{form}, {trainers} trainers: {sum(one.solved for one in reports)} of {len(reports)} solved, median "
        f"{statistics.median(rounds):g} rounds, most {max(rounds)}; models {digest[:16]}"
    )


def accuracy(data: str, form: str, split: str, rounds: int, seeds: range) -> str:
    """Return the accuracy on held-out rows after so many rounds, and the bytes of an answer."""
    algorithm, parameters = FORMS[form]
    settings = {"algorithm": algorithm, "parameters": parameters, "split": split, "rounds": rounds}
    reports = [fedmq.simulate(data, trainers=3, holdout=0.25, seed=seed, **settings).report for seed in seeds]
    found = [100.0 * one.held_out.accuracy for one in reports if one.held_out is not None and one.held_out.accuracy]
    up = statistics.mean(one.bytes_up / one.rounds / 3 for one in reports)
    return (
        f"{data}, {split}, {form}, {rounds} rounds: {statistics.mean(found):.2f} % ({min(found):.2f} to "
        f"{max(found):.2f}), {up:,.0f} bytes up a trainer and round"
    )


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description="Split XOR with many seeds.")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--algorithm", action="append", choices=FORMS, help="all of them, unless given")
    parser.add_argument("--trainers", type=int, nargs="+", default=[2])
    parser.add_argument("--dropout", type=float, default=0.0, help="share of the trainers that miss a round")
    parser.add_argument("--data", choices=("breast_cancer", "wine", "digits"), help="accuracy on it instead of XOR")
    parser.add_argument("--rounds", type=int, nargs="+", default=[20, 60], help="with --data")
    parser.add_argument("--splits", nargs="+", default=["iid", "sorted:target"], help="with --data")
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.seeds)
    if given.data:
        for split in given.splits:
            for rounds in given.rounds:
                for form in given.algorithm or list(FORMS)[:2]:
                    print(accuracy(given.data, form, split, rounds, seeds), flush=True)
        return
    for trainers in given.trainers:
        for form in given.algorithm or FORMS:
            print(solved(form, trainers, given.dropout, seeds), flush=True)


if __name__ == "__main__":
    main()

"""Measure split XOR: how many seeds each algorithm solves, in how many rounds, and one digest of all its models.

    python docs/measurements/split_xor.py [--seeds 50] [--first 0] [--algorithm evolution]

Neither of the two trainers can learn XOR from its own rows. A change that keeps the bits of an algorithm keeps the
digest.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics

import fedmq


def main() -> None:
    """Print a line for each algorithm."""
    parser = argparse.ArgumentParser(description="Split XOR with many seeds.")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--algorithm", action="append", help="evolution and es, unless given")
    given = parser.parse_args()
    for algorithm in given.algorithm or ["evolution", "es"]:
        seeds = range(given.first, given.first + given.seeds)
        reports = [fedmq.simulate("xor", algorithm=algorithm, seed=seed).report for seed in seeds]
        solved = [one.rounds for one in reports if one.solved] or [0]
        digest = hashlib.sha256("".join(str(one.model_sha256) for one in reports).encode()).hexdigest()
        print(
            f"{algorithm}: {sum(one.solved for one in reports)} of {len(reports)} solved, median "
            f"{statistics.median(solved):g} rounds, most {max(solved)}; models {digest[:16]}"
        )


if __name__ == "__main__":
    main()

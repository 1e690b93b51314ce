"""Benchmark: rounds with secure sums beside plain ones, in fedmq's simulation and in Flower's with SecAgg+.

Clients do nearly no work: of fedmq, a gradient over one row; of Flower, nothing. All members are in one process or on
one machine, so a round has the work of all. Flower's SecAgg+ runs by its legacy workflow, with honest but curious
servers in mind and floats that are rounded and clipped; it deals shares to all clients, or to 21.

Run it: `make bench-peers`, which installs Flower below build/peers. There is no target for Flower.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import fedmq

SIZES = ((10, 480), (100, 480), (10, 100_000))  # trainers, numbers of an answer
SHARES_MAX = 21  # that a client of Flower deals; 100 need minutes a round
ROUNDS = {"fedmq": 20, "Flower": 3}


def in_fedmq(trainers: int, length: int, rounds: int, *, secure: bool) -> float:
    """Return the seconds of a round: a sum of gradients, a loss and a count."""
    inputs = np.random.default_rng(1).normal(size=(trainers, length - 3))
    task = fedmq.Task(
        name="secure", model=fedmq.Linear(length - 3), loss="squared-error", metric="loss", target=0.0, rounds=rounds
    )
    began = time.monotonic()
    run = fedmq.simulate(
        task,
        (inputs, inputs[:, 0]),
        algorithm="averaging",
        parameters={"method": "fedsgd", "standardize": False, "learning_rate": 1e-9},
        trainers=trainers,
        secure=secure,
        seed=1,
        progress=False,
    )
    assert run.report.rounds == rounds
    return (time.monotonic() - began) / rounds


def in_flower(trainers: int, length: int, rounds: int, python: Path, *, secure: bool) -> float:
    """Return the same of Flower: the median of all rounds but the first."""
    script = Path(__file__).with_name("flower_secure_rounds.py")
    kind, shares = "secure" if secure else "plain", min(trainers, SHARES_MAX)
    sizes = (trainers, length, shares, rounds)
    done = subprocess.run([python, script, kind, *map(str, sizes)], stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["error"] < 1e-5
    return statistics.median(found["rounds_s"])


def main() -> int:
    """Measure both, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flower", type=Path, help="the Python of an environment with flwr[simulation]")
    chosen = parser.parse_args()
    print(f"{'members x numbers':<20}{'':<8}{'plain ms':>10}{'secure ms':>11}{'ratio':>7}")
    for trainers, length in SIZES:
        for name in ("fedmq", "Flower") if chosen.flower else ("fedmq",):
            plain, secure = (
                in_fedmq(trainers, length, ROUNDS[name], secure=secure)
                if name == "fedmq"
                else in_flower(trainers, length, ROUNDS[name], chosen.flower, secure=secure)
                for secure in (False, True)
            )
            size = f"{trainers} x {length:,}"
            print(f"{size:<20}{name:<8}{1e3 * plain:>10.1f}{1e3 * secure:>11.1f}{secure / plain:>6.1f}x", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

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
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

import fedmq

SIZES = ((10, 480), (100, 480), (10, 100_000))  # trainers, numbers of an answer
SHARES_MAX = 21  # that a client of Flower deals; 100 need minutes a round


class Round(NamedTuple):
    """The seconds of a round, and of the processor."""

    seconds: float
    cpu_s: float


def in_fedmq(trainers: int, length: int, rounds: int, *, secure: bool) -> Round:
    """Return the mean of all rounds: a sum of gradients, a loss and a count."""
    columns = length // 2 - 2  # two outputs, each with a weight for each column and one more
    inputs = np.random.default_rng(1).normal(size=(trainers, columns))
    task = fedmq.Task(
        name="secure", model=fedmq.MLP((columns, 2)), loss="cross-entropy", metric="accuracy", rounds=rounds
    )
    began, used = time.monotonic(), time.process_time()
    run = fedmq.simulate(
        task,
        (inputs, np.arange(trainers) % 2),
        algorithm="averaging",
        parameters={"method": "fedsgd", "standardize": False, "learning_rate": 1e-9},
        trainers=trainers,
        secure=secure,
        seed=1,
        progress=False,
    )
    assert run.report.rounds == rounds
    return Round((time.monotonic() - began) / rounds, (time.process_time() - used) / rounds)


def in_flower(trainers: int, length: int, rounds: int, python: Path, *, secure: bool) -> Round:
    """Return the median of all rounds but the first, and the processor time of a round with its share of the start.

    The processor time has all processes that ended before it: ray's own services may not be among them.
    """
    script = Path(__file__).with_name("flower_secure_rounds.py")
    kind, shares = "secure" if secure else "plain", min(trainers, SHARES_MAX)
    sizes = (trainers, length, shares, rounds)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([python, script, kind, *map(str, sizes)], stdout=subprocess.PIPE, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["error"] < 1e-5
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Round(statistics.median(found["rounds_s"]), used / rounds)


def main() -> int:
    """Measure both, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flower", type=Path, help="the Python of an environment with flwr[simulation]")
    chosen = parser.parse_args()
    print(f"{'members x numbers':<20}{'':<8}{'plain ms':>10}{'CPU':>9}{'secure ms':>11}{'CPU':>9}{'ratio':>7}")
    for trainers, length in SIZES:
        for name in ("fedmq", "Flower") if chosen.flower else ("fedmq",):
            rounds = max(3, 200 // trainers) if name == "fedmq" else 3
            plain, secure = (
                in_fedmq(trainers, length, rounds, secure=secure)
                if name == "fedmq"
                else in_flower(trainers, length, rounds, chosen.flower, secure=secure)
                for secure in (False, True)
            )
            figures = (plain.seconds, plain.cpu_s, secure.seconds, secure.cpu_s)
            shown = "".join(f"{1e3 * one:>{width}.1f}" for one, width in zip(figures, (10, 9, 11, 9), strict=True))
            size = f"{trainers} x {length:,}"
            print(f"{size:<20}{name:<8}{shown}{secure.seconds / plain.seconds:>6.1f}x", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

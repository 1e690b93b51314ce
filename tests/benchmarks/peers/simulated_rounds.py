"""Benchmark: the rounds of FLUTE's LR_MNIST in fedmq's simulation, and in Flower's in an environment of its own.

1,000 clients have 60 rows of 784 numbers each. A round asks ten of them for one local epoch of softmax regression with
batches of 10; there are 100 rounds (Dimitriadis et al. 2022, "FLUTE"). The rows are synthetic: this is about speed. The
accuracy is that on rows of no client.

Run it: `make bench-peers`, which installs Flower below build/peers. Both run one after the other on the same rows, so
that load on the machine affects both. Exit code 1 if fedmq's target is missed.

`--memory` runs 1,000 rounds with 1,000 trainers of a small task instead, and prints the resident memory after some of
them. Exit code 1 if it grows by more than a tenth after each trainer has answered, and from round 100 on.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: the products are too small for threads

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import fedmq
from fedmq.observe.events import AnyEvent, RoundClosed
from fedmq.simulation.scenario import scenario
from fedmq.simulation.simulate import run_scenario

CLIENTS, ROWS, FEATURES, CLASSES, SAMPLE, BATCH = 1000, 60, 784, 10, 10, 10
TEST_ROWS = 10_000
TARGET_S = 2.0
MEMORY_ROUNDS, MEMORY_AT, GROWTH_MAX = 1000, (100, 200, 500, 1000), 1.1


def rows() -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of all clients (clients, rows, features + 1) float32, the class last, and those of none."""
    draws = np.random.default_rng(1)
    weights = draws.standard_normal((FEATURES, CLASSES), dtype=np.float32)
    found = []
    for count in (CLIENTS * ROWS, TEST_ROWS):
        drawn = draws.standard_normal((count, FEATURES + 1), dtype=np.float32)
        drawn[:, -1] = (drawn[:, :-1] @ weights).argmax(axis=1)
        found.append(drawn)
    return found[0].reshape(CLIENTS, ROWS, FEATURES + 1), found[1]


def in_fedmq(found: np.ndarray, test: np.ndarray, rounds: int) -> dict[str, float]:
    """Return the seconds and the processor time of the whole simulation, and the accuracy."""
    every = found.reshape(-1, FEATURES + 1).astype(np.float64)
    inputs, targets = np.ascontiguousarray(every[:, :-1]), np.ascontiguousarray(every[:, -1])
    task = fedmq.Task(
        name="lr-mnist", model=fedmq.MLP((FEATURES, CLASSES)), loss="cross-entropy", metric="accuracy", rounds=rounds
    )
    began, used = time.monotonic(), time.process_time()
    run = fedmq.simulate(
        task,
        (inputs, targets),
        algorithm="averaging",
        parameters={"epochs": 1, "batch_size": BATCH, "learning_rate": 0.05, "standardize": False},
        trainers=CLIENTS,
        sample=SAMPLE,
        seed=1,
        progress=False,
    )
    seconds, cpu_s = time.monotonic() - began, time.process_time() - used
    assert run.report.rounds == rounds
    assert run.model is not None
    accuracy = float((run.model.predict(test[:, :-1]) == test[:, -1]).mean())
    return {"seconds": seconds, "cpu_s": cpu_s, "round_s": seconds / rounds, "accuracy": accuracy}


def in_flower(found: np.ndarray, test: np.ndarray, rounds: int, python: Path) -> dict[str, float]:
    """Return the same of Flower's simulation, with the start of ray, and the seconds of a round without it.

    The processor time has all processes that ended before it: ray's own services may not be among them.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "rows.npy", Path(folder) / "test.npy"
        for path, array in zip(paths, (found, test), strict=True):
            np.save(path, array)
        script = Path(__file__).with_name("flower_rounds.py")
        done = subprocess.run([python, script, *paths, str(rounds)], stdout=subprocess.PIPE, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {**measured, "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def memory(trainers: int, sample: int | None) -> int:
    """Run many rounds of a small task, print the resident memory (MB) after some, and return the exit code."""
    found = scenario("linear", algorithm="averaging", trainers=trainers)
    resident: dict[int, int] = {}

    def note(happened: Sequence[AnyEvent]) -> None:
        for event in happened:
            if isinstance(event, RoundClosed) and event.round in MEMORY_AT:
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                resident[event.round] = pages * resource.getpagesize() >> 20
                print(f"  round {event.round:>5}  {resident[event.round]:>5} MB", flush=True)

    asked = "all of them" if sample is None else f"{sample}"
    print(f"{trainers} trainers, {asked} a round")
    run_scenario(found, algorithm="averaging", rounds=MEMORY_ROUNDS, seed=1, limits={"sample": sample}, on_events=note)
    answered = 1 if sample is None else math.ceil(trainers / sample)
    settled = [found for number, found in resident.items() if number >= answered]
    return int(max(settled) > GROWTH_MAX * min(settled))


def main() -> int:
    """Measure both, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flower", type=Path, help="the Python of an environment with flwr[simulation]")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--memory", action="store_true", help="measure the memory of many rounds instead")
    parser.add_argument("--trainers", type=int, default=1000, help="with --memory")
    parser.add_argument("--sample", type=int, help="with --memory: trainers a round; all without it")
    chosen = parser.parse_args()
    if chosen.memory:
        return memory(chosen.trainers, chosen.sample)
    found, test = rows()
    measured = {"fedmq": in_fedmq(found, test, chosen.rounds)}
    if chosen.flower is not None:
        measured["Flower"] = in_flower(found, test, chosen.rounds, chosen.flower)
    print(f"{CLIENTS} clients, {SAMPLE} a round, {chosen.rounds} rounds")
    print(f"{'':<8} {'in all':>9} {'CPU':>9} {'a round':>10} {'accuracy':>9}")
    for name, one in measured.items():
        print(
            f"{name:<8} {one['seconds']:>7.2f} s {one['cpu_s']:>7.2f} s {1000 * one['round_s']:>7.1f} ms "
            f"{100 * one['accuracy']:>7.2f} %"
        )
    return int(measured["fedmq"]["seconds"] > TARGET_S)


if __name__ == "__main__":
    sys.exit(main())

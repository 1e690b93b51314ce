"""Benchmark: the rounds of FLUTE's LR_MNIST in fedmq's simulation, and in Flower's in an environment of its own.

1,000 clients have 60 rows of 784 numbers each. A round asks ten of them for one local epoch of softmax regression with
batches of 10; there are 100 rounds (Dimitriadis et al. 2022, "FLUTE"). The rows are synthetic: this is about speed.

Run it: `make bench-peers`, which installs Flower below build/peers. Both run one after the other on the same rows, so
that load on the machine affects both. Exit code 1 if fedmq's target is missed.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: the products are too small for threads

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import fedmq

CLIENTS, ROWS, FEATURES, CLASSES, SAMPLE, BATCH = 1000, 60, 784, 10, 10, 10
TARGET_S = 2.0


def rows() -> np.ndarray:
    """Return the rows of all clients (clients, rows, features + 1) float32; the class is last."""
    draws = np.random.default_rng(1)
    found = draws.standard_normal((CLIENTS, ROWS, FEATURES + 1), dtype=np.float32)
    weights = draws.standard_normal((FEATURES, CLASSES), dtype=np.float32)
    found[..., -1] = (found[..., :-1] @ weights).argmax(axis=2)
    return found


def in_fedmq(found: np.ndarray, rounds: int) -> dict[str, float]:
    """Return the seconds and the processor time of the whole simulation, and the accuracy on the rows trained on."""
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
    seconds = time.monotonic() - began
    assert run.report.rounds == rounds
    return {"seconds": seconds, "cpu_s": time.process_time() - used, "round_s": seconds / rounds}


def in_flower(found: np.ndarray, rounds: int, python: Path) -> dict[str, float]:
    """Return the seconds of Flower's simulation, with the start of ray, and of one round without it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        np.save(path, found)
        script = Path(__file__).with_name("flower_rounds.py")
        done = subprocess.run([python, script, path, str(rounds)], stdout=subprocess.PIPE, text=True, check=True)
    found_json: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found_json


def main() -> int:
    """Measure both, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flower", type=Path, help="the Python of an environment with flwr[simulation]")
    parser.add_argument("--rounds", type=int, default=100)
    chosen = parser.parse_args()
    found = rows()
    measured = {"fedmq": in_fedmq(found, chosen.rounds)}
    if chosen.flower is not None:
        measured["Flower"] = in_flower(found, chosen.rounds, chosen.flower)
    print(f"{CLIENTS} clients, {SAMPLE} a round, {chosen.rounds} rounds")
    for name, one in measured.items():
        cpu = f", {one['cpu_s']:.2f} s of processor time" if "cpu_s" in one else ""
        print(f"  {name:<8} {one['seconds']:8.2f} s in all{cpu}; {1000 * one['round_s']:8.1f} ms a round")
    return int(measured["fedmq"]["seconds"] > TARGET_S)


if __name__ == "__main__":
    sys.exit(main())

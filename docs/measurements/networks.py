"""Measure how networks learn from rows that differ between trainers: the strategies and learners of fedmq.

    pip install scikit-learn
    python docs/measurements/networks.py [--seeds 10] [--first 100] [--only fedavg] [--data digits]

Digits: a 64-16-10 network of 1,210 weights, ten trainers of two classes each. Diabetes: a 10-16-1 network, four
trainers, rows sorted by target; R². A quarter of the rows is held out, and a seed draws split, partition and first
weights. Inputs (and values) are standardized by the moments of the training rows. Each round encodes and decodes real
messages; bytes are those of arrays, up and down, for one trainer and round. CPU is that of all trainers and the
aggregator in one process. *pooled AdamW* has all rows in one place: 100 full-batch steps, learning rate 0.05, weight
decay 0.5. The figures in docs/explanation/how-it-learns.md are from here.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: the products are too small for threads

import argparse
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedmq import MLP, Task
from fedmq.aggregator.rounds import as_update
from fedmq.algorithms.base import encode_query
from fedmq.algorithms.registry import find_algorithm
from fedmq.models.backprop import mean_gradient
from fedmq.models.layers import initial_parameters
from fedmq.protocol.codec import Packet, decode, encode
from fedmq.protocol.messages import Result, Round
from fedmq.simulation.population import Population
from fedmq.tasks.task import Rows

ROUNDS = (20, 50, 100)
SETTINGS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "fedavg": ("averaging", {"l2": 0.005}),
    "scaffold": ("averaging", {"method": "scaffold", "l2": 0.005}),
    "fedsgd": (
        "averaging",
        {"method": "fedsgd", "server_optimizer": "adam", "server_learning_rate": 0.05, "l2": 0.005},
    ),
    "es": ("es", {}),
}
POOLED = "pooled AdamW"


@dataclass
class Case:
    """A task, the rows of each trainer, and the rows that are held out."""

    task: Task
    parts: dict[str, Rows]
    held_out: Rows


@dataclass
class Figures:
    """The score by round, and the cost of a run; bytes for one trainer and round."""

    score: dict[int, float] = field(default_factory=dict)
    up: int = 0
    down: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0


def digits(seed: int) -> Case:
    """Return handwritten digits, two classes for each of ten trainers."""
    from sklearn.datasets import load_digits

    inputs, targets = load_digits(return_X_y=True)
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(targets))
    held_out, used = np.split(order, [len(order) // 4])
    inputs = _standardized(inputs, used)
    shards = np.array_split(used[np.argsort(targets[used], kind="stable")], 20)
    drawn = generator.permutation(20)
    places = [np.concatenate([shards[drawn[2 * one]], shards[drawn[2 * one + 1]]]) for one in range(10)]
    task = Task(name="digits", model=MLP([64, 16, 10]), loss="cross-entropy", metric="accuracy", trainers=10)
    return _case(task, inputs, targets.astype(np.int64), places, held_out)


def diabetes(seed: int) -> Case:
    """Return diabetes progression, sorted by target over four trainers."""
    from sklearn.datasets import load_diabetes

    inputs, targets = load_diabetes(return_X_y=True, scaled=False)
    order = np.random.default_rng(seed).permutation(len(targets))
    held_out, used = np.split(order, [len(order) // 4])
    inputs, targets = _standardized(inputs, used), _standardized(targets[:, None], used)[:, 0]
    model = MLP([10, 16, 1], output="identity")
    task = Task(name="diabetes", model=model, loss="squared-error", metric="loss", trainers=4)
    return _case(task, inputs, targets, np.array_split(used[np.argsort(targets[used], kind="stable")], 4), held_out)


def federated(case: Case, algorithm: str, parameters: dict[str, Any], seed: int) -> Figures:
    """Return the figures of a run in which each trainer answers each round."""
    strategy, population = find_algorithm(algorithm, case.task, parameters), Population(case.parts)
    began, cpu, found, trained, number = time.monotonic(), time.process_time(), Figures(), 0, 0
    state = strategy.init(case.task, seed)
    while trained < ROUNDS[-1]:
        number += 1
        plan = strategy.ask(state)
        message = Round(
            run="run", term=1, round=number, seed=seed, deadline_s=1.0, task=case.task, query=encode_query(plan.query)
        )
        frames = encode("round", message, plan.arrays)
        packet = decode(frames)
        answers = [population.answer(name, packet, 0.0) for name in case.parts]
        for answer in answers:
            received: Packet = decode(answer)
            assert isinstance(received.message, Result), received.message
            update = as_update(received.message, received.arrays, number, additive=strategy.additive)
            state = strategy.tell(state, update)
        state = strategy.close(state, tuple(case.parts))
        if _is_survey(plan.query):
            continue
        trained += 1
        found.up, found.down = max(map(_payload, answers)), _payload(frames)
        if trained in ROUNDS:
            evaluation = strategy.evaluation(state)
            assert evaluation is not None
            found.score[trained] = score(case, evaluation.parameters)
    found.seconds, found.cpu_s = time.monotonic() - began, time.process_time() - cpu
    return found


def pooled(case: Case, seed: int) -> Figures:
    """Return the figures of AdamW on all rows in one place (Loshchilov and Hutter, 2019)."""
    began, cpu, found = time.monotonic(), time.process_time(), Figures()
    inputs = np.concatenate([rows.inputs for rows in case.parts.values()])
    targets = np.concatenate([rows.targets for rows in case.parts.values()])
    model = case.task.model
    assert isinstance(model, MLP)
    weights = initial_parameters(model, seed, "pooled")
    mean, square, rate = np.zeros_like(weights), np.zeros_like(weights), 0.05
    for step in range(1, ROUNDS[-1] + 1):
        gradient = mean_gradient(model, weights, inputs, targets)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        weights = weights * (1.0 - rate * 0.5)
        weights = weights - rate * (mean / (1.0 - 0.9**step)) / (np.sqrt(square / (1.0 - 0.999**step)) + 1e-8)
        if step in ROUNDS:
            found.score[step] = score(case, weights)
    found.seconds, found.cpu_s = time.monotonic() - began, time.process_time() - cpu
    return found


def score(case: Case, parameters: np.ndarray) -> float:
    """Return the accuracy on held-out rows, or R²."""
    predicted, targets = case.task.trained(parameters).predict(case.held_out.inputs), case.held_out.targets
    if case.task.metric == "accuracy":
        return float((predicted == targets).mean())
    return float(1.0 - np.square(predicted - targets).sum() / np.square(targets - targets.mean()).sum())


def _is_survey(query: Any) -> bool:
    return str(type(query).__struct_config__.tag) in ("spread", "moments", "histograms")


def _payload(frames: Any) -> int:
    """Return the bytes of the arrays: the frames after topic, header and signature."""
    return sum(map(len, frames[3:]))


def _standardized(values: np.ndarray, used: np.ndarray) -> np.ndarray:
    deviation = values[used].std(axis=0)
    scaled: np.ndarray = (values - values[used].mean(axis=0)) / np.where(deviation > 0.0, deviation, 1.0)
    return scaled


def _case(task: Task, inputs: np.ndarray, targets: np.ndarray, places: list[np.ndarray], held_out: np.ndarray) -> Case:
    parts = {f"trainer-{index}": Rows(inputs[one], targets[one]) for index, one in enumerate(places, 1)}
    return Case(task, parts, Rows(inputs[held_out], targets[held_out]))


def _mean_and_deviation(scores: list[float]) -> str:
    return f"{100 * np.mean(scores):9.2f} ±{100 * np.std(scores):4.2f}"


def main() -> None:
    """Print a line for each data set and setting."""
    parser = argparse.ArgumentParser(description="Accuracy, bytes and time of networks, by algorithm.")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=100, help="the first seed")
    parser.add_argument("--only", action="append", help="a setting; may be repeated")
    parser.add_argument("--data", choices=("digits", "diabetes"), action="append")
    given = parser.parse_args()
    try:
        import sklearn  # noqa: F401
    except ImportError:
        sys.exit("expected scikit-learn, for its data: pip install scikit-learn")
    rounds = "".join(f"{'round ' + str(one):>15}" for one in ROUNDS)
    print(f"{'data':<9} {'setting':<13}{rounds}   lowest   B up  B down    s  ms CPU a round")
    for data in given.data or ("digits", "diabetes"):
        for setting in given.only or (*SETTINGS, POOLED):
            found = []
            for seed in range(given.first, given.first + given.seeds):
                case = digits(seed) if data == "digits" else diabetes(seed)
                found.append(pooled(case, seed) if setting == POOLED else federated(case, *SETTINGS[setting], seed))
            last = [one.score[ROUNDS[-1]] for one in found]
            scores = "".join(_mean_and_deviation([one.score[at] for one in found]) for at in ROUNDS)
            cost = f"{found[0].up:6d} {found[0].down:7d} {np.mean([one.seconds for one in found]):4.1f}"
            cpu = 1000 * np.mean([one.cpu_s for one in found]) / ROUNDS[-1]
            print(f"{data:<9} {setting:<13}{scores} {100 * min(last):8.2f} {cost} {cpu:7.1f}", flush=True)


if __name__ == "__main__":
    main()

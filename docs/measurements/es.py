"""Measure `es` on networks: digits that no trainer has all classes of, tables of any scale, and the logic tasks.

    pip install scikit-learn
    python docs/measurements/es.py [--seeds 10] [--first 100] [--only digits]

Blocks: `digits`, `tables`, `logic`. A seed draws the split, the partition, the first weights and everything else. A
quarter of the rows is held out, and accuracies (of values: R2) are on it. Columns are as scikit-learn ships them: no
line sets a scale. Bytes are those of the arrays in a message, at most in a round and for one trainer. CPU time is that
of all trainers and the aggregator, for each round. Each figure is the mean over the seeds, then the lowest.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: the products are too small for threads

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fedmq import MLP, Task
from fedmq.algorithms.base import Plan, Update
from fedmq.algorithms.es.query import Slopes
from fedmq.algorithms.registry import find_algorithm
from fedmq.algorithms.trial import answer
from fedmq.models.trained_model import TrainedModel
from fedmq.protocol.codec import pack
from fedmq.simulation.partition import partition
from fedmq.tasks.row_views import RowViews
from fedmq.tasks.task import Rows
from fedmq.tasks.task_file import find_task, task_rows

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
MARKS = (20, 50, 100)
NOISE = 1000.0  # of a trainer that sends garbage, as a multiple of an honest trainer's largest slope


class Data(NamedTuple):
    """A data set; `classes` is 0 for values."""

    inputs: Floats
    targets: Floats
    classes: int


class Behavior(NamedTuple):
    """What trainers do: how many answers are missing or late, whether one sends garbage."""

    missing: float = 0.0
    late: tuple[float, ...] = (1.0,)  # shares of answers that are 0, 1, 2 ... rounds late
    garbage: bool = False


AS_PLANNED = Behavior()


class Figures(NamedTuple):
    """What a run came to: the score by round, the best one, bytes a round, CPU milliseconds a round."""

    scores: Mapping[int, float]
    best: float
    up: int
    down: int
    cpu_ms: float


def split(data: Data, seed: int) -> tuple[Ints, Ints]:
    """Return the rows held out, and those to train on."""
    order = np.random.default_rng(seed).permutation(len(data.targets))
    held_out, used = np.split(order, [len(order) // 4])
    return held_out, used


def score(model: TrainedModel, data: Data, places: Ints) -> float:
    """Return the accuracy, or R2."""
    found, true = model.predict(data.inputs[places]), data.targets[places]
    if data.classes:
        return float((found == true).mean())
    return float(1.0 - np.square(found - true).sum() / np.square(true - true.mean()).sum())


def task_of(data: Data) -> Task:
    """Return the task: a network with 16 hidden units."""
    if data.classes:
        model = MLP([data.inputs.shape[1], 16, data.classes])
        return Task(name="data", model=model, loss="cross-entropy", metric="accuracy")
    model = MLP([data.inputs.shape[1], 16, 1], output="identity")
    return Task(name="data", model=model, loss="squared-error", metric="loss")


def run(
    data: Data,
    parts: Sequence[Ints],
    seed: int,
    rounds: int,
    parameters: Mapping[str, Any],
    behavior: Behavior = AS_PLANNED,
) -> Figures:
    """Train over trainers in this process, round by round, and score the model that would be deployed."""
    held_out, _ = split(data, seed)
    task, chance = task_of(data), np.random.default_rng([seed, 1])
    strategy = find_algorithm("es", task, parameters)
    names = [f"trainer-{place:02}" for place in range(len(parts))]
    views = [RowViews(task, Rows(data.inputs[part], data.targets[part])) for part in parts]
    state, waiting, scores = strategy.init(task, seed), list[tuple[int, Update]](), dict[int, float]()
    number = trained = up = down = 0
    began = time.process_time()
    while trained < rounds:
        number += 1
        plan = strategy.ask(state)
        if training := isinstance(plan.query, Slopes):
            down, trained = down + bytes_of(plan.delta or plan.arrays), trained + 1
        for name, view in zip(names, views, strict=True):
            if chance.random() < behavior.missing:
                continue
            update = spoilt(answer(plan, task, view, number, seed, name), plan, behavior, name == names[0], chance)
            if training:
                up = max(up, bytes_of(update.arrays))
            due = number + (int(chance.choice(len(behavior.late), p=behavior.late)) if training else 0)
            waiting.append((due, update))
        for due, update in waiting:
            if due == number:
                state = strategy.tell(state, replace(update, staleness=number - update.round))
        waiting = [one for one in waiting if one[0] > number]
        state = strategy.close(state, names)
        evaluation = strategy.evaluation(state)
        if training and evaluation is not None:
            scores[trained] = score(task.trained(evaluation.parameters), data, held_out)
    spent = time.process_time() - began
    return Figures(scores, max(scores.values()), up, down // rounds, 1e3 * spent / rounds)


def spoilt(update: Update, plan: Plan, behavior: Behavior, first: bool, chance: np.random.Generator) -> Update:
    """Return the update of a trainer that sends noise, as large as the query allows, if it is that one."""
    if not (behavior.garbage and first and isinstance(plan.query, Slopes)):
        return update
    slopes = update.arrays["slopes"]
    most = update.num_examples << (plan.query.fraction_bits + plan.query.pair_bits)
    noise = np.clip(chance.normal(0.0, NOISE * max(1, np.abs(slopes).max()), slopes.shape), -most, most)
    return replace(update, arrays={**update.arrays, "slopes": noise.astype(np.int64)})


def bytes_of(arrays: Mapping[str, npt.NDArray[Any]]) -> int:
    """Return the bytes of the arrays in a message."""
    return sum(map(len, pack(arrays).blobs))


def pooled(data: Data, used: Ints, seed: int, steps: int) -> Mapping[int, float]:
    """Return the scores of a 16-unit network that AdamW trains on all rows, a step for each round: no federation."""
    held_out, _ = split(data, seed)
    rows, task = data.inputs[used], task_of(data)
    deviation = rows.std(axis=0)
    center, scale = rows.mean(axis=0), np.where(deviation > 0.0, deviation, 1.0)
    standard, inside = (rows - center) / scale, (data.inputs[held_out] - center) / scale
    wanted = np.eye(data.classes)[data.targets[used].astype(int)]
    model = task.model
    assert isinstance(model, MLP)
    draws, (inputs, hidden, classes) = np.random.default_rng([seed, 2]), model.sizes
    first, last = slice(0, inputs * hidden), slice((inputs + 1) * hidden, (inputs + 1) * hidden + hidden * classes)
    weights = np.zeros(model.num_parameters)
    weights[first] = draws.normal(0.0, np.sqrt(2.0 / inputs), inputs * hidden)
    weights[last] = draws.normal(0.0, np.sqrt(1.0 / hidden), hidden * classes)
    mean, square, scores = np.zeros_like(weights), np.zeros_like(weights), dict[int, float]()
    for step in range(1, steps + 1):
        upper, lower = weights[first].reshape(inputs, hidden), weights[last].reshape(hidden, classes)
        units = np.maximum(standard @ upper + weights[first.stop : last.start], 0.0)
        outputs = units @ lower + weights[last.stop :]
        shares = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        errors = (shares / shares.sum(axis=1, keepdims=True) - wanted) / len(rows)
        back = (errors @ lower.T) * (units > 0.0)
        gradient = np.concatenate(
            [(standard.T @ back).ravel(), back.sum(axis=0), (units.T @ errors).ravel(), errors.sum(axis=0)]
        )
        mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
        weights = weights * (1.0 - 0.05 * 0.5)
        weights -= 0.05 * (mean / (1.0 - 0.9**step)) / (np.sqrt(square / (1.0 - 0.99**step)) + 1e-8)
        outputs = model.forward(weights[None], inside)[0]
        scores[step] = float((outputs.argmax(axis=1) == data.targets[held_out]).mean())
    return scores


def print_line(title: str, found: Sequence[Mapping[int, float]], rest: str = "") -> None:
    """Print the mean and the lowest score at each mark."""
    columns = []
    for mark in MARKS:
        values = [one[mark] for one in found if mark in one]
        columns.append(f"{100 * np.mean(values):6.2f} {100 * min(values):6.2f}" if values else " " * 13)
    print(f"{title:<44} {'  '.join(columns)}  {rest}", flush=True)


def print_runs(title: str, seeds: Sequence[int], go: Callable[[int], Figures]) -> None:
    """Run each seed and print a line."""
    began = time.monotonic()
    found = [go(seed) for seed in seeds]
    best = [one.best for one in found]
    rest = f"{100 * np.mean(best):6.2f}  {max(one.up for one in found):6d} {max(one.down for one in found):7d}"
    cpu, wall = np.mean([one.cpu_ms for one in found]), (time.monotonic() - began) / len(seeds)
    print_line(title, [one.scores for one in found], f"{rest} {cpu:6.0f} {wall:6.1f}")


def digits(seeds: Sequence[int]) -> None:
    """Ten trainers with two shards of the rows sorted by digit: about two classes each; 64-16-10, 1,210 weights."""
    from sklearn.datasets import load_digits

    inputs, targets = load_digits(return_X_y=True)
    data = Data(inputs, targets.astype(np.float64), 10)

    def parts(seed: int, spec: str = "shards:2", trainers: int = 10) -> list[Ints]:
        _, used = split(data, seed)
        return [used[one] for one in partition(spec, len(used), trainers, seed, data.targets[used])]

    print_line("digits: pooled AdamW, no federation", [pooled(data, split(data, seed)[1], seed, 100) for seed in seeds])
    lines: tuple[tuple[str, Mapping[str, Any], Behavior], ...] = (
        ("digits: es", {}, AS_PLANNED),
        ("digits: es, 120 pairs", {"pairs": 120}, AS_PLANNED),
        ("digits: es, 30 % missing", {}, Behavior(missing=0.3)),
        ("digits: es, half late by 1 or 2 rounds", {}, Behavior(late=(0.5, 0.25, 0.25))),
        ("digits: es rule=clip, one sends garbage", {"rule": "clip"}, Behavior(garbage=True)),
    )
    for title, parameters, behavior in lines:
        print_runs(
            title,
            seeds,
            lambda seed, parameters=parameters, behavior=behavior: run(  # type: ignore[misc]
                data, parts(seed), seed, 100, parameters, behavior
            ),
        )
    print_runs(
        "digits: es, Dirichlet(0.3)", seeds[:2], lambda seed: run(data, parts(seed, "dirichlet:0.3"), seed, 100, {})
    )


def tables(seeds: Sequence[int]) -> None:
    """Raw columns, the rows sorted by target over a few trainers; moons by a Dirichlet distribution."""
    from sklearn import datasets

    found: list[tuple[str, Callable[[int], Data], str, int]] = [
        (name, lambda _seed, load=load, classes=classes: Data(*load(), classes), "sorted:target", trainers)  # type: ignore[misc]
        for name, load, classes, trainers in (
            ("breast_cancer", lambda: datasets.load_breast_cancer(return_X_y=True), 2, 5),
            ("wine", lambda: datasets.load_wine(return_X_y=True), 3, 3),
            ("iris", lambda: datasets.load_iris(return_X_y=True), 3, 3),
            ("diabetes (R2)", lambda: datasets.load_diabetes(return_X_y=True, scaled=False), 0, 4),
        )
    ]
    moons = (
        "moons",
        lambda seed: Data(*datasets.make_moons(1000, noise=0.15, random_state=seed), 2),
        "dirichlet:0.3",
        4,
    )
    for name, load, spec, trainers in (*found, moons):

        def go(seed: int, load: Callable[[int], Data] = load, spec: str = spec, trainers: int = trainers) -> Figures:
            data = load(seed)
            _, used = split(data, seed)
            parts = [used[one] for one in partition(spec, len(used), trainers, seed, data.targets[used])]
            return run(data, parts, seed, 100, {})

        print_runs(f"{name}: es, {trainers} trainers", seeds, go)


def logic(seeds: Sequence[int]) -> None:
    """Split XOR over two trainers, and parity of four bits over four: rounds until each row is right."""
    for name, runs in (("xor", 5 * len(seeds)), ("parity4", 10 * len(seeds))):
        task = find_task(name)
        needed = [rounds_needed(task, seeds[0] + place) for place in range(runs)]
        solved = [one for one in needed if one is not None]
        print(f"{name}: es solved {len(solved)} of {runs}, median {np.median(solved):.0f} rounds, most {max(solved)}")


def rounds_needed(task: Task, seed: int) -> int | None:
    """Return the round that reached the task's target, those of the survey among them."""
    strategy = find_algorithm("es", task)
    views = [RowViews(task, task_rows(task.name, part, task.trainers)) for part in range(1, task.trainers + 1)]
    names = [f"trainer-{place}" for place in range(task.trainers)]
    state = strategy.init(task, seed)
    for number in range(1, task.rounds + 1):
        plan = strategy.ask(state)
        for name, view in zip(names, views, strict=True):
            state = strategy.tell(state, answer(plan, task, view, number, seed, name))
        state = strategy.close(state, names)
        found = strategy.evaluation(state)
        if found is not None and found.coverage == 1.0 and task.reached(found.loss, found.correct, found.rows):
            return number
    return None


BLOCKS: Mapping[str, Callable[[Sequence[int]], None]] = {"digits": digits, "tables": tables, "logic": logic}


def main() -> None:
    """Print the blocks."""
    parser = argparse.ArgumentParser(description="es on digits, tables and logic tasks.")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--only", choices=BLOCKS)
    given = parser.parse_args()
    try:
        import sklearn  # noqa: F401
    except ImportError:
        sys.exit("expected scikit-learn, for its data sets: pip install scikit-learn")
    marks = "  ".join(f"{f'round {mark}':>13}" for mark in MARKS)
    print(f"{'mean and lowest, in percent':<44} {marks}  {'best':>6}  {'B up':>6} {'B down':>7} {'ms CPU':>6} {'s':>6}")
    for name, block in BLOCKS.items():
        if given.only in (None, name):
            block(range(given.first, given.first + given.seeds))


if __name__ == "__main__":
    main()

"""Measure how networks learn from rows that differ between trainers: the strategies and learners of fedmq.

    pip install scikit-learn
    python docs/measurements/networks.py [--seeds 10] [--first 100] [--processes 2] [--only digits]

Blocks, each with the lines of one table:

    digits  a 64-16-10 network of 1,210 weights; ten trainers, each with two shards of the rows sorted by digit
    splits  digits over other splits: how many models (SHA-256 of the file) there are for a seed
    tables  tables with one hidden layer of 16, columns in their own units, rows sorted by target; R² for values
    logic   split XOR and parity of four bits: rounds until each row is right

A quarter of the rows is held out, and scores are on it, in percent: the mean over the seeds and the lowest. A seed
draws the split, the partition, the first weights and everything else. *best* is the best round of each seed: it has
seen the held-out rows, so it says when a run should have ended, not how good it is. Each round encodes and decodes
real messages; bytes are those of arrays in the mean of the rounds of training, up from the trainer that sends most,
down to a trainer that has answered the round before. CPU is that of a round, all trainers and the aggregator in one
process; seconds are those of a run, beside whatever else the machine does. *pooled AdamW* has all rows in one place:
100 full-batch steps, learning rate 0.05, weight decay 0.5. The figures of docs/explanation/how-it-learns.md are from
here.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: the products are too small for threads

import argparse
import hashlib
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fedmq import MLP, Task
from fedmq.aggregator.rounds import as_update
from fedmq.algorithms.base import Plan, Update, encode_query
from fedmq.algorithms.es.query import Slopes
from fedmq.algorithms.registry import find_algorithm
from fedmq.models.backprop import mean_gradient
from fedmq.models.layers import initial_parameters
from fedmq.models.trained_model import TrainedModel
from fedmq.protocol.codec import Frames, Packet, decode, encode
from fedmq.protocol.messages import Result, Round
from fedmq.simulation.partition import partition
from fedmq.simulation.population import Population
from fedmq.tables.table import Table
from fedmq.tasks.table_task import parse_task_file, task_of
from fedmq.tasks.task import Rows
from fedmq.tasks.task_file import find_task, task_rows

Ints = npt.NDArray[np.int64]
MARKS = (20, 30, 50, 100)
SURVEY = ("spread", "moments", "histograms")
NOISE = 1000.0  # of a trainer that sends garbage, as a multiple of an honest trainer's largest slope
POOLED = "pooled"


class DataSet(NamedTuple):
    """How rows are drawn and split; `classes` is 0 for values. A table has columns with names."""

    classes: int
    trainers: int
    split: str
    is_table: bool = True


DATA: Mapping[str, DataSet] = {
    "digits": DataSet(10, 10, "shards:2", is_table=False),
    "breast_cancer": DataSet(2, 5, "sorted:target"),
    "wine": DataSet(3, 3, "sorted:target"),
    "iris": DataSet(3, 3, "sorted:target"),
    "diabetes": DataSet(0, 4, "sorted:target"),
    "moons": DataSet(2, 4, "dirichlet:0.3"),
}


class Line(NamedTuple):
    """A line of a table: what trains on which data, and what trainers do."""

    title: str
    data: str
    algorithm: str
    parameters: Mapping[str, Any] = {}
    split: str = ""  # "": that of the data
    missing: float = 0.0  # share of answers that never come
    late: tuple[float, ...] = (1.0,)  # shares of answers that are 0, 1, 2 ... rounds late
    garbage: bool = False  # one trainer sends noise as large as the query allows


L2 = {"l2": 0.005}
SGD = {"method": "fedsgd", "server_optimizer": "adam", "server_learning_rate": 0.05, **L2}
BLOCKS: Mapping[str, tuple[Line, ...]] = {
    "digits": (
        Line("pooled AdamW", "digits", POOLED),
        Line("es", "digits", "es"),
        Line("es, 120 pairs", "digits", "es", {"pairs": 120}),
        Line("es, 30 % missing", "digits", "es", missing=0.3),
        Line("es, half late by 1 or 2 rounds", "digits", "es", late=(0.5, 0.25, 0.25)),
        Line("es rule=clip, one sends garbage", "digits", "es", {"rule": "clip"}, garbage=True),
        Line("scaffold l2=0.005", "digits", "averaging", {"method": "scaffold", **L2}),
        Line("fedavg l2=0.005", "digits", "averaging", L2),
        Line("fedsgd, Adam 0.05, l2=0.005", "digits", "averaging", SGD),
    ),
    "splits": tuple(
        Line(title, "digits", algorithm, parameters, split)
        for title, algorithm, parameters in (("es", "es", {}), ("fedsgd, Adam 0.05, l2=0.005", "averaging", SGD))
        for split in ("shards:2", "dirichlet:0.3", "iid")
    ),
    "tables": (
        *(
            Line(f"{data}: {title}", data, algorithm)
            for data in ("breast_cancer", "wine")
            for title, algorithm in (("es", "es"), ("evolution", "evolution"))
        ),
        Line("iris: es", "iris", "es"),
        Line("moons: es", "moons", "es"),
        Line("diabetes (R²): es", "diabetes", "es"),
        Line("diabetes (R²): fedavg l2=0.005", "diabetes", "averaging", L2),
        Line("diabetes (R²): scaffold l2=0.005", "diabetes", "averaging", {"method": "scaffold", **L2}),
        Line("diabetes (R²): fedsgd, Adam, l2=0.005", "diabetes", "averaging", SGD),
    ),
}


@dataclass
class Case:
    """A task, the rows of each trainer, and the rows that are held out, with what is to be predicted."""

    task: Task
    parts: dict[str, Rows | Table]
    held_out: Any
    targets: npt.NDArray[Any]

    def score(self, model: TrainedModel) -> float:
        """Return the accuracy, or R²."""
        found = model.predict(self.held_out)
        if self.task.metric == "accuracy":
            return float((found == self.targets).mean())
        return float(1.0 - np.square(found - self.targets).sum() / np.square(self.targets - self.targets.mean()).sum())


@dataclass
class Figures:
    """The score by round, and the cost of a run; bytes for one trainer and round, CPU milliseconds for a round."""

    scores: dict[int, float] = field(default_factory=dict)
    up: int = 0
    down: int = 0
    cpu_ms: float = 0.0
    seconds: float = 0.0
    sha256: str = ""  # of the last model


def case_of(line: Line, seed: int) -> Case:
    """Return the rows of a line, split as the seed says."""
    from sklearn import datasets

    about = DATA[line.data]
    if line.data == "moons":
        inputs, targets = datasets.make_moons(1000, noise=0.15, random_state=seed)
    else:
        options = {"scaled": False} if line.data == "diabetes" else {}
        inputs, targets = getattr(datasets, f"load_{line.data}")(return_X_y=True, **options)
    held_out, used = np.split(np.random.default_rng(seed).permutation(len(targets)), [len(targets) // 4])
    places = [used[one] for one in partition(line.split or about.split, len(used), about.trainers, seed, targets[used])]
    names = [f"trainer-{place:02}" for place in range(len(places))]
    if about.is_table:
        labels = np.array([f"class {one}" for one in range(about.classes)], object)
        values = labels[targets] if about.classes else targets.astype(np.float64)
        parts = {name: table(inputs[one], values[one]) for name, one in zip(names, places, strict=True)}
        task = task_of(parse_task_file(task_file(inputs.shape[1], labels.tolist())), line.algorithm)
        return Case(task, dict(parts), table(inputs[held_out], values[held_out]), values[held_out])
    task = Task(name="data", model=MLP([inputs.shape[1], 16, 10]), loss="cross-entropy", metric="accuracy")
    rows = {name: Rows(inputs[one], targets[one].astype(np.float64)) for name, one in zip(names, places, strict=True)}
    return Case(task, dict(rows), inputs[held_out], targets[held_out])


def task_file(columns: int, labels: Sequence[str]) -> str:
    """Return the task file of a table of numbers; without labels, the target is a number."""
    target = f'kind = "class"\nclasses = {list(labels)}' if labels else 'kind = "number"'
    listed = "\n".join(f'c{place} = {{ kind = "number" }}' for place in range(columns))
    return (
        f'name = "data"\nholdout = 0.0\n[model]\nkind = "network"\nhidden = [16]\n'
        f'[target]\nname = "target"\n{target}\n[columns]\n{listed}\n'
    )


def table(inputs: npt.NDArray[Any], values: npt.NDArray[Any]) -> Table:
    """Return rows as a trainer reads them from a file."""
    columns = {f"c{place}": column for place, column in enumerate(inputs.T.astype(np.float64))}
    return Table("rows", (*columns, "target"), {**columns, "target": values}, len(values), np.arange(len(values)))


def measured(line: Line, seed: int, marks: Sequence[int] = (), rounds: int = MARKS[-1]) -> Figures:
    """Return the figures of a run, at each round; with `marks`, only at those."""
    case = case_of(line, seed)
    began, cpu = time.monotonic(), time.process_time()
    found = pooled(case, seed, rounds) if line.algorithm == POOLED else federated(case, line, seed, rounds, marks)
    found.cpu_ms = 1e3 * (time.process_time() - cpu) / rounds
    found.seconds = time.monotonic() - began
    return found


def federated(case: Case, line: Line, seed: int, rounds: int, marks: Sequence[int]) -> Figures:
    """Train over trainers in this process, round by round, and score the model that would be deployed."""
    strategy, population = find_algorithm(line.algorithm, case.task, line.parameters), Population(case.parts)
    chance, found, waiting = np.random.default_rng([seed, 1]), Figures(), list[tuple[int, Packet]]()
    state, number, trained, up, down = strategy.init(case.task, seed), 0, 0, 0, 0
    first = next(iter(case.parts))
    while trained < rounds:
        number += 1
        plan = strategy.ask(state)
        frames = _published(plan, case.task, seed, number)
        packet, training, most = decode(frames), plan.query.kind not in SURVEY, 0
        for name in case.parts:
            if chance.random() < line.missing:
                continue
            answer = population.answer(name, packet, 0.0)
            most = max(most, _payload(answer))
            due = number + (int(chance.choice(len(line.late), p=line.late)) if training else 0)
            waiting.append((due, decode(answer)))
        for due, received in waiting:
            if due == number:
                update = _received(received, number, additive=strategy.additive)
                if line.garbage and update.trainer == first and isinstance(plan.query, Slopes):
                    update = _noise(update, plan.query, chance)
                state = strategy.tell(state, update)
        waiting = [one for one in waiting if one[0] > number]
        state = strategy.close(state, tuple(case.parts))
        if not training:
            continue
        trained, up = trained + 1, up + most
        down += _payload(_published(replace(plan, arrays=plan.delta or plan.arrays), case.task, seed, number))
        evaluation = strategy.evaluation(state)
        if evaluation is not None and (trained in marks or not marks):
            model = case.task.trained(evaluation.parameters, evaluation.preparation)
            found.scores[trained] = case.score(model)
            found.sha256 = hashlib.sha256(model.to_bytes()).hexdigest()
    found.up, found.down = up // rounds, down // rounds
    return found


def pooled(case: Case, seed: int, steps: int) -> Figures:
    """Return the figures of AdamW on all rows in one place (Loshchilov and Hutter, 2019)."""
    found, model = Figures(), case.task.model
    assert isinstance(model, MLP)
    inputs = np.concatenate([rows.inputs for rows in case.parts.values() if isinstance(rows, Rows)])
    targets = np.concatenate([rows.targets for rows in case.parts.values() if isinstance(rows, Rows)]).astype(np.int64)
    deviation, shift = inputs.std(axis=0), inputs.mean(axis=0)
    scale = np.where(deviation > 0.0, deviation, 1.0)
    inputs, inside = (inputs - shift) / scale, replace(case, held_out=(case.held_out - shift) / scale)
    weights = initial_parameters(model, seed, "pooled")
    mean, square, rate = np.zeros_like(weights), np.zeros_like(weights), 0.05
    for step in range(1, steps + 1):
        gradient = mean_gradient(model, weights, inputs, targets)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        weights = weights * (1.0 - rate * 0.5)
        weights = weights - rate * (mean / (1.0 - 0.9**step)) / (np.sqrt(square / (1.0 - 0.999**step)) + 1e-8)
        found.scores[step] = inside.score(case.task.trained(weights))
    return found


def _noise(update: Update, query: Slopes, chance: np.random.Generator) -> Update:
    slopes = update.arrays["slopes"]
    most = update.num_examples << (query.fraction_bits + query.pair_bits)
    noise = np.clip(chance.normal(0.0, NOISE * max(1, np.abs(slopes).max()), slopes.shape), -most, most)
    return replace(update, arrays={**update.arrays, "slopes": noise.astype(np.int64)})


def _published(plan: Plan, task: Task, seed: int, number: int) -> Frames:
    query = encode_query(plan.query)
    message = Round(run="run", term=1, round=number, seed=seed, deadline_s=1.0, task=task, query=query)
    return encode("round", message, plan.arrays)


def _received(packet: Packet, number: int, *, additive: bool) -> Update:
    assert isinstance(packet.message, Result), packet.message
    return as_update(packet.message, packet.arrays, number, additive=additive)


def _payload(frames: Frames) -> int:
    """Return the bytes of the arrays: the frames after topic, header and signature."""
    return sum(map(len, frames[3:]))


def rounds_needed(name: str, seed: int) -> int | None:
    """Return the round in which `es` reached the task's target, those of the survey among them."""
    task = find_task(name)
    parts = {f"trainer-{part}": task_rows(name, part, task.trainers) for part in range(1, task.trainers + 1)}
    strategy, population = find_algorithm("es", task), Population(parts)
    state = strategy.init(task, seed)
    for number in range(1, task.rounds + 1):
        plan = strategy.ask(state)
        packet = decode(_published(plan, task, seed, number))
        for trainer in parts:
            answer = decode(population.answer(trainer, packet, 0.0))
            state = strategy.tell(state, _received(answer, number, additive=strategy.additive))
        state = strategy.close(state, tuple(parts))
        best = strategy.evaluation(state)
        if best is not None and best.coverage == 1.0 and task.reached(best.loss, best.correct, best.rows):
            return number
    return None


def print_line(line: Line, found: Sequence[Figures]) -> None:
    """Print the mean and the lowest score at each mark, then the costs."""
    columns = []
    for mark in MARKS:
        values = [100 * one.scores[mark] for one in found]
        columns.append(f"{np.mean(values):6.2f} {min(values):6.2f}")
    best = 100 * np.mean([max(one.scores.values()) for one in found])
    cost = f"{max(one.up for one in found):7d} {max(one.down for one in found):7d}"
    times = f"{np.mean([one.cpu_ms for one in found]):6.0f} {np.mean([one.seconds for one in found]):6.1f}"
    print(f"{line.title:<38} {'  '.join(columns)}  {best:6.2f} {cost} {times}", flush=True)


def print_splits(lines: Sequence[Line], seeds: Sequence[int], pool: ProcessPoolExecutor) -> None:
    """Print for each algorithm whether all splits have the same model."""
    hashes: dict[str, list[list[str]]] = {}
    for line in lines:
        found = pool.map(partial(measured, line, marks=(30,), rounds=30), seeds)
        hashes.setdefault(line.title, []).append([one.sha256 for one in found])
    for title, by_split in hashes.items():
        models = [len(set(of_seed)) for of_seed in zip(*by_split, strict=True)]
        splits = ", ".join(line.split for line in lines if line.title == title)
        print(f"{title}, 30 rounds over {splits}: {max(models)} model for each of {len(models)} seeds", flush=True)


def print_logic(seeds: Sequence[int], pool: ProcessPoolExecutor) -> None:
    """Print how many of the logic tasks are solved."""
    for name, times in (("xor", 5), ("parity4", 10)):
        every = range(seeds[0], seeds[0] + times * len(seeds))
        needed = list(pool.map(partial(rounds_needed, name), every))
        solved = [one for one in needed if one is not None]
        rounds = f"median {np.median(solved):.0f} rounds, most {max(solved)}" if solved else ""
        print(f"{name}: es solved {len(solved)} of {len(needed)}, {rounds}", flush=True)


def main() -> None:
    """Print the blocks."""
    names = (*BLOCKS, "logic")
    parser = argparse.ArgumentParser(description="Score, bytes and time of networks, by algorithm.")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=100, help="the first seed")
    parser.add_argument("--processes", type=int, default=2, help="seeds that run at once")
    parser.add_argument("--only", choices=names, action="append", help="a block; may be repeated")
    given = parser.parse_args()
    try:
        import sklearn  # noqa: F401
    except ImportError:
        sys.exit("expected scikit-learn, for its data: pip install scikit-learn")
    seeds = range(given.first, given.first + given.seeds)
    with ProcessPoolExecutor(given.processes) as pool:
        for block in given.only or names:
            marks = "  ".join(f"{f'round {mark}':>13}" for mark in MARKS)
            print(f"\n{block}")
            if block == "logic":
                print_logic(seeds, pool)
            elif block == "splits":
                print_splits(BLOCKS[block], seeds, pool)
            else:
                print(f"{'mean and lowest':<38} {marks}  {'best':>6} {'B up':>7} {'B down':>7} {'ms CPU':>6} {'s':>6}")
                for line in BLOCKS[block]:
                    print_line(line, list(pool.map(partial(measured, line), seeds)))


if __name__ == "__main__":
    main()

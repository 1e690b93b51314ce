"""Benchmark: the losses of 480 candidates in pairs, evaluated in integers, compared with scoring each candidate.

Run it: `python tests/benchmarks/pair_losses.py [--json]`. 1,347 rows, a 64-16-10 network of 1,210 weights. *before* is
how fedmq scored candidates before it had pairs, with a new array for each step; `Task.score`, which `evolution` uses,
has the same bits. Beside the pairs is plain float32 in the same layout, whose bits depend on the split of the rows: so
much do integers cost. All alternate in one process, so that load on the machine affects all; times are CPU times, and
the results are ratios of their medians. Exit code 1 if the target is missed.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: the products are too small for threads

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from fedmq.exact.directions import directions
from fedmq.exact.draws import normals, words
from fedmq.models.losses import ROW_CROSS_ENTROPY_MAX
from fedmq.models.networks import MLP
from fedmq.models.pairs import BLOCK_VALUES, pair_differences
from fedmq.tasks.task import BLOCK_VALUES as SCORED_VALUES
from fedmq.tasks.task import Rows, Task

ROWS, PAIRS, SIGMA, TURNS, TARGET = 1347, 240, 0.05, 9, 3.0


def milliseconds(work: Callable[[], object]) -> float:
    """Return the CPU time of one call."""
    began = time.process_time()
    work()
    return 1e3 * (time.process_time() - began)


def score_before(task: Task, population: np.ndarray, rows: Rows) -> np.ndarray:
    """Return the losses of `Task.score`, (population,), with a new array for each step."""
    losses, block = np.zeros(len(population)), SCORED_VALUES // (len(population) * task.model.widest)
    for start in range(0, len(rows.inputs), block):
        outputs, targets = task.model.forward(population, rows.inputs[start : start + block]), rows.targets
        chosen = outputs[:, np.arange(outputs.shape[1]), targets[start : start + block]]
        right = outputs.argmax(axis=2) == targets[start : start + block]
        by_class = np.ascontiguousarray(outputs.transpose(2, 0, 1))
        largest = by_class.max(axis=0)
        log_sum = np.log(np.exp(by_class - largest).sum(axis=0)) + largest
        losses += np.fmin(log_sum - chosen, ROW_CROSS_ENTROPY_MAX).sum(axis=1)
        np.count_nonzero(right, axis=1)
    return losses


def float_differences(
    model: MLP, weights: np.ndarray, signs: np.ndarray, inputs: np.ndarray, own: np.ndarray
) -> np.ndarray:
    """Return the differences of `pair_differences`, (directions,), in float32; `own` (classes, rows) is 1 or 0."""
    (columns, units, classes), rows, found = model.sizes, inputs.shape[1], []
    hidden, outputs = columns * units, (columns + 1) * units
    at_once = BLOCK_VALUES // (rows * units)

    def parts(flat: np.ndarray) -> list[np.ndarray]:
        first, second = flat[:, :hidden].reshape(-1, columns, units), flat[:, outputs:-classes]
        layers = [first.transpose(0, 2, 1), second.reshape(-1, units, classes).transpose(0, 2, 1)]
        return [layers[0], flat[:, hidden:outputs, None], layers[1], flat[:, -classes:, None]]

    weight, bias, last, last_bias = parts(weights[None].astype(np.float32))
    base = weight[0] @ inputs + bias[0]
    for start in range(0, len(signs), at_once):
        moves = parts(np.float32(SIGMA) * signs[start : start + at_once])
        count = len(moves[0])
        moved = (np.ascontiguousarray(moves[0]).reshape(-1, columns) @ inputs).reshape(count, units, rows) + moves[1]
        losses = []
        for values, sign in ((base + moved, np.float32(1.0)), (base - moved, np.float32(-1.0))):
            np.maximum(values, np.float32(0.0), out=values)
            scores = np.matmul(last + sign * moves[2], values) + (last_bias + sign * moves[3])
            chosen = (scores * own).sum(axis=1)
            largest = scores.max(axis=1)
            scores -= largest[:, None]
            losses.append((np.log(np.exp(scores, out=scores).sum(axis=1)) + largest - chosen).sum(axis=1))
        found.append(losses[0] - losses[1])
    return np.concatenate(found)


def main() -> None:
    """Print the medians and their ratios."""
    parser = argparse.ArgumentParser(description="Losses of pairs of candidates, beside Task.score.")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    model = MLP((64, 16, 10))
    task = Task(name="digits", model=model, loss="cross-entropy", metric="accuracy")
    inputs = normals(ROWS * 64, 1, "inputs").reshape(ROWS, 64)
    rows = Rows(inputs, (words(ROWS, 1, "targets") % np.uint64(10)).astype(np.int64))
    weights = normals(model.num_parameters, 1, "weights") * 0.3
    drawn = directions(PAIRS, model.num_parameters, 1, 1)
    moves = SIGMA * drawn.block().astype(np.float64)
    candidates, columns = np.concatenate([weights + moves, weights - moves]), np.ascontiguousarray(inputs.T)

    def in_pairs() -> np.ndarray:
        return pair_differences(model, weights, drawn, SIGMA, columns, rows.targets, 4)

    singles, own = columns.astype(np.float32), np.eye(10, dtype=np.float32)[:, rows.targets]

    def in_floats() -> np.ndarray:
        return float_differences(model, weights, drawn.block(), singles, own)

    np.testing.assert_allclose(in_floats(), in_pairs() / 16.0, atol=20.0, rtol=0.01)  # rounded to 1/16 a row
    np.testing.assert_array_equal(score_before(task, candidates, rows), task.score(candidates, rows).losses)
    ways = (
        lambda: score_before(task, candidates, rows),
        lambda: task.score(candidates, rows),
        in_pairs,
        in_floats,
    )
    turns = [[milliseconds(work) for work in ways] for _ in range(TURNS)]
    before_ms, score_ms, pairs_ms, floats_ms = (statistics.median(times) for times in zip(*turns, strict=True))
    ratio, cost = before_ms / pairs_ms, pairs_ms / floats_ms
    if given.json:
        figures = {"before_ms": before_ms, "score_ms": score_ms, "pairs_ms": pairs_ms, "floats_ms": floats_ms}
        print(json.dumps({**figures, "ratio": ratio, "target": TARGET, "cost_of_integers": cost}))
    else:
        print(f"before {before_ms:.0f} ms, pairs {pairs_ms:.0f} ms: {ratio:.1f} x (target {TARGET:g} x)")
        print(f"Task.score {score_ms:.0f} ms: {before_ms / score_ms:.1f} x, with the same bits")
        print(f"pairs in float32 {floats_ms:.0f} ms: integers take {cost:.2f} x their time")
    sys.exit(ratio < TARGET)


if __name__ == "__main__":
    main()

"""Benchmark: the losses of 480 candidates in pairs, evaluated in integers, compared with `Task.score` on the same rows.

Run it: `python tests/benchmarks/pair_losses.py [--json]`. 1,347 rows, a 64-16-10 network of 1,210 weights. The two
alternate in one process, so that load on the machine affects both; times are CPU times, and the result is the ratio of
their medians. Exit code 1 if the target is missed.
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
from fedmq.models.networks import MLP
from fedmq.models.pairs import pair_differences
from fedmq.tasks.task import Rows, Task

ROWS, PAIRS, SIGMA, TURNS, TARGET = 1347, 240, 0.05, 9, 3.0


def milliseconds(work: Callable[[], object]) -> float:
    """Return the CPU time of one call."""
    began = time.process_time()
    work()
    return 1e3 * (time.process_time() - began)


def main() -> None:
    """Print both medians and their ratio."""
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

    def in_pairs() -> object:
        return pair_differences(model, weights, drawn, SIGMA, columns, rows.targets, 4)

    in_pairs()  # draws the directions and fills the tables
    turns = [(milliseconds(lambda: task.score(candidates, rows)), milliseconds(in_pairs)) for _ in range(TURNS)]
    score_ms, pairs_ms = (statistics.median(times) for times in zip(*turns, strict=True))
    ratio = score_ms / pairs_ms
    if given.json:
        print(json.dumps({"score_ms": score_ms, "pairs_ms": pairs_ms, "ratio": ratio, "target": TARGET}))
    else:
        print(f"Task.score {score_ms:.0f} ms, pairs {pairs_ms:.0f} ms: {ratio:.1f} x (target {TARGET:g} x)")
    sys.exit(ratio < TARGET)


if __name__ == "__main__":
    main()

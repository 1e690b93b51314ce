"""A task that takes a known number of rounds, whoever takes part in them; and how many a schedule needs.

Each trainer has the same two rows, y = x at +s and -s, so that one gradient step on them shrinks the error by the same
factor whoever takes it. Knows nothing of faults.
"""

from __future__ import annotations

import math
from pathlib import Path

HOPS = 4  # through the proxies, in one round
ROUND_S, LONG_ROUND_S = 0.1, 0.25  # what latency alone makes a round last, without using the processor
LONG_S = 300.0  # a schedule from this length on has long rounds
NATS = 12.0  # by which the error has shrunk at the target
STEP = 0.2  # twice the learning rate of fedsgd
COLUMNS = 128  # all but one are zero: they make a model of 1 kB
TRAINERS = 5
SOURCE = '''"""Least squares of y = x, over rows that are the same for every trainer."""

import numpy as np

from fedmq import Linear, Task

SCALE = {scale!r}
task = Task(
    name="chaos",
    model=Linear({columns}, 1),
    loss="squared-error",
    metric="loss",
    target={target!r},
    trainers={trainers},
    rounds={rounds},
)


def rows(part, parts):
    inputs = np.zeros((2, {columns}))
    inputs[:, 0] = SCALE, -SCALE
    return inputs, inputs[:, 0].copy()
'''


def latency_for(seconds: float) -> float:
    """Of each proxy and direction, in seconds, for a schedule of this length."""
    return (ROUND_S if seconds < LONG_S else LONG_ROUND_S) / HOPS


def rounds_for(seconds: float) -> int:
    """So many rounds that the run cannot be over before the schedule is."""
    return math.ceil(1.1 * seconds / (HOPS * latency_for(seconds))) + 20


def write_task(path: Path, rounds: int) -> Path:
    """Write a FILE.py whose target is reached after about `rounds` rounds, and certainly before twice as many."""
    # The Hessian of the summed squared error is 2 X'X; for the first weight that is 4 s^2, halved in STEP.
    scale = math.sqrt((1.0 - math.exp(-NATS / rounds)) / (2.0 * STEP))
    target = TRAINERS * 2.0 * scale**2 * math.exp(-2.0 * NATS)
    path.write_text(
        SOURCE.format(scale=scale, columns=COLUMNS, target=target, trainers=TRAINERS, rounds=2 * rounds + 100)
    )
    return path

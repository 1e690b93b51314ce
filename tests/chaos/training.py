"""A task that takes a known number of rounds, whoever takes part in them; and how many a schedule needs.

Each trainer has a few orthogonal rows of length s, and their opposites, so that one gradient step on them shrinks the
error by almost the same factor whoever takes it: s differs by a percent from one to the next, so that a sum of their
models in another order is another sum. Knows nothing of faults.
"""

from __future__ import annotations

import math
from pathlib import Path

HOPS = 4  # through the proxies, in one round
ROUND_S, LONG_ROUND_S = 0.1, 0.25  # what latency alone makes a round last, without using the processor
LONG_S = 300.0  # a schedule from this length on has long rounds
NATS = 8.0  # by which the error has shrunk at the target
SCORE_BITS = 30  # of the trainers: losses that have shrunk so far are still told apart
STEP = 0.2  # twice the learning rate of fedsgd
COLUMNS = 128  # a weight each; many, so that a difference in the last bit of some cannot vanish in all of them
BLOCKS = 4  # rows without their opposites; with more than 9 in all, steps of this size on the bias would not converge
TRAINERS = 5
SOURCE = '''"""Least squares with a known solution, over rows that are almost the same for every trainer."""

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
    scale = SCALE * (1.0 + 0.01 * (part - (parts + 1) / 2))
    block = np.linspace(0.5, 2.0, {columns} // {blocks})
    directions = np.kron(np.eye({blocks}), block / np.linalg.norm(block))
    inputs = scale * np.vstack([directions, -directions])
    return inputs, scale * np.repeat([1.0, -1.0], {blocks})
'''


def latency_for(seconds: float) -> float:
    """Of each proxy and direction, in seconds, for a schedule of this length."""
    return (ROUND_S if seconds < LONG_S else LONG_ROUND_S) / HOPS


def rounds_for(seconds: float) -> int:
    """So many rounds that the run cannot be over before the schedule is."""
    return math.ceil(1.1 * seconds / (HOPS * latency_for(seconds))) + 20


def write_task(path: Path, rounds: int) -> Path:
    """Write a FILE.py whose target is reached after about `rounds` rounds, and certainly before twice as many."""
    # A step changes the error along each row by STEP times the eigenvalue of X'X there, which is 2 s^2.
    fraction_bits = math.sqrt((1.0 - math.exp(-NATS / rounds)) / (2.0 * STEP))
    target = TRAINERS * 2.0 * BLOCKS * fraction_bits**2 * math.exp(-2.0 * NATS)
    source = SOURCE.format(
        fraction_bits=fraction_bits,
        columns=COLUMNS,
        blocks=BLOCKS,
        target=target,
        trainers=TRAINERS,
        rounds=2 * rounds + 100,
    )
    path.write_text(source)
    return path

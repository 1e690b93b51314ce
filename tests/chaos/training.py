"""A task with a known number of rounds for any participants, and the number of rounds for a schedule.

Each trainer has a few orthogonal rows of length s, and their opposites. One gradient step shrinks the error by almost
the same factor for every trainer. s differs by a percent between trainers, so that a sum of their models in another
order is another sum.
"""

from __future__ import annotations

import math
from pathlib import Path

HOPS = 4  # through the proxies, in one round
ROUND_S, LONG_ROUND_S = 0.1, 0.25  # the length of a round by latency alone, without load
LONG_S = 300.0  # schedules of at least this length have long rounds
NATS = 8.0  # reduction of the error at the target
SCORE_BITS = 30  # of the trainers: small losses stay distinct
STEP = 0.2  # twice the default learning rate of averaging
COLUMNS = 128  # one weight each; many, so that a last-bit difference cannot vanish in all
BLOCKS = 4  # rows without their opposites; with more than 9 in total, steps of this size on the bias would diverge
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
    parameters={{"averaging": {{"standardize": False}}}},
)


def rows(part, parts):
    scale = SCALE * (1.0 + 0.01 * (part - (parts + 1) / 2))
    block = np.linspace(0.5, 2.0, {columns} // {blocks})
    directions = np.kron(np.eye({blocks}), block / np.linalg.norm(block))
    inputs = scale * np.vstack([directions, -directions])
    return inputs, scale * np.repeat([1.0, -1.0], {blocks})
'''


def latency_for(seconds: float) -> float:
    """Return the latency in seconds of each proxy and direction for a schedule of this length."""
    return (ROUND_S if seconds < LONG_S else LONG_ROUND_S) / HOPS


def rounds_for(seconds: float) -> int:
    """Return a number of rounds that outlasts the schedule."""
    return math.ceil(1.1 * seconds / (HOPS * latency_for(seconds))) + 20


def write_task(path: Path, rounds: int) -> Path:
    """Write a FILE.py that reaches its target after about `rounds` rounds, at most twice as many."""
    # A step changes the error along each row by STEP times the eigenvalue of X'X there, which is 2 s^2.
    scale = math.sqrt((1.0 - math.exp(-NATS / rounds)) / (2.0 * STEP))
    target = TRAINERS * 2.0 * BLOCKS * scale**2 * math.exp(-2.0 * NATS)
    source = SOURCE.format(
        scale=scale,
        columns=COLUMNS,
        blocks=BLOCKS,
        target=target,
        trainers=TRAINERS,
        rounds=2 * rounds + 100,
    )
    path.write_text(source)
    return path

"""A task that is scored by Python code: a rule that a person can read, tuned on rows that never leave their trainers.

Try it: `fedmq demo --task examples/own_score.py`. The rule selects urgent patients. It has no gradient and is no
network: three thresholds. A file like this one defines `task` and `score`, and
`rows(part, parts)` if trainers are to take their rows from it, too.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedmq import Code, Task

Floats = npt.NDArray[np.float64]
PATIENTS = 240
FEVER_C, FAST_PULSE, OLD_YEARS = 38.5, 110.0, 70.0  # what the rule should find; only `rows` may know

task = Task(
    name="triage",
    model=Code(num_parameters=3, inputs=3),  # 3 numbers to find; temperature, pulse and age in
    loss="own",  # what score() returns
    metric="accuracy",
    target=0.99,
    trainers=3,
    rounds=100,
)


def score(population: Floats, inputs: Floats, targets: Floats) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return the summed loss of each rule of (population, 3) on these rows, and how many rows it gets right.

    A rule is three thresholds; a patient over two of them goes first. Each wrong row costs one, and a little of how far
    it is from the other side, so that the search sees which way to go.
    """
    thresholds = np.array([37.0, 80.0, 50.0]) + population * np.array([1.0, 20.0, 15.0])
    over = (inputs[None] - thresholds[:, None]) / np.array([1.0, 20.0, 15.0])  # (population, rows, 3)
    margin = np.sort(over, axis=2)[:, :, 1]  # the second largest: positive when two are over
    wrong = (margin > 0) != (targets > 0.5)
    losses = (wrong * (1.0 + np.minimum(np.abs(margin), 10.0))).sum(axis=1)
    return losses, np.count_nonzero(~wrong, axis=1)


def rows(part: int, parts: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return the patients of clinic `part` of `parts`: temperature, pulse, age; and whether each went first."""
    draws = np.random.default_rng(11)
    inputs = draws.normal([38.0, 95.0, 60.0], [1.0, 20.0, 15.0], (PATIENTS, 3))
    first = np.count_nonzero(inputs > np.array([FEVER_C, FAST_PULSE, OLD_YEARS]), axis=1) >= 2
    chosen = np.array_split(np.arange(PATIENTS), parts)[part - 1]
    return inputs[chosen], first[chosen].astype(np.int64)

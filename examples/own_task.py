"""A task of your own: distinguish three kinds of flowers by two lengths, where each trainer has only one kind.

Try it: `fedmq demo --task examples/own_task.py`. A file like this one defines `task`, and `rows(part, parts)` if
trainers are to take their rows from it, too.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedmq import MLP, Task

KINDS = 3
FLOWERS = 20  # of each kind
CENTERS = np.array([[1.5, 0.3], [4.3, 1.3], [5.6, 2.1]])  # length and width of a petal, cm

task = Task(
    name="flowers",
    model=MLP([2, 6, KINDS], hidden="tanh", output="softmax"),  # 2 columns in, a probability for each kind out
    loss="cross-entropy",
    metric="accuracy",
    target=0.95,  # stop when 95 % of all flowers, of all trainers together, are classified right
    trainers=3,
    rounds=100,
    parameters={"evolution": {"population": 100, "generations": 5}},
)


def rows(part: int, parts: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return the rows of trainer `part` of `parts`: inputs (rows, 2), and the kind of each, counted from 0.

    A trainer would read its own file here. This function draws flowers, the same ones for all trainers.
    """
    draws = np.random.default_rng(7)
    inputs = CENTERS.repeat(FLOWERS, axis=0) + draws.normal(0.0, 0.25, (KINDS * FLOWERS, 2))
    kinds = np.arange(KINDS).repeat(FLOWERS)
    chosen = np.array_split(np.arange(len(kinds)), parts)[part - 1]
    return inputs[chosen], kinds[chosen]

"""The built-in tasks, and the rows that belong to them."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from fedmq.models.networks import MLP, Linear
from fedmq.tasks.task import Rows, Task


class Builtin(NamedTuple):
    """A built-in task and its rows."""

    task: Task
    rows: Rows


_BITS = (np.arange(16)[:, None] >> np.array([3, 2, 1, 0])) & 1

BUILTINS: Mapping[str, Builtin] = {
    # Split so that no half alone holds XOR: 1/2 = (01 -> 1, 00 -> 0), 2/2 = (10 -> 1, 11 -> 0).
    "xor": Builtin(
        Task(name="xor", model=MLP((2, 4, 2)), loss="cross-entropy", metric="accuracy", target=1.0),
        Rows(np.array([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]), np.array([1, 0, 1, 0], dtype=np.int64)),
    ),
    # Parity of four bits: 1 for an odd number of ones; the 16 rows in binary order.
    "parity4": Builtin(
        Task(
            name="parity4",
            model=MLP((4, 8, 2), hidden="tanh"),
            loss="cross-entropy",
            metric="accuracy",
            target=1.0,
            trainers=4,
            rounds=400,
            # 99 of 100 runs solved it, in 79 to 88 rounds (median); with the default, 100, in 110.
            # es: parity needs large weights, and has no other rows to be right about.
            parameters={"evolution": {"population": 200}},
        ),
        Rows(_BITS.astype(np.float64), _BITS.sum(axis=1, dtype=np.int64) % 2),
    ),
    # Least squares over two trainers: part 1/2 belongs to bob, part 2/2 to alice. The pooled optimum is
    # y = 1.5 a + 0.5 b - 0.25 with a summed squared error of 0.25. With d the distance from it, the loss is
    # 0.25 + d' (X' X) d. So a loss of 0.25 + e bounds the error of coefficient i by sqrt(e ((X' X)^-1)_ii): sqrt(e) for
    # the weights, sqrt(0.75 e) for the bias. The target, e = 0.0001, gives 0.01.
    "linear": Builtin(
        Task(
            name="linear",
            model=Linear(2, 1),
            loss="squared-error",
            metric="loss",
            target=0.2501,
            # Fine steps at the end: with the defaults 28 rounds instead of 16.
            parameters={
                "evolution": {"mutation": [-3.0, 0.0]},
                # The pooled optimum, for any split. Inputs of 0 and 1 need no survey.
                "averaging": {"method": "fedsgd", "learning_rate": 0.2, "standardize": False},
            },
        ),
        Rows(np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]), np.array([2.0, 0.0, 1.0, 0.0])),
    ),
}
TASK_NAMES: tuple[str, ...] = tuple(BUILTINS)

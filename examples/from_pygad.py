"""PyGAD's example of two objectives, federated: two equations with the same six weights, each at another site.

Try it: `fedmq demo --task examples/from_pygad.py --seed 1`. The script in PyGAD's documentation has both equations in
one place. Here neither site knows the other's, and the front of both is found all the same. Each row of a site is an
equation: six inputs, which of the two it is, and the output that is wanted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fedmq import Code, Task

Floats = npt.NDArray[np.float64]
EQUATIONS = np.array([[4, -2, 3.5, 5, -11, -4.7, 0], [-2, 0.7, -9, 1.4, 3, 5, 1]])
DESIRED = np.array([50.0, 30.0])

task = Task(
    name="from-pygad",
    model=Code(num_parameters=6, inputs=7, objectives=2),
    loss="own",
    metric="loss",
    trainers=2,
    rounds=101,
    parameters={
        "evolution": {
            "num_generations": 50,
            "num_parents_mating": 10,
            "sol_per_pop": 20,
            "parent_selection_type": "nsga2",
            "objective_names": ["minus error 1", "minus error 2"],
            "gene_names": [f"w{place}" for place in range(1, 7)],
        }
    },
)


def fitness_func(ga_instance: Any, solution: Any, _solution_idx: int) -> list[float]:
    """Return minus the error of each equation over the rows of this trainer: a sum, so that sites add up."""
    error = np.abs(ga_instance.inputs[:, :6] @ solution - ga_instance.targets)
    return [-float(error[ga_instance.inputs[:, 6] == equation].sum()) for equation in (0, 1)]


def rows(part: int, parts: int) -> tuple[Floats, Floats]:
    """Return the equations of site `part` of `parts`; a third site has both again."""
    chosen = [(part - 1) % 2] if parts > 1 else [0, 1]
    return EQUATIONS[chosen], DESIRED[chosen]

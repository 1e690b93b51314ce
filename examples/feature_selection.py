"""Which columns are worth measuring? NSGA-II over three sites: many right rows, few columns, and the front between.

Try it: `fedmq demo --task examples/feature_selection.py --seed 1`. Each gene is 0 or 1: whether a column is used. Each
trainer fits a plane to half of its rows with these columns, and counts the right answers on the other half. The
second objective is the number of columns. A constraint allows at most five. `on_generation` runs at the aggregator.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fedmq import Code, Task

Floats = npt.NDArray[np.float64]
COLUMNS, ROWS = 8, 240

task = Task(
    name="feature-selection",
    model=Code(num_parameters=COLUMNS, inputs=COLUMNS, objectives=2),
    loss="own",
    metric="loss",
    trainers=3,
    rounds=100,
    parameters={
        "evolution": {
            "num_generations": 25,
            "num_parents_mating": 12,
            "sol_per_pop": 24,
            "gene_type": int,
            "gene_space": [0, 1],
            "gene_names": [f"column {place}" for place in range(1, COLUMNS + 1)],
            "objective_names": ["right rows", "minus columns"],
            "gene_constraint": [
                f"lambda solution, values: [v for v in values if v + sum(solution) - solution[{place}] <= 5]"
                for place in range(COLUMNS)
            ],
            "parent_selection_type": "nsga2",
            "crossover_type": "uniform",
        }
    },
)


def fitness_func(ga_instance: Any, solution: Any, _solution_idx: int) -> list[float]:
    """Return how many held-back rows are right with these columns, and minus the number of columns."""
    used = np.column_stack([ga_instance.inputs[:, solution == 1], np.ones(len(ga_instance.inputs))])
    wanted = np.where(ga_instance.targets > 0.5, 1.0, -1.0)
    plane, *_ = np.linalg.lstsq(used[::2], wanted[::2], rcond=None)
    right = np.count_nonzero(used[1::2] @ plane * wanted[1::2] > 0.0)
    return [float(right), -float(np.sum(solution))]


def on_generation(ga: Any) -> str | None:
    """Print the front; a callback may also end the run."""
    print(f"generation {ga.generations_completed}: {len(ga.pareto_fronts[0])} candidates on the front")
    return "stop" if ga.generations_completed == 20 else None


def rows(part: int, parts: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return the rows of site `part` of `parts`: three of the eight columns matter."""
    draws = np.random.default_rng(8)
    inputs = draws.normal(size=(ROWS, COLUMNS))
    targets = inputs @ [2.0, 0, 0, -1.5, 0, 0, 1.0, 0] + draws.normal(0.0, 0.3, ROWS) > 0.0
    chosen = np.array_split(np.arange(ROWS), parts)[part - 1]
    return inputs[chosen], targets[chosen].astype(np.int64)

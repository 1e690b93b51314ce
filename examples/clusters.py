"""PyGAD's clustering example, federated: two centers that are near the points of all sites.

Try it: `fedmq simulate examples/clusters.py --seed 1`. The genes are the coordinates of the centers. The fitness of a
site is minus the sum of the distances of its points to the nearest center, so the sum over sites is that of all points.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fedmq import Code, Task

Floats = npt.NDArray[np.float64]
CENTERS = np.array([[10.0, 10.0], [60.0, 40.0]])  # what the search should find; only `rows` may know
POINTS = 100

task = Task(
    name="clusters",
    model=Code(num_parameters=4, inputs=2, objectives=1),
    loss="own",
    metric="loss",
    trainers=2,
    rounds=200,
    parameters={
        "evolution": {
            "num_generations": 60,
            "sol_per_pop": 20,
            "num_parents_mating": 10,
            "init_range_low": 0,
            "init_range_high": 80,
            "gene_type": [float, 1],
            "gene_names": ["x 1", "y 1", "x 2", "y 2"],
            "random_mutation_min_val": -4,
            "random_mutation_max_val": 4,
            "keep_elitism": 2,
        }
    },
)


def fitness_func(ga_instance: Any, solution: Any, _solution_idx: int) -> float:
    """Return minus the sum of the distances of this trainer's points to the nearest center."""
    apart = ga_instance.inputs[:, None] - solution.reshape(2, 2)
    return -float(np.sqrt(np.square(apart).sum(axis=2)).min(axis=1).sum())


def rows(part: int, parts: int) -> tuple[Floats, Floats]:
    """Return the points of site `part` of `parts`: each site has mostly one of the two clusters."""
    draws = np.random.default_rng(2)
    points = np.concatenate([draws.normal(center, 5.0, (POINTS // 2, 2)) for center in CENTERS])
    return np.array_split(points, parts)[part - 1], np.zeros(len(np.array_split(points, parts)[part - 1]))

"""A rule list that a person can read, found by PyGAD with integer genes on rows that never leave their trainers.

Try it: `fedmq demo --task examples/rule_list.py --seed 1`. A list has two rules and a default: "if glucose is over 140
then sick, else if age is over 60 then sick, else well". Each rule has three integer genes: which measurement, which of
ten thresholds, and which answer. There is no gradient, and the mean of two lists is no list. The file has the arguments
of a PyGAD script under their own names; `ga_instance.inputs` and `ga_instance.targets` are the rows of the trainer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fedmq import Code, Task

Floats = npt.NDArray[np.float64]
NAMES = ("glucose", "pressure", "age", "weight")
LOW, STEP = np.array([80.0, 100.0, 30.0, 50.0]), np.array([10.0, 8.0, 5.0, 6.0])  # of the thresholds
PATIENTS = 300

task = Task(
    name="rule-list",
    model=Code(num_parameters=7, inputs=4, objectives=1),
    loss="own",
    metric="loss",
    trainers=3,
    rounds=200,
    parameters={
        "evolution": {
            "num_generations": 60,
            "num_parents_mating": 20,
            "sol_per_pop": 40,
            "gene_type": int,
            "gene_space": [range(4), range(10), [0, 1], range(4), range(10), [0, 1], [0, 1]],
            "gene_names": ["measurement 1", "over 1", "then 1", "measurement 2", "over 2", "then 2", "else"],
            # The second rule looks at another measurement than the first.
            "gene_constraint": [
                None,
                None,
                None,
                lambda solution, values: [value for value in values if value != solution[0]],
                None,
                None,
                None,
            ],
            "parent_selection_type": "tournament",
            "keep_elitism": 2,
            "mutation_num_genes": 2,
            "stop_criteria": f"reach_{PATIENTS}",
        }
    },
)


def predictions(rules: Any, inputs: Floats) -> npt.NDArray[np.int64]:
    """Return the answer of a rule list for each row, (rows,)."""
    first, second = ((inputs[:, rules[at]] > LOW[rules[at]] + STEP[rules[at]] * rules[at + 1]) for at in (0, 3))
    answer: npt.NDArray[np.int64] = np.where(first, rules[2], np.where(second, rules[5], rules[6]))
    return answer


def fitness_func(ga_instance: Any, solution: Any, _solution_idx: int) -> float:
    """Return how many rows of this trainer the list gets right; the aggregator adds them up."""
    return float(np.count_nonzero(predictions(solution, ga_instance.inputs) == ga_instance.targets))


def rows(part: int, parts: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return the patients of clinic `part` of `parts`: four measurements, and whether each is sick."""
    draws = np.random.default_rng(3)
    inputs = draws.uniform(LOW, LOW + 10 * STEP, (PATIENTS, 4))
    sick = predictions([0, 6, 1, 2, 6, 1, 0], inputs)
    chosen = np.array_split(np.arange(PATIENTS), parts)[part - 1]
    return inputs[chosen], sick[chosen]

"""PyGAD's callback on_generation at the aggregator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedmq.aggregator.generation_callback import GenerationCallback
from fedmq.algorithms.base import Update
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import BadConfiguration
from fedmq.models.networks import Code
from fedmq.observe.genes_text import gene_lines
from fedmq.tasks.task import Task

TASK = Task(
    name="genes",
    model=Code(num_parameters=2, inputs=1, objectives=2),
    loss="own",
    metric="loss",
    parameters={"evolution": {"sol_per_pop": 6, "gene_type": int, "gene_space": range(5), "gene_names": ["a", "b"]}},
)


def scored(strategy: Any, state: Any) -> Any:
    genes = strategy.ask(state).arrays["integers"]
    fitness = np.column_stack([genes[:, 0], -genes[:, 1]]).astype(np.float64)
    return strategy.close(strategy.tell(state, Update("a", state.round, 0, 5, {"fitness": fitness})), ["a"])


def test_callback_gets_a_ga_after_each_generation_and_may_stop() -> None:
    strategy: Any = find_algorithm("evolution", TASK)
    seen: list[int] = []

    def on_generation(ga: Any) -> str | None:
        seen.append(ga.generations_completed)
        solution, fitness, place = ga.best_solution()
        assert fitness.tolist() == [solution[0], -solution[1]]
        assert place in {int(one) for one in ga.pareto_fronts[0][:, 0]}
        return "stop" if len(seen) == 2 else None

    callback, state = GenerationCallback(on_generation, strategy), strategy.init(TASK, 3)
    assert not callback(state)
    ends = []
    for _ in range(3):
        state = scored(strategy, state)
        ends.append(callback(state))
        assert not callback(state)  # once for each generation
    assert (seen, ends) == ([1, 2], [False, False, True])


def test_callback_that_fails_is_named() -> None:
    strategy: Any = find_algorithm("evolution", TASK)
    state = scored(strategy, scored(strategy, strategy.init(TASK, 3)))
    with pytest.raises(BadConfiguration, match="ZeroDivisionError"):
        GenerationCallback(lambda _ga: 1 / 0, strategy)(state)


def test_algorithm_without_pygad_has_no_callback() -> None:
    with pytest.raises(BadConfiguration, match="PyGAD"):
        GenerationCallback(print, find_algorithm("evolution"))


def test_front_is_shown_with_names_and_integers() -> None:
    strategy: Any = find_algorithm("evolution", TASK)
    lines = gene_lines(strategy.findings(scored(strategy, strategy.init(TASK, 3))))
    assert lines[0].startswith("genes: a=")
    assert lines[1].startswith("Pareto front: ")
    assert "." not in lines[0]

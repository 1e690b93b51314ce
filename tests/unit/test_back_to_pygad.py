"""Runs and networks as objects of PyGAD."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pygad.nn
import pytest

import fedmq
from fedmq.errors import BadConfiguration
from fedmq.models.networks import MLP
from fedmq.models.trained_model import TrainedModel

KEYWORDS = {"num_generations": 4, "sol_per_pop": 10, "gene_type": "int", "gene_space": [-2, -1, 0, 1, 2]}


def test_run_becomes_a_ga_with_its_last_population(tmp_path: Path) -> None:
    run = fedmq.simulate("linear", parameters=KEYWORDS, seed=3, out=tmp_path / "run")
    ga = fedmq.pygad_instance(tmp_path / "run")
    solution, fitness, _ = ga.best_solution()
    assert run.model is not None
    assert solution.tolist() == run.model.parameters.tolist()
    assert fitness == -run.report.value
    assert ga.generations_completed == 4
    assert ga.best_solutions_generations == [0, 1, 2, 3, 4]
    assert ga.best_solutions_fitness[-1] == fitness


def test_run_without_keywords_is_no_ga(tmp_path: Path) -> None:
    fedmq.simulate("linear", rounds=1, out=tmp_path / "run")
    with pytest.raises(BadConfiguration, match="sol_per_pop"):
        fedmq.pygad_instance(tmp_path / "run")


@pytest.mark.parametrize("hidden", ["relu", "sigmoid"])
def test_network_predicts_the_same_in_pygad(hidden: Any) -> None:
    model = MLP((3, 5, 2), hidden=hidden, bias=False)
    draws = np.random.default_rng(4)
    trained = TrainedModel(model, draws.normal(size=model.num_parameters), "compared")
    rows = draws.normal(size=(9, 3))
    predicted = pygad.nn.predict(fedmq.pygad_network(trained), rows, problem_type="classification")
    assert trained.predict(rows).tolist() == list(predicted)


def test_network_with_biases_is_refused() -> None:
    model = MLP((3, 2))
    with pytest.raises(BadConfiguration, match="bias=False"):
        fedmq.pygad_network(TrainedModel(model, np.zeros(model.num_parameters), "compared"))

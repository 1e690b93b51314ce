"""Parameters of algorithms: layers, bounds, and the names of misspelled ones. No network, no time."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fedmq.algorithms.averaging.strategy import AveragingParameters
from fedmq.algorithms.evolution.strategy import EvolutionParameters
from fedmq.algorithms.parameters import parameters_of, parse_parameters, resolve_parameters
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import BadConfiguration
from fedmq.tasks.task_file import find_task


def test_later_layers_win_over_the_defaults() -> None:
    resolved = resolve_parameters(EvolutionParameters, {"population": 30, "proposals": 2}, {"population": 40})
    assert (resolved.population, resolved.proposals, resolved.generations) == (40, 2, 5)


def test_task_overrides_defaults_and_given_values_override_the_task() -> None:
    parity = find_task("parity4")
    assert find_algorithm("evolution").parameters.population == 100
    assert find_algorithm("evolution", parity).parameters.population == 200
    assert find_algorithm("evolution", parity, {"population": 50}).parameters.population == 50


def test_resolved_parameters_give_the_same_strategy_again() -> None:
    values = parameters_of(find_algorithm("evolution", find_task("linear")))
    assert msgspec.json.decode(msgspec.json.encode(values)) == {**values, "initial": [-2, 2], "mutation": [-3, 0]}
    assert parameters_of(find_algorithm("evolution", parameters=values)) == values


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (EvolutionParameters, {"population": 3}, "population: expected a number from 4 to 100000, got 3"),
        (EvolutionParameters, {"population": 10**9}, "population"),
        (EvolutionParameters, {"population": 4.5}, "population"),
        (EvolutionParameters, {"generations": -1}, "generations"),
        (EvolutionParameters, {"local_population": 0}, "local_population"),
        (EvolutionParameters, {"proposals": 21}, "local_population"),
        (EvolutionParameters, {"immigrants": 1.1}, "immigrants"),
        (EvolutionParameters, {"immigrants": float("nan")}, "immigrants"),
        (EvolutionParameters, {"restart_after": -1}, "restart_after"),
        (EvolutionParameters, {"initial": [2.0, -2.0]}, "initial"),
        (EvolutionParameters, {"initial": [float("nan"), 1.0]}, "initial"),
        (EvolutionParameters, {"mutation": [-1.0, 300.0]}, "mutation"),
        (EvolutionParameters, {"mutation": -1.0}, "mutation"),
        (AveragingParameters, {"rule": "mean"}, "trimmed-mean"),
        (AveragingParameters, {"learner": 3}, "gradient"),
        (AveragingParameters, {"learning_rate": float("inf")}, "learning_rate"),
        (EvolutionParameters, {"populatoin": 100}, "did you mean population?"),
        (EvolutionParameters, {"zzz": 100}, "restart_after"),
    ],
)
def test_wrong_parameter_is_refused_in_one_line(kind: Any, values: dict[str, Any], words: str) -> None:
    with pytest.raises(BadConfiguration) as refused:
        resolve_parameters(kind, values)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_values_of_the_command_line_have_types() -> None:
    pairs = ["learning_rate=0.05", "steps=3", "rule=krum", "mutation=[-1, 0.5]", "flag=true"]
    assert parse_parameters(pairs) == {
        "learning_rate": 0.05,
        "steps": 3,
        "rule": "krum",
        "mutation": [-1, 0.5],
        "flag": True,
    }


@pytest.mark.parametrize("pairs", [["steps"], ["=3"], ["steps=1", "steps=2"]])
def test_text_that_is_no_parameter_is_refused(pairs: list[str]) -> None:
    with pytest.raises(BadConfiguration):
        parse_parameters(pairs)

"""Parameters of algorithms: layers, bounds, and the names of misspelled ones. No network, no time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from fedmq.algorithms.averaging.strategy import AveragingParameters
from fedmq.algorithms.evolution.strategy import EvolutionParameters
from fedmq.algorithms.parameters import parameters_of, parse_parameters, resolve_parameters
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import BadConfiguration
from fedmq.protocol.codec import decode
from fedmq.protocol.messages import Round
from fedmq.simulation import Federation
from fedmq.tasks.task_file import find_task, task_rows


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
        (EvolutionParameters, {"population": 3}, "population: expected a whole number from 4 to 100000, got 3"),
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
        (AveragingParameters, {"mutation": [3, -3]}, "mutation"),
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
    pairs = [
        "learning_rate=0.05",
        "steps=3",
        "rule=krum",
        "mutation=[-1, 0.5]",
        "flag=true",
        "other=False",
        "none= None",
    ]
    assert parse_parameters(pairs) == {
        "learning_rate": 0.05,
        "steps": 3,
        "rule": "krum",
        "mutation": [-1, 0.5],
        "flag": True,
        "other": False,
        "none": None,
    }


def test_former_keyword_of_code_is_refused_with_the_new_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from fedmq import Code\nmodel = Code(genes=4)\n", encoding="utf-8")
    with pytest.raises(BadConfiguration, match="num_parameters"):
        find_task(str(path))


@pytest.mark.parametrize("pairs", [["steps"], ["=3"], ["steps=1", "steps=2"]])
def test_text_that_is_no_parameter_is_refused(pairs: list[str]) -> None:
    with pytest.raises(BadConfiguration):
        parse_parameters(pairs)


@pytest.mark.parametrize(
    ("name", "search"), [("MLP, Search, Task", "Search(population=5)"), ("MLP, Task", "{'population': 5}")]
)
def test_search_of_a_task_is_refused_with_the_new_form(tmp_path: Path, name: str, search: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        f"from fedmq import {name}\n"
        "task = Task(name='a', model=MLP((2, 2)), loss='cross-entropy', metric='accuracy', target=1.0, "
        f"search={search})\n",
        encoding="utf-8",
    )
    with pytest.raises(BadConfiguration) as refused:
        find_task(str(path))
    assert 'parameters={"evolution": {"population": 200}}' in str(refused.value)
    assert "\n" not in str(refused.value)


def test_parameters_of_a_task_stay_with_the_aggregator() -> None:
    task = find_task("parity4")
    federation = Federation(task, find_algorithm("evolution", task), {"bob": task_rows("parity4", 1, 1)})
    sent: list[Round] = []
    federation.simulation.trace = lambda _time, _what, _name, frames: sent.extend(
        message for message in [decode(frames).message if frames else None] if isinstance(message, Round)
    )
    federation.start()
    federation.simulation.run(lambda: len(sent) > 0, 60.0)
    assert sent[0].task.parameters == {}
    assert federation.store.config is not None
    assert federation.store.config.parameters["population"] == 200

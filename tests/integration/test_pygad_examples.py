"""The examples that speak PyGAD: the code of a fitness function, a callback, integer genes, a front."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pygad
from services import report_of, run_fedmq

from fedmq import load_model

EXAMPLES = Path(__file__).parents[2] / "examples"


def simulated(folder: Path, example: str) -> tuple[str, Any]:
    """Return what the simulation of an example printed, and what the run found."""
    done = run_fedmq("simulate", str(EXAMPLES / example), "--seed", "1", "--out", "run", cwd=folder, timeout_s=50.0)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "run" / "result.json").read_text())


def test_rule_list_is_found_with_integer_genes(tmp_path: Path) -> None:
    _, found = simulated(tmp_path, "rule_list.py")
    assert found["genes"] == [0, 6, 1, 2, 6, 1, 0]
    assert found["gene_names"][0] == "measurement 1"
    assert found["genes"] == load_model(tmp_path / "run" / "model.npz").parameters.tolist()
    assert all(isinstance(gene, int) for gene in found["genes"])
    assert report_of(tmp_path / "run")["value"] == -300  # stop_criteria: all rows are right


def test_features_are_selected_with_a_front_a_constraint_and_a_callback(tmp_path: Path) -> None:
    printed, found = simulated(tmp_path, "feature_selection.py")
    assert [f"generation {number}:" in printed for number in (1, 20, 21)] == [True, True, False]
    report = report_of(tmp_path / "run")
    assert (report["why"], report["rounds"]) == ("done", 21)  # the callback has stopped it
    assert load_model(tmp_path / "run" / "model.npz").parameters.dtype == np.int64
    counts = [sum(one["genes"]) for one in found["front"]]
    assert counts == sorted(counts, reverse=True)
    assert max(counts) <= 5
    page = run_fedmq("report", "run", "-o", "page.html", cwd=tmp_path)
    assert page.returncode == 0, page.stderr
    text = (tmp_path / "page.html").read_text()
    assert "Pareto front" in text
    assert "column 7" in text
    assert "the same SHA-256" in text  # the report replays the run, with its constraints


SCRIPT = """
import numpy as np
import pygad
from fedmq import Code, Task

arguments = dict(
    num_generations=12,
    sol_per_pop=16,
    num_parents_mating=6,
    gene_type=int,
    gene_space=[range(10), [1, 3, 5, 7], {"low": -4, "high": 5}, range(0, 100, 7)],
    gene_constraint=[None, None, lambda solution, values: [v for v in values if v < solution[0]], None],
    parent_selection_type="nsga2",
    crossover_type="uniform",
    mutation_num_genes=2,
)

def fitness_func(ga_instance, solution, solution_idx):
    error = ga_instance.inputs @ solution[:3] - ga_instance.targets
    return [-float(np.abs(error).sum()), -float(np.abs(solution).sum())]

def on_generation(ga):
    print("generation", ga.generations_completed, *(one.tolist() for one in ga.best_solution()[:2]))

def rows(part, parts):
    inputs = np.arange(15.0).reshape(5, 3) % 4
    return inputs, inputs @ [4.0, 3.0, 2.0]

task = Task(
    name="script", model=Code(num_parameters=4, inputs=3, objectives=2), loss="own", metric="loss", trainers=1,
    parameters={"evolution": arguments},
)
"""


def test_script_of_pygad_has_the_same_front_as_a_task_of_one_trainer(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    printed, found = simulated(tmp_path, str(tmp_path / "script.py"))
    script: dict[str, Any] = {}
    exec(compile(SCRIPT, tmp_path / "script.py", "exec"), script)  # noqa: S102
    alone = pygad.GA(
        **script["arguments"],
        num_genes=4,
        fitness_func=script["fitness_func"],
        random_seed=1,
        suppress_warnings=True,
        on_generation=lambda ga: lines.append(
            (ga.generations_completed, *(one.tolist() for one in ga.best_solution()[:2]))
        ),
    )
    lines: list[Any] = []
    alone.inputs, alone.targets = script["rows"](1, 1)
    alone.run()
    assert [one for one in printed.splitlines() if one.startswith("generation ")] == [
        " ".join(map(str, ("generation", *line))) for line in lines
    ]
    places = {int(place) for place in alone.pareto_fronts[0][:, 0]}
    front = {(*alone.last_generation_fitness[place], *alone.population[place]) for place in places}
    assert {(*one["fitness"], *one["genes"]) for one in found["front"]} == front
    assert len(front) > 1
    assert all(isinstance(gene, int) for one in [found, *found["front"]] for gene in one["genes"])
    assert load_model(tmp_path / "run" / "model.npz").parameters.dtype == np.int64
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    shown = [one["findings"] for one in events if one["event"] == "findings-changed"][-1]  # on the page
    assert shown["genes"] == found["genes"]
    assert [one["fitness"] for one in shown["front"]] == [one["fitness"] for one in found["front"]]

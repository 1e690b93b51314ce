"""Simulated runs: the same model as services, whatever does the work and however long it takes."""

import builtins
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from click.testing import CliRunner

import fedmq
from fedmq.algorithms.registry import find_algorithm
from fedmq.cli.main import fedmq as command
from fedmq.errors import BadConfiguration, FedmqError
from fedmq.runs.recount import recount
from fedmq.simulation import Federation
from fedmq.simulation.run import Chart
from fedmq.simulation.scenario import scenario
from fedmq.simulation.simulate import simulate
from fedmq.simulation.split_page import split_page


def services(task_name: str, algorithm: str, trainers: int) -> bytes:
    """Return the model of services on a network in memory, from the same seed."""
    found = scenario(task_name, trainers=trainers)
    strategy = find_algorithm(algorithm, found.task, {})
    model = Federation(found.task, strategy, found.data, seed=1).train()
    assert model is not None
    return model.to_bytes()


def test_secure_run_has_at_least_three_trainers_by_default() -> None:
    assert [len(scenario("xor", secure=secure).data) for secure in (False, True)] == [2, 3]
    assert len(scenario("wine", secure=True).data) >= 3
    assert len(scenario("parity4", trainers=4, secure=True).data) == 4


@pytest.mark.parametrize(("task_name", "algorithm", "trainers"), [("xor", "evolution", 2), ("linear", "averaging", 2)])
def test_simulation_and_services_give_the_same_model(task_name: str, algorithm: str, trainers: int) -> None:
    run = simulate(task_name, algorithm=algorithm, trainers=trainers, seed=1)
    assert run.model is not None
    assert run.model.to_bytes() == services(task_name, algorithm, trainers)


def test_run_folder_holds_report_events_and_replays(tmp_path: Path) -> None:
    run = simulate("xor", seed=1, out=tmp_path / "run")
    assert run.folder is not None
    assert sorted(one.name for one in run.folder.iterdir() if one.suffix in (".json", ".jsonl", ".npz", ".csv")) == [
        "events.jsonl",
        "history.csv",
        "model.npz",
        "report.json",
    ]
    assert recount(run.folder).model_sha256 == run.model_sha256 == simulate("xor", seed=1).model_sha256
    with pytest.raises(BadConfiguration, match="choose another"):
        simulate("xor", seed=1, out=tmp_path / "run")


def test_slow_and_missing_trainers_cost_only_virtual_time() -> None:
    options = {"trainers": 4, "seed": 2, "rounds": 12, "stragglers": 0.25, "dropout": 0.2, "work_s": "lognormal:60:0.5"}
    first, again = (
        simulate("linear", algorithm="averaging", **options),
        simulate("linear", algorithm="averaging", **options),
    )
    assert first.report.train_s > 600.0 > first.seconds
    assert first.model_sha256 == again.model_sha256
    assert any(close.why == "deadline" for close in first.closes)


def test_trainers_that_come_and_go_leave_a_run_that_ends() -> None:
    run = simulate("linear", algorithm="averaging", trainers=4, seed=3, rounds=8, work_s=1, online_s="exponential:5")
    assert run.report.rounds == 8
    assert len({close.results for close in run.closes}) > 1


def test_simulation_ends_when_no_trainer_stays_for_an_answer() -> None:
    with pytest.raises(FedmqError, match="before round 1: nothing happens any more"):
        simulate("linear", algorithm="averaging", trainers=2, seed=3, work_s=1, online_s=1e-6)


@pytest.mark.parametrize(
    "given",
    [
        {"seed": 2**70},
        {"seed": -1},
        {"rounds": 0},
        {"trainers": 1.5},
        {"trainers": "2"},
        {"processes": 0.5},
        {"online_s": 0},
    ],
)
def test_argument_out_of_bounds_is_named(given: dict[str, Any]) -> None:
    with pytest.raises(BadConfiguration, match=rf"^{next(iter(given))}: expected"):
        simulate("xor", **given)


def test_arrays_are_split_as_asked_and_history_has_a_row_a_round() -> None:
    draws = np.random.default_rng(5)
    inputs = draws.normal(size=(60, 3))
    data = inputs, inputs @ np.array([1.0, -2.0, 0.5])
    task = fedmq.Task(name="plane", model=fedmq.Linear(3), loss="squared-error", metric="loss", rounds=4)
    run = simulate(task, data, algorithm="averaging", trainers=6, split="sorted:target", seed=1)
    assert [one.num_examples for one in run.report.trainers] == [10] * 6
    assert len(run.history) == 4
    assert "&lt;svg" in run.plot()._repr_html_()
    assert run.plot_split().html.count("<tr>") == 7
    assert "<svg" not in repr(run.plot())
    assert repr(run).startswith("Run(plane by averaging: loss ")
    assert repr(run).endswith(", 4 rounds, 6 trainers)")
    assert run.model is not None
    assert run.model.predict(inputs).shape == (60,)


def test_fairness_is_of_the_held_out_rows_of_each_trainer() -> None:
    draws = np.random.default_rng(6)
    inputs = draws.normal(size=(200, 2))
    data = inputs, np.abs(inputs[:, 0]) + inputs[:, 1]
    task = fedmq.Task(name="bent", model=fedmq.Linear(2), loss="squared-error", metric="loss", rounds=12)
    run = simulate(task, data, algorithm="averaging", trainers=4, split="sorted:1", holdout=0.3, seed=1)
    errors = sorted(one.held_out.rmse for one in run.report.trainers if one.held_out is not None and one.held_out.rmse)
    assert run.fairness is not None
    assert (run.fairness.best, run.fairness.worst) == (errors[0], errors[-1])
    assert (run.fairness.figure, run.fairness.tenth, run.fairness.trainers) == ("rmse", errors[-1], 4)
    assert run.fairness.median == pytest.approx((errors[1] + errors[2]) / 2)


def test_sampled_rounds_ask_so_many_of_a_thousand_trainers_in_turn() -> None:
    run = simulate("linear", algorithm="averaging", trainers=1000, sample=10, rounds=12, seed=1)
    assert {close.results for close in run.closes} == {10}
    assert sorted(one.results for one in run.report.trainers) == [0] * 880 + [1] * 120


def test_page_of_a_split_counts_the_rows_of_each_trainer_by_class() -> None:
    found = split_page({"north": np.array(["a", "b", "a"]), "south": np.array(["b"])}).html
    cells = re.findall(r'<td class="number"[^>]*>(\d*)<', found)
    assert cells == ["3", "2", "1", "1", "", "1"]
    assert "<th>a</th><th>b</th>" in found


def test_unknown_argument_names_those_there_are() -> None:
    with pytest.raises(BadConfiguration, match="quorum"):
        simulate("xor", quorm=0.5)
    with pytest.raises(BadConfiguration, match="data of iris or other data, got both"):
        simulate("iris", (np.zeros((4, 4)), np.zeros(4)))


def test_notebook_shows_the_curve_while_a_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Chart] = []

    class Shown:
        """What IPython returns for an output that can be drawn again."""

        def update(self, chart: Chart) -> None:
            shown.append(chart)

    def display(chart: Chart, *, display_id: bool) -> Shown:
        assert display_id
        shown.append(chart)
        return Shown()

    class ZMQInteractiveShell:
        """The name by which a shell in a notebook is known."""

    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    monkeypatch.setitem(sys.modules, "IPython.display", cast(ModuleType, SimpleNamespace(display=display)))
    simulate("xor", seed=1)
    assert len(shown) >= 2
    assert "round 4 of" in shown[-1].html
    assert shown[-1]._repr_html_().startswith("<iframe")


def test_error_says_why_trainers_have_left() -> None:
    with pytest.raises(FedmqError, match=r"too few trainers are left: learning rate 0\.2 diverged .*, 2 trainers"):
        simulate(
            "diabetes",
            algorithm="averaging",
            parameters={"learning_rate": 0.2},
            trainers=4,
            split="sorted:target",
            rounds=9,
            seed=1,
        )


def test_rounds_that_end_before_a_model_say_so(tmp_path: Path) -> None:
    words = ["simulate", "linear", "--algorithm", "es", "--rounds", "2", "--seed", "1", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 0
    (line,) = [line for line in done.output.splitlines() if line.startswith("model ")]
    assert "expected a model within 2 rounds" in line
    assert "--rounds" in line


def test_list_has_the_rows_of_each_trainer() -> None:
    inputs, targets = np.array([[0.0, 1], [0, 0], [1, 0], [1, 1]]), np.array([1, 0, 1, 0])
    run = simulate("xor", [(inputs[:2], targets[:2]), (inputs[2:], targets[2:])], seed=1)
    assert run.model_sha256 == simulate("xor", seed=1).model_sha256

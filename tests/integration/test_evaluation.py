"""Evaluation as a user sees it: figures on held-out rows, baselines beside them, the same after kills of all."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from services import Services, closed, report_of, run_fedmq, until

TASK = """
import numpy as np
from fedmq import Linear, MLP, Task
from fedmq.exact.draws import normals

X = normals(3000, 1, "rows").reshape(1000, 3)
score = X[:, 0] + 0.5 * X[:, 1] + 0.5 * normals(1000, 2, "noise")
"""
RARE = """
task = Task(name="rare", model=MLP([3, 2]), loss="cross-entropy", metric="accuracy", rounds=40, trainers=3)

def rows(part, parts):
    y = (score >= np.sort(score)[-40]).astype(float)  # 4 % of the rows
    chosen = np.array_split(np.argsort(X[:, 2]), parts)[part - 1]  # another part of the third input at each site
    return X[chosen], y[chosen]
"""
VALUES = """
task = Task(name="values", model=Linear(3), loss="squared-error", metric="loss", rounds=100000, holdout=0.3)

def rows(part, parts):
    return X[part - 1 :: parts], score[part - 1 :: parts]
"""
Demo = tuple[subprocess.CompletedProcess[str], Path]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A run on a rare class with every fourth row held out, and its baselines."""
    folder = tmp_path_factory.mktemp("rare")
    (folder / "rare.py").write_text(TASK + RARE)
    command = ("demo", "rare.py", "--algorithm", "newton", "--param", "penalty=1", "--holdout", "0.25", "--seed", "1")
    return run_fedmq(*command, "--baselines", "--out", "run", cwd=folder), folder


def test_rare_class_shows_balanced_accuracy_and_auc_beside_accuracy(demo: Demo) -> None:
    done, folder = demo
    assert done.returncode == 0, done.stderr
    report = report_of(folder / "run")
    held_out, training = report["held_out"], report["training"]
    assert report["value_of"] == "held-out"
    assert report["value"] == held_out["accuracy"] > 0.93
    assert held_out["balanced_accuracy"] < 0.9 < held_out["auc"]
    assert held_out["rows"] + training["rows"] == 1000
    assert 200 < held_out["rows"] < 300
    assert sum(map(sum, held_out["confusion"])) == held_out["rows"]
    assert "on held-out rows" in done.stdout
    for figure in ("held out accuracy", "balanced", "AUC", "training accuracy"):
        assert figure in done.stdout
    shown = run_fedmq("runs", "show", "run", cwd=folder).stdout
    assert "on held-out rows" in shown
    assert "held out   accuracy" in shown
    listed = run_fedmq("runs", "ls", ".", cwd=folder).stdout
    assert "held out" in listed


def test_what_federation_buys_is_one_table(demo: Demo) -> None:
    done, folder = demo
    lines = done.stdout.splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("What federation buys, on "))
    heads = [line.split()[0] for line in lines[first + 2 : first + 7]]
    assert heads == ["alice", "bob", "carol", "together", "pooled"]
    *alone, together, pooled = report_of(folder / "run")["baselines"]
    assert [one["trainer"] for one in alone] == ["alice", "bob", "carol"]
    figures = {name: value for name, value in together["held_out"].items() if name != "trainers"}
    assert figures == {name: value for name, value in pooled["held_out"].items() if name != "trainers"}
    assert all(one["held_out"]["log_loss"] != together["held_out"]["log_loss"] for one in alone)
    assert {one["held_out"]["rows"] for one in alone} == {together["held_out"]["rows"]}
    assert run_fedmq("report", "run", "-o", "report.html", cwd=folder).returncode == 0
    page = (folder / "report.html").read_text()
    assert "What federation buys" in page
    assert "carol alone" in page


def test_report_has_the_figures_of_each_trainer_and_their_spread(demo: Demo) -> None:
    report = report_of(demo[1] / "run")
    assert all(one["held_out"]["rows"] for one in report["trainers"])
    assert {report["spread"]["worst"], report["spread"]["best"]} < {"alice", "bob", "carol"}


def test_baselines_without_held_out_rows_are_refused(tmp_path: Path) -> None:
    done = run_fedmq("demo", "--baselines", cwd=tmp_path)
    assert done.returncode == 2
    assert "add --holdout 0.2" in done.stderr


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with Services(tmp_path) as running:
        yield running


def test_file_of_held_out_rows_is_scored_and_never_trained_on(services: Services, tmp_path: Path) -> None:
    (tmp_path / "rare.py").write_text(TASK + RARE)
    services.start_broker()
    services.start_trainer("alice", "rare.py:1/4", "--holdout-data", "rare.py:2/4", "--no-site-figures")
    services.start_trainer("bob", "rare.py:3/4", "--holdout-data", "rare.py:4/4")
    command = ("--task", "rare.py", "--algorithm", "newton", "--param", "penalty=1", "--holdout", "0.1")
    services.start("aggregator", "aggregator", *command, "--min-trainers", "2", "--out", "run")
    assert services.wait("aggregator", timeout_s=60) == 0, services.err("aggregator")
    report = report_of(tmp_path / "run")
    assert (report["held_out"]["rows"], report["training"]["rows"]) == (500, 500)
    own = {one["name"]: one["held_out"] and one["held_out"]["rows"] for one in report["trainers"]}
    assert own == {"alice": None, "bob": 250}
    assert report["spread"] is None


def figures_of(folder: Path) -> tuple[object, list[dict[str, str]]]:
    report = report_of(folder)
    with (folder / "history.csv").open(newline="") as file:
        rows = [
            {name: row[name] for name in ("round", "value", "value_of", "training", "r2")}
            for row in csv.DictReader(file)
        ]
    names = ("value", "value_of", "held_out", "training", "spread", "model_sha256")
    return [report[name] for name in names] + [one["held_out"] for one in report["trainers"]], rows


def test_figures_are_the_same_after_everything_was_killed(services: Services, tmp_path: Path) -> None:
    (tmp_path / "values.py").write_text(TASK + VALUES)
    command = ["--task", "values.py", "--algorithm", "averaging", "--param", "learning_rate=0.001"]
    command += ["--param", "standardize=false", "--seed", "1"]

    def start(*more: str) -> None:
        services.start_broker()
        for part, name in enumerate(["alice", "bob"], 1):
            services.start_trainer(name, f"values.py:{part}/2", "--state", f"state-{name}")
        patient = ("--min-trainers", "2", "--deadline-s", "60")
        services.start("aggregator", "aggregator", *command, *patient, "--out", "run", *more)

    start()
    until(lambda: closed(tmp_path / "run") >= 12, "an evaluation and some rounds")
    for name in ("aggregator", "broker", "alice", "bob"):
        services.kill(name)
    rounds = ("--rounds", str(closed(tmp_path / "run") + 20))  # it ends after the kills, however late these were
    start(*rounds)

    assert services.wait("aggregator") == 0, services.err("aggregator")
    assert "continues at round" in services.out("aggregator")
    command += ["--trainers", "2", *rounds]
    undisturbed = run_fedmq("demo", *command, "--out", "undisturbed", "--quiet", cwd=tmp_path)
    assert undisturbed.returncode == 0, undisturbed.stderr
    expected, found = figures_of(tmp_path / "undisturbed"), figures_of(tmp_path / "run")
    assert found == expected
    assert json.loads((tmp_path / "run" / "report.json").read_text())["held_out"]["r2"] > 0.5

"""A run with secure sums and noise, by processes with keys; and the epsilon that a site has spent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from keyed import Keyed
from services import events_of, report_of, until

import fedmq
from fedmq.runs.model_file import load_model
from fedmq.runtime.run_folder import MODEL

NAMES, ROWS, ROUNDS = ("t0", "t1", "t2"), 100, 4
TASK = """\
name = "line"
algorithm = "newton"

[target]
name = "y"
kind = "class"
classes = ["low", "high"]

[columns]
a = { kind = "number", bounds = [-3, 3] }
b = { kind = "number", bounds = [-3, 3] }
"""
OPTIONS = ("--secure", "--epsilon", "3", "--param", f"steps={ROUNDS - 1}", "--seed", "1", "--min-trainers", "3")


def write_rows(path: Path, seed: int) -> None:
    a, b = np.random.default_rng(seed).normal(size=(2, ROWS))
    lines = [f"{one},{other},{'high' if one > other else 'low'}" for one, other in zip(a, b, strict=True)]
    path.write_text("\n".join(["a,b,y", *lines]) + "\n")


def start_trainers(place: Keyed, *names: str) -> None:
    out = place.services.out
    before = {name: out(name).count("rows, broker") for name in names}
    for name in names:
        site = ("--keys", name, "--data", f"{name}.csv", "--state", "state")
        place.services.start(name, "trainer", *site, "--epsilon-max", "3.2")
    until(lambda: all(out(name).count("rows, broker") > count for name, count in before.items()), "trainers")


def test_secure_run_spends_epsilon_at_each_site_which_counts_it_also_when_killed(tmp_path: Path) -> None:
    place, services = (one := Keyed(tmp_path, *NAMES)), one.services
    (tmp_path / "task.toml").write_text(TASK)
    for seed, name in enumerate(NAMES):
        write_rows(tmp_path / f"{name}.csv", seed)

    def account(name: str) -> dict[str, float]:
        found: dict[str, float] = json.loads((tmp_path / "state" / name / "epsilon.json").read_text())
        return found

    def start_run(name: str) -> Path:
        services.start(name, "aggregator", "--task", "task.toml", "--keys", "keys", "--out", name, *OPTIONS)
        return tmp_path / name

    with place.running_broker():
        start_trainers(place, *NAMES)
        first = start_run("first")
        until(lambda: services.running["first"].poll() is not None, "the run to end")
        assert services.running["first"].returncode == 0, services.err("first")
        report = report_of(first)
        assert (report["rounds"], report["epsilon_spent"]) == (ROUNDS, 3.0)
        assert "epsilon 3 of 3 spent, delta 1e-05" in services.out("first")
        simulated = fedmq.simulate(
            str(tmp_path / "task.toml"),
            {name: str(tmp_path / f"{name}.csv") for name in NAMES},
            secure=True,
            epsilon=3.0,
            parameters={"steps": ROUNDS - 1},
            seed=1,
            progress=False,
        )
        assert simulated.report.config.privacy is not None
        privacy = simulated.report.config.privacy
        assert report["config"]["privacy"] == {
            name: getattr(privacy, name) for name in ("epsilon", "delta", "rho", "questions", "trainers")
        }
        assert report["trainers"][0]["num_examples"] == simulated.report.trainers[0].num_examples
        assert simulated.model is not None
        model = load_model(first / MODEL)  # the noise of processes derives from no seed
        assert model.parameters.shape == simulated.model.parameters.shape
        assert not np.array_equal(model.parameters, simulated.model.parameters)
        spent = account("t0")
        assert spent["answers"] == ROUNDS
        assert spent["rho"] == pytest.approx(privacy.rho)
        assert account("t1") == spent
        services.kill("t0")
        start_trainers(place, "t0")
        assert account("t0") == spent
        second = start_run("second")

        def goodbyes() -> list[str]:
            return [one["detail"] for one in events_of(second) if one["event"] == "trainer-left" and one["goodbye"]]

        until(lambda: len(goodbyes()) == len(NAMES), "all trainers to decline")
        declined = f"--epsilon-max 3.2: 3 are spent in {ROUNDS} answers, and this question would make it "
        assert all(one.startswith(declined) for one in goodbyes()), goodbyes()
        assert account("t0") == spent

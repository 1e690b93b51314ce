"""Files of the user that are called like folders of fedmq or modules of the standard library: none of them is run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from services import Services, clean_environment, run_fedmq, until

NAMES = ("trainer", "aggregator", "broker", "deploy", "random")
TRAP = """\
import os, pathlib, sys
pathlib.Path(__file__).with_suffix(".imported").touch()
os._exit(99)
"""
ROWS = """\
import numpy as np
import helper

def load():
    np.random.default_rng(0)
    return helper.INPUTS, [0, 1, 1, 0]
"""
SCORED = """\
import random  # of the standard library
import numpy as np
from fedmq import Code, Task

model = Code(num_parameters=2, inputs=1)
task = Task(name="own", model=model, loss="own", metric="loss", target=0.5, trainers=1, rounds=3)

def rows(part, parts):
    return [[1.0], [2.0]], [0.0, 1.0]

def score(population, inputs, targets):
    random.Random(1).random()
    return np.zeros(len(population)), np.zeros(len(population), dtype=np.int64)
"""
SCRIPT, MODULE = [str(Path(sys.executable).with_name("fedmq"))], [sys.executable, "-m", "fedmq"]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder of traps, none of which may be imported."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(TRAP)
    yield tmp_path
    assert [path.name for path in tmp_path.glob("*.imported")] == []


def run(command: list[str], folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env=clean_environment(PYTHONPATH="."),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", [SCRIPT, MODULE], ids=["script", "module"])
def test_demo_runs_no_file_of_the_user(folder: Path, command: list[str]) -> None:
    run(command, folder, "demo", "--seed", "1", "--out", "run")
    assert json.loads((folder / "run" / "report.json").read_text())["solved"]


def test_code_of_a_task_runs_without_files_of_the_user(folder: Path) -> None:
    """The sandbox is a process of its own."""
    (folder / "own.py").write_text(SCORED)
    run(MODULE, folder, "demo", "--task", "own.py", "--seed", "1", "--out", "run")


@pytest.mark.parametrize("more", [{}, {"PYTHONPATH": "."}], ids=["plain", "PYTHONPATH"])
def test_trainer_loads_rows_from_the_users_trainer_py(folder: Path, more: dict[str, str]) -> None:
    """A module `trainer` is on the search path of a checkout, too."""
    (folder / "trainer.py").write_text(ROWS)
    (folder / "helper.py").write_text("INPUTS = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]\n")
    with Services(folder) as services:
        services.start("bob", "trainer", "--name", "bob", "--data", "trainer:load", "--min-rows", "1", **more)
        until(lambda: "bob: 4 rows" in services.out("bob"), "the trainer to load its rows")
        services.terminate("bob")
        assert services.wait("bob") == 0, services.err("bob")


def test_spawn_runs_no_file_of_the_user(folder: Path) -> None:
    with Services(folder) as services:
        data = ("--data", "xor:{part}/{parts}", "--min-rows", "1")
        services.start("spawn", "spawn", "2", *data, "--foreground", "--name", "ward", PYTHONPATH=".")
        until(lambda: services.out("spawn").count("2 rows") == 2, "the trainers to start")
        services.running["spawn"].send_signal(signal.SIGTERM)
        assert services.wait("spawn") == 0, services.err("spawn")


def test_other_commands_run_no_file_of_the_user(folder: Path) -> None:
    for arguments in (("runs", "ls"), ("trainer", "--help"), ("deploy", "--help")):
        assert run_fedmq(*arguments, cwd=folder).returncode == 0

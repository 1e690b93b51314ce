"""One model for the same rows: a demo of one site and of three, ten simulated, and services by hand, killed."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from five_tables import data_sets, write_csv
from services import Services, closed, report_of, run_fedmq, until

from fedmq.simulation.simulate import simulate

SPLITS: Mapping[str, int] = {"one": 1, "three": 3, "ten by label": 10}
TREES = '\n[model]\nkind = "trees"\ntrees = 20\ndepth = 3\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task file for each algorithm, and the rows as CSV files, split in several ways."""
    folder = tmp_path_factory.mktemp("sites")
    data = data_sets()["ill"]  # categories, gaps, two classes
    (folder / "ill.toml").write_text(data.text)
    (folder / "trees.toml").write_text(data.text + TREES)
    for split, tables in data.splits():
        for place, table in enumerate(tables):
            write_csv(table, folder / f"{split.replace(' ', '-')}-{place}.csv")
    return folder


def files(split: str) -> list[str]:
    return [f"{split.replace(' ', '-')}-{place}.csv" for place in range(SPLITS[split])]


def demo(folder: Path, task: str, algorithm: str, split: str, out: str) -> dict[str, Any]:
    data = [word for path in files(split) for word in ("--data", path)]
    done = run_fedmq("demo", task, "--algorithm", algorithm, *data, "--out", out, "--quiet", cwd=folder, timeout_s=90)
    assert done.returncode == 0, done.stderr
    return report_of(folder / out)


def figures_of(report: dict[str, Any]) -> list[Any]:
    """The model and its figures, without those of a single trainer or their number."""
    measured = [{**report[rows], "trainers": 0} for rows in ("held_out", "training")]
    return [report["model_sha256"], report["value"], *measured]


def test_model_is_the_same_for_one_and_three_sites_and_ten_simulated(folder: Path) -> None:
    one, three = (demo(folder, "ill.toml", "newton", split, f"newton-{SPLITS[split]}") for split in ("one", "three"))
    assert figures_of(three) == figures_of(one)
    assert (one["held_out"]["rows"] > 0, one["rounds"]) == (True, three["rounds"])

    ten = simulate(str(folder / "ill.toml"), [str(folder / path) for path in files("ten by label")], algorithm="newton")
    assert ten.model_sha256 == one["model_sha256"]


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with Services(tmp_path) as running:
        yield running


def test_services_by_hand_give_the_model_and_figures_of_the_demo_after_kills_of_all(
    folder: Path, services: Services, tmp_path: Path
) -> None:
    expected = demo(folder, "trees.toml", "boosting", "one", "boosting-1")
    command = ("--task", str(folder / "trees.toml"), "--algorithm", "boosting", "--min-trainers", "3", "--out", "run")
    command = (*command, "--deadline-s", "60")  # each round has all its results, however slow the machine is
    names = {f"site-{place}": str(folder / path) for place, path in enumerate(files("three"))}

    def start() -> None:
        services.start_broker()
        for name, path in names.items():
            services.start_trainer(name, path, "--state", f"state-{name}")
        services.start("aggregator", "aggregator", *command)

    for more in (2, 8):  # in the survey, and while trees grow
        start()
        least = closed(tmp_path / "run") + more
        until(lambda least=least: closed(tmp_path / "run") >= least, "some rounds")  # type: ignore[misc]
        for name in ("aggregator", "broker", *names):
            services.kill(name)
    assert closed(tmp_path / "run") < expected["rounds"], "the run ended before it was killed"
    start()
    assert services.wait("aggregator", timeout_s=90) == 0, services.err("aggregator")
    assert services.out("aggregator").count("continues at round") == 2
    found = report_of(tmp_path / "run")
    assert figures_of(found) == figures_of(expected)
    with (tmp_path / "run" / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert np.array_equal([int(row["round"]) for row in rows], np.arange(1, len(rows) + 1))

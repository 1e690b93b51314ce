"""`fedmq runs ls` and `fedmq runs show` on real folders of runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from services import report_of, run_fedmq


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a solved run, `runs/one`, and one that is not solved, `runs/two`."""
    made = tmp_path_factory.mktemp("runs")
    one = run_fedmq("demo", "--seed", "1", "--out", "runs/one", "--quiet", cwd=made)
    two = run_fedmq("demo", "--seed", "1", "--rounds", "1", "--out", "runs/two", "--quiet", cwd=made)
    assert (one.returncode, two.returncode) == (0, 1), one.stderr + two.stderr
    return made


def test_ls_lists_the_runs_the_newest_first(folder: Path) -> None:
    done = run_fedmq("runs", "ls", cwd=folder)

    assert done.returncode == 0, done.stderr
    heading, first, second = done.stdout.splitlines()
    assert heading.split() == ["folder", "task", "strategy", "state", "rounds", "value", "seed"]
    assert first.split()[:4] == ["runs/two", "xor", "evolution", "not"]
    rounds = str(report_of(folder / "runs" / "one")["rounds"])
    assert second.split() == ["runs/one", "xor", "evolution", "solved", rounds, "1", "1"]


def test_ls_gives_json(folder: Path) -> None:
    found = json.loads(run_fedmq("runs", "ls", "--json", cwd=folder).stdout)

    assert [(one["folder"], one["state"]) for one in found] == [("runs/two", "not solved"), ("runs/one", "solved")]


def test_show_tells_how_a_run_went(folder: Path) -> None:
    done = run_fedmq("runs", "show", "runs/one", cwd=folder)

    assert done.returncode == 0, done.stderr
    for line in ("task       xor", "state      solved", "seed       1", "trainer    alice: 2 rows, "):
        assert f"\n{line}" in done.stdout
    assert report_of(folder / "runs" / "one")["model_sha256"] in done.stdout


def test_show_gives_the_report_as_json(folder: Path) -> None:
    done = run_fedmq("runs", "show", "runs/one", "--json", cwd=folder)

    assert json.loads(done.stdout) == report_of(folder / "runs" / "one")


def test_ls_of_an_empty_folder_says_how_to_make_a_run(tmp_path: Path) -> None:
    done = run_fedmq("runs", "ls", cwd=tmp_path)

    assert (done.returncode, done.stdout) == (0, "no runs in runs; make one with: fedmq demo\n")


def test_ls_leaves_out_a_damaged_run_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "runs" / "broken").mkdir(parents=True)
    (tmp_path / "runs" / "broken" / "store.sqlite3").write_text("this is no database, but it is long enough" * 20)

    done = run_fedmq("runs", "ls", cwd=tmp_path)

    assert done.returncode == 0
    assert done.stderr.startswith("fedmq: left out: runs/broken/store.sqlite3: expected the store of a run")


@pytest.mark.parametrize("there", [True, False])
def test_show_of_a_foreign_folder_ends_with_78_in_one_line(there: bool, tmp_path: Path) -> None:
    if there:
        (tmp_path / "foreign").mkdir()

    done = run_fedmq("runs", "show", "foreign", cwd=tmp_path)

    assert done.returncode == 78
    assert done.stderr.startswith("fedmq: foreign: expected the folder of a run")
    assert done.stderr.count("\n") == 1


def test_show_of_a_damaged_report_ends_with_78_in_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "store.sqlite3").write_bytes((folder / "runs" / "one" / "store.sqlite3").read_bytes())
    (tmp_path / "report.json").write_text("{")

    done = run_fedmq("runs", "show", str(tmp_path), cwd=tmp_path)

    assert (done.returncode, done.stderr.count("\n")) == (78, 1)

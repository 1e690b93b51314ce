"""Rows that a trainer cannot use: one line and exit code 78 at its start, a declined run afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from services import Services, events_of, report_of, run_fedmq, until, without_notices


def with_a_missing_column(folder: Path) -> str:
    (folder / "rows.csv").write_text("size,weight,class\n1,2,0\n3,1\n")
    return "rows.csv"


def with_only_a_heading(folder: Path) -> str:
    (folder / "rows.csv").write_text("size,weight,class\n")
    return "rows.csv"


def with_nothing_at_all(_folder: Path) -> str:
    return "missing.csv"


def with_python_objects(folder: Path) -> str:
    np.savez(folder / "rows.npz", inputs=np.array([[None]]), targets=np.zeros(1))
    return "rows.npz"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (with_a_missing_column, "rows.csv: line 3: expected 3 cells, got 2"),
        (with_only_a_heading, "rows.csv: expected at least one row, got zero rows"),
        (with_nothing_at_all, "missing.csv: expected a file with rows, got no such file"),
        (with_python_objects, "rows.npz"),
    ],
)
def test_invalid_rows_end_the_trainer_with_one_line(make: Callable[[Path], str], said: str, tmp_path: Path) -> None:
    done = run_fedmq("trainer", "--name", "mallory", "--data", make(tmp_path), cwd=tmp_path)

    assert done.returncode == 78
    assert done.stdout == ""
    assert done.stderr.startswith(f"fedmq: {said}")
    assert done.stderr.count("\n") == 1


def test_trainer_with_unfit_rows_declines_and_the_others_solve(tmp_path: Path) -> None:
    (tmp_path / "wide.csv").write_text("a,b,c,class\n0,1,1,1\n")
    run = tmp_path / "run"
    with Services(tmp_path) as services:
        services.start_broker()
        services.start_trainer("mallory", "wide.csv", "--min-rows", "1")
        services.start_trainer("alice", "xor:1/2")
        services.start("aggregator", "aggregator", "--task", "xor", "--seed", "1", "--out", "run")
        until(lambda: any(one["event"] == "trainer-left" for one in events_of(run)), "mallory's goodbye")
        assert "expected 2 input columns for task xor, got 3" in services.err("mallory")
        assert without_notices(services.err("mallory")).count("\n") == 1
        services.start_trainer("bob", "xor:2/2")
        assert services.wait("aggregator") == 0, services.err("aggregator")
        assert services.running["mallory"].poll() is None, "it waits for a run that its rows fit"
    report = report_of(run)
    results = {one["name"]: one["results"] for one in report["trainers"]}
    assert results["mallory"] == 0
    assert min(results["alice"], results["bob"]) > 0
    assert (report["solved"], report["value"]) == (True, 1.0)


def test_used_up_budget_holds_after_a_kill(tmp_path: Path) -> None:
    run, line = tmp_path / "run", "would go beyond --max-evaluations 150: takes no further part in it"

    def goodbyes() -> int:
        return sum(one["event"] == "trainer-left" and one["goodbye"] for one in events_of(run))

    with Services(tmp_path) as services:
        services.start_broker()
        services.start_trainer("alice", "xor:1/2")
        capped = ("--max-evaluations", "150", "--state", "state")
        services.start_trainer("bob", "xor:2/2", *capped)
        services.start("aggregator", "aggregator", "--task", "xor", "--seed", "1", "--out", "run")
        until(goodbyes, "bob's goodbye")
        services.kill("bob")
        services.start_trainer("bob", "xor:2/2", *capped)
        services.start_trainer("carol", "xor:2/2")
        assert services.wait("aggregator") == 0, services.err("aggregator")
        assert services.err("bob").count(line) >= 1
    assert (tmp_path / "state" / "bob" / f"{report_of(run)['config']['run']}.spent").exists()
    results = {one["name"]: one["results"] for one in report_of(run)["trainers"]}
    assert results["bob"] == 1, "100 candidates of 150, then no more"


def test_answered_rounds_stay_counted_after_a_kill(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def goodbyes() -> list[str]:
        return [one["detail"] for one in events_of(run) if one["event"] == "trainer-left" and one["reason"] == "policy"]

    with Services(tmp_path) as services:
        services.start_broker()
        services.start_trainer("alice", "xor:1/2")
        limited = ("--rounds-per-run", "1", "--state", "state")
        services.start_trainer("bob", "xor:2/2", *limited)
        services.start("aggregator", "aggregator", "--task", "xor", "--seed", "1", "--out", "run")
        until(goodbyes, "bob's goodbye")
        services.kill("bob")
        services.start_trainer("bob", "xor:2/2", *limited)
        services.start_trainer("carol", "xor:2/2")
        assert services.wait("aggregator") == 0, services.err("aggregator")
        assert "--rounds-per-run 1 are answered" in services.err("bob")
    assert set(goodbyes()) == {"--rounds-per-run 1 are answered"}
    results = {one["name"]: one["results"] for one in report_of(run)["trainers"]}
    assert results["bob"] == 1


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["--data", "xor:3/2"], 78, "xor:3/2: expected a part from 1 to 2, got 3"),
        (["--data", "xor:1/2", "--min-rows", "3"], 78, "fedmq: --min-rows: expected at least 3 rows, got 2"),
        (["--data", "nonsense"], 78, "expected data such as"),
        (["--name", "a b", "--data", "xor:1/2"], 2, "letters, digits and . _ -"),
        ([], 2, "Missing option '--data'"),
        (["--data", "xor:1/2", "--broker", "localhost"], 78, "expected a broker address like tcp://127.0.0.1:5550"),
    ],
)
def test_invalid_options_are_reported(arguments: list[str], exit_code: int, said: str, tmp_path: Path) -> None:
    done = run_fedmq("trainer", *arguments, cwd=tmp_path)

    assert done.returncode == exit_code
    assert said in done.stderr
    assert "Traceback" not in done.stderr

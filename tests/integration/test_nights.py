"""A run every night with one command: the exit code says what happened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from nights import COMMAND, ROWS, TASK, play, start
from services import Services, report_of, run_fedmq

TWO_TRAINERS = 2 * ROWS


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """A broker and two trainers that live through all nights."""
    with Services(tmp_path_factory.mktemp("nights")) as running:
        start(running)
        yield running


def aggregator(services: Services, *arguments: str, columns: int = 2) -> tuple[int, str]:
    """Run one aggregator; return its exit code and its lines."""
    (services.folder / "night.py").write_text(TASK.format(columns=columns))
    command = ["aggregator", "--broker", services.address, "--algorithm", "averaging", *arguments]
    done = run_fedmq(*command, cwd=services.folder, timeout_s=60.0)
    return done.returncode, done.stdout + done.stderr


def test_exit_codes_tell_what_happened_each_night(services: Services) -> None:
    nights = list(play(services, ["calm", "absent", "calm", "changed", "broken", "calm"]))
    assert [night.code for night in nights] == [0, 75, 0, 0, 70, 0]
    assert [night.rows for night in nights[:4]] == [TWO_TRAINERS, None, TWO_TRAINERS, TWO_TRAINERS + ROWS]
    runs = services.folder / "runs"
    names = [f"night-{number:04}" for number in (1, 2, 3, 4, 5)]
    assert sorted(path.name for path in runs.iterdir()) == names, "the absent night's run was continued"
    assert "expected 2 trainers within 2 s, got 1" in nights[1].line
    assert "columns" in nights[4].line
    assert report_of(runs / names[3])["why"] == "failed"
    shown = run_fedmq("runs", "show", str(runs / names[3]), cwd=services.folder).stdout
    assert "declined the run: rows: expected 3 input columns" in shown
    assert all(process.poll() is None for process in services.running.values()), "both sites live"


def test_run_that_is_over_is_not_run_again(services: Services) -> None:
    task = ("--task", "night.py", "--param", "learning_rate=0.01", "--out", "runs/over")
    assert aggregator(services, *task)[0] == 0
    before = (services.folder / "runs/over/report.json").read_bytes()
    code, line = aggregator(services, *task)
    assert (code, line.count("\n")) == (78, 1)
    assert "--resume" in line
    assert "{number}" in line
    code, line = aggregator(services, "--out", "runs/over", "--resume")
    assert (code, "give more --rounds" in line) == (78, True)
    assert (services.folder / "runs/over/report.json").read_bytes() == before
    assert aggregator(services, "--out", "runs/over", "--resume", "--rounds", "5")[0] == 0
    assert report_of(services.folder / "runs/over")["rounds"] == 5


def test_target_is_required_only_on_request(services: Services) -> None:
    code, line = aggregator(services, "--task", "night.py", "--require-target", "--out", "runs/without")
    assert (code, "has none" in line) == (78, True)
    linear = ("--task", "linear", "--param", "learning_rate=0.0001", "--rounds", "2")
    code, line = aggregator(services, *linear, "--out", "runs/free")
    assert (code, "finished in 2 rounds" in line) == (0, True)
    assert aggregator(services, *linear, "--require-target", "--out", "runs/strict")[0] == 1


def test_diverging_learning_rate_ends_the_run_with_its_name(services: Services) -> None:
    rate = ("--param", "learning_rate=5", "--param", "epochs=1000")
    code, lines = aggregator(services, "--task", "night.py", *rate, "--out", "runs/diverging")
    assert code == 70
    cause = "learning rate 5 diverged after 3 rounds: try 0.5"  # two of them were the survey
    assert f"{cause} (--param learning_rate=0.5) (work, 2 trainers)" in lines.splitlines()[-1]
    assert "alice" not in lines.splitlines()[-1], "the line names the cause, not the sites"
    assert report_of(services.folder / "runs/diverging")["failure"].count(cause) == 1


def test_command_of_every_night_is_fixed() -> None:
    assert COMMAND[-1] == "runs/night-{number}"
    assert not Path(COMMAND[-1]).exists()

"""`fedmq demo` as a user runs it: its output, its files, its exit codes."""

from __future__ import annotations

import csv
import hashlib
import http.client
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from services import (
    WAIT_S,
    Services,
    clean_environment,
    events_of,
    report_of,
    run_fedmq,
    until,
    without_notices,
)

from fedmq import load_model
from fedmq.deploy.processes import free_port
from fedmq.names import names_of_sources

FILES = {"events.jsonl", "history.csv", "model.npz", "report.json", "store.sqlite3", "store.commit-marker"}
REPORT = {
    *("config", "solved", "why", "failure", "software", "rounds", "value", "train_s", "wall_s"),
    *(
        "value_of",
        "held_out",
        "training",
        "baselines",
        "spread",
        "epsilon_spent",
        "round_s_median",
        "trainers",
        "rejections",
        "bytes_up",
        "bytes_down",
        "model",
        "model_sha256",
    ),
}
TRAINER = {"name", "num_examples", "results", "late", "rejected", "resent", "reason", "detail", "silent"}
TRAINER |= {"held_out", "differences", "metrics"}
ENDLESS = """
from msgspec.structs import replace
from fedmq.tasks.task_file import find_task, task_rows

task = replace(find_task("linear"), name="endless", target=0.0, rounds=100_000)  # an unreachable target


def rows(part, parts):
    return task_rows("linear", part, parts)
"""
OF_SERVICES = {  # in the environment
    "FEDMQ_KEYS": "/nowhere",
    "FEDMQ_BIND": "0.0.0.0",  # noqa: S104 - refused without keys
    "FEDMQ_PORT": "1",
    "FEDMQ_METRICS": "9100",
    "FEDMQ_MAX_EVALUATIONS": "1",
    "FEDMQ_MIN_ROWS": "1000",
    "FEDMQ_NAME": "x",
    "FEDMQ_MAX_EXAMPLES": "1",
}
EXAMPLES = Path(__file__).parents[2] / "examples"
XOR = [[0, 0], [0, 1], [1, 0], [1, 1]]


@pytest.fixture(scope="module")
def xor(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Run split XOR with seed 1; return the process and the run folder."""
    folder = tmp_path_factory.mktemp("demo")
    return run_fedmq("demo", "--seed", "1", "--out", "xor", cwd=folder), folder / "xor"


def test_demo_solves_split_xor(xor: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, folder = xor

    assert done.returncode == 0, done.stderr
    assert {path.name for path in folder.iterdir()} == FILES
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert load_model(folder / "model.npz").predict(XOR).tolist() == [0, 1, 1, 0]


def test_report_has_every_field(xor: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    report = report_of(xor[1])

    assert set(report) == REPORT
    assert [set(one) for one in report["trainers"]] == [TRAINER, TRAINER]
    config = report["config"]
    assert (config["task"]["name"], config["algorithm"], config["seed"]) == ("xor", "evolution", 1)
    assert (report["solved"], config["task"]["metric"], report["value"]) == (True, "accuracy", 1.0)
    assert [(one["name"], one["num_examples"]) for one in report["trainers"]] == [("alice", 2), ("bob", 2)]
    assert 0 < report["train_s"] <= report["wall_s"]
    assert min(report["bytes_up"], report["bytes_down"]) > 0
    assert report["model_sha256"] == hashlib.sha256((xor[1] / "model.npz").read_bytes()).hexdigest()


def test_history_and_events_list_each_round(xor: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    rounds = report_of(xor[1])["rounds"]
    with (xor[1] / "history.csv").open(newline="") as file:
        history = list(csv.DictReader(file))
    kinds = [one["event"] for one in events_of(xor[1])]

    assert [int(line["round"]) for line in history] == list(range(1, rounds + 1))
    assert history[-1]["value"] == "1.0"
    assert (kinds[0], kinds.count("round-closed"), kinds[-1]) == ("run-started", rounds, "run-finished")


def test_piped_output_is_plain_and_ends_with_the_next_command(
    xor: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, _ = xor

    assert "\x1b" not in done.stdout + done.stderr
    assert f"solved in {report_of(xor[1])['rounds']} rounds" in done.stdout
    assert "1 1 -> 0   (expected 0)  right" in done.stdout
    assert done.stdout.splitlines()[-1] == "Next: fedmq runs show xor"
    assert without_notices(done.stderr) == ""


def test_same_seed_gives_same_model_whatever_settings_services_have(
    xor: tuple[subprocess.CompletedProcess[str], Path], tmp_path: Path
) -> None:
    done = run_fedmq("demo", "--seed", "1", "--out", "again", "--quiet", cwd=tmp_path, **OF_SERVICES)

    assert (done.returncode, done.stdout, without_notices(done.stderr)) == (0, "", "")
    again = report_of(tmp_path / "again")
    assert again["model_sha256"] == report_of(xor[1])["model_sha256"]
    assert [one["name"] for one in again["trainers"]] == ["alice", "bob"]


@pytest.mark.parametrize("command", ["demo", "aggregator"])
def test_folder_of_a_finished_run_is_not_overwritten(
    command: str, xor: tuple[subprocess.CompletedProcess[str], Path]
) -> None:
    before = (xor[1] / "report.json").read_bytes()
    done = run_fedmq(command, "--out", xor[1].name, cwd=xor[1].parent)

    assert done.returncode == 78
    assert ("--out xor" if command == "demo" else "--resume") in done.stderr
    assert (xor[1] / "report.json").read_bytes() == before


def test_run_that_uses_up_its_rounds_is_finished_with_settings_of_three_sources(
    tmp_path: Path,
) -> None:
    (tmp_path / "demo.toml").write_text('rounds = 1\nseed = 1\ntask = "linear"\n')

    done = run_fedmq("demo", "--task", "xor", cwd=tmp_path, FEDMQ_CONFIG="demo.toml", FEDMQ_SEED="7")

    assert done.returncode == 0, done.stderr
    assert "finished in 1 rounds" in done.stdout
    (folder,) = (tmp_path / "runs").iterdir()
    assert {path.name for path in folder.iterdir()} == FILES
    report = report_of(folder)
    config = report["config"]
    assert (config["run"], report["solved"], report["rounds"]) == (folder.name, False, 1)
    assert (config["task"]["name"], config["seed"]) == ("xor", 7)


def test_averaging_finds_the_pooled_optimum(tmp_path: Path) -> None:
    done = run_fedmq("demo", "--task", "linear", "--algorithm", "averaging", "--seed", "1", "--out", "l", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    predicted = load_model(tmp_path / "l" / "model.npz").predict([[0, 0], [1, 0], [0, 1]])
    assert predicted.tolist() == pytest.approx([-0.25, 1.25, 0.25], abs=0.02)
    assert report_of(tmp_path / "l")["value"] <= 0.2501


def test_terminal_shows_a_live_panel(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "fedmq", "demo", "--seed", "1", "--out", "run"],
        cwd=tmp_path,
        env=clean_environment(TERM="xterm-256color", COLUMNS="100", LINES="40"),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.STDOUT,
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := read(ours):
            shown += chunk
        assert process.wait(WAIT_S) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    text = shown.decode()
    assert "\x1b[" in text
    assert "fitness best" in text
    assert "alice" in text
    assert re.search(r"solved in \d+ rounds", text)


def read(terminal: int) -> bytes:
    """Return the next bytes of a terminal, b"" at its end, for which Linux raises an error."""
    try:
        return os.read(terminal, 65_536)
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("arguments", "exit_code", "named"),
    [
        (["--trainers", "0"], 2, ["--trainers", "0"]),
        (["--task", "nosuch"], 78, ["xor, parity4, linear"]),
        (["--task", "missing.py"], 78, ["missing.py"]),
        (["--algorithm", "magic"], 78, ["evolution", "averaging", "magic"]),
        (["--algorithm", "averaging", "--param", "rule=magic"], 78, ["rule", "magic"]),
    ],
)
def test_invalid_option_is_reported_and_leaves_no_files(
    arguments: list[str], exit_code: int, named: list[str], tmp_path: Path
) -> None:
    done = run_fedmq("demo", *arguments, cwd=tmp_path)

    assert done.returncode == exit_code
    assert [value for value in named if value not in done.stderr] == []
    assert list(tmp_path.iterdir()) == []


def test_missing_rows_are_reported_once_and_leave_no_files(tmp_path: Path) -> None:
    (tmp_path / "norows.py").write_text(ENDLESS[: ENDLESS.index("def rows")])

    done = run_fedmq("demo", "--task", "norows.py", cwd=tmp_path)

    assert (done.returncode, done.stderr.count("\n")) == (78, 1)
    assert ("norows.py" in done.stderr, "rows(part, parts)" in done.stderr) == (True, True)
    assert [path.name for path in tmp_path.iterdir()] == ["norows.py"]


def test_demo_serves_its_page_until_the_reader_disconnects(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-P", "-m", "fedmq", "demo", "--seed", "1", "--dashboard", "--dashboard-port", str(port)]
    out = tmp_path / "out"
    with out.open("wb") as output:
        demo = subprocess.Popen(command, cwd=tmp_path, env=clean_environment(), stdout=output)
    try:
        until(lambda: "solved in" in out.read_text(), "the run to be over")
        assert out.read_text().startswith(f"dashboard on http://127.0.0.1:{port}/\n"), "the page starts first"
        page = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
        (run,) = [path.name for path in (tmp_path / "runs").iterdir()]
        page.request("GET", f"/api/runs/{run}/stream")
        stream = page.getresponse()
        until(lambda: stream.readline().startswith(b"event: full"), "the first state of the run")
        assert demo.poll() is None, "a reader is connected"
        stream.close()
        page.close()
        assert demo.wait(WAIT_S) == 0
        assert "Next: fedmq runs show" in out.read_text()
    finally:
        demo.kill()
        demo.wait(WAIT_S)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_signal_to_the_demo_ends_all_services(number: signal.Signals, code: int, tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(ENDLESS)
    with Services(tmp_path) as services:
        services.start("demo", "demo", "--task", "endless.py")
        until(lambda: "results of 2 trainers" in services.out("demo"), "a round")
        parts = psutil.Process(services.running["demo"].pid).children()
        assert len(parts) == 4

        services.running["demo"].send_signal(number)

        assert services.wait("demo") == code
        _, left = psutil.wait_procs(parts, WAIT_S)
        for part in left:
            part.kill()
        assert left == []
        (run,) = (tmp_path / "runs").iterdir()
        command = f"fedmq demo --task endless.py --out runs/{run.name}"
        assert (command in services.err("demo")) == (number != signal.SIGKILL)


def test_each_table_of_a_demo_is_a_trainer_named_after_its_file(tmp_path: Path) -> None:
    for site in ("north", "south"):
        lines = (EXAMPLES / f"pumps-{site}.csv").read_text()
        (tmp_path / f"{site}.csv").write_text(lines)
    data = ("--data", "north.csv", "--data", "south.csv")
    done = run_fedmq("demo", str(EXAMPLES / "pumps.py"), *data, "--seed", "1", "--out", "pumps", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {one["name"] for one in report_of(tmp_path / "pumps")["trainers"]} == {"north", "south"}


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (("data/north.csv", "a b.csv.gz"), ["north", "a-b"]),
        (("north/rows.csv", "south/rows.csv"), ["north-rows", "south-rows"]),
        (("rows.csv", "rows.csv"), ["trainer-1", "trainer-2"]),
        (("SELECT * FROM 'x.csv'", "?"), ["trainer-1", "trainer-2"]),
    ],
)
def test_names_of_trainers_follow_from_their_files(sources: tuple[str, ...], names: list[str]) -> None:
    assert names_of_sources(sources) == names

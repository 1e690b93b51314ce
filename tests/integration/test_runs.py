"""The commands `fedmq runs …` on real folders of runs."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import msgspec
import pytest
from services import Services, closed, events_of, report_of, run_fedmq, until

from fedmq.algorithms.registry import find_algorithm
from fedmq.protocol.run_config import Limits
from fedmq.runs.store import Store
from fedmq.simulation import Federation
from fedmq.tasks.task_file import find_task, task_rows

LONG = 230  # rounds; there is a checkpoint every hundred


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a solved run, `runs/one`, and one that used up its rounds, `runs/two`."""
    made = tmp_path_factory.mktemp("runs")
    one = run_fedmq("demo", "--seed", "1", "--out", "runs/one", "--quiet", cwd=made)
    two = run_fedmq("demo", "--seed", "1", "--rounds", "1", "--out", "runs/two", "--quiet", cwd=made)
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    return made


def test_ls_lists_the_newest_run_first(folder: Path) -> None:
    done = run_fedmq("runs", "ls", cwd=folder)

    assert done.returncode == 0, done.stderr
    heading, first, second = done.stdout.splitlines()
    assert heading.split() == ["folder", "task", "algorithm", "state", "rounds", "value", "seed"]
    assert first.split()[:4] == ["runs/two", "xor", "evolution", "finished"]
    rounds = str(report_of(folder / "runs" / "one")["rounds"])
    assert second.split() == ["runs/one", "xor", "evolution", "solved", rounds, "1", "1"]


def test_ls_gives_json(folder: Path) -> None:
    found = json.loads(run_fedmq("runs", "ls", "--json", cwd=folder).stdout)

    assert [(one["folder"], one["state"]) for one in found] == [("runs/two", "finished"), ("runs/one", "solved")]


def test_show_prints_results_and_configuration(folder: Path) -> None:
    done = run_fedmq("runs", "show", "runs/one", cwd=folder)

    assert done.returncode == 0, done.stderr
    for line in ("task       xor", "state      solved", "seed       1", "trainer    alice: 2 rows, "):
        assert f"\n{line}" in done.stdout
    assert report_of(folder / "runs" / "one")["model_sha256"] in done.stdout


def test_show_names_a_site_whose_rows_differ(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "runs" / "one", tmp_path / "run")
    report = report_of(tmp_path / "run")
    report["trainers"][1]["differences"] = [{"reason": "unit", "column": "sugar", "detail": "mean 95; elsewhere 5.2"}]
    (tmp_path / "run" / "report.json").write_text(json.dumps(report))

    lines = run_fedmq("runs", "show", "run", cwd=tmp_path).stdout.splitlines()

    (place,) = (place for place, line in enumerate(lines) if line.startswith("warning"))
    assert lines[place] == "warning    the rows of bob differ: sugar: mean 95; elsewhere 5.2"
    assert lines[place - 1].startswith("trainer    bob: ")


def test_show_gives_the_report_as_json(folder: Path) -> None:
    done = run_fedmq("runs", "show", "one", "--json", cwd=folder)

    assert json.loads(done.stdout) == {**report_of(folder / "runs" / "one"), "result": None}


def test_ls_of_an_empty_folder_names_the_demo(tmp_path: Path) -> None:
    done = run_fedmq("runs", "ls", cwd=tmp_path)

    assert (done.returncode, done.stdout) == (0, "no runs in runs; make one with: fedmq demo\n")


@pytest.mark.parametrize(
    ("given", "why"), [("nosuch", "there is none; check the path"), ("runs/one", "got a run; fedmq runs show runs/one")]
)
def test_ls_of_a_wrong_folder_ends_with_78(given: str, why: str, folder: Path) -> None:
    done = run_fedmq("runs", "ls", given, cwd=folder)

    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == f"fedmq: {given}: expected a folder of runs, {why}\n"


def test_ls_skips_a_damaged_run_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "runs" / "broken").mkdir(parents=True)
    (tmp_path / "runs" / "broken" / "store.sqlite3").write_text("this is no database, but it is long enough" * 20)

    done = run_fedmq("runs", "ls", cwd=tmp_path)

    assert done.returncode == 0
    assert done.stderr.startswith("fedmq: left out: runs/broken/store.sqlite3 is damaged or not the store of a run: ")


@pytest.mark.parametrize(
    ("given", "looked"),
    [("foreign", "foreign"), ("nobody", "runs/nobody"), ("runs/nobody", "runs/nobody")],
)
def test_show_of_another_folder_ends_with_78(given: str, looked: str, tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()

    done = run_fedmq("runs", "show", given, cwd=tmp_path)

    assert done.returncode == 78
    assert done.stderr.startswith(f"fedmq: {looked}: expected the folder of a run")
    assert done.stderr.count("\n") == 1


def test_show_of_a_damaged_report_ends_with_78(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "store.sqlite3").write_bytes((folder / "runs" / "one" / "store.sqlite3").read_bytes())
    (tmp_path / "report.json").write_text("{")

    done = run_fedmq("runs", "show", str(tmp_path), cwd=tmp_path)

    assert (done.returncode, done.stderr.count("\n")) == (78, 1)


def state(folder: Path) -> str:
    """What `ls` says of the only run in `folder`."""
    (one,) = json.loads(run_fedmq("runs", "ls", "--json", cwd=folder).stdout)
    return str(one["state"])


def test_ls_shows_waiting_and_interrupted_runs(tmp_path: Path) -> None:
    with Services(tmp_path) as services:
        services.start_broker()
        services.start("aggregator", "aggregator", "--task", "xor", "--out", "runs/one")
        until(lambda: "waiting" in str(events_of(tmp_path / "runs" / "one")), "the aggregator to wait")
        assert state(tmp_path) == "waiting for trainers (0 of 2)"
        services.start_trainer("alice", "xor:1/2")
        until(lambda: "'present': 1" in str(events_of(tmp_path / "runs" / "one")), "alice to be there")
        assert state(tmp_path) == "waiting for trainers (1 of 2)"
        services.kill("aggregator")
        assert state(tmp_path) == "interrupted"


# Maintenance


@pytest.fixture
def one(folder: Path, tmp_path: Path) -> Path:
    """A copy of the solved run, to be changed."""
    return shutil.copytree(folder / "runs" / "one", tmp_path / "runs" / "one")


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """A run that went on for long without reaching its target."""
    folder = tmp_path / "runs" / "long"
    folder.mkdir(parents=True)
    store = Store(folder / "store.sqlite3")
    task = msgspec.structs.replace(find_task("linear"), target=0.0)
    rows = {name: task_rows("linear", part, 2) for part, name in enumerate(("alice", "bob"), start=1)}
    limits = Limits(rounds_max=LONG, min_trainers=2)
    assert (
        Federation(
            task, find_algorithm("averaging", parameters={"standardize": False}), rows, limits=limits, store=store
        ).train()
        is not None
    )
    store.close()
    return folder


def damage(folder: Path) -> None:
    """A result of the last round is lost."""
    connection = sqlite3.connect(folder / "store.sqlite3")
    connection.execute(
        "UPDATE results SET frames = x'00' WHERE trainer = 'alice' AND counted_in = (SELECT max(round) FROM closes)"
    )
    connection.commit()
    connection.close()


def model_sha256_of(folder: Path) -> str:
    """As `fedmq runs replay` prints it."""
    replayed = run_fedmq("runs", "replay", str(folder), "--json", cwd=folder)
    assert replayed.returncode == 0, replayed.stderr
    return str(json.loads(replayed.stdout)["model_sha256"])


@pytest.mark.parametrize("run", ["runs/one", "one"], ids=["by folder", "by name"])
def test_replay_prints_the_model_sha256_of_the_report(folder: Path, run: str) -> None:
    done = run_fedmq("runs", "replay", run, cwd=folder)

    assert (done.returncode, done.stderr) == (0, "")
    report = report_of(folder / "runs" / "one")
    assert done.stdout.splitlines()[0].split() == ["rounds", str(report["rounds"])]
    assert done.stdout.splitlines()[1].split() == ["results", str(sum(one["results"] for one in report["trainers"]))]
    assert done.stdout.splitlines()[2].split() == ["model_sha256", report["model_sha256"]]


@pytest.mark.parametrize("name", ["report.json", "model.npz"])
def test_replay_that_differs_from_a_file_ends_with_78(name: str, one: Path, tmp_path: Path) -> None:
    right, content = report_of(one)["model_sha256"], (one / name).read_bytes()
    (one / name).write_bytes(content.replace(right.encode(), b"0" * 64) if name == "report.json" else content[::-1])

    done = run_fedmq("runs", "replay", "one", cwd=tmp_path)

    assert done.returncode == 78
    assert done.stderr.startswith(f"fedmq: runs/one/{name}: expected the model_sha256 {right} of the replay, got ")
    assert done.stderr.count("\n") == 1


def test_verify_of_an_undamaged_run_succeeds(folder: Path) -> None:
    done = run_fedmq("runs", "verify", "one", cwd=folder)

    rounds = report_of(folder / "runs" / "one")["rounds"]
    assert (done.returncode, done.stdout) == (0, f"runs/one: whole, {rounds} rounds\n")


def test_verify_names_the_last_undamaged_round_and_recover_keeps_it(one: Path, tmp_path: Path) -> None:
    whole = report_of(one)["rounds"] - 1
    damage(one)

    verified = run_fedmq("runs", "verify", "one", cwd=tmp_path)

    assert verified.returncode == 78
    assert "the result of alice in round" in verified.stdout
    assert "runs verify" not in verified.stdout
    way_out = f"fedmq runs recover runs/one --to-round {whole}"
    assert verified.stderr == f"fedmq: runs/one: damaged, whole up to round {whole}; {way_out} keeps that much\n"

    recovered = run_fedmq(*way_out.split()[1:], cwd=tmp_path)

    assert recovered.returncode == 0, recovered.stderr
    assert recovered.stdout == f"runs/one: {whole} rounds kept; continue with: fedmq aggregator --out runs/one\n"
    assert run_fedmq("runs", "verify", "one", cwd=tmp_path).stdout == f"runs/one: whole, {whole} rounds\n"
    assert (one / "store.sqlite3.damaged").exists()


def test_recovered_run_is_continued_to_its_target(one: Path, tmp_path: Path) -> None:
    damage(one)
    assert run_fedmq("runs", "recover", "one", cwd=tmp_path).returncode == 0
    before = closed(one)

    with Services(tmp_path) as services:
        services.start_broker()
        for name, data in (("alice", "xor:1/2"), ("bob", "xor:2/2")):
            services.start_trainer(name, data)
        services.start("aggregator", "aggregator", "--out", "runs/one")
        assert services.wait("aggregator") == 0, services.err("aggregator")

    assert closed(one) > before
    assert model_sha256_of(one) == report_of(one)["model_sha256"]


def test_gc_drops_old_rounds_and_keeps_the_model(long: Path, tmp_path: Path) -> None:
    before, size = model_sha256_of(long), (long / "store.sqlite3").stat().st_size

    done = run_fedmq("runs", "gc", "long", "--keep-rounds", "30", cwd=tmp_path)

    assert (done.returncode, done.stdout) == (0, "runs/long: 200 rounds dropped\n"), done.stderr
    assert model_sha256_of(long) == before
    assert run_fedmq("runs", "verify", "long", cwd=tmp_path).stdout == f"runs/long: whole, {LONG} rounds\n"
    assert (long / "store.sqlite3").stat().st_size < size / 2


def test_gc_of_a_short_run_drops_nothing(one: Path, tmp_path: Path) -> None:
    done = run_fedmq("runs", "gc", "one", "--keep-rounds", "1", cwd=tmp_path)

    assert (done.returncode, done.stdout) == (0, "runs/one: 0 rounds dropped\n")
    assert model_sha256_of(one) == report_of(one)["model_sha256"]


@pytest.mark.parametrize("command", ["gc", "recover"])
def test_maintenance_of_a_live_run_is_refused(command: str, one: Path, tmp_path: Path) -> None:
    store = Store(one / "store.sqlite3")
    store.next_term(0.0)

    done = run_fedmq("runs", command, "one", cwd=tmp_path)

    store.close()
    assert done.returncode == 78
    assert "expected no other process" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(one.glob("*.damaged"))


@pytest.mark.parametrize("command", ["replay", "verify", "recover", "gc"])
def test_maintenance_of_another_folder_ends_with_78(command: str, tmp_path: Path) -> None:
    done = run_fedmq("runs", command, "foreign", cwd=tmp_path)

    assert done.returncode == 78
    assert done.stderr.startswith("fedmq: runs/foreign: expected the folder of a run")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["replay", "verify", "recover", "gc"])
@pytest.mark.parametrize("folder", [False, True], ids=["text", "folder"])
def test_maintenance_of_a_file_that_is_no_store_ends_with_78(command: str, folder: bool, tmp_path: Path) -> None:
    if folder:
        (tmp_path / "store.sqlite3").mkdir()
    else:
        (tmp_path / "store.sqlite3").write_text("this is no database, but it is long enough" * 20)

    done = run_fedmq("runs", command, ".", cwd=tmp_path)

    assert done.returncode == 78
    assert done.stderr.startswith("fedmq: store.sqlite3 is damaged or not the store of a run: ")
    assert "not a store: nothing can be recovered" in done.stderr
    assert "runs verify" not in done.stderr, "it is what says so"
    assert done.stderr.count("\n") == 1

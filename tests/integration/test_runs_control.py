"""`fedmq runs pause` and what else one may say to live runs, and a trainer's spool: real processes, one is killed.

Knows what the processes print and write, nothing of their insides.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import psutil
import pytest
from services import Services, closed, events_of, report_of, run_fedmq, until

from fedmq.trainer.spool import FileSpool

ENDLESS = """
from fedmq import Linear, Task
task = Task(name="endless", model=Linear(2), loss="squared-error", metric="loss", target=0.0, rounds=1000000)
"""
WORKS_S = 0.1  # of processor time: more than a trainer without work takes, and less than a round of
SLOW = """
from fedmq import Linear, Task
task = Task(
    name="slow", model=Linear(2), loss="squared-error", metric="loss", target=0.0, trainers=1, rounds=1000,
    parameters={"evolution": {"generations": 10000}},
)
"""


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with Services(tmp_path) as running:
        yield running


def runs(services: Services, *arguments: str) -> CompletedProcess[str]:
    """`fedmq runs ARGUMENTS`, to its end."""
    return run_fedmq("runs", *arguments, cwd=services.folder, FEDMQ_BROKER=services.address)


def state(services: Services) -> str:
    shown = json.loads(runs(services, "show", "run", "--json").stdout)
    return str(shown["state"])


def is_open(run: Path) -> bool:
    """Whether a round of the run is open now."""
    kinds = [one["event"] for one in events_of(run)]
    return kinds.count("round-published") > kinds.count("round-closed")


def until_paused(run: Path) -> None:
    """Wait for the first pause on disk, which follows the answer to the command, and for the open round to close."""
    until(lambda: any(one["event"] == "run-paused" for one in events_of(run)), "the pause")
    until(lambda: not is_open(run), "the open round to close")


def start_endless(services: Services) -> Path:
    """An endless run of bob and alice in the folder `run`, with some rounds closed."""
    (services.folder / "endless.py").write_text(ENDLESS)
    services.start_broker()
    services.start("aggregator", "aggregator", "--task", "endless.py", "--min-trainers", "2", "--out", "run")
    for name in ("bob", "alice"):
        services.start_trainer(name, f"linear:{name}")
    until(lambda: closed(services.folder / "run") >= 2, "two rounds")
    return services.folder / "run"


def test_live_run_is_paused_resumed_drained_and_stopped(services: Services) -> None:
    run = start_endless(services)
    services.start("waiting", "runs", "pause", "without-an-aggregator")  # for ten seconds: see the end

    paused = runs(services, "pause", "run")

    assert (paused.returncode, paused.stderr) == (0, "")
    assert paused.stdout == "run is paused; continue with fedmq runs resume run\n"
    until_paused(run)
    before = closed(run)
    assert state(services) == "paused"
    assert runs(services, "pause", "run").returncode == 0, "asking again is no error"
    assert "paused; continue with fedmq runs resume" in services.out("aggregator")
    assert closed(run) == before

    resumed = runs(services, "resume", events_of(run)[0]["config"]["run"])

    assert (resumed.returncode, resumed.stderr) == (0, ""), "by its name, too: not everybody has the folder"
    until(lambda: closed(run) > before + 1, "rounds after the pause")
    assert state(services) == "running"

    assert runs(services, "checkpoint", "run").stdout == "run saves its state when the open round closes\n"
    until(lambda: any(one["event"] == "checkpoint-kept" for one in events_of(run)), "the state on disk")

    assert "stop       fedmq runs stop run\n" in runs(services, "show", "run").stdout

    drained = runs(services, "drain", "run", "alice")

    assert drained.stdout == "alice is drained from run; undo with fedmq runs readmit run alice\n"
    until(lambda: any(one["event"] == "trainer-barred" for one in events_of(run)), "alice to be drained on disk, too")
    until(lambda: not is_open(run), "the open round to close")
    before = closed(run)
    assert state(services) == "waiting for trainers (1 of 2)"
    assert runs(services, "ban", "run", "alice").returncode == 0
    assert runs(services, "readmit", "run", "alice").stdout == "alice takes part in run again\n"
    until(lambda: closed(run) > before, "rounds with alice")

    stopped = runs(services, "stop", "run")

    assert (stopped.returncode, stopped.stdout) == (0, "run is stopped; see its results with fedmq runs show run\n")
    assert services.wait("aggregator") == 1, "the target was not reached"
    report = report_of(run)
    assert (report["solved"], report["rounds"]) == (False, closed(run))
    assert "state      stopped by an operator\n" in runs(services, "show", "run").stdout
    assert report["model_sha256"] is not None
    assert "stopped in" in services.out("aggregator")
    over = runs(services, "pause", "run")
    assert over.returncode == 78
    assert over.stderr == f"fedmq: run: the run is over after {report['rounds']} rounds; it cannot pause\n"

    services.start("aggregator", "aggregator", "--out", "run")
    until(lambda: closed(run) > report["rounds"], "rounds of a run that goes on")
    assert state(services) == "running"
    assert runs(services, "pause", "run").returncode == 0

    wrong = runs(services, "stop", "no/such run")
    assert wrong.returncode == 78
    assert wrong.stderr.startswith("fedmq: expected the name or the folder of a run, got 'no/such run'")
    assert wrong.stderr.count("\n") == 1
    assert services.wait("waiting") == 69
    assert services.err("waiting").startswith("fedmq: expected run without-an-aggregator to pause within 10 s")
    assert services.err("waiting").count("\n") == 1
    assert services.out("waiting") == ""


def test_pause_survives_the_broker_but_not_the_aggregator(services: Services) -> None:
    run = start_endless(services)
    assert runs(services, "pause", "run").returncode == 0
    until_paused(run)
    services.kill("broker")
    services.start_broker()
    joined = sum(one["event"] == "trainer-joined" for one in events_of(run))
    services.start_trainer("carol", "linear:bob")
    until(lambda: sum(one["event"] == "trainer-joined" for one in events_of(run)) > joined, "carol to come")
    before = closed(run)
    assert state(services) == "paused"
    assert closed(run) == before
    services.terminate("aggregator")
    assert services.wait("aggregator") == 1
    assert state(services) == "interrupted"
    services.start("aggregator", "aggregator", "--out", "run")
    until(lambda: closed(run) > before, "rounds of the next life")


def test_result_of_a_killed_trainer_is_sent_by_its_next_life(services: Services) -> None:
    (services.folder / "slow.py").write_text(SLOW)
    run, results = services.folder / "run", services.folder / "state" / "bob"
    aggregator = ("aggregator", "--task", "slow.py", "--out", "run")
    bob = ("linear:bob", "--state", "state", "--log-level", "info")
    services.start_broker()
    services.start("aggregator", *aggregator)
    services.start_trainer("bob", *bob)
    until(lambda: "takes part" in services.err("bob"), "bob to come")
    cpu = psutil.Process(services.running["bob"].pid).cpu_times
    idle = cpu().user
    until(lambda: cpu().user > idle + WORKS_S, "bob to work")  # the event of a round comes before its message
    services.kill("aggregator")
    assert closed(run) == 0, "bob was quicker than the kill"
    until(lambda: list(results.glob("*.result")), "bob's result to be on his disk")
    services.kill("bob")
    (kept,) = FileSpool(results).load("bob", 2)

    services.start_trainer("bob", *bob)
    services.start("aggregator", *aggregator)

    until(lambda: closed(run) >= 1, "the round to close")
    (accepted,) = [one for one in events_of(run) if one["event"] == "result-accepted"][:1]
    assert (accepted["trainer"], accepted["round"]) == ("bob", kept.round)
    assert accepted["train_s"] == kept.train_s, "to the last bit: no second computation takes as long"
    line = f"the result of round {kept.round} of run {kept.run} is accepted"
    until(lambda: line in services.err("bob"), "bob to hear of it")
    until(lambda: not (results / f"{kept.run}.{kept.round}.result").exists(), "bob's disk to be empty again")
    services.terminate("bob")
    assert services.wait("bob", timeout_s=5) == 0
    assert "Traceback" not in services.err("bob") + services.err("aggregator")

"""`fedmq spawn` without systemd: trainers are children of the command."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from services import Services, report_of, run_fedmq, until


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    """Kill trainers that outlive the test, even if their parent was killed."""
    with Services(tmp_path) as running:
        yield running
        children = children_of(running.running["spawn"])
    for child in children:
        child.kill()


def children_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def spawn(services: Services, *arguments: str) -> None:
    services.start("spawn", "spawn", *arguments, "--foreground", "--name", "ward", "--min-rows", "1")


def test_spawned_trainers_train_and_end_with_the_command(services: Services) -> None:
    services.start_broker()
    spawn(services, "2", "--data", "xor:{part}/{parts}")
    services.start("aggregator", "aggregator", "--task", "xor", "--seed", "1", "--out", "run")
    assert services.wait("aggregator") == 0, services.err("aggregator") + services.err("spawn")
    names = [one["name"] for one in report_of(services.folder / "run")["trainers"]]
    assert sorted(names) == ["ward-1", "ward-2"]

    end(services, signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_signal_of_a_terminal_reaches_trainers_once(services: Services, number: signal.Signals) -> None:
    spawn(services, "2", "--data", "xor:{part}/{parts}")
    until(lambda: services.out("spawn").count("2 rows") == 2, "the trainers to start")
    command = services.running["spawn"]
    # A terminal sends signals to the whole group; a second signal would end a trainer without a clean stop.
    assert os.getpgid(command.pid) not in {os.getpgid(trainer.pid) for trainer in children_of(command)}

    end(services, number)


def end(services: Services, number: signal.Signals) -> None:
    """Send the signal; the command and its two trainers end."""
    trainers = children_of(services.running["spawn"])
    assert len(trainers) == 2
    services.running["spawn"].send_signal(number)
    assert services.wait("spawn") == 0, services.err("spawn")
    assert not any(trainer.is_running() for trainer in trainers)
    assert "Traceback" not in services.err("spawn")


def test_trainer_with_invalid_rows_is_reported_and_others_continue(services: Services) -> None:
    (services.folder / "rows-2.csv").write_text("a,target\n1,0\n2,1\n")

    spawn(services, "2", "--data", "rows-{n}.csv")

    until(lambda: "ended with" in services.err("spawn"), "the end of the first")
    until(lambda: "trainer ward-2: 2 rows" in services.out("spawn"), "the second to start")
    error, report = (line for line in services.err("spawn").splitlines() if line.startswith("fedmq"))
    assert "rows-1.csv" in error
    assert ("ward-1" in report, "78" in report) == (True, True)
    [other] = children_of(services.running["spawn"])
    other.kill()
    assert services.wait("spawn") == 78
    last = services.err("spawn").splitlines()[-1]
    assert ("ward-2" in last, "-9" in last) == (True, True)


def test_all_options_of_a_trainer_are_passed_on(services: Services) -> None:
    (services.folder / "ward.toml").write_text('data = "xor:{part}/2"\nscore_bits = 8\nallow_code = true\n')
    arguments = ["--config", "ward.toml", "--state", "state/{name}", "--log-level", "info"]

    spawn(services, "1", *arguments)

    until(lambda: "trainer ward-1: 2 rows" in services.out("spawn"), "the trainer to start")
    [trainer] = children_of(services.running["spawn"])
    passed = trainer.cmdline()[trainer.cmdline().index("fedmq") + 1 :]
    assert passed[:3] == ["trainer", "--name", "ward-1"]
    pairs = {" ".join(passed[at : at + 2]) for at in range(3, len(passed) - 1)}
    expected = {"--data xor:1/2", "--score-bits 8", "--state state/ward-1", "--log-level info", "--min-rows 1"}
    assert pairs >= expected
    assert "--allow-code" in passed


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["2"], 2, "--data"),
        (["0", "--data", "xor:1/2"], 2, "'N': 0"),
        (["2", "--data", "xor:1/2", "--name", "a/b"], 2, "--name"),
        (["2", "--data", "xor:1/2", "--score-bits", "99"], 2, "--score-bits"),
    ],
)
def test_invalid_option_is_one_line_and_starts_no_trainer(
    arguments: list[str], code: int, named: str, tmp_path: Path
) -> None:
    done = run_fedmq("spawn", *arguments, "--foreground", cwd=tmp_path)

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert named in done.stderr

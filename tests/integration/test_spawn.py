"""`fedmq spawn` where there is no systemd: trainers below the command, to the end of a run and to their own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from services import Services, report_of, run_fedmq, until

from fedmq.runtime.clock import SystemClock

STOP_S = 5.0


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    """No trainer outlives a test, not even one whose parent was killed."""
    with Services(tmp_path) as running:
        yield running
        children = below(running.running["spawn"])
    for child in children:
        child.kill()


def below(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def spawn(services: Services, *words: str) -> None:
    services.start("spawn", "spawn", *words, "--foreground", "--name", "ward", "--min-rows", "1")


def test_spawned_trainers_learn_what_none_could_alone_and_end_with_the_command(services: Services) -> None:
    services.start_broker()
    spawn(services, "2", "--data", "xor:{part}/{parts}")
    services.start("aggregator", "aggregator", "--task", "xor", "--seed", "1", "--out", "run")
    assert services.wait("aggregator") == 0, services.err("aggregator") + services.err("spawn")
    names = [one["name"] for one in report_of(services.folder / "run")["trainers"]]
    assert sorted(names) == ["ward-1", "ward-2"]

    end(services, signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_a_terminal_says_reaches_the_trainers_once_and_ends_them(
    services: Services, number: signal.Signals
) -> None:
    spawn(services, "2", "--data", "xor:{part}/{parts}")
    until(lambda: services.out("spawn").count("2 rows") == 2, "the trainers to start")
    command = services.running["spawn"]
    # A terminal tells a whole group; a trainer that is told twice ends at once, and leaves its work as it is.
    assert os.getpgid(command.pid) not in {os.getpgid(trainer.pid) for trainer in below(command)}

    end(services, number)


def end(services: Services, number: signal.Signals) -> None:
    """The command and its two trainers end in time when it gets the signal."""
    trainers, clock = below(services.running["spawn"]), SystemClock()
    assert len(trainers) == 2
    start = clock.now()
    services.running["spawn"].send_signal(number)
    assert services.wait("spawn", STOP_S + 5) == 0, services.err("spawn")
    assert clock.now() - start < STOP_S
    assert not any(trainer.is_running() for trainer in trainers)
    assert "Traceback" not in services.err("spawn")


def test_a_trainer_that_cannot_use_its_rows_is_told_and_the_others_go_on(services: Services) -> None:
    (services.folder / "rows-2.csv").write_text("a,target\n1,0\n2,1\n")

    spawn(services, "2", "--data", "rows-{n}.csv")

    until(lambda: "ended with" in services.err("spawn"), "the end of the first")
    until(lambda: "trainer ward-2: 2 rows" in services.out("spawn"), "the second to start")
    why, told = (line for line in services.err("spawn").splitlines() if line.startswith("fedmq"))
    assert why.startswith("fedmq: rows-1.csv: ")
    assert told == "fedmq spawn: ward-1 ended with exit code 78; see above"
    [other] = below(services.running["spawn"])
    other.kill()
    assert services.wait("spawn") == 78
    assert "ward-2 ended with exit code -9" in services.err("spawn")


def test_all_that_can_be_said_of_a_trainer_can_be_said_of_many(services: Services) -> None:
    (services.folder / "ward.toml").write_text('data = "xor:{part}/2"\nscore_bits = 8\nallow_code = true\n')
    words = ["--config", "ward.toml", "--state", "state/{name}", "--log-level", "info"]

    spawn(services, "1", *words)

    until(lambda: "trainer ward-1: 2 rows" in services.out("spawn"), "the trainer to start")
    [trainer] = below(services.running["spawn"])
    said = trainer.cmdline()[trainer.cmdline().index("fedmq") + 1 :]
    assert said[:3] == ["trainer", "--name", "ward-1"]
    pairs = {" ".join(said[at : at + 2]) for at in range(3, len(said) - 1)}
    expected = {"--data xor:1/2", "--score-bits 8", "--state state/ward-1", "--log-level info", "--min-rows 1"}
    assert pairs >= expected
    assert "--allow-code" in said


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["2"], 2, "fedmq: Missing option '--data'"),
        (["0", "--data", "xor:1/2"], 2, "fedmq: Invalid value for 'N': 0 is not in the range"),
        (["2", "--data", "xor:1/2", "--name", "a/b"], 2, "fedmq: Invalid value for '--name': expected letters"),
        (["2", "--data", "xor:1/2", "--score-bits", "99"], 2, "fedmq: Invalid value for '--score-bits'"),
    ],
)
def test_a_wrong_word_is_one_line_before_anything_starts(
    words: list[str], code: int, line: str, tmp_path: Path
) -> None:
    done = run_fedmq("spawn", *words, "--foreground", cwd=tmp_path)

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert done.stderr.startswith(line)

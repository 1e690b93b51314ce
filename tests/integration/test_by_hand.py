"""The three services as a user starts them, each in its own terminal, and what happens when one is killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from services import Services, closed, events_of, run_fedmq, until, without_notices

NEVER_SOLVED = """
from fedmq import Linear, Task
task = Task(name="endless", model=Linear(2), loss="squared-error", metric="loss", target=0.0, rounds=100000)
"""


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with Services(tmp_path) as running:
        yield running


def trainers_in(services: Services, kind: str, since: int = 0) -> list[str]:
    """Return the trainers of the run's events of this kind."""
    return [one["trainer"] for one in events_of(services.folder / "run")[since:] if one["event"] == kind]


def test_late_trainer_takes_part_in_the_next_round(services: Services) -> None:
    (services.folder / "endless.py").write_text(NEVER_SOLVED)
    run = services.folder / "run"
    services.start_broker()
    patient = ("--deadline-s", "60")  # each round waits for its trainers, however slow the machine is
    services.start("aggregator", "aggregator", "--task", "endless.py", "--min-trainers", "1", *patient, "--out", "run")
    services.start_trainer("bob", "linear:1/1")
    until(lambda: closed(run) >= 2, "two rounds with bob alone")
    services.start_trainer("alice", "linear:1/1")
    until(lambda: "alice" in trainers_in(services, "result-accepted"), "a result of alice")
    events = events_of(run)
    joined = next(one for one in events if one["event"] == "trainer-joined" and one["trainer"] == "alice")
    first = next(one for one in events if one["event"] == "result-accepted" and one["trainer"] == "alice")
    between = events[events.index(joined) : events.index(first)]
    assert sum(one["event"] == "round-closed" for one in between) <= 1
    services.terminate("aggregator")
    assert services.wait("aggregator") == 1
    assert "continue with: fedmq aggregator --out run" in services.err("aggregator")


def test_training_continues_after_kills_of_a_trainer_and_the_broker(services: Services) -> None:
    (services.folder / "endless.py").write_text(NEVER_SOLVED)
    run = services.folder / "run"
    names = ["alice", "bob", "carol", "dave"]
    services.start("alice", "trainer", "--name", "alice", "--data", "linear:1/1")
    until(lambda: services.address in services.err("alice"), "alice to report that there is no broker")
    services.start_broker()
    services.start("aggregator", "aggregator", "--task", "endless.py", "--min-trainers", "4", "--out", "run")
    for name in names[1:]:
        services.start_trainer(name, "linear:1/1")

    until(lambda: closed(run) >= 3, "three rounds")
    services.kill("carol")
    until(lambda: "carol" in trainers_in(services, "trainer-left"), "the aggregator to notice that carol is gone")
    since = len(events_of(run))
    services.start_trainer("carol", "linear:1/1")
    until(lambda: "carol" in trainers_in(services, "result-accepted", since), "a result of carol after her restart")

    services.kill("broker")
    since = len(events_of(run))
    services.start_broker()
    until(
        lambda: set(trainers_in(services, "result-accepted", since)) == set(names),
        "a result of each trainer after the restart",
    )

    for name in names:  # the aggregator still acknowledges what they hold: without it each waits four seconds for that
        services.terminate(name)
    assert [services.wait(name) for name in names] == [0, 0, 0, 0]
    services.terminate("aggregator")
    assert services.wait("aggregator") == 1, services.err("aggregator")
    assert "Traceback" not in "".join(services.err(name) for name in [*names, "aggregator", "broker"])


def test_services_end_with_69_after_the_connect_timeout(services: Services) -> None:
    services.start_trainer("alice", "xor:1/2", "--connect-timeout", "0.5", "--min-rows", "1")
    services.start("aggregator", "aggregator", "--task", "xor", "--connect-timeout", "0.5", "--out", "run")

    assert [services.wait(name) for name in ("alice", "aggregator")] == [69, 69]
    for name in ("alice", "aggregator"):
        (end,) = without_notices(services.err(name)).splitlines()
        assert end.startswith("fedmq: ")
        assert services.address in end


def test_second_broker_on_the_same_ports_ends_with_78(services: Services) -> None:
    services.start_broker()

    second = run_fedmq("broker", "--port", str(services.port), cwd=services.folder)

    assert second.returncode == 78
    assert second.stderr.count("\n") == 1
    assert "--port" in second.stderr

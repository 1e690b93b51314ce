"""`fedmq watch` with a real run; trainers, the aggregator and the broker are killed and restarted."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from keyed import Keyed
from services import Services, run_fedmq, until

RUN = ("aggregator", "--task", "xor", "--min-trainers", "2", "--rounds", "1000000", "--seed", "1", "--out", "r")


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Start an endless run and `fedmq watch`; each test leaves them running."""
    with Services(tmp_path_factory.mktemp("watch")) as services:
        (services.folder / "rows.csv").write_text("a,b,y\n0,1,0\n0,1,1\n")  # cannot be learned
        services.start("watch", "watch", "--json")
        services.start_broker()
        services.start("aggregator", *RUN, "--run", "one", "--quiet")
        for name in ("alice", "bob"):
            services.start_trainer(name, "rows.csv", "--labels", "north")
        seen(services, "rounds", lambda line: line["round"] > 2)
        yield services


def last(services: Services) -> dict[str, Any]:
    """Return the last complete line of `fedmq watch`."""
    lines = services.out("watch").split("\n")[:-1]
    line: dict[str, Any] = json.loads(lines[-1]) if lines else {"round": 0, "term": 0, "state": "", "trainers": []}
    return line


def seen(services: Services, what: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    until(lambda: condition(last(services)), what)
    return last(services)


def presence(line: dict[str, Any], name: str) -> str | None:
    return next((one["presence"] for one in line["trainers"] if one["name"] == name), None)


def once(services: Services, *arguments: str) -> str:
    done = run_fedmq("watch", *arguments, "--once", cwd=services.folder, FEDMQ_BROKER=services.address)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_once_shows_a_live_run_by_name_or_folder(services: Services) -> None:
    for run in ("one", "r"):
        shown = once(services, run)
        first = shown.splitlines()[0]
        assert first.startswith("one  xor, evolution, seed 1")
        assert first.endswith("● running")
        assert "alice" in shown
        assert " of 1000000 " in shown
    assert json.loads(once(services, "--json"))["trainers"][0]["labels"] == ["north"]


def test_watch_shows_a_killed_and_restarted_trainer(services: Services) -> None:
    services.kill("bob")
    seen(services, "bob to be gone", lambda line: presence(line, "bob") == "gone")
    services.start_trainer("bob", "rows.csv")
    seen(services, "bob to be back", lambda line: presence(line, "bob") == "alive")


def test_killed_run_is_interrupted_and_continues(services: Services) -> None:
    before = last(services)
    services.kill("aggregator")
    seen(services, "the run to be interrupted", lambda line: line["state"] == "interrupted")
    assert "● interrupted" in once(services)  # although the broker has its snapshot
    services.start("aggregator", *RUN[:1], "--out", "r", "--min-trainers", "2", "--rounds", "1000000", "--quiet")
    seen(  # its first life may have gone on a little after `before`: the second one waits for its trainers first
        services,
        "the run to go on",
        lambda line: line["term"] > before["term"] and line["round"] > before["round"] and line["state"] == "running",
    )


def test_watch_continues_after_a_broker_restart(services: Services) -> None:
    missed = services.err("watch").count("does not answer; trying again")  # before its start
    services.kill("broker")
    until(
        lambda: services.err("watch").count("does not answer; trying again") > missed, "the broker to be missed again"
    )
    services.start_broker()
    came = last(services)["at"]
    seen(services, "news after the restart", lambda line: line["at"] > came and line["state"] == "running")


def test_interrupt_ends_watch_with_exit_code_0(services: Services) -> None:
    services.running["watch"].send_signal(signal.SIGINT)
    assert services.wait("watch") == 0
    assert "Traceback" not in services.err("watch")


def test_timeout_without_a_broker_ends_watch_with_69(tmp_path: Path) -> None:
    done = run_fedmq("watch", "--broker", "tcp://127.0.0.1:9", "--connect-timeout", "0.2", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (69, 1)
    assert "no broker answered at tcp://127.0.0.1:9 within 0.2 s" in done.stderr


def test_missing_folder_is_rejected_at_once(tmp_path: Path) -> None:
    done = run_fedmq("watch", "runs/nosuch", "--once", "--broker", "tcp://127.0.0.1:9", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (78, 1)
    assert done.stderr.startswith("fedmq: runs/nosuch: expected the folder of a run")


def test_key_of_the_aggregator_may_watch_and_that_of_a_trainer_not(tmp_path: Path) -> None:
    keyed = Keyed(tmp_path, "alice")
    with keyed.running_broker():
        services = keyed.services
        services.start("aggregator", "aggregator", "--keys", "keys", "--task", "xor", "--out", "r", "--run", "one")
        services.start("alice", "trainer", "--keys", "alice", "--data", "xor:1/2", "--min-rows", "1")
        until(lambda: "trainer alice joined" in services.out("aggregator"), "alice to join")
        until(lambda: "● alive" in once(services, "one", "--keys", "keys"), "alice to be seen")

        refused = run_fedmq("watch", "--keys", "alice", "--once", cwd=tmp_path)
        assert (refused.returncode, refused.stderr.count("\n")) == (78, 1)
        assert "expected observer.key or aggregator.key in it" in refused.stderr

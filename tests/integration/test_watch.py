"""`fedmq watch` at a real broker, on a real run: trainers, the aggregator and the broker are killed and come back."""

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
    """A run that goes on, and somebody who watches it; each test leaves them well."""
    with Services(tmp_path_factory.mktemp("watch")) as services:
        (services.folder / "rows.csv").write_text("a,b,y\n0,1,0\n0,1,1\n")  # that nobody can learn
        services.start("watch", "watch", "--json")
        services.start_broker()
        services.start("aggregator", *RUN, "--run", "one", "--quiet")
        for name in ("alice", "bob"):
            services.start_trainer(name, "rows.csv", "--labels", "north")
        yield services


def last(services: Services) -> dict[str, Any]:
    """The last whole line of who watches."""
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


def test_a_live_run_is_shown_in_one_picture_by_name_or_from_its_folder(services: Services) -> None:
    seen(services, "rounds", lambda line: line["round"] > 2)
    for run in ("one", "r"):
        picture = once(services, run)
        first = picture.splitlines()[0]
        assert first.startswith("one  xor, evolution (clip), seed 1")
        assert first.endswith("● running")
        assert "alice" in picture
        assert " of 1000000 " in picture
    assert json.loads(once(services, "--json"))["trainers"][0]["labels"] == ["north"]


def test_a_trainer_that_is_killed_is_gone_and_comes_back(services: Services) -> None:
    services.kill("bob")
    seen(services, "bob to be gone", lambda line: presence(line, "bob") == "gone")
    services.start_trainer("bob", "rows.csv")
    seen(services, "bob to be back", lambda line: presence(line, "bob") == "alive")


def test_a_run_that_is_killed_is_interrupted_and_goes_on_in_the_same_picture(services: Services) -> None:
    before = last(services)
    services.kill("aggregator")
    seen(services, "the run to be interrupted", lambda line: line["state"] == "interrupted")
    assert "● interrupted" in once(services)  # and not taken for alive because the broker has kept a picture of it
    services.start("aggregator", *RUN[:1], "--out", "r", "--min-trainers", "2", "--rounds", "1000000", "--quiet")
    again = seen(
        services, "the run to go on", lambda line: line["term"] > before["term"] and line["round"] > before["round"]
    )
    assert again["state"] == "running"


def test_a_broker_that_is_killed_is_missed_and_watching_goes_on_when_it_is_back(services: Services) -> None:
    missed = services.err("watch").count("does not answer; trying again")  # when it was not started yet
    services.kill("broker")
    until(
        lambda: services.err("watch").count("does not answer; trying again") > missed, "the broker to be missed again"
    )
    services.start_broker()
    came = last(services)["at"]
    seen(services, "news after the restart", lambda line: line["at"] > came and line["state"] == "running")


def test_an_interrupt_ends_watching_with_exit_code_0(services: Services) -> None:
    services.running["watch"].send_signal(signal.SIGINT)
    assert services.wait("watch") == 0
    assert "Traceback" not in services.err("watch")


def test_no_broker_within_the_timeout_ends_it_with_69_in_one_line(tmp_path: Path) -> None:
    done = run_fedmq("watch", "--broker", "tcp://127.0.0.1:9", "--connect-timeout", "0.2", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (69, 1)
    assert "no broker answered at tcp://127.0.0.1:9 within 0.2 s" in done.stderr


def test_a_folder_that_is_not_there_is_not_waited_for(tmp_path: Path) -> None:
    done = run_fedmq("watch", "runs/nosuch", "--once", "--broker", "tcp://127.0.0.1:9", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (78, 1)
    assert done.stderr.startswith("fedmq: runs/nosuch: expected the folder of a run")


def test_with_keys_the_aggregators_opens_the_door_and_a_trainers_does_not(tmp_path: Path) -> None:
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

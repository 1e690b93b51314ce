"""The plan for a host: what is wrong there, what is done, and nothing when all is as it should be."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from fedmq.deploy import plan
from fedmq.deploy.facts import KEYS, QUESTIONS, Facts, Unit, read_facts
from fedmq.deploy.inventory import BrokerHost, Instance, Setting
from fedmq.deploy.package import Package, find_package, read_package
from fedmq.errors import BadConfiguration
from fedmq.security.keyring import read_federation
from fedmq.security.membership import make_federation

NOW = 1_000_000.0
PACKAGE = Package(Path("fedmq.deb"), "1.0-1", "amd64", (3, 11), (3, 12), 80_000, 30_000)
FIT = Facts(
    os="debian 12",
    architecture="amd64",
    systemd=252,
    python=(3, 11),
    free_kb=1 << 20,
    clock=NOW + 1,
    package="installed",
    version="1.0-1",
)
BROKER = BrokerHost("north", "192.0.2.1")
TRAINER = Instance("south", "south-1", "rows.csv")


def as_it_should_be(facts: Facts, steps: list[plan.AnyStep]) -> Facts:
    """The facts of a host on which these steps have been carried out."""
    files, units, trainers = dict(facts.files), dict(facts.units), set(facts.trainers)
    for step in steps:
        if isinstance(step, plan.Enrol):
            trainers.add(step.name)
        elif isinstance(step, plan.Step) and step.reads:
            [path] = {word for word in step.script.split() if word.startswith("/etc/fedmq/") and word.endswith(".toml")}
            files[path] = hashlib.sha256(step.reads).hexdigest()
            [unit] = {word for word in step.script.replace("'", "").split() if word.endswith(".service")}
            units[unit] = Unit("active", True)
    known = {"federation": "f", "joined": "f", "address": BROKER.url}
    return replace(facts, files=files, units=units, trainers=frozenset(trainers), **known)  # type: ignore[arg-type]


def test_a_fit_host_has_no_problems() -> None:
    assert plan.problems(FIT, PACKAGE, NOW) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"os": None, "architecture": None}, "expected Debian or Ubuntu, got neither"),
        ({"architecture": "arm64"}, "expected amd64, got arm64"),
        ({"systemd": None}, "expected systemd as the first process"),
        ({"systemd": 241}, "expected systemd 252 or newer, got 241"),
        ({"python": (3, 9)}, "expected Python 3.11, got 3.9"),
        ({"python": (3, 13)}, "expected Python 3.11, got 3.13"),
        ({"version": None, "free_kb": 100_000}, "expected 171 MB free"),
        ({"clock": NOW - 3600}, "got -3600 s"),
    ],
)
def test_each_problem_is_one_line_with_what_to_do(change: dict[str, object], line: str) -> None:
    [problem] = plan.problems(replace(FIT, **change), PACKAGE, NOW)  # type: ignore[arg-type]

    assert line in problem
    assert "\n" not in problem
    assert ";" in problem


def test_a_host_without_python_gets_the_one_of_its_own_sources() -> None:
    assert plan.problems(replace(FIT, python=None), PACKAGE, NOW) == []


def test_a_version_that_is_there_is_not_installed_again() -> None:
    assert plan.install(FIT, PACKAGE) == []
    assert plan.install(replace(FIT, version="0.9-1"), PACKAGE) == [plan.Install(PACKAGE)]


def test_a_port_in_use_matters_until_it_is_our_own() -> None:
    taken = replace(FIT, ports=frozenset({22, 5552}))

    assert "5552" in plan.broker_problems(taken, BROKER)[0]
    assert plan.broker_problems(replace(taken, units={plan.BROKER: Unit("active", True)}), BROKER) == []


def test_a_second_run_has_nothing_to_do() -> None:
    settings: dict[str, Setting] = {"task": "xor"}
    for steps_on in (
        lambda facts: plan.broker(facts, BROKER),
        lambda facts: plan.aggregator(facts, settings, 5550),
        lambda facts: plan.trainers(facts, [TRAINER], "f", BROKER.url),
    ):
        steps = steps_on(FIT)
        assert steps
        assert steps_on(as_it_should_be(FIT, steps)) == []


def test_new_settings_start_a_unit_again_and_keep_its_key() -> None:
    there = as_it_should_be(FIT, plan.trainers(FIT, [TRAINER], "f", BROKER.url))

    assert [step.what for step in plan.trainers(there, [TRAINER._replace(data="more.csv")], "f", BROKER.url)] == [
        "restart trainer@south-1"
    ]


def test_a_trainer_that_is_not_wanted_any_more_is_stopped() -> None:
    there = as_it_should_be(FIT, plan.trainers(FIT, [TRAINER, TRAINER._replace(name="south-2")], "f", BROKER.url))

    assert [step.what for step in plan.trainers(there, [TRAINER], "f", BROKER.url)] == ["stop trainer@south-2"]
    failed = replace(there, units={**there.units, "fedmq-trainer@south-2.service": Unit("failed", False)})
    [step] = plan.trainers(failed, [TRAINER], "f", BROKER.url)
    assert isinstance(step, plan.Step)
    assert "reset-failed fedmq-trainer@south-2.service" in step.script


def test_a_new_address_of_the_broker_reaches_its_keys_and_the_trainers(tmp_path: Path) -> None:
    there = as_it_should_be(FIT, [*plan.broker(FIT, BROKER), *plan.trainers(FIT, [TRAINER], "f", BROKER.url)])
    moved = BrokerHost("north", "192.0.2.1", 7000)

    keys, restart = plan.broker(there, moved)
    assert [one.what for one in plan.trainers(there, [TRAINER], "f", moved.url)] == ["restart trainer@south-1"]

    assert isinstance(keys, plan.Step)
    assert restart.what == "restart broker"
    make_federation(tmp_path, BROKER.url)
    before = read_federation(tmp_path)
    subprocess.run(["sh", "-c", keys.script.replace(KEYS, str(tmp_path))], check=True, timeout=30)
    after = read_federation(tmp_path)
    assert (after.broker, after.id, after.broker_key) == (moved.url, before.id, before.broker_key)


def test_a_host_of_another_federation_is_left_alone() -> None:
    [problem] = plan.trainer_problems(replace(FIT, joined="other"), "f")

    assert "another's keys" in problem
    assert plan.trainer_problems(FIT, "f") == plan.trainer_problems(replace(FIT, joined="f"), "f") == []


def test_a_finished_run_is_left_alone_and_put_away_for_another() -> None:
    over = as_it_should_be(FIT, plan.aggregator(FIT, {"task": "xor"}, 5550))
    over = replace(over, finished=True, units={plan.AGGREGATOR: Unit("inactive", True)})

    assert plan.aggregator(over, {"task": "xor"}, 5550) == []
    assert [step.what for step in plan.aggregator(over, {"task": "parity4"}, 5550)] == [
        "put the finished run away",
        "start aggregator",
    ]


def test_stopping_and_removing_do_nothing_where_nothing_is() -> None:
    assert plan.stop(FIT) == []
    assert plan.remove(replace(FIT, version=None, package=None)) == []
    running = replace(FIT, units={plan.BROKER: Unit("active", True), "fedmq-trainer@a.service": Unit("failed", False)})
    assert [step.what for step in plan.stop(running)] == ["stop broker, trainer@a"]
    assert [step.what for step in plan.remove(FIT)] == ["purge"]
    assert [step.what for step in plan.remove(replace(FIT, version=None, package="config-files"))] == ["purge"]


@pytest.mark.parametrize(
    "script",
    [
        QUESTIONS,
        plan.install_script("1.0-1"),
        plan.put_away_run(),
        plan.keys_command("token", "--name", "south-1"),
        plan.join_script("south-1", 10),
        *(step.script for step in plan.broker(FIT, BROKER) if isinstance(step, plan.Step)),
    ],
)
def test_a_script_is_shell_that_a_shell_can_read(script: str) -> None:
    done = subprocess.run(["sh", "-n"], input=script, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_a_join_writes_nobody_else_may_read() -> None:
    assert plan.join_script("south-1", 10).startswith("set -e; umask 077;")


def test_the_facts_are_read_from_what_the_questions_print() -> None:
    answers = """\
os debian 12
architecture amd64
systemd 252
python 3.11
free 1234
clock 1000001.5
port 15AE
port nonsense
package installed 1.0-1
file abc  /etc/fedmq/broker.toml
federation Zg==
joined Zg==
address tcp://192.0.2.1:5550
trainer south-1
finished
unit Id=fedmq-broker.service
unit ActiveState=active
unit UnitFileState=enabled
unit NRestarts=2
unit StatusText=4 trainers
unit Result=success
unit
unit Id=fedmq-aggregator.service
unit ActiveState=inactive
unit UnitFileState=disabled
what nobody asked
"""
    facts = read_facts(answers)

    assert facts.os == "debian 12"
    assert (facts.systemd, facts.python, facts.free_kb, facts.clock) == (252, (3, 11), 1234, 1000001.5)
    assert facts.ports == {5550, 0}
    assert (facts.version, facts.federation, facts.trainers, facts.finished) == ("1.0-1", "Zg==", {"south-1"}, True)
    assert facts.address == "tcp://192.0.2.1:5550"
    assert facts.files == {"/etc/fedmq/broker.toml": "abc"}
    assert facts.units == {"fedmq-broker.service": Unit("active", True, 2, "4 trainers", "success")}


def test_a_package_that_was_removed_is_not_there() -> None:
    removed = read_facts("package config-files 1.0-1")
    assert (removed.version, removed.package) == (None, "config-files")
    assert read_facts("package not-installed ").package is read_facts("").package is None


def test_what_is_no_package_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "fedmq_1_amd64.deb"
    path.write_bytes(b"not an archive")
    with pytest.raises(BadConfiguration, match="expected a Debian package of fedmq"):
        read_package(path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadConfiguration, match="make deb"):
        find_package(None)

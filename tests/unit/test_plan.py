"""The plan for a host: its problems, the steps, and no steps in the desired state."""

from __future__ import annotations

import hashlib
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from fedmq.deploy import plan
from fedmq.deploy.facts import FACTS_SCRIPT, KEYS, Facts, Unit, read_facts
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


def after_steps(facts: Facts, steps: list[plan.AnyStep]) -> Facts:
    """Return the facts of a host after these steps."""
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


def test_suitable_host_has_no_problems() -> None:
    assert plan.problems(FIT, PACKAGE, NOW) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"os": None, "architecture": None}, "Debian"),
        ({"architecture": "arm64"}, "arm64"),
        ({"systemd": None}, "systemd"),
        ({"systemd": 241}, "241"),
        ({"python": (3, 9)}, "3.9"),
        ({"python": (3, 13)}, "3.13"),
        ({"version": None, "free_kb": 100_000}, "171 MB"),
        ({"clock": NOW - 3600}, "-3600 s"),
    ],
)
def test_problem_is_one_line_with_the_value(change: dict[str, object], named: str) -> None:
    [problem] = plan.problems(replace(FIT, **change), PACKAGE, NOW)  # type: ignore[arg-type]

    assert (named in problem, "\n" in problem) == (True, False)


def test_host_without_python_has_no_problem() -> None:
    assert plan.problems(replace(FIT, python=None), PACKAGE, NOW) == []


def test_installed_version_is_not_installed_again() -> None:
    assert plan.install(FIT, PACKAGE) == []
    assert plan.install(replace(FIT, version="0.9-1"), PACKAGE) == [plan.Install(PACKAGE)]


def test_port_in_use_is_a_problem_unless_the_broker_runs() -> None:
    taken = replace(FIT, ports=frozenset({22, 5552}))

    assert "5552" in plan.broker_problems(taken, BROKER)[0]
    assert plan.broker_problems(replace(taken, units={plan.BROKER: Unit("active", True)}), BROKER) == []


def test_second_plan_is_empty() -> None:
    settings: dict[str, Setting] = {"task": "xor"}
    for steps_on in (
        lambda facts: plan.broker(facts, BROKER),
        lambda facts: plan.aggregator(facts, settings, 5550),
        lambda facts: plan.trainers(facts, [TRAINER], "f", BROKER.url),
    ):
        steps = steps_on(FIT)
        assert steps
        assert steps_on(after_steps(FIT, steps)) == []


def test_new_settings_restart_the_unit_and_keep_its_key() -> None:
    current = after_steps(FIT, plan.trainers(FIT, [TRAINER], "f", BROKER.url))

    assert [step.what for step in plan.trainers(current, [TRAINER._replace(data="more.csv")], "f", BROKER.url)] == [
        "restart trainer@south-1"
    ]


def test_unwanted_trainer_is_stopped() -> None:
    current = after_steps(FIT, plan.trainers(FIT, [TRAINER, TRAINER._replace(name="south-2")], "f", BROKER.url))

    assert [step.what for step in plan.trainers(current, [TRAINER], "f", BROKER.url)] == ["stop trainer@south-2"]
    failed = replace(current, units={**current.units, "fedmq-trainer@south-2.service": Unit("failed", False)})
    [step] = plan.trainers(failed, [TRAINER], "f", BROKER.url)
    assert isinstance(step, plan.Step)
    assert "reset-failed fedmq-trainer@south-2.service" in step.script


def test_new_broker_address_updates_keys_and_restarts_trainers(tmp_path: Path) -> None:
    current = after_steps(FIT, [*plan.broker(FIT, BROKER), *plan.trainers(FIT, [TRAINER], "f", BROKER.url)])
    moved = BrokerHost("north", "192.0.2.1", 7000)

    keys, restart = plan.broker(current, moved)
    assert [one.what for one in plan.trainers(current, [TRAINER], "f", moved.url)] == ["restart trainer@south-1"]

    assert isinstance(keys, plan.Step)
    assert restart.what == "restart broker"
    make_federation(tmp_path, BROKER.url)
    before = read_federation(tmp_path)
    subprocess.run(["sh", "-c", keys.script.replace(KEYS, str(tmp_path))], check=True, timeout=30)
    after = read_federation(tmp_path)
    assert (after.broker, after.id, after.broker_key) == (moved.url, before.id, before.broker_key)


def test_host_of_another_federation_is_a_problem() -> None:
    assert len(plan.trainer_problems(replace(FIT, joined="other"), "f")) == 1
    assert plan.trainer_problems(FIT, "f") == plan.trainer_problems(replace(FIT, joined="f"), "f") == []


def test_finished_run_stays_until_another_is_desired() -> None:
    finished = after_steps(FIT, plan.aggregator(FIT, {"task": "xor"}, 5550))
    finished = replace(finished, finished=True, units={plan.AGGREGATOR: Unit("inactive", True)})

    assert plan.aggregator(finished, {"task": "xor"}, 5550) == []
    assert [step.what for step in plan.aggregator(finished, {"task": "parity4"}, 5550)] == [
        "archive the finished run",
        "start aggregator",
    ]


def test_stop_and_remove_plan_nothing_on_an_empty_host() -> None:
    assert plan.stop(FIT) == []
    assert plan.remove(replace(FIT, version=None, package=None)) == []
    running = replace(FIT, units={plan.BROKER: Unit("active", True), "fedmq-trainer@a.service": Unit("failed", False)})
    assert [step.what for step in plan.stop(running)] == ["stop broker, trainer@a"]
    assert [step.what for step in plan.remove(FIT)] == ["purge"]
    assert [step.what for step in plan.remove(replace(FIT, version=None, package="config-files"))] == ["purge"]


@pytest.mark.parametrize(
    "script",
    [
        FACTS_SCRIPT,
        plan.install_script("1.0-1"),
        plan.archive_run(),
        plan.keys_command("token", "--name", "south-1"),
        plan.join_script("south-1", 10),
        *(step.script for step in plan.broker(FIT, BROKER) if isinstance(step, plan.Step)),
    ],
)
def test_script_is_valid_shell(script: str) -> None:
    done = subprocess.run(["sh", "-n"], input=script, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_join_script_sets_a_private_umask() -> None:
    assert plan.join_script("south-1", 10).startswith("set -e; umask 077;")


def test_facts_are_parsed_from_the_script_output() -> None:
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
unknown line
"""
    facts = read_facts(answers)

    assert facts.os == "debian 12"
    assert (facts.systemd, facts.python, facts.free_kb, facts.clock) == (252, (3, 11), 1234, 1000001.5)
    assert facts.ports == {5550}
    assert (facts.version, facts.federation, facts.trainers, facts.finished) == ("1.0-1", "Zg==", {"south-1"}, True)
    assert facts.address == "tcp://192.0.2.1:5550"
    assert facts.files == {"/etc/fedmq/broker.toml": "abc"}
    assert facts.units == {"fedmq-broker.service": Unit("active", True, 2, "4 trainers", "success")}


def test_removed_package_has_no_version() -> None:
    removed = read_facts("package config-files 1.0-1")
    assert (removed.version, removed.package) == (None, "config-files")
    assert read_facts("package not-installed ").package is read_facts("").package is None


def test_invalid_package_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "fedmq_1_amd64.deb"
    path.write_bytes(b"not an archive")
    with pytest.raises(BadConfiguration, match=re.escape(path.name)):
        read_package(path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadConfiguration, match="make deb"):
        find_package(None)

"""The life of a fleet in order: deployment, training, kills, cuts, changes, upgrade and removal.

Each test continues where the one before has ended. Asserts use systemd's states, the files of the run, and the output
of commands.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from machines import Machine, until
from workstation import Workstation

BROKER, AGGREGATOR = "fedmq-broker.service", "fedmq-aggregator.service"
RUN = "/var/lib/fedmq/aggregator"
# At this rate a round takes some tenths of a second instead of milliseconds, which leaves the processor to the tests.
KILOBITS_S = 10_000
# The rows of parity4:1/4 and 2/4 twice, and one contradicting row, so that the run cannot reach its target. At the end
# the trainers get consistent rows.
CONTRADICTIONS = (
    "a,b,c,d,target\n" + 2 * "0,0,0,0,0\n0,0,0,1,1\n0,0,1,0,1\n0,0,1,1,0\n" + "0,0,0,0,1\n",
    "a,b,c,d,target\n" + 2 * "0,1,0,0,1\n0,1,0,1,0\n0,1,1,0,0\n0,1,1,1,1\n" + "0,1,0,0,0\n",
)
WRONG, RIGHT = "/usr/local/share/rows-{n}.csv", "parity4:{part}/4"
WAIT_S = 60.0
CUT_S = 20.0
FORGET_S = 30.0  # time until the rows of a trainer that left without Goodbye are not expected any more
INVENTORY = """\
[broker]
host = "north"
address = "10.77.0.11"

[aggregator]
task = "parity4"
min_trainers = 4
rounds = 100000
seed = 1

[[trainers]]
host = "south"
count = 2
data = "DATA"

[[trainers]]
host = "east"
count = 2
data = "parity4:{part}/4"
"""

pytestmark = pytest.mark.timeout(150)


class Fleet:
    """Three machines, and the state of the run on the first."""

    def __init__(self, machines: list[Machine], workstation: Workstation, began: float) -> None:
        self.began = began
        self.north, self.south, self.east = machines
        self.workstation = workstation
        self.before = listings(*machines)

    def rounds(self) -> int:
        """Return the number of closed rounds."""
        return sum(event["event"] == "round-closed" for event in self.events())

    def covers_all_rows(self) -> bool:
        """Return whether the last round has covered the rows of all trainers."""
        closed = [event for event in self.events() if event["event"] == "round-closed"]
        return bool(closed[-1]["best"]["coverage"] == 1.0)

    def events(self) -> list[dict[str, Any]]:
        """Return the events of the run so far."""
        path = self.north.root / "var/lib/private/fedmq/aggregator/events.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def continues(self, what: str) -> float:
        """Wait until two more rounds are closed."""
        enough = self.rounds() + 2
        return self.until(lambda: self.rounds() >= enough, f"the run to continue after {what}")

    def until(self, condition: Callable[[], object], what: str, timeout_s: float = WAIT_S) -> float:
        """Wait for `condition()`; fail with the state of the run."""
        return until(condition, what, timeout_s, details=self.details)

    def details(self) -> str:
        """Return the state and the last log lines of the run."""
        lines = (self.north.journal(unit)[-3000:] for unit in (AGGREGATOR, BROKER))
        return "\n--\n".join([self.status(), self.north.show(BROKER, "StatusText"), *lines])

    def status(self) -> str:
        """Return the status text of the aggregator."""
        return self.north.show(AGGREGATOR, "StatusText")

    def report(self) -> dict[str, Any]:
        """Return the report of the finished run."""
        found: dict[str, Any] = json.loads(self.north.run("cat", f"{RUN}/report.json"))
        return found


def listing(machine: Machine) -> set[str]:
    """Return every file, user, group and unit of a machine, without the records of systemd and the journal."""
    kept = ("/var/log/", "/var/cache/", "/var/lib/PackageKit/")
    files = machine.run("find", "/", "/root", "-xdev").splitlines()
    ours = machine.run("find", "/run", "/tmp", "/var/log", "/var/cache", "-name", "*fedmq*").splitlines()  # noqa: S108 - its own
    known = machine.run("sh", "-c", "getent passwd; getent group").splitlines()
    units = machine.run("systemctl", "list-unit-files", "--no-legend", "--plain").splitlines()
    everything = {*(path for path in files if not path.startswith(kept)), *ours, *(f"known {line}" for line in known)}
    return everything | {f"unit {line.split()[0]}" for line in units}


def listings(*machines: Machine) -> dict[str, set[str]]:
    """Return the listings of these machines by name."""
    with ThreadPoolExecutor() as pool:
        return dict(zip((machine.name for machine in machines), pool.map(listing, machines), strict=True))


@pytest.fixture(scope="module")
def fleet(boot: Callable[..., list[Machine]], workstation: Workstation) -> Fleet:
    start = time.monotonic()
    machines = boot("north", "south", "east")
    workstation.write_ssh_config()
    (workstation.folder / "fleet.toml").write_text(INVENTORY.replace("DATA", WRONG))
    north, south, _ = machines
    for n, rows in enumerate(CONTRADICTIONS, 1):
        (south.root / WRONG.replace("{n}", str(n)).lstrip("/")).write_text(rows)
    # A watchdog of three seconds instead of a minute.
    folder = f"/etc/systemd/system/{AGGREGATOR}.d"
    fleet = Fleet(machines, workstation, start)
    north.run("sh", "-c", f"mkdir {folder}; printf '[Service]\\nWatchdogSec=3\\n' > {folder}/test.conf")
    return fleet


def test_deployed_fleet_trains(fleet: Fleet) -> None:
    fleet.workstation.deploy("up")
    fleet.north.slow_down(KILOBITS_S)

    for machine, unit in [
        (fleet.north, BROKER),
        (fleet.north, AGGREGATOR),
        *((machine, f"fedmq-trainer@{machine.name}-{n}") for machine in (fleet.south, fleet.east) for n in (1, 2)),
    ]:
        assert machine.show(unit, "ActiveState") == "active"
        assert machine.show(unit, "NRestarts") == "0"
        assert machine.show(unit, "Type") == "notify"
    fleet.continues("the deployment")


def test_second_deployment_changes_nothing(fleet: Fleet) -> None:
    before = [fleet.north.show(unit, "MainPID") for unit in (BROKER, AGGREGATOR)]

    output = fleet.workstation.deploy("up")

    assert output.count("nothing to do") == 3, output
    assert [fleet.north.show(unit, "MainPID") for unit in (BROKER, AGGREGATOR)] == before


def test_killed_broker_and_trainer_restart_and_the_run_continues(fleet: Fleet) -> None:
    fleet.north.run("systemctl", "kill", "--signal", "KILL", BROKER)
    fleet.south.run("systemctl", "kill", "--signal", "KILL", "fedmq-trainer@south-1")

    for machine, unit in ((fleet.north, BROKER), (fleet.south, "fedmq-trainer@south-1")):
        until(lambda: machine.show(unit, "NRestarts") == "1", f"{unit} to restart", WAIT_S)  # noqa: B023
        until(lambda: machine.show(unit, "ActiveState") == "active", f"{unit} to be active", WAIT_S)  # noqa: B023
    fleet.continues("the kills")


def test_watchdog_restarts_hung_aggregator_and_the_run_resumes(fleet: Fleet) -> None:
    fleet.north.run("systemctl", "kill", "--signal", "STOP", AGGREGATOR)

    fleet.until(lambda: fleet.north.show(AGGREGATOR, "NRestarts") == "1", "the watchdog to restart the aggregator")
    assert "Watchdog timeout" in fleet.north.journal(AGGREGATOR)
    fleet.until(lambda: fleet.north.show(AGGREGATOR, "ActiveState") == "active", "the aggregator to be active")
    fleet.continues("the watchdog")


def test_disconnected_host_times_out_and_reconnects(fleet: Fleet) -> None:
    fleet.south.cut()
    missed_s = fleet.until(lambda: "(2 of 4)" in fleet.status(), "two trainers to time out", CUT_S)
    rounds = fleet.rounds()
    closed = until_seconds(CUT_S - missed_s, lambda: fleet.rounds() > rounds)
    fleet.south.heal()

    assert not closed, "a round closed with two trainers, although min_trainers is 4"
    fleet.continues("the cut")


def until_seconds(seconds: float, never: Callable[[], bool]) -> bool:
    """Return whether the condition became true within these seconds."""
    try:
        until(never, "an event that must not happen", seconds)
    except AssertionError:
        return False
    return True


def test_host_is_added_and_removed_during_the_run(fleet: Fleet, boot: Callable[..., list[Machine]]) -> None:
    [west] = boot("west")
    before = listing(west)
    fleet.workstation.write_ssh_config()

    fleet.workstation.deploy("trainers", "west", "--data", "parity4:4/4")
    fleet.until(lambda: "5 trainers" in fleet.status(), "the fifth trainer to join")
    fleet.continues("adding a host")

    fleet.workstation.deploy("remove", "west")
    (fleet.workstation.folder / "fleet.toml").write_text(INVENTORY.replace("DATA", WRONG))
    fleet.until(lambda: "4 trainers" in fleet.status(), "the fifth trainer to leave")
    revoked = fleet.north.run("sh", "-c", "cat /var/lib/fedmq/keys/revoked/*.json")
    assert '"west"' in revoked
    assert listing(west) - before == set()
    fleet.until(fleet.covers_all_rows, "the rows of the removed host to be dropped", FORGET_S / 2)
    fleet.continues("removing a host")


def test_upgrade_restarts_services_and_the_run_continues(fleet: Fleet, packages: list[Path]) -> None:
    before = fleet.rounds()

    fleet.workstation.deploy("upgrade", "--package", str(packages[1]))

    for machine in (fleet.north, fleet.south, fleet.east):
        assert machine.run("dpkg-query", "-W", "-f", "${Version}", "fedmq").endswith("-2")
    assert fleet.rounds() >= before
    fleet.continues("the upgrade")
    status = json.loads(fleet.workstation.deploy("status", "--json"))
    states = [unit["active"] for host in status["hosts"].values() for unit in host["units"].values()]
    assert states == ["active"] * 6, status


def test_new_settings_are_deployed_and_the_run_reaches_its_target(fleet: Fleet) -> None:
    (fleet.workstation.folder / "fleet.toml").write_text(INVENTORY.replace("DATA", RIGHT))

    fleet.workstation.deploy("up")
    fleet.north.speed_up()
    fleet.until(lambda: fleet.north.show(AGGREGATOR, "ActiveState") in ("inactive", "failed"), "the run to end")

    report = fleet.report()
    assert report["solved"]
    assert fleet.north.show(AGGREGATOR, "Result") == "success"
    assert {"south-1", "south-2", "east-1", "east-2"} <= {one["name"] for one in report["trainers"]}
    replayed = fleet.north.run("fedmq", "runs", "replay", RUN)
    assert report["model_sha256"][:8] in replayed, replayed


def test_removal_leaves_no_file_user_or_unit(fleet: Fleet, record_property: Callable[[str, object], None]) -> None:
    fleet.south.run("systemctl", "set-property", "fedmq-trainer@south-1.service", "MemoryMax=4G")  # as documented

    fleet.workstation.deploy("remove", "south", "east", "north")

    machines = (fleet.north, fleet.south, fleet.east)
    for name, after in listings(*machines).items():
        assert after ^ fleet.before[name] == set()
    for machine in machines:
        running = machine.run("systemctl", "list-units", "--all", "--no-legend", "--plain", "fedmq*")
        assert running == "", running
    record_property("from the boot of three machines to their purge (goal: 240)", time.monotonic() - fleet.began)

"""The restrictions of the units: a probe runs in the unit in place of the service."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from machines import Machine, until
from workstation import ROOT

UNITS = "/etc/systemd/system"
SERVICES = sorted(path.name for path in (ROOT / "deploy" / "systemd").glob("*.service"))
REFUSED = ("PermissionError", "OSError", "FileNotFoundError")  # read-only or invisible
PROBE = """\
import json, os, pathlib

def tried(action):
    try:
        return action() or "done"
    except OSError as error:
        return type(error).__name__

credentials = pathlib.Path(os.environ["CREDENTIALS_DIRECTORY"])
own, other = pathlib.Path("/var/lib/fedmq/trainer-probe"), pathlib.Path("/var/lib/fedmq/trainer-other")
handed = pathlib.Path("/run/credentials/fedmq-trainer@other.service/trainer.key")
found = {
    "write own state": tried(lambda: (own / "rows").write_text("x")),
    "read own key": tried((credentials / "trainer.key").read_text),
    "write other's state": tried(lambda: (other / "rows").write_text("x")),
    "read other's state": tried((other / "secret").read_text),
    "read other's credential": tried(handed.read_text),
    "read other's key": tried(pathlib.Path("/etc/credstore/fedmq-trainer-other.key").read_text),
    "write settings": tried(lambda: pathlib.Path("/etc/fedmq/trainer-probe.toml").write_text("x")),
    "write itself": tried(lambda: pathlib.Path("/opt/fedmq/bin/fedmq").write_text("x")),
    "read root's home": tried(lambda: os.listdir("/root")),
    "see others' processes": sum(name.isdigit() for name in os.listdir("/proc")),
}
(own / "found.json").write_text(json.dumps(found))
"""
# The broker and the aggregator share a folder of keys and a user, but not their secret keys.
KEYS = "/var/lib/fedmq/keys"
KEYS_PROBE = """\
import json, pathlib

def tried(action):
    try:
        return action() or "done"
    except OSError as error:
        return type(error).__name__

written = [pathlib.Path(path) for path in ("/etc/fedmq/x", "/opt/fedmq/x", "/usr/x", "/var/lib/x", "/var/lib/fedmq/x")]
found = {name: tried(pathlib.Path("/var/lib/fedmq/keys", f"{name}.key").read_text) for name in ("broker", "aggregator")}
print(json.dumps({**found, **{str(path): tried(lambda: path.write_text("x")) for path in written}}), flush=True)
"""
EAT = "import time; kept = b'x' * ({megabytes} << 20); print('still here', flush=True); time.sleep(600)"

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def machine(boot: Callable[..., list[Machine]], packages: list[Path]) -> Machine:
    """Return a machine with the package and keys of two trainers."""
    [machine] = boot("north")
    shutil.copy(packages[0], machine.root / "opt" / "fedmq.deb")
    machine.run("dpkg", "--install", "/opt/fedmq.deb")
    for name in ("probe", "other"):
        path = f"/etc/credstore/fedmq-trainer-{name}.key"
        machine.run("sh", "-c", f"umask 077; cat > {path}", text=f"key of {name}")
    machine.run("sh", "-c", "cat > /usr/local/bin/probe.py", text=PROBE)
    return machine


def run_instead(machine: Machine, unit: str, command: str, kind: str) -> None:
    """Set a unit to run a command once, with its restrictions."""
    lines = f"[Service]\nType={kind}\nExecStart=\nExecStart={command}\nRestart=no\nWatchdogSec=0\n"
    machine.run("sh", "-c", f"mkdir -p {UNITS}/{unit}.d; cat > {UNITS}/{unit}.d/probe.conf", text=lines)
    machine.run("systemctl", "daemon-reload")


def test_trainer_writes_only_its_state_and_reads_no_other_key(machine: Machine) -> None:
    run_instead(machine, "fedmq-trainer@other.service", "/bin/sleep infinity", "exec")
    machine.run("systemctl", "start", "fedmq-trainer@other")
    machine.run("sh", "-c", "echo secret > /var/lib/fedmq/trainer-other/secret")
    assert machine.run("cat", "/run/credentials/fedmq-trainer@other.service/trainer.key") == "key of other"
    run_instead(machine, "fedmq-trainer@probe.service", "/opt/fedmq/bin/python /usr/local/bin/probe.py", "oneshot")

    machine.run("systemctl", "start", "fedmq-trainer@probe")

    found = json.loads(machine.run("cat", "/var/lib/fedmq/trainer-probe/found.json"))
    assert found.pop("write own state") == 1
    assert found.pop("read own key") == "key of probe"
    assert found.pop("see others' processes") == 1
    assert {what: result for what, result in found.items() if result not in REFUSED} == {}


@pytest.mark.parametrize(("own", "other"), [("broker", "aggregator"), ("aggregator", "broker")])
def test_broker_and_aggregator_read_only_their_own_secret_key(machine: Machine, own: str, other: str) -> None:
    unit = f"fedmq-{own}.service"
    machine.run("sh", "-c", "cat > /usr/local/bin/probe.py", text=KEYS_PROBE)
    run_instead(machine, unit, "/bin/true", "oneshot")
    machine.run("systemctl", "start", unit)  # creates the folder
    script = f"cd {KEYS}; for name in broker aggregator; do echo key of $name > $name.key; done; "
    machine.run("sh", "-c", f"{script} chmod 600 *.key; chown --reference=. *.key")
    run_instead(machine, unit, "/opt/fedmq/bin/python /usr/local/bin/probe.py", "oneshot")

    machine.run("systemctl", "start", unit)

    until(lambda: '"broker"' in machine.journal(unit), "the result of the probe", 20)
    found = json.loads(next(line for line in machine.journal(unit).splitlines() if '"broker"' in line))
    assert found.pop(own) == f"key of {own}\n"
    assert set(found) == {other, "/etc/fedmq/x", "/opt/fedmq/x", "/usr/x", "/var/lib/x", "/var/lib/fedmq/x"}
    assert {what: result for what, result in found.items() if result not in REFUSED} == {}


@pytest.mark.parametrize("unit", SERVICES)
def test_service_has_limits_below_the_machine(machine: Machine, unit: str) -> None:
    unit = unit.replace("@.", "@probe.")
    total = int(machine.run("awk", "/^MemTotal/ { print $2 }", "/proc/meminfo")) << 10

    assert machine.show(unit, "MemoryMax") != "infinity"
    assert int(machine.show(unit, "MemoryMax")) < total
    assert int(machine.show(unit, "TasksMax")) < 1000


@pytest.mark.parametrize("unit", ["fedmq-aggregator.service", "fedmq-trainer@other.service"])
def test_memory_limit_of_set_property_applies(machine: Machine, unit: str) -> None:
    run_instead(machine, unit, f'/opt/fedmq/bin/python -c "{EAT.format(megabytes=300)}"', "exec")

    machine.run("systemctl", "set-property", unit, "MemoryMax=150M")
    machine.run("systemctl", "restart", unit)

    until(lambda: machine.show(unit, "ActiveState") == "failed", "the limit to apply", 20)
    assert machine.show(unit, "Result") in ("oom-kill", "signal")


@pytest.mark.parametrize(("megabytes", "lives"), [(100, True), (600, False)])
def test_broker_above_its_memory_limit_is_killed(machine: Machine, megabytes: int, lives: bool) -> None:
    unit = "fedmq-broker.service"
    run_instead(machine, unit, f'/opt/fedmq/bin/python -c "{EAT.format(megabytes=megabytes)}"', "exec")

    machine.run("systemctl", "restart", unit)

    if lives:
        until(lambda: "still here" in machine.journal(unit), "the memory to be allocated", 20)
    else:
        until(lambda: machine.show(unit, "ActiveState") == "failed", "the limit to apply", 20)
        assert machine.show(unit, "Result") in ("oom-kill", "signal")

"""What a service can not do, tried from the inside: a probe runs in place of the service, in its unit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from machines import Machine, until

UNITS = "/etc/systemd/system"
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
EAT = "import time; kept = b'x' * ({megabytes} << 20); print('still here', flush=True); time.sleep(600)"

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def machine(boot: Callable[..., list[Machine]], packages: list[Path]) -> Machine:
    """A machine with the package and with keys for two trainers."""
    [machine] = boot("north")
    shutil.copy(packages[0], machine.root / "opt" / "fedmq.deb")
    machine.run("dpkg", "--install", "/opt/fedmq.deb")
    for name in ("probe", "other"):
        path = f"/etc/credstore/fedmq-trainer-{name}.key"
        machine.run("sh", "-c", f"umask 077; cat > {path}", text=f"key of {name}")
    machine.run("sh", "-c", "cat > /usr/local/bin/probe.py", text=PROBE)
    return machine


def run_instead(machine: Machine, unit: str, command: str, kind: str) -> None:
    """Let a unit run a command, in its sandbox, once."""
    lines = f"[Service]\nType={kind}\nExecStart=\nExecStart={command}\nRestart=no\nWatchdogSec=0\n"
    machine.run("sh", "-c", f"mkdir -p {UNITS}/{unit}.d; cat > {UNITS}/{unit}.d/probe.conf", text=lines)
    machine.run("systemctl", "daemon-reload")


def test_a_trainer_can_not_leave_its_own_state_nor_read_what_is_anothers(machine: Machine) -> None:
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
    refused = ("PermissionError", "OSError", "FileNotFoundError")  # a file system for reading; or not even to be seen
    assert {what: said for what, said in found.items() if said not in refused} == {}


@pytest.mark.parametrize(("megabytes", "lives"), [(100, True), (600, False)])
def test_a_broker_that_takes_more_memory_than_it_may_is_ended(machine: Machine, megabytes: int, lives: bool) -> None:
    unit = "fedmq-broker.service"
    run_instead(machine, unit, f'/opt/fedmq/bin/python -c "{EAT.format(megabytes=megabytes)}"', "exec")

    machine.run("systemctl", "restart", unit)

    if lives:
        until(lambda: "still here" in machine.journal(unit), "the memory to be taken", 20)
    else:
        until(lambda: machine.show(unit, "ActiveState") == "failed", "the limit to bite", 20)
        assert machine.show(unit, "Result") in ("oom-kill", "signal")

"""`fedmq deploy logs --follow`: the journals of several hosts, live, until the command ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from machines import Machine, Network, until
from workstation import Workstation

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def machines(boot: Callable[..., list[Machine]], workstation: Workstation) -> list[Machine]:
    """Boot two machines with log lines of a fedmq service, without the package."""
    found = boot("north", "south")
    workstation.write_ssh_config()
    for machine in found:
        log(machine, "before")
    return found


def log(machine: Machine, what: str) -> None:
    """Log a line as a service."""
    machine.run("systemd-run", "--quiet", "--wait", "--unit=fedmq-broker", "echo", f"{machine.name} logs {what}")


@pytest.fixture
def follower(workstation: Workstation, network: Network, machines: list[Machine]) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command with its output in the files `out` and `err` of the workstation."""
    fedmq = [sys.executable, "-P", "-m", "fedmq"]
    command = [*network.inside, *fedmq, "deploy", "logs", "north", "south", "nowhere", "--follow"]
    with (workstation.folder / "out").open("wb") as out, (workstation.folder / "err").open("wb") as err:
        process = subprocess.Popen(
            command,
            cwd=workstation.folder,
            env=workstation.environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
    yield process
    process.kill()
    process.wait()


def test_logs_of_several_hosts_are_followed_and_leave_no_process(
    machines: list[Machine], workstation: Workstation, follower: subprocess.Popen[bytes]
) -> None:
    def printed(line: str) -> bool:
        return line in (workstation.folder / "out").read_text()

    def left() -> str:
        return "".join(machine.run("pgrep", "--list-full", "journalctl", check=False) for machine in machines)

    for machine in machines:
        until(lambda of=machine: printed(f"{of.name} logs before\n"), f"the old line of {machine.name}", 15)  # type: ignore[misc]
    for machine in machines:
        log(machine, "more")
        until(lambda of=machine: printed(f"{of.name} logs more\n"), f"what {machine.name} says", 15)  # type: ignore[misc]
    lines = (workstation.folder / "out").read_text().splitlines()
    assert all(line.startswith(("north: ", "south: ")) for line in lines), lines
    until(lambda: "fedmq: nowhere: " in (workstation.folder / "err").read_text(), "the unknown host", 15)
    assert left().count("--follow") == len(machines)

    machines[1].run("pkill", "--full", "sshd: root@notty")
    until(lambda: "fedmq: south: " in (workstation.folder / "err").read_text(), "the lost host", 15)
    log(machines[0], "still more")
    until(lambda: printed("north logs still more\n"), "the line of the other host", 15)

    follower.send_signal(signal.SIGINT)

    assert follower.wait(10) == 130
    errors = [line for line in (workstation.folder / "err").read_text().splitlines() if line]
    assert [line.split()[1] for line in errors] == ["nowhere:", "south:", "interrupted"], errors
    until(lambda: left() == "", "journalctl to end", 10, details=left)

"""`fedmq deploy logs --follow`: the journals of several hosts, live, until whoever reads them goes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from desk import Desk
from machines import Machine, Network, until

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def machines(boot: Callable[..., list[Machine]], desk: Desk) -> list[Machine]:
    """Two machines that log in the name of a service of ours, without anything installed."""
    found = boot("north", "south")
    desk.write_ssh_config()
    for machine in found:
        say(machine, "before")
    return found


def say(machine: Machine, what: str) -> None:
    """Have a service log a line."""
    machine.run("systemd-run", "--quiet", "--wait", "--unit=fedmq-broker", "echo", f"{machine.name} says {what}")


@pytest.fixture
def follower(desk: Desk, network: Network, machines: list[Machine]) -> Iterator[subprocess.Popen[bytes]]:
    """The command, its output in the files `out` and `err` of the desk."""
    words = [*network.inside, sys.executable, "-m", "fedmq", "deploy", "logs", "north", "south", "nowhere", "--follow"]
    with (desk.folder / "out").open("wb") as out, (desk.folder / "err").open("wb") as err:
        process = subprocess.Popen(
            words,
            cwd=desk.folder,
            env=desk.environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
    yield process
    process.kill()
    process.wait()


def test_the_lines_of_several_hosts_come_live_and_nothing_is_left_behind_at_the_end(
    machines: list[Machine], desk: Desk, follower: subprocess.Popen[bytes]
) -> None:
    def heard(line: str) -> bool:
        return line in (desk.folder / "out").read_text()

    def left() -> str:
        return "".join(machine.run("pgrep", "--list-full", "journalctl", check=False) for machine in machines)

    for machine in machines:
        until(lambda of=machine: heard(f"{of.name} says before\n"), f"what {machine.name} has said", 15)  # type: ignore[misc]
    for machine in machines:
        say(machine, "more")
        until(lambda of=machine: heard(f"{of.name} says more\n"), f"what {machine.name} says", 15)  # type: ignore[misc]
    lines = (desk.folder / "out").read_text().splitlines()
    assert all(line.startswith(("north: ", "south: ")) for line in lines), lines
    until(lambda: "fedmq: nowhere: expected" in (desk.folder / "err").read_text(), "the host that is not there", 15)
    assert left().count("--follow") == len(machines)

    machines[1].run("pkill", "--full", "sshd: root@notty")
    until(lambda: "fedmq: south: " in (desk.folder / "err").read_text(), "the host that is lost", 15)
    say(machines[0], "still more")
    until(lambda: heard("north says still more\n"), "what the other says", 15)

    follower.send_signal(signal.SIGINT)

    assert follower.wait(10) == 130
    told = [line for line in (desk.folder / "err").read_text().splitlines() if line]
    assert [line.split()[1] for line in told] == ["nowhere:", "south:", "interrupted"], told
    until(lambda: left() == "", "journalctl to end", 10, stands=left)

"""`fedmq spawn` for a user with systemd: trainers outlive the command and restart."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from machines import Machine, until
from workstation import ROOT

PAGE = ROOT / "docs" / "how-to" / "one-machine.md"
HOME = "/var/dora"
UNIT = "fedmq-trainer-ward-{n}.service"

pytestmark = pytest.mark.timeout(90)


class User:
    """An unprivileged user of a machine."""

    def __init__(self, machine: Machine, name: str) -> None:
        self._machine, self._name = machine, name

    def run(self, command: str) -> str:
        """Run a command; return its output, its errors and, in the last line, its exit code."""
        script = f'export XDG_RUNTIME_DIR="/run/user/$(id -u)"; ({command}) 2>&1; echo "exit code $?"'
        return self._machine.run("runuser", "--login", self._name, "--command", script)

    def show(self, n: int, what: str) -> str:
        """Return a property of a trainer from the user's systemd."""
        return self.run(f"systemctl --user show --property={what} --value {UNIT.format(n=n)}").splitlines()[0]


@pytest.fixture(scope="module")
def dora(boot: Callable[..., list[Machine]], packages: list[Path]) -> User:
    """Return a user with a running systemd on a machine with the package."""
    [machine] = boot("north")
    shutil.copy(packages[0], machine.root / "opt" / "fedmq.deb")
    machine.run("dpkg", "--install", "/opt/fedmq.deb")
    machine.run("useradd", "--create-home", "--home-dir", HOME, "--shell", "/bin/bash", "dora")
    machine.run("loginctl", "enable-linger", "dora")
    dora = User(machine, "dora")
    until(lambda: "exit code 0" in dora.run("systemctl --user show --property=Version"), "the systemd of the user", 20)
    return dora


def command() -> str:
    """Return the command of the page."""
    [found] = re.findall(r"^\$ (fedmq spawn .*)$", PAGE.read_text(), flags=re.MULTILINE)
    return f"cd; {found}"


def test_trainers_start_as_units_and_a_repetition_changes_nothing(dora: User) -> None:
    output = dora.run(command())
    assert output.count(": started as fedmq-trainer-ward-") == 2, output
    assert output.endswith("exit code 0\n")
    before = [dora.show(n, "MainPID") for n in (1, 2)]
    assert [dora.show(n, "ActiveState") for n in (1, 2)] == ["active", "active"]

    assert dora.run(command()).count(": already running") == 2

    assert [dora.show(n, "MainPID") for n in (1, 2)] == before


def test_other_settings_restart_the_trainers(dora: User) -> None:
    before = dora.show(1, "MainPID")

    output = dora.run(f"{command()} --score-bits 8")

    assert output.count(": restarted as") == 2, output
    assert dora.show(1, "MainPID") != before
    assert "--score-bits 8" in dora.show(1, "Description")


def test_killed_trainer_restarts_and_the_run_is_solved(dora: User) -> None:
    before = dora.show(1, "MainPID")
    dora.run(f"kill -KILL {before}")
    until(
        lambda: dora.show(1, "NRestarts") == "1" and dora.show(1, "ActiveState") == "active",
        "the trainer to restart",
        20,
    )
    assert dora.show(1, "MainPID") != before

    output = dora.run(
        "fedmq broker & fedmq aggregator --task xor --out run --seed 1; code=$?; kill %1; wait; exit $code"
    )

    assert output.endswith("exit code 0\n"), output


def test_invalid_rows_are_one_line_without_a_restart(dora: User) -> None:
    output = dora.run("cd; fedmq spawn 1 --name bad --data nowhere.csv")

    line, end = output.splitlines()
    assert [one for one in ("bad-1", "78", "nowhere.csv") if one not in line] == [], output
    assert end == "exit code 78"
    assert "failed" in dora.run("systemctl --user is-failed fedmq-trainer-bad-1")


def test_one_command_stops_all_and_leaves_no_unit(dora: User) -> None:
    dora.run("systemctl --user stop 'fedmq-trainer-*'; systemctl --user reset-failed")

    assert "0 loaded units" in dora.run("systemctl --user list-units --all 'fedmq-*'")

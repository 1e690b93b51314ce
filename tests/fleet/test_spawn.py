"""`fedmq spawn` for a user who has a systemd of her own: her trainers outlive the command and come back."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from desk import ROOT
from machines import Machine, until

PAGE = ROOT / "docs" / "how-to" / "one-machine.md"
HOME = "/var/dora"
UNIT = "fedmq-trainer-ward-{n}.service"

pytestmark = pytest.mark.timeout(90)


class User:
    """Somebody without rights on a machine."""

    def __init__(self, machine: Machine, name: str) -> None:
        self._machine, self._name = machine, name

    def run(self, command: str) -> str:
        """What a command prints that she types, errors too, and its exit code in the last line."""
        script = f'export XDG_RUNTIME_DIR="/run/user/$(id -u)"; ({command}) 2>&1; echo "exit code $?"'
        return self._machine.run("runuser", "--login", self._name, "--command", script)

    def show(self, n: int, what: str) -> str:
        """What her systemd says of a trainer."""
        return self.run(f"systemctl --user show --property={what} --value {UNIT.format(n=n)}").splitlines()[0]


@pytest.fixture(scope="module")
def dora(boot: Callable[..., list[Machine]], packages: list[Path]) -> User:
    """A user of a machine with the package, whose systemd runs."""
    [machine] = boot("north")
    shutil.copy(packages[0], machine.root / "opt" / "fedmq.deb")
    machine.run("dpkg", "--install", "/opt/fedmq.deb")
    machine.run("useradd", "--create-home", "--home-dir", HOME, "--shell", "/bin/bash", "dora")
    machine.run("loginctl", "enable-linger", "dora")
    dora = User(machine, "dora")
    until(lambda: "exit code 0" in dora.run("systemctl --user show --property=Version"), "her systemd", 20)
    return dora


def command() -> str:
    """The command of the page that hands trainers over."""
    [found] = re.findall(r"^\$ (fedmq spawn .*)$", PAGE.read_text(), flags=re.MULTILINE)
    return f"cd; {found}"


def test_trainers_are_handed_over_and_a_second_time_left_alone(dora: User) -> None:
    said = dora.run(command())
    assert said.count(": started as fedmq-trainer-ward-") == 2, said
    assert said.endswith("exit code 0\n")
    before = [dora.show(n, "MainPID") for n in (1, 2)]
    assert [dora.show(n, "ActiveState") for n in (1, 2)] == ["active", "active"]

    assert dora.run(command()).count(": left alone") == 2

    assert [dora.show(n, "MainPID") for n in (1, 2)] == before


def test_other_settings_start_them_again(dora: User) -> None:
    before = dora.show(1, "MainPID")

    said = dora.run(f"{command()} --score-bits 8")

    assert said.count(": started again as") == 2, said
    assert dora.show(1, "MainPID") != before
    assert "--score-bits 8" in dora.show(1, "Description")


def test_a_killed_one_comes_back_and_all_of_them_learn(dora: User) -> None:
    before = dora.show(1, "MainPID")
    dora.run(f"kill -KILL {before}")
    until(lambda: dora.show(1, "NRestarts") == "1" and dora.show(1, "ActiveState") == "active", "it to come back", 20)
    assert dora.show(1, "MainPID") != before

    said = dora.run("fedmq broker & fedmq aggregator --task xor --out run --seed 1; code=$?; kill %1; wait; exit $code")

    assert said.endswith("exit code 0\n"), said


def test_rows_that_cannot_be_used_are_one_line_and_nothing_is_tried_again(dora: User) -> None:
    said = dora.run("cd; fedmq spawn 1 --name bad --data nowhere.csv")

    line, end = said.splitlines()
    assert line.startswith("fedmq spawn: bad-1 ended with exit code 78: nowhere.csv: "), said
    assert end == "exit code 78"
    assert "failed" in dora.run("systemctl --user is-failed fedmq-trainer-bad-1")


def test_they_end_with_one_command_and_no_unit_is_left(dora: User) -> None:
    dora.run("systemctl --user stop 'fedmq-trainer-*'; systemctl --user reset-failed")

    assert "0 loaded units" in dora.run("systemctl --user list-units --all 'fedmq-*'")

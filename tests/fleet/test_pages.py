"""What the README and the pages say of several machines, typed as it stands, on machines that have nothing yet."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from desk import ROOT, Desk
from machines import Machine, Network, until

BLOCK = re.compile(r"^```sh\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
SECTION = re.compile(r"^## On several machines.*?(?=^## )", flags=re.MULTILINE | re.DOTALL)
README_S = 70.0  # the package is built in the twenty seconds before
COMMANDS_MAX = 6
AGGREGATOR = "fedmq-aggregator.service"

pytestmark = pytest.mark.timeout(180)


def script_of(text: str) -> str:
    """The commands of the blocks, but for those that build the package: that was done."""
    lines = "".join(BLOCK.findall(text)).splitlines()
    return "\n".join(line for line in lines if not line.startswith("make "))


def type_all(desk: Desk, network: Network, packages: list[Path], script: str) -> str:
    """What a script prints at a desk where `ssh` and `fedmq` are on the path, and the packages in dist/."""
    dist, programs = desk.folder / "dist", desk.folder / "bin"
    for folder in (dist, programs):
        folder.mkdir(exist_ok=True)
    for package in packages:
        (dist / package.name).unlink(missing_ok=True)
        (dist / package.name).hardlink_to(package)
    for name, command in {"ssh": f"ssh -F {desk.ssh_config}", "fedmq": f"{sys.executable} -m fedmq"}.items():
        (programs / name).write_text(f'#!/bin/sh\nPATH={os.environ["PATH"]} exec {command} "$@"\n')
        (programs / name).chmod(0o755)
    environment = {**desk.environment, "PATH": f"{programs}:{os.environ['PATH']}"}
    environment.pop("FEDMQ_PACKAGE")
    done = subprocess.run(
        [*network.inside, "bash", "-c", f"set -e\n{script}\n"],
        cwd=desk.folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def machines(boot: Callable[..., list[Machine]], desk: Desk) -> list[Machine]:
    found = boot("north", "south", "east")
    desk.write_ssh_config()
    return found


def test_the_readme_brings_two_machines_to_a_run_in_time(
    machines: list[Machine], desk: Desk, network: Network, packages: list[Path]
) -> None:
    found = SECTION.search((ROOT / "README.md").read_text())
    assert found is not None
    [block] = BLOCK.findall(found[0])
    assert len(block.splitlines()) <= COMMANDS_MAX
    start = time.monotonic()

    type_all(desk, network, packages[:1], script_of(found[0]))

    until(lambda: machines[0].show(AGGREGATOR, "ActiveState") == "inactive", "the run to end", 60)
    assert time.monotonic() - start < README_S
    assert '"solved": true' in machines[0].run("cat", "/var/lib/fedmq/aggregator/report.json")
    desk.deploy("remove", "north", "south")
    (desk.folder / "fleet.toml").unlink()


@pytest.mark.parametrize("page", ["three-machines", "upgrade", "firewall"])
def test_the_commands_of_a_page_work_in_order(
    page: str, machines: list[Machine], desk: Desk, network: Network, packages: list[Path]
) -> None:
    script = script_of((ROOT / "docs" / "how-to" / f"{page}.md").read_text())
    assert "fedmq deploy" in script

    type_all(desk, network, packages, script)

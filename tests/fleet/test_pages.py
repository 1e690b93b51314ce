"""The commands of the README and the pages about several machines, on machines without fedmq."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Built
from machines import Machine, Network, until
from workstation import ROOT, Workstation

from fedmq.security.keyring import FederationInfo, write_federation, write_identity
from fedmq.security.keys import Identity
from fedmq.security.membership import AT_HOME

BLOCK = re.compile(r"^```sh\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
SECTION = re.compile(r"^## On several machines.*?(?=^## )", flags=re.MULTILINE | re.DOTALL)
COMMANDS_MAX = 6
AGGREGATOR = "fedmq-aggregator.service"
BROKER = "tcp://127.0.0.1:5550"
PYTHON = "/usr/bin/python3"  # on the machines
CLONE, WHEELS = "/usr/src/fedmq", "/usr/src/wheels"

pytestmark = pytest.mark.timeout(180)


def script_of(text: str) -> str:
    """Return the commands of the blocks, without those that build the package."""
    lines = "".join(BLOCK.findall(text)).splitlines()
    return "\n".join(line for line in lines if not line.startswith("make "))


def run_script(workstation: Workstation, network: Network, packages: list[Path], script: str) -> str:
    """Run a script at a workstation with `ssh` and `fedmq` on PATH and the packages in dist/; return its output."""
    dist, programs = workstation.folder / "dist", workstation.folder / "bin"
    for folder in (dist, programs):
        folder.mkdir(exist_ok=True)
    for package in packages:
        (dist / package.name).unlink(missing_ok=True)
        (dist / package.name).hardlink_to(package)
    for name, command in {"ssh": f"ssh -F {workstation.ssh_config}", "fedmq": f"{sys.executable} -P -m fedmq"}.items():
        (programs / name).write_text(f'#!/bin/sh\nPATH={os.environ["PATH"]} exec {command} "$@"\n')
        (programs / name).chmod(0o755)
    environment = {**workstation.environment, "PATH": f"{programs}:{os.environ['PATH']}"}
    environment.pop("FEDMQ_PACKAGE")
    done = subprocess.run(
        [*network.inside, "bash", "-c", f"set -e\n{script}\n"],
        cwd=workstation.folder,
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
def machines(boot: Callable[..., list[Machine]], workstation: Workstation) -> list[Machine]:
    found = boot("north", "south", "east")
    workstation.write_ssh_config()
    return found


def test_commands_of_the_readme_run_on_two_machines(
    machines: list[Machine],
    workstation: Workstation,
    network: Network,
    built: Built,
    record_property: Callable[[str, object], None],
) -> None:
    found = SECTION.search((ROOT / "README.md").read_text())
    assert found is not None
    [block] = BLOCK.findall(found[0])
    assert len(block.splitlines()) <= COMMANDS_MAX
    start = time.monotonic()

    run_script(workstation, network, built.packages[:1], script_of(found[0]))

    until(lambda: machines[0].show(AGGREGATOR, "ActiveState") == "inactive", "the run to end", 60)
    took_s = built.seconds + time.monotonic() - start
    record_property("from a clone and two machines to a finished run (goal: 90)", took_s)
    assert '"solved": true' in machines[0].run("cat", "/var/lib/fedmq/aggregator/report.json")
    workstation.deploy("remove", "north", "south")
    (workstation.folder / "fleet.toml").unlink()


@pytest.mark.parametrize("page", ["three-machines", "upgrade", "firewall"])
def test_commands_of_the_page_work_in_order(
    page: str, machines: list[Machine], workstation: Workstation, network: Network, packages: list[Path]
) -> None:
    script = script_of((ROOT / "docs" / "how-to" / f"{page}.md").read_text())
    assert "fedmq deploy" in script

    run_script(workstation, network, packages, script)


def wheels(folder: Path) -> Path:
    """Download the locked packages for a machine without a network."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", PYTHON]
    locks = [f"--requirement={ROOT / name}" for name in ("requirements-build.lock", "requirements.lock")]
    command = [*pip, "download", "--require-hashes", "--only-binary", ":all:", "--dest", str(folder), *locks]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def put_clone(machine: Machine, folder: Path) -> None:
    """Put a clone on a machine, packages for pip, and keys as of `fedmq trainer join`."""
    root = machine.root
    kept = shutil.ignore_patterns(".*", "build", "dist", "tests", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, root / CLONE.lstrip("/"), symlinks=True, ignore=kept)
    shutil.copytree(wheels(folder), root / WHEELS.lstrip("/"))
    (root / "etc/pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {WHEELS}\n")
    broker, aggregator = (Identity.new(role, role) for role in AT_HOME)
    federation = FederationInfo(bytes(16), BROKER, broker.public.transport, aggregator.public)
    (root / CLONE.lstrip("/") / "keys").mkdir(mode=0o700)
    write_federation(root / CLONE.lstrip("/") / "keys", federation)
    write_identity(root / CLONE.lstrip("/") / "keys", Identity.new("trainer", "alice"))


def test_commands_of_the_one_machine_page_work_in_order(boot: Callable[..., list[Machine]], tmp_path: Path) -> None:
    [lone] = boot("lone")
    put_clone(lone, tmp_path / "wheels")
    script = "".join(BLOCK.findall((ROOT / "docs" / "how-to" / "one-machine.md").read_text()))
    # status exits with 3 if a service has ended; the run may have finished by then.
    script = re.sub(r"^(systemctl status .*)$", r"\1 || [ $? = 3 ]", script, flags=re.MULTILINE)

    output = lone.run("bash", "-c", f"set -e; cd {CLONE}; PATH=/opt/fedmq/bin:$PATH\n{script}", timeout_s=120)

    assert "exit code 78" in output, output
    until(lambda: lone.show(AGGREGATOR, "ActiveState") == "inactive", "the run to end", 60)
    assert '"solved": true' in lone.run("cat", "/var/lib/fedmq/aggregator/report.json")
    for unit in ("fedmq-broker", "fedmq-trainer@bob"):
        assert lone.show(unit, "ActiveState") == "active"
    # The keys of the last step belong to another federation; the broker has no keys.
    until(
        lambda: lone.show("fedmq-trainer@alice", "ExecMainStatus") == "77",
        "the broker to reject alice",
        30,
        details=lambda: lone.journal("fedmq-trainer@alice"),
    )
    assert int(lone.show("fedmq-trainer@alice", "MemoryMax")) == 8 << 30

"""Fixtures of the fleet tests: packages and a network; the tests run only under `make fleet`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from machines import Machine, Network, missing
from workstation import ROOT, Workstation

if os.environ.get("FLEET") != "1":
    collect_ignore_glob = ["test_*.py"]

BUILD = ROOT / "deploy" / "packaging" / "build.py"
# Set once for all workers: packages of this tree, and the time to build them.
PACKAGES, BUILD_S = "FLEET_PACKAGES", "FLEET_BUILD_S"


class Built(NamedTuple):
    """Two packages of this tree, the second newer than the first, and the time to build them."""

    packages: list[Path]
    seconds: float


def pytest_configure(config: pytest.Config) -> None:
    """Check that machines can boot, and build the packages."""
    if os.environ.get("FLEET") != "1" or hasattr(config, "workerinput"):
        return
    if os.geteuid() != 0:
        pytest.exit("make fleet needs root to boot machines in namespaces: run it as root", 1)
    if absent := missing():
        pytest.exit(f"make fleet needs the Debian packages {' '.join(absent)}: apt-get install {' '.join(absent)}", 1)
    if PACKAGES in os.environ:
        return
    out = tempfile.TemporaryDirectory(prefix="fedmq-packages-")
    config.add_cleanup(out.cleanup)
    start = time.monotonic()
    arguments = ["--revision", "1", "2", "--out", out.name, "--work", f"{out.name}/work"]
    done = subprocess.run([sys.executable, str(BUILD), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.exit(done.stderr, 1)
    os.environ[PACKAGES], os.environ[BUILD_S] = done.stdout, f"{time.monotonic() - start:.1f}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the times that tests have measured."""
    if os.environ.get("FLEET") != "1":
        return
    measured = {"to build two packages": float(os.environ.get(BUILD_S, "0"))}
    for report in terminalreporter.getreports("passed"):
        measured |= {str(what): float(str(seconds)) for what, seconds in report.user_properties}
    for what, seconds in measured.items():
        terminalreporter.write_line(f"{seconds:6.1f} s  {what}")


@pytest.fixture(scope="session")
def built() -> Built:
    """Return the packages and their build time."""
    return Built([Path(path) for path in os.environ[PACKAGES].split()], float(os.environ.get(BUILD_S, "0")))


@pytest.fixture(scope="session")
def packages(built: Built) -> list[Path]:
    """Return two packages, the second newer than the first."""
    return built.packages


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Yield an empty network; its machines stop after the tests of the module."""
    with Network() as made:
        yield made


@pytest.fixture(scope="module")
def boot(network: Network) -> Callable[..., list[Machine]]:
    """Return a function that boots machines with these names at the same time."""

    def boot_all(*names: str) -> list[Machine]:
        machines = [network.machine(name) for name in names]
        for machine in machines:
            machine.boot(wait=False)
        for machine in machines:
            machine.wait_until_up()
        return machines

    return boot_all


@pytest.fixture(scope="module")
def workstation(network: Network, packages: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Workstation:
    """Return the workstation of the operator."""
    return Workstation(network, tmp_path_factory.mktemp("workstation"), packages[0])

"""What the tests of the fleet share: packages, a network, and the decision to run at all (`make fleet` says so)."""

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
from desk import ROOT, Desk
from machines import Machine, Network, missing

if os.environ.get("FLEET") != "1":
    collect_ignore_glob = ["test_*.py"]

BUILD = ROOT / "deploy" / "packaging" / "build.py"
# Set once, before the modules go side by side: packages of this tree, and how long it took to build them.
PACKAGES, BUILD_S = "FLEET_PACKAGES", "FLEET_BUILD_S"


class Built(NamedTuple):
    """Two packages of this tree, the second newer than the first, and how long `make deb` takes for them."""

    packages: list[Path]
    seconds: float


def pytest_configure(config: pytest.Config) -> None:
    """Look whether there can be machines, and build the packages."""
    if os.environ.get("FLEET") != "1" or hasattr(config, "workerinput"):
        return
    if os.geteuid() != 0:
        pytest.exit("make fleet needs root: it boots machines in namespaces", 1)
    if lacking := missing():
        pytest.exit(f"make fleet needs the Debian packages {' '.join(lacking)}: apt-get install {' '.join(lacking)}", 1)
    if PACKAGES in os.environ:
        return
    out = tempfile.TemporaryDirectory(prefix="fedmq-packages-")
    config.add_cleanup(out.cleanup)
    start = time.monotonic()
    words = ["--revision", "1", "2", "--out", out.name, "--work", f"{out.name}/work"]
    done = subprocess.run([sys.executable, str(BUILD), *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.exit(done.stderr, 1)
    os.environ[PACKAGES], os.environ[BUILD_S] = done.stdout, f"{time.monotonic() - start:.1f}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests have measured."""
    if os.environ.get("FLEET") != "1":
        return
    measured = {"to build two packages": float(os.environ.get(BUILD_S, "0"))}
    for report in terminalreporter.getreports("passed"):
        measured |= {str(what): float(str(seconds)) for what, seconds in report.user_properties}
    for what, seconds in measured.items():
        terminalreporter.write_line(f"{seconds:6.1f} s  {what}")


@pytest.fixture(scope="session")
def built() -> Built:
    """The packages, and how long they took."""
    return Built([Path(path) for path in os.environ[PACKAGES].split()], float(os.environ.get(BUILD_S, "0")))


@pytest.fixture(scope="session")
def packages(built: Built) -> list[Path]:
    """Two packages, the second newer than the first."""
    return built.packages


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """An empty network; what a module's tests boot on it is gone after them."""
    with Network() as made:
        yield made


@pytest.fixture(scope="module")
def boot(network: Network) -> Callable[..., list[Machine]]:
    """Boots machines with these names, all at once."""

    def boot_all(*names: str) -> list[Machine]:
        machines = [network.machine(name) for name in names]
        for machine in machines:
            machine.boot(wait=False)
        for machine in machines:
            machine.wait_until_up()
        return machines

    return boot_all


@pytest.fixture(scope="module")
def desk(network: Network, packages: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """The operator's desk."""
    return Desk(network, tmp_path_factory.mktemp("desk"), packages[0])

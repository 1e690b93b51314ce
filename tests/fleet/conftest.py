"""What the tests of the fleet share: packages, a network, and the decision to run at all (`make fleet` says so)."""

from __future__ import annotations

import os
import subprocess
import sys
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
MEASURED = pytest.StashKey[dict[str, float]]()


class Built(NamedTuple):
    """Packages, and how long `make deb` takes for them."""

    packages: list[Path]
    seconds: float


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MEASURED] = {}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show what was measured, whether or not it has a limit."""
    for what, seconds in config.stash[MEASURED].items():
        terminalreporter.write_line(f"{seconds:6.1f} s  {what}")


@pytest.fixture(scope="session")
def measured(request: pytest.FixtureRequest) -> dict[str, float]:
    """Seconds by what took them; shown at the end."""
    return request.config.stash[MEASURED]


@pytest.fixture(scope="session", autouse=True)
def _able() -> None:
    """The machines need root and a few programs."""
    if os.geteuid() != 0:
        pytest.exit("make fleet needs root: it boots machines in namespaces", 1)
    if lacking := missing():
        pytest.exit(f"make fleet needs the Debian packages {' '.join(lacking)}: apt-get install {' '.join(lacking)}", 1)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, measured: dict[str, float]) -> Built:
    """Two packages of this tree, the second newer than the first."""
    if given := os.environ.get("FLEET_PACKAGES"):
        return Built([Path(path) for path in given.split()], 0.0)
    start = time.monotonic()
    out = tmp_path_factory.mktemp("packages")
    words = ["--revision", "1", "2", "--out", str(out), "--work", str(out / "work")]
    done = subprocess.run([sys.executable, str(BUILD), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    measured["to build two packages"] = time.monotonic() - start
    return Built([Path(line) for line in done.stdout.split()], time.monotonic() - start)


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

"""What the tests of the fleet share: packages, a network, and the decision to run at all (`make fleet` says so)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from desk import ROOT, Desk
from machines import Machine, Network, missing

if os.environ.get("FLEET") != "1":
    collect_ignore_glob = ["test_*.py"]

BUILD = ROOT / "deploy" / "packaging" / "build.py"


@pytest.fixture(scope="session", autouse=True)
def _able() -> None:
    """The machines need root and a few programs."""
    if os.geteuid() != 0:
        pytest.exit("make fleet needs root: it boots machines in namespaces", 1)
    if lacking := missing():
        pytest.exit(f"make fleet needs the Debian packages {' '.join(lacking)}: apt-get install {' '.join(lacking)}", 1)


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two packages of this tree, the second newer than the first."""
    if given := os.environ.get("FLEET_PACKAGES"):
        return [Path(path) for path in given.split()]
    out = tmp_path_factory.mktemp("packages")
    words = ["--revision", "1", "2", "--out", str(out), "--work", str(out / "work")]
    done = subprocess.run([sys.executable, str(BUILD), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [Path(line) for line in done.stdout.split()]


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

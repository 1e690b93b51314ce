"""`fedmq deploy status` and `remove` on fake hosts: the exit code, and the keys that are revoked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fedmq.cli.main import fedmq
from fedmq.deploy.facts import FACTS_SCRIPT
from fedmq.deploy.inventory import BrokerHost, TrainerHost, section

SOUTH = """\
package installed 1.0-1
trainer south-1
trainer --help
trainer east
unit Id=fedmq-trainer@south-1.service
unit ActiveState={}
unit UnitFileState=enabled
unit
"""


class Fleet:
    """The broker's host north, the trainer's host south, and the scripts that each ran."""

    def __init__(self, folder: Path) -> None:
        self.inventory, self.active, self.scripts = folder / "fleet.toml", "active", defaultdict[str, list[str]](list)
        self.inventory.write_text(section(BrokerHost("north")) + section(TrainerHost("south", "xor", name="south-1")))

    @asynccontextmanager
    async def connect(self, name: str, _config: Path | None) -> AsyncIterator[Host]:
        yield Host(self, name)

    def deploy(self, *arguments: str) -> Result:
        return CliRunner().invoke(fedmq, ["deploy", *arguments, "--inventory", str(self.inventory)])


class Host:
    """A fake of `ssh.Host`."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self._fleet, self.name = fleet, name

    async def run(self, script: str, _reads: bytes = b"", timeout_s: float = 0.0) -> str:
        if script != FACTS_SCRIPT:
            self._fleet.scripts[self.name].append(script)
            return ""
        return SOUTH.format(self._fleet.active) if self.name == "south" else "package installed 1.0-1\n"


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    made = Fleet(tmp_path)
    monkeypatch.setattr("fedmq.deploy.rollout.connect", made.connect)
    return made


@pytest.mark.parametrize(("active", "code"), [("active", 0), ("failed", 1)])
def test_status_of_failed_service_exits_with_1(fleet: Fleet, active: str, code: int) -> None:
    fleet.active = active
    done = fleet.deploy("status")
    assert (done.exit_code, active in done.output) == (code, True), done.output
    assert [line.split()[0] for line in done.output.splitlines()] == ["host", "north", "south"]


def test_remove_revokes_trainer_keys_on_the_broker_host(fleet: Fleet) -> None:
    done = fleet.deploy("remove", "south")
    assert done.exit_code == 0, done.output
    assert "dpkg --purge" in fleet.scripts["south"][-1]
    (revoke,) = fleet.scripts["north"]
    assert "keys revoke --keys /var/lib/fedmq/keys -- south-1)" in revoke


def test_names_that_only_a_host_knows_are_listed_and_not_revoked(fleet: Fleet) -> None:
    """A host may print the names of other members."""
    done = fleet.deploy("remove", "south")
    assert not any("east" in script or "--help" in script for script in fleet.scripts["north"])
    assert "not in the inventory, and not revoked: --help, east" in done.output


def test_remove_of_the_broker_host_too_revokes_no_keys(fleet: Fleet) -> None:
    assert fleet.deploy("remove", "south", "north").exit_code == 0
    assert [("dpkg --purge" in script, "revoke" in script) for script in fleet.scripts["north"]] == [(True, False)]

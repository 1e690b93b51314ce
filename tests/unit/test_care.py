"""`fedmq deploy status` and `remove` on hosts that answer by heart: the exit code, and whose keys are revoked where."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fedmq.cli.main import fedmq
from fedmq.deploy.facts import QUESTIONS
from fedmq.deploy.inventory import BrokerHost, TrainerHost, broker_section, trainers_section
from fedmq.deploy.ssh import Output

SOUTH = """\
package installed 1.0-1
trainer south-1
unit Id=fedmq-trainer@south-1.service
unit ActiveState={}
unit UnitFileState=enabled
unit
"""


class Fleet:
    """The broker's host north, the trainer's host south, and what each was told to do."""

    def __init__(self, folder: Path) -> None:
        self.inventory, self.active, self.told = folder / "fleet.toml", "active", defaultdict[str, list[str]](list)
        self.inventory.write_text(broker_section(BrokerHost("north")) + trainers_section(TrainerHost("south", "xor")))

    @asynccontextmanager
    async def connect(self, name: str, _config: Path | None) -> AsyncIterator[Host]:
        yield Host(self, name)

    def deploy(self, *words: str) -> Result:
        return CliRunner().invoke(fedmq, ["deploy", *words, "--inventory", str(self.inventory)])


class Host:
    """As `ssh.Host`."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self._fleet, self.name = fleet, name

    async def run(self, script: str, _reads: bytes = b"", timeout_s: float = 0.0) -> Output:
        if script != QUESTIONS:
            self._fleet.told[self.name].append(script)
            return Output("", "")
        return Output(SOUTH.format(self._fleet.active) if self.name == "south" else "package installed 1.0-1\n", "")


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    made = Fleet(tmp_path)
    monkeypatch.setattr("fedmq.deploy.rollout.connect", made.connect)
    return made


@pytest.mark.parametrize(("active", "code"), [("active", 0), ("failed", 1)])
def test_a_service_that_has_failed_is_an_exit_code(fleet: Fleet, active: str, code: int) -> None:
    fleet.active = active
    done = fleet.deploy("status")
    assert (done.exit_code, active in done.output) == (code, True), done.output


def test_who_is_removed_is_revoked_at_the_brokers_host(fleet: Fleet) -> None:
    done = fleet.deploy("remove", "south")
    assert done.exit_code == 0, done.output
    assert "dpkg --purge" in fleet.told["south"][-1]
    (revoke,) = fleet.told["north"]
    assert "revoke south-1" in revoke


def test_at_a_brokers_host_that_goes_too_nothing_is_revoked(fleet: Fleet) -> None:
    assert fleet.deploy("remove", "south", "north").exit_code == 0
    assert [("dpkg --purge" in script, "revoke" in script) for script in fleet.told["north"]] == [(True, False)]

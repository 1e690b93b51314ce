"""The step of a rollout that enrols a trainer: what its host prints, and what the broker's host runs as root."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fedmq.deploy.inventory import BrokerHost
from fedmq.deploy.package import Package
from fedmq.deploy.rollout import DesiredState, Rollout
from fedmq.deploy.ssh import HostError

FINGERPRINT = "k7fq-2mzt-x4wd-hb3p"
FORGED = [
    "trainer south, fingerprint mallory",
    "trainer south, fingerprint --help",
    "trainer south, fingerprint a';id;'b",
    f"trainer mallory, fingerprint {FINGERPRINT}",
    f"trainer south, fingerprint {FINGERPRINT} --help",
    f"trainer south, fingerprint {FINGERPRINT}\n--help",
    f"trainer south, fingerprint {FINGERPRINT.upper()}",
    "fingerprint k7fq",
]


class Host:
    """A fake of `ssh.Host` that prints `line`, and of the process that prints it."""

    def __init__(self, name: str, line: str = "") -> None:
        self.name, self._line, self.scripts = name, line, list[str]()

    async def run(self, script: str, _reads: bytes = b"", timeout_s: float = 0.0) -> str:
        self.scripts.append(script)
        return "fedmq1-token\n"

    @asynccontextmanager
    async def start(self, script: str, _timeout_s: float | None) -> AsyncIterator[Host]:
        self.scripts.append(script)
        yield self

    def write(self, _line: str) -> None: ...

    async def read_line(self) -> str:
        return self._line

    async def end(self) -> None: ...


def enrol(line: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the scripts of the broker's host after the trainer's host has printed `line`."""
    north: Any = Host("north")

    @asynccontextmanager
    async def connect(_name: str, _config: Path | None) -> AsyncIterator[Host]:
        yield north

    monkeypatch.setattr("fedmq.deploy.rollout.connect", connect)
    rollout = Rollout(None, 1, lambda _progress: None)
    package = Package(Path("fedmq.deb"), "1.0-1", "amd64", (3, 11), (3, 12), 80_000, 30_000)
    rollout._desired = DesiredState(package, BrokerHost("north"), ["south"])
    south: Any = Host("south", line)
    asyncio.run(rollout._enrol(south, "south"))
    scripts: list[str] = north.scripts
    return scripts


def test_fingerprint_of_the_expected_name_is_accepted_after_a_dash_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    *_, accept = enrol(f"trainer south, fingerprint {FINGERPRINT}", monkeypatch)
    assert accept.endswith(f"keys accept --keys /var/lib/fedmq/keys --wait 10 -- south {FINGERPRINT}")


@pytest.mark.parametrize("line", FORGED)
def test_other_line_of_a_host_reaches_no_command_line(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    run = Host.run

    async def watch(self: Host, script: str, reads: bytes = b"", timeout_s: float = 0.0) -> str:
        ran.append(script)
        return await run(self, script, reads, timeout_s)

    monkeypatch.setattr(Host, "run", watch)
    with pytest.raises(HostError, match="expected the fingerprint of trainer south"):
        enrol(line, monkeypatch)
    assert [script for script in ran if "accept" in script or "mallory" in script or "--help" in script] == []


def test_failed_join_is_reported_by_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_self: Host) -> None:
        raise HostError("expected a valid token, got one that expired")

    monkeypatch.setattr(Host, "end", fail)
    with pytest.raises(HostError, match="expired"):
        enrol("", monkeypatch)

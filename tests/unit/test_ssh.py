"""Hosts over SSH: invalid ssh settings are one line, and unknown host keys are never accepted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fedmq.deploy.ssh import HostError, connect


@pytest.mark.parametrize(
    ("config", "host", "named"),
    [
        ("UserKnownHostsFile none", "north", ["north", "UserKnownHostsFile none"]),
        ("ProxyJump me@gate:22\nHost gate\nUserKnownHostsFile none", "north", ["gate", "UserKnownHostsFile none"]),
        ("ProxyJump gate\nHost *\nProxyJump gate", "north", ["gate", "ProxyJump"]),
        ("IdentityFile /nonexist", "north", ["/nonexist: No such file"]),
        ("IdentityFile /etc/hosts", "north", ["Invalid private key"]),
        ("Port abc", "north", ["line 2", "abc"]),
        ("", "a..b", ["a..b"]),
        (None, "north", ["ssh_config: No such file"]),
    ],
)
def test_invalid_ssh_settings_are_one_line(tmp_path: Path, config: str | None, host: str, named: list[str]) -> None:
    path = tmp_path / "ssh_config"
    if config is not None:
        path.write_text(f"Host north\n{config}\n")

    async def try_connect() -> None:
        async with connect(host, path):
            pass

    with pytest.raises(HostError) as caught:
        asyncio.run(try_connect())
    assert [value for value in named if value not in str(caught.value)] == []
    assert "\n" not in str(caught.value)

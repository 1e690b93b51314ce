"""Hosts over SSH: what cannot be used of ssh's settings is one line of that host, and nobody's key is taken blindly."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fedmq.deploy.ssh import HostTrouble, connect


@pytest.mark.parametrize(
    ("config", "host", "line"),
    [
        ("UserKnownHostsFile none", "north", "known host keys for north, got UserKnownHostsFile none"),
        ("ProxyJump me@gate:22\nHost gate\nUserKnownHostsFile none", "north", "known host keys for gate, got"),
        ("ProxyJump gate\nHost *\nProxyJump gate", "north", "a way to gate, got one that goes over itself"),
        ("IdentityFile /nonexist", "north", "settings of ssh that can be used, got: /nonexist: No such file"),
        ("IdentityFile /etc/hosts", "north", "settings of ssh that can be used, got: Invalid private key"),
        ("Port abc", "north", "line 2: Invalid Port integer value: abc"),
        ("", "a..b", "a host's name or address, got a..b"),
        (None, "north", "ssh_config: No such file"),
    ],
)
def test_what_cannot_be_used_is_one_line_of_that_host(tmp_path: Path, config: str | None, host: str, line: str) -> None:
    path = tmp_path / "ssh_config"
    if config is not None:
        path.write_text(f"Host north\n{config}\n")

    async def connection() -> None:
        async with connect(host, path):
            pass

    with pytest.raises(HostTrouble) as trouble:
        asyncio.run(connection())
    assert line in str(trouble.value)
    assert "\n" not in str(trouble.value)

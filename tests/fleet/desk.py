"""An operator's desk on the network of the machines: a folder with ssh's settings, and `fedmq deploy` to run in it.

Knows what a person at that desk knows: names, addresses, a key, and the host keys that were compared.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from machines import Network

ROOT = Path(__file__).parents[2]


class Desk:
    """Where commands are typed; `folder` is the working directory."""

    def __init__(self, network: Network, folder: Path, package: Path) -> None:
        self.folder = folder
        self._network, self._package = network, package
        self.write_ssh_config()

    @property
    def ssh_config(self) -> Path:
        """What ~/.ssh/config would hold."""
        return self.folder / "ssh_config"

    def write_ssh_config(self, *more: str) -> None:
        """Every machine of the network by its name; `more` lines go before, where they win."""
        known_hosts = self.folder / "known_hosts"
        self._network.write_known_hosts(known_hosts)
        lines = list(more)
        for machine in self._network.machines.values():
            lines += [f"Host {machine.name}", f"  HostName {machine.address}"]
        lines += ["Host *", "  User root", f"  IdentityFile {self._network.folder / 'operator'}"]
        lines += [f"  UserKnownHostsFile {known_hosts}", ""]
        self.ssh_config.write_text("\n".join(lines))

    def type(self, *words: str, timeout_s: float = 120.0, **more: str) -> subprocess.CompletedProcess[str]:
        """Run `fedmq WORDS` here, to its end."""
        return subprocess.run(
            [*self._network.inside, sys.executable, "-m", "fedmq", *words],
            cwd=self.folder,
            env={**self.environment, **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )

    @property
    def environment(self) -> dict[str, str]:
        """What is set at the desk."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FEDMQ_")}
        settings = {"FEDMQ_SSH_CONFIG": str(self.ssh_config), "FEDMQ_PACKAGE": str(self._package)}
        return {**kept, **settings, "OPENBLAS_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONPATH": str(ROOT)}

    def deploy(self, *words: str, timeout_s: float = 120.0) -> str:
        """What `fedmq deploy WORDS` prints; fail when it does."""
        done = self.type("deploy", *words, timeout_s=timeout_s)
        assert done.returncode == 0, f"fedmq deploy {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

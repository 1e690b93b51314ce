"""An operator's workstation on the network of the machines: a folder with ssh settings for `fedmq deploy`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from machines import Network

ROOT = Path(__file__).parents[2]


class Workstation:
    """The place of commands; `folder` is the working directory."""

    def __init__(self, network: Network, folder: Path, package: Path) -> None:
        self.folder = folder
        self._network, self._package = network, package
        self.write_ssh_config()

    @property
    def ssh_config(self) -> Path:
        """Return the path of the ssh settings."""
        return self.folder / "ssh_config"

    def write_ssh_config(self, *more: str) -> None:
        """Write every machine of the network by name; `more` lines come first and take precedence."""
        known_hosts = self.folder / "known_hosts"
        self._network.write_known_hosts(known_hosts)
        lines = list(more)
        for machine in self._network.machines.values():
            lines += [f"Host {machine.name}", f"  HostName {machine.address}"]
        lines += ["Host *", "  User root", f"  IdentityFile {self._network.folder / 'operator'}"]
        lines += [f"  UserKnownHostsFile {known_hosts}", ""]
        self.ssh_config.write_text("\n".join(lines))

    def run(self, *arguments: str, timeout_s: float = 120.0, **more: str) -> subprocess.CompletedProcess[str]:
        """Run `fedmq ARGUMENTS` to its end."""
        return subprocess.run(
            [*self._network.inside, sys.executable, "-P", "-m", "fedmq", *arguments],
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
        """Return the environment of commands."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FEDMQ_")}
        settings = {"FEDMQ_SSH_CONFIG": str(self.ssh_config), "FEDMQ_PACKAGE": str(self._package)}
        return {**kept, **settings, "OPENBLAS_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONPATH": str(ROOT)}

    def deploy(self, *arguments: str, timeout_s: float = 120.0) -> str:
        """Run `fedmq deploy ARGUMENTS` and return its output; fail if it fails."""
        done = self.run("deploy", *arguments, timeout_s=timeout_s)
        assert done.returncode == 0, (
            f"fedmq deploy {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done.stdout

"""Machines for tests: systemd, sshd and an address on a separate network. Needs root.

    with Network() as network:
        north = network.machine("north")
        north.boot()
        north.run("systemctl", "is-system-running")

All run in namespaces whose processes end with this one: after a crash no process, mount or interface is left. The
process that holds the network removes the control groups.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

BOOT = Path(__file__).with_name("boot.sh")
CGROUPS = Path("/sys/fs/cgroup")
PREFIX = "fedmq-fleet"
HOME = "/root"
SUBNET = "10.77.0"
BOOT_S = 60.0
STOP_S = 20.0
POLL_S = 0.1  # a condition usually starts a process
NEEDED = {"sshd": "openssh-server", "nft": "nftables", "ping": "iputils-ping", "sudo": "sudo", "ip": "iproute2"}
# Ends when its standard input is closed, and removes all remaining groups and files.
HOLDER = """
echo up; read -r _ || true
for _ in $(seq 100); do
    for group in $(find {groups} -depth -type d -path '*/{prefix}*' 2> /dev/null); do rmdir "$group" 2> /dev/null; done
    [ -n "$(find {groups} -maxdepth 1 -name '{prefix}*' 2> /dev/null)" ] || break
    sleep 0.1
done
rm -rf {folder}
"""


def missing() -> list[str]:
    """Return the Debian packages that are missing on this machine."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    return [package for command, package in NEEDED.items() if shutil.which(command, path=path) is None]


def until(
    condition: Callable[[], object], what: str, timeout_s: float, *, details: Callable[[], str] | None = None
) -> float:
    """Wait for `condition()` and return the seconds; if it does not hold in time, fail with `what` and `details()`."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() > start + timeout_s:
            raise AssertionError(f"expected {what} within {timeout_s:g} s\n{'' if details is None else details()}")
        time.sleep(POLL_S)
    return time.monotonic() - start


class Network:
    """A switch in its own network namespace, with this machine as 10.77.0.1, and the folder of the machines."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}-"))
        self.machines: dict[str, Machine] = {}
        self.tag = f"{PREFIX}-{os.getpid()}"
        self._trees = cgroup_trees()
        script = HOLDER.format(groups=" ".join(map(str, self._trees)), prefix=self.tag, folder=self.folder)
        # Its own session: an interrupt from the keyboard does not end it before the tests.
        self._holder = subprocess.Popen(
            ["unshare", "--net", "bash", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"up\n"
        self.ip("link", "add", "br0", "type", "bridge")
        self.ip("address", "add", f"{SUBNET}.1/24", "dev", "br0")
        for link in ("lo", "br0"):
            self.ip("link", "set", link, "up")
        make_key(self.folder / "operator")

    @property
    def inside(self) -> list[str]:
        """Return the command prefix that runs a command in this network."""
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--"]

    def ip(self, *arguments: str) -> None:
        """Run `ip ARGUMENTS` on the switch."""
        run([*self.inside, "ip", *arguments])

    def machine(self, name: str, *, size: str = "2G", init: str | None = None) -> Machine:
        """Create a machine without booting it; it may write `size`; `init` is a script instead of systemd."""
        address = f"{SUBNET}.{11 + len(self.machines)}"
        self.machines[name] = Machine(self, name, address, size, init)
        return self.machines[name]

    def cgroups_of(self, name: str) -> list[Path]:
        """Return the control groups of a machine."""
        return [tree / f"{self.tag}-{name}" for tree in self._trees]

    def write_known_hosts(self, path: Path) -> None:
        """Write the host keys of all machines."""
        lines = []
        for machine in self.machines.values():
            kind, key = (self.folder / f"{machine.name}.host.pub").read_text().split()[:2]
            lines.append(f"{machine.name},{machine.address} {kind} {key}\n")
        path.write_text("".join(lines))

    def close(self) -> None:
        """Stop the machines at the same time, and remove all files."""
        for machine in self.machines.values():
            machine.request_stop()
        for machine in self.machines.values():
            machine.wait_until_stopped()
        self._holder.communicate(timeout=STOP_S + 15)  # closes its input, and waits for it

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Machine:
    """A machine of a network; its files are in `seed` before the boot, and under `root` after it."""

    def __init__(self, network: Network, name: str, address: str, size: str, init: str | None) -> None:
        self.name, self.address = name, address
        self._network, self._size = network, size
        self._folder = network.folder / name
        self.seed = self._folder / "seed"
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0
        make_key(network.folder / f"{name}.host")
        self._prepare_ssh()
        if init is not None:
            self.put("/etc/fedmq-fleet-init", init, mode=0o755)

    def put(self, path: str, content: str | bytes, mode: int = 0o644) -> None:
        """Write a file of the machine before it boots."""
        target = self.seed / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        target.chmod(mode)

    def _prepare_ssh(self) -> None:
        folder = self._network.folder
        (self.seed / "root" / ".ssh").mkdir(mode=0o700, parents=True)
        (self.seed / "root").chmod(0o700)
        self.put(f"{HOME}/.ssh/authorized_keys", (folder / "operator.pub").read_bytes(), 0o600)
        self.put("/etc/ssh/ssh_host_ed25519_key", (folder / f"{self.name}.host").read_bytes(), 0o600)
        lines = ["HostKey /etc/ssh/ssh_host_ed25519_key", "PasswordAuthentication no", "UseDNS no"]
        self.put("/etc/ssh/sshd_config.d/fleet.conf", "\n".join([*lines, "MaxStartups 100", ""]))
        self.put("/etc/resolv.conf", "")

    def boot(self, *, wait: bool = True) -> None:
        """Start the machine and connect it; `wait` until it runs and answers on port 22."""
        hosts = "".join(f"{one.address} {one.name}\n" for one in self._network.machines.values())
        self.put("/etc/hosts", f"127.0.0.1 localhost\n{hosts}")
        groups = self._network.cgroups_of(self.name)
        for group in groups:
            group.mkdir(exist_ok=True)
        arguments = [self.name, str(self.seed), "\n".join(map(str, groups)), self._size]
        with (self._folder / "console").open("wb") as console:
            self._process = subprocess.Popen(
                ["bash", str(BOOT), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until(self._has_leader, f"{self.name} to start: {self.console()}", BOOT_S)
        self._connect()
        if wait:
            self.wait_until_up()

    def _has_leader(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"{self.name} ended while it booted: {self.console()}"
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        if not children:
            return False
        self._leader = int(children[0])
        own_network = Path(f"/proc/{self._leader}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
        name = Path(f"/proc/{self._leader}/comm").read_text().strip()
        return own_network and name not in ("unshare", "setpriv")

    def _connect(self) -> None:
        """Connect the machine to the switch as eth0."""
        peer = ["peer", "name", "eth0", "netns", str(self._leader)]
        self._network.ip("link", "add", self.name, "type", "veth", *peer)
        self._network.ip("link", "set", self.name, "master", "br0", "up")
        run([*self._in_network(), "ip", "link", "set", "lo", "up"])
        run([*self._in_network(), "ip", "address", "add", f"{self.address}/24", "dev", "eth0"])
        run([*self._in_network(), "ip", "link", "set", "eth0", "up"])

    def wait_until_up(self) -> None:
        """Wait until systemd has started all units and sshd answers."""
        until(self._is_up, f"{self.name} to boot: {self.console()}", BOOT_S)

    def _is_up(self) -> bool:
        states = self.run("systemctl", "is-system-running", check=False).strip()
        return states in ("running", "degraded") and self.show("ssh.service", "ActiveState") == "active"

    def console(self) -> str:
        """Return its output during the boot."""
        path = self._folder / "console"
        return path.read_text(errors="replace")[-2000:] if path.exists() else ""

    @property
    def root(self) -> Path:
        """Return the path of its files from this machine."""
        return Path(f"/proc/{self._leader}/root")

    def run(self, *command: str, check: bool = True, timeout_s: float = 60.0, text: str | None = None) -> str:
        """Run a command as root with `text` as standard input; return its output."""
        enter = ["nsenter", "-t", str(self._leader), "-m", "-u", "-i", "-n", "-p", "-C", "--"]
        clean = ["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"]
        return run([*enter, *clean, *command], check=check, timeout_s=timeout_s, text=text)

    def show(self, unit: str, what: str) -> str:
        """Return a property of a unit from systemd."""
        return self.run("systemctl", "show", "--property", what, "--value", unit).strip()

    def journal(self, unit: str) -> str:
        """Return the log of a unit."""
        return self.run("journalctl", "--unit", unit, "--no-pager", "--output", "cat")

    def cut(self) -> None:
        """Drop all packets in both directions without a reply."""
        rules = "table inet cut { chain in { type filter hook input priority -10; iifname != lo drop; }; "
        rules += "chain out { type filter hook output priority -10; oifname != lo drop; }; }"
        run([*self._in_network(), "nft", "-f", "-"], text=rules)

    def heal(self) -> None:
        """Undo `cut`."""
        run([*self._in_network(), "nft", "delete", "table", "inet", "cut"])

    def slow_down(self, kilobits_s: int) -> None:
        """Limit its outgoing bandwidth."""
        limit = ["tbf", "rate", f"{kilobits_s}kbit", "burst", "32kb", "latency", "500ms"]
        run([*self._in_network(), "tc", "qdisc", "replace", "dev", "eth0", "root", *limit])

    def speed_up(self) -> None:
        """Undo `slow_down`."""
        run([*self._in_network(), "tc", "qdisc", "delete", "dev", "eth0", "root"])

    def _in_network(self) -> list[str]:
        """Return the command prefix that runs a program of this host in its network."""
        return ["nsenter", f"--net=/proc/{self._leader}/ns/net", "--"]

    def request_stop(self) -> None:
        """Request systemd to stop all units and itself."""
        if self._process is not None and self._process.poll() is None:
            os.kill(self._leader, signal.SIGRTMIN + 4)

    def wait_until_stopped(self) -> None:
        """Wait for its end; kill it after STOP_S."""
        if self._process is None:
            return
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def cgroup_trees() -> list[Path]:
    """Return the trees of control groups: one, or with the old layout one for each kind."""
    if not (CGROUPS / "unified").is_dir():
        return [CGROUPS]
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, kinds, path = line.split(":", 2)
        own.update(dict.fromkeys(kinds.split(","), path))
    # The memory of a group counts as its parent's, so the machines' memory stays below whatever limits ours.
    memory = CGROUPS / "memory" / own.get("memory", "/").lstrip("/")
    return [CGROUPS / "unified", CGROUPS / "systemd", CGROUPS / "pids", memory]


def make_key(path: Path) -> None:
    """Create an SSH key pair without a passphrase."""
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)])


def run(command: Sequence[str], *, check: bool = True, timeout_s: float = 30.0, text: str | None = None) -> str:
    """Run a command and return its output; fail with its output if it fails."""
    done = subprocess.run(
        list(command), input=text or "", capture_output=True, text=True, check=False, timeout=timeout_s
    )
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


if __name__ == "__main__":
    print(" ".join(missing()))

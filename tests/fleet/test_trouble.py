"""A deployment to unsuitable hosts: each reports one line in time, and the other hosts are deployed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from machines import Machine, Network, make_key, until
from workstation import Workstation

IN_TIME_S = 60.0
# The environment behind each port: the same machine with one problem.
FORCED = """\
#!/bin/sh
export SSH_ORIGINAL_COMMAND
case $1 in
    full) wrong='mount -t tmpfs -o size=20M none /opt' ;;
    bare) wrong='mount -t tmpfs none /run/systemd' ;;
    old) wrong='mount --bind /usr/local/sbin/python-3.9 /usr/bin/python3' ;;
    stuck) exec sleep infinity ;;
esac
exec unshare --mount sh -c "$wrong && exec sh -c \\"\\$SSH_ORIGINAL_COMMAND\\""
"""
PORTS = {"full": 2201, "bare": 2202, "old": 2203, "stuck": 2204, "stranger": 2205}
EXPECTED = {
    "full": "20 MB",
    "bare": "systemd",
    "old": "3.9",
    "stuck": "20 s",
    "stranger": "known_hosts",
    "guest": "sudo: a password is required",
    "nowhere": "sshd",
}

pytestmark = pytest.mark.timeout(150)


@pytest.fixture(scope="module")
def north(network: Network, workstation: Workstation, boot: Callable[..., list[Machine]]) -> Machine:
    """Return a suitable machine, beside one that acts as many unsuitable hosts."""
    odd = network.machine("odd")
    odd.put("/usr/local/sbin/forced", FORCED, 0o755)
    odd.put("/usr/local/sbin/python-3.9", "#!/bin/sh\necho 3.9\n", 0o755)
    lines = [f"Port {port}" for port in (22, *PORTS.values())]
    for name, port in PORTS.items():
        if name != "stranger":
            lines += [f"Match LocalPort {port}", f"  ForceCommand /usr/local/sbin/forced {name}"]
    odd.put("/etc/ssh/sshd_config.d/odd.conf", "\n".join([*lines, ""]))
    odd.boot(wait=False)
    [machine] = boot("north")
    odd.wait_until_up()
    odd.run("useradd", "--home-dir", "/var/guest", "--create-home", "guest")
    odd.run("sh", "-c", "cp -r ~root/.ssh /var/guest/ && chown -R guest: /var/guest")
    hosts = [f"Host {name}\n  HostName {odd.address}\n  Port {port}" for name, port in PORTS.items()]
    hosts += [f"Host guest\n  HostName {odd.address}\n  User guest", "Host nowhere\n  HostName 10.77.0.250"]
    workstation.write_ssh_config(*hosts)
    make_key(network.folder / "other")
    known = workstation.folder / "known_hosts"
    right, wrong = ((network.folder / f"{name}.pub").read_text().split()[:2] for name in ("odd.host", "other"))
    with known.open("a") as file:
        for name, port in PORTS.items():
            file.write(f"[{odd.address}]:{port} {' '.join(wrong if name == 'stranger' else right)}\n")
    return machine


def test_unsuitable_hosts_fail_in_one_line_and_others_are_deployed(north: Machine, workstation: Workstation) -> None:
    sections = ["[broker]", 'host = "north"', f'address = "{north.address}"']
    for host in ("north", *EXPECTED):
        sections += ["[[trainers]]", f'host = "{host}"', f'name = "{host}"', 'data = "xor:1/2"']
    (workstation.folder / "fleet.toml").write_text("\n".join(sections))
    start = time.monotonic()

    done = workstation.run("deploy", "up")

    assert time.monotonic() - start < IN_TIME_S
    assert done.returncode == 1
    failed = {line.split()[0]: line for line in done.stdout.splitlines() if "FAILED" in line}
    assert failed.keys() == EXPECTED.keys(), done.stdout + done.stderr
    for host, named in EXPECTED.items():
        assert named in failed[host], failed[host]
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for unit in ("fedmq-broker", "fedmq-trainer@north"):
        assert north.show(unit, "ActiveState") == "active"


def test_port_in_use_is_named(north: Machine, workstation: Workstation) -> None:
    workstation.deploy("stop", "north")
    north.run("systemd-run", "--unit", "squatter", "python3", "-m", "http.server", "5552")
    until_open = "until ss -ltn | grep -q :5552; do :; done"
    north.run("timeout", "20", "sh", "-c", until_open)

    done = workstation.run("deploy", "broker", "north")

    assert done.returncode == 1
    assert "5552" in done.stderr


def test_deployment_prints_no_token_or_key(north: Machine, workstation: Workstation) -> None:
    north.run("systemctl", "stop", "squatter")

    output = workstation.deploy("broker", "north", "--log-level", "debug") + workstation.deploy(
        "logs", "north", "--lines", "9999"
    )

    assert "fedmq1-" not in output + north.run("journalctl", "--no-pager")
    for path in ("/var/lib/fedmq/keys/broker.key", "/etc/credstore/fedmq-trainer-north.key"):
        assert north.run("stat", "-L", "-c", "%a", path).strip() == "600"


def write_fleet(
    workstation: Workstation, machine: Machine, trainer: str, *, data: str = "xor:1/2", port: int = 5550
) -> None:
    """Write an inventory of one machine with the broker and one trainer."""
    name = f'"{machine.name}"'
    broker = f'[broker]\nhost = {name}\naddress = "{machine.address}"\nport = {port}\n'
    trainers = f'[[trainers]]\nhost = {name}\nname = "{trainer}"\ndata = "{data}"\n'
    (workstation.folder / "fleet.toml").write_text(broker + trainers)


def test_interrupted_enrollment_can_be_repeated(north: Machine, workstation: Workstation, network: Network) -> None:
    write_fleet(workstation, north, "late")
    command = [*network.inside, sys.executable, "-P", "-m", "fedmq", "deploy", "trainers", "north"]
    members = north.root / "var/lib/private/fedmq/keys/members"
    with subprocess.Popen(
        command, cwd=workstation.folder, env=workstation.environment, stdout=subprocess.DEVNULL
    ) as process:
        until(
            lambda: any('"late"' in path.read_text() for path in members.iterdir()),
            "the trainer to be accepted",
            IN_TIME_S,
        )
        process.send_signal(signal.SIGINT)
    assert process.returncode != 0

    workstation.deploy("trainers", "north")

    assert north.show("fedmq-trainer@late", "ActiveState") == "active"
    # The files of a host after an interruption before the key was installed.
    left, kept = "/etc/fedmq/joining-late", "/etc/credstore/fedmq"
    north.run("sh", "-c", f"mkdir {left}; mv {kept}-trainer-late.key {left}/trainer.key; cp {kept}-fed* {left}")
    workstation.deploy("trainers", "north")
    assert north.run("ls", f"{kept}-trainer-late.key")
    assert north.run("find", "/etc/fedmq", "-name", "joining-*") == ""


def test_service_that_fails_to_start_reports_why(north: Machine, workstation: Workstation) -> None:
    write_fleet(workstation, north, "late", data="xor:9/2")

    done = workstation.run("deploy", "trainers", "north")

    assert done.returncode == 1
    assert "trainer-late.toml, line 3: data: xor:9/2" in done.stderr, done.stderr


def test_new_port_is_deployed_to_keys_and_trainers(north: Machine, workstation: Workstation) -> None:
    write_fleet(workstation, north, "late", port=7000)

    workstation.deploy("up")

    assert f"{north.address}:7000" in north.run("cat", "/var/lib/fedmq/keys/federation.json")
    until(lambda: "1 trainers" in north.show("fedmq-broker", "StatusText"), "the trainer to connect", IN_TIME_S)


def test_truncated_package_is_not_installed(
    north: Machine, workstation: Workstation, packages: list[Path], tmp_path: Path
) -> None:
    part = tmp_path / "fedmq.deb"
    part.write_bytes(packages[1].read_bytes()[:-100_000])

    done = workstation.run("deploy", "upgrade", "north", "--package", str(part))

    assert done.returncode == 1
    assert "-2: dpkg-deb" in done.stderr, done.stderr


def test_host_without_known_host_keys_is_refused(north: Machine, workstation: Workstation) -> None:
    workstation.write_ssh_config(f"Host north\n  HostName {north.address}\n  UserKnownHostsFile none")

    done = workstation.run("deploy", "status", "north")

    workstation.write_ssh_config()
    assert done.returncode == 1
    assert "UserKnownHostsFile" in done.stdout, done.stdout


def test_removed_package_is_purged(north: Machine, workstation: Workstation) -> None:
    north.run("dpkg", "--remove", "fedmq")

    workstation.deploy("remove", "north")

    left = "ls -d /etc/fedmq /etc/credstore/fedmq* /var/lib/private/fedmq 2> /dev/null || true"
    assert north.run("sh", "-c", left) == ""

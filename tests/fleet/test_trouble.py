"""A deployment in which most hosts are not fit for it: each is one clear line in time, and the others are deployed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from desk import Desk
from machines import Machine, Network, make_key, until

IN_TIME_S = 60.0
# What root finds behind each port: the same machine, with one thing wrong.
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
    "full": "MB free on /opt and /var, got 20 MB; make room",
    "bare": "expected systemd as the first process, got another",
    "old": "expected Python 3.11, got 3.9",
    "stuck": "expected an answer within 20 s, got none",
    "stranger": "expected the host's key in known_hosts, got none or another",
    "guest": "sudo: a password is required",
    "nowhere": "expected sshd to answer, got",
}

pytestmark = pytest.mark.timeout(150)


@pytest.fixture(scope="module")
def north(network: Network, desk: Desk, boot: Callable[..., list[Machine]]) -> Machine:
    """A machine as it should be, beside one that is many and never as it should be."""
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
    desk.write_ssh_config(*hosts)
    make_key(network.folder / "other")
    known = desk.folder / "known_hosts"
    right, wrong = ((network.folder / f"{name}.pub").read_text().split()[:2] for name in ("odd.host", "other"))
    with known.open("a") as file:
        for name, port in PORTS.items():
            file.write(f"[{odd.address}]:{port} {' '.join(wrong if name == 'stranger' else right)}\n")
    return machine


def test_hosts_that_are_not_fit_fail_in_one_line_each_and_the_others_are_deployed(north: Machine, desk: Desk) -> None:
    sections = ["[broker]", 'host = "north"', f'address = "{north.address}"']
    for host in ("north", *EXPECTED):
        sections += ["[[trainers]]", f'host = "{host}"', f'name = "{host}"', 'data = "xor:1/2"']
    (desk.folder / "fleet.toml").write_text("\n".join(sections))
    start = time.monotonic()

    done = desk.type("deploy", "up")

    assert time.monotonic() - start < IN_TIME_S
    assert done.returncode == 1
    failed = {line.split()[0]: line for line in done.stdout.splitlines() if "FAILED" in line}
    assert failed.keys() == EXPECTED.keys(), done.stdout + done.stderr
    for host, words in EXPECTED.items():
        assert words in failed[host], failed[host]
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for unit in ("fedmq-broker", "fedmq-trainer@north"):
        assert north.show(unit, "ActiveState") == "active"


def test_a_port_that_somebody_else_uses_is_named(north: Machine, desk: Desk) -> None:
    desk.deploy("stop", "north")
    north.run("systemd-run", "--unit", "squatter", "python3", "-m", "http.server", "5552")
    until_open = "until ss -ltn | grep -q :5552; do :; done"
    north.run("timeout", "20", "sh", "-c", until_open)

    done = desk.type("deploy", "broker", "north")

    assert done.returncode == 1
    assert "expected ports 5550 to 5554 free, got 5552 in use" in done.stderr


def test_a_deployment_never_shows_a_token_or_a_key(north: Machine, desk: Desk) -> None:
    north.run("systemctl", "stop", "squatter")

    said = desk.deploy("broker", "north", "--log-level", "debug") + desk.deploy("logs", "north", "--lines", "9999")

    assert "fedmq1-" not in said + north.run("journalctl", "--no-pager")
    for path in ("/var/lib/fedmq/keys/broker.key", "/etc/credstore/fedmq-trainer-north.key"):
        assert north.run("stat", "-L", "-c", "%a", path).strip() == "600"


def write_fleet(desk: Desk, machine: Machine, trainer: str, *, data: str = "xor:1/2", port: int = 5550) -> None:
    """One machine with the broker and one trainer."""
    name = f'"{machine.name}"'
    broker = f'[broker]\nhost = {name}\naddress = "{machine.address}"\nport = {port}\n'
    trainers = f'[[trainers]]\nhost = {name}\nname = "{trainer}"\ndata = "{data}"\n'
    (desk.folder / "fleet.toml").write_text(broker + trainers)


def test_an_enrollment_that_is_interrupted_can_be_repeated(north: Machine, desk: Desk, network: Network) -> None:
    write_fleet(desk, north, "late")
    words = [*network.inside, sys.executable, "-m", "fedmq", "deploy", "trainers", "north"]
    members = north.root / "var/lib/private/fedmq/keys/members"
    with subprocess.Popen(words, cwd=desk.folder, env=desk.environment, stdout=subprocess.DEVNULL) as typed:
        until(lambda: any('"late"' in path.read_text() for path in members.iterdir()), "it to be let in", IN_TIME_S)
        typed.send_signal(signal.SIGINT)
    assert typed.returncode != 0

    desk.deploy("trainers", "north")

    assert north.show("fedmq-trainer@late", "ActiveState") == "active"
    # What a host had after a cut before its keys were handed over.
    left, kept = "/etc/fedmq/joining-late", "/etc/credstore/fedmq"
    north.run("sh", "-c", f"mkdir {left}; mv {kept}-trainer-late.key {left}/trainer.key; cp {kept}-fed* {left}")
    desk.deploy("trainers", "north")
    assert north.run("ls", f"{kept}-trainer-late.key")
    assert north.run("find", "/etc/fedmq", "-name", "joining-*") == ""


def test_a_service_that_does_not_start_says_why(north: Machine, desk: Desk) -> None:
    write_fleet(desk, north, "late", data="xor:9/2")

    done = desk.type("deploy", "trainers", "north")

    assert done.returncode == 1
    assert "trainer-late.toml, line 3: data: xor:9/2: expected a part from 1 to 2, got 9" in done.stderr, done.stderr


def test_a_new_port_reaches_the_keys_and_the_trainers(north: Machine, desk: Desk) -> None:
    write_fleet(desk, north, "late", port=7000)

    desk.deploy("up")

    assert f"{north.address}:7000" in north.run("cat", "/var/lib/fedmq/keys/federation.json")
    until(lambda: "1 trainers" in north.show("fedmq-broker", "StatusText"), "the trainer to be there", IN_TIME_S)


def test_a_package_that_is_cut_off_is_not_installed_and_that_is_said(
    north: Machine, desk: Desk, packages: list[Path], tmp_path: Path
) -> None:
    part = tmp_path / "fedmq.deb"
    part.write_bytes(packages[1].read_bytes()[:-100_000])

    done = desk.type("deploy", "upgrade", "north", "--package", str(part))

    assert done.returncode == 1
    assert "-2: dpkg-deb" in done.stderr, done.stderr


def test_a_host_whose_key_nobody_would_look_at_is_refused(north: Machine, desk: Desk) -> None:
    desk.write_ssh_config(f"Host north\n  HostName {north.address}\n  UserKnownHostsFile none")

    done = desk.type("deploy", "status", "north")

    desk.write_ssh_config()
    assert done.returncode == 1
    assert "UserKnownHostsFile" in done.stdout, done.stdout


def test_a_package_that_somebody_has_removed_is_purged_all_the_same(north: Machine, desk: Desk) -> None:
    north.run("dpkg", "--remove", "fedmq")

    desk.deploy("remove", "north")

    left = "ls -d /etc/fedmq /etc/credstore/fedmq* /var/lib/private/fedmq 2> /dev/null || true"
    assert north.run("sh", "-c", left) == ""

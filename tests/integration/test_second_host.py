"""A trainer on a second host in five commands; the second host is a network namespace.

Needs root and `ip` to create the namespace and the link to it; the network of this host is restored.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from enrolled import Federation
from services import WAIT_S, clean_environment, report_of, until


class Cable(NamedTuple):
    """A pair of interfaces, one in its own namespace."""

    namespace: str
    here: str
    there: str


NO_IP = "a second host is a network namespace, but `ip` is not on PATH: install Debian's package iproute2"
NO_ROOT = "a second host is a network namespace, but only root can make one: run the tests as root"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=WAIT_S)


@contextmanager
def second_host() -> Iterator[Cable]:
    number = os.getpid() % 65536
    namespace, ours, theirs = f"fedmq-{number}", f"fmq{number}a", f"fmq{number}b"
    here, there = (f"10.{213 + number % 7}.{number // 256}.{number % 64 * 4 + host}" for host in (1, 2))
    try:
        ip("netns", "add", namespace)
        ip("link", "add", ours, "type", "veth", "peer", "name", theirs)
        ip("link", "set", theirs, "netns", namespace)
        ip("addr", "add", f"{here}/30", "dev", ours)
        ip("link", "set", ours, "up")
        ip("-n", namespace, "addr", "add", f"{there}/30", "dev", theirs)
        ip("-n", namespace, "link", "set", theirs, "up")
        ip("-n", namespace, "link", "set", "lo", "up")
        yield Cable(namespace, here, there)
    finally:
        with suppress(subprocess.CalledProcessError):  # not created
            ip("link", "del", ours)
        with suppress(subprocess.CalledProcessError):
            ip("netns", "del", namespace)


@pytest.fixture
def cable() -> Iterator[Cable]:
    """Yield a second host; skip the test without the rights, and without `ip` except on CI."""
    if os.geteuid() != 0:
        pytest.skip(NO_ROOT)
    if shutil.which("ip") is None:
        if os.environ.get("CI") == "true":
            pytest.fail(NO_IP, pytrace=False)
        pytest.skip(NO_IP)
    with ExitStack() as stack:
        try:
            made = stack.enter_context(second_host())
        except subprocess.CalledProcessError as error:  # a container without the privileges of root
            pytest.skip(f"a second host cannot be made: {' '.join(error.cmd)}: {error.stderr.decode().strip()}")
        yield made


def start_remote(cable: Cable, folder: Path, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start `fedmq ARGUMENTS` on the second host, with its output in files of `folder`."""
    with (folder / f"{name}.out").open("wb") as out, (folder / f"{name}.err").open("wb") as err:
        return subprocess.Popen(
            ["ip", "netns", "exec", cable.namespace, sys.executable, "-P", "-m", "fedmq", *arguments],
            cwd=folder,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )


def test_trainer_on_second_host_joins_in_five_commands(cable: Cable, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    with Federation(tmp_path, cable.here) as first:
        assert first.fedmq("keys", "init", "--broker", first.address).returncode == 0  # the first command
        first.start_broker()  # the second
        token = first.token()  # the third
        (second / "token").write_text(token)
        joining = start_remote(
            cable, second, "join", "trainer", "join", "token", "--name", "alice"
        )  # the fourth, on the second host
        first.running["join"] = joining
        until(lambda: "keys accept" in (second / "join.out").read_text(), "the fingerprint on the second host")
        shown = (second / "join.out").read_text().splitlines()[0].rpartition(" ")[2]
        accepted = first.fedmq("keys", "accept", shown)  # the fifth
        assert accepted.returncode == 0, accepted.stderr
        assert joining.wait(WAIT_S) == 0, (second / "join.err").read_text()

        trainer = start_remote(cable, second, "trainer", "trainer", "--keys", "keys", "--data", "xor:1/2")
        first.running["trainer"] = trainer
        run = ["aggregator", "--keys", "keys", "--task", "xor", "--min-trainers", "1", "--out", "run"]
        done = first.fedmq(*run)

    assert done.returncode == 0, done.stderr
    assert [(one["name"], one["results"] > 0) for one in report_of(tmp_path / "run")["trainers"]] == [("alice", True)]
    assert sorted(path.name for path in (second / "keys").iterdir()) == ["federation.json", "trainer.key"]

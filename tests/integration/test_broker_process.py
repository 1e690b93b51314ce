"""The broker as a process: what it prints, how it ends, and when it does not start."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedmq.deploy.processes import free_port
from fedmq.transport.address import PORTS

DEADLINE_S = 30.0


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "fedmq", "broker", *arguments]


def environment() -> dict[str, str]:
    """This process's environment without settings of fedmq."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FEDMQ_")}


def failed_start(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a broker that does not start, to its end."""
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Yield a broker and the line that it prints when its ports are open."""
    with subprocess.Popen(
        command(*arguments),
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline()
        finally:
            process.kill()


def test_broker_prints_its_address_and_the_next_command(tmp_path: Path) -> None:
    port = free_port()
    with running(tmp_path, "--port", str(port)) as (_, line):
        assert f"tcp://127.0.0.1:{port} (ports {port} to {port + PORTS - 2})" in line
        assert f"fedmq aggregator --task xor --broker tcp://127.0.0.1:{port}" in line
        for offset in range(PORTS - 1):  # the last port is for enrollment, with keys only
            socket.create_connection(("127.0.0.1", port + offset), DEADLINE_S).close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_broker_with_exit_code_0(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path, "--port", str(free_port())) as (process, line):
        assert line
        process.send_signal(number)
        _, errors = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0
        assert errors == ""


def test_broker_restarts_on_the_same_ports(tmp_path: Path) -> None:
    port = str(free_port())
    for _ in range(2):
        with running(tmp_path, "--port", port) as (process, line):
            assert f":{port} " in line
            process.kill()
            process.communicate(timeout=DEADLINE_S)


def test_port_in_use_gives_one_line_and_exit_code_78(tmp_path: Path) -> None:
    port = free_port()
    with running(tmp_path, "--port", str(port)) as (first, line):
        assert line
        second = failed_start(tmp_path, "--port", str(port))
        assert first.poll() is None
    assert (second.returncode, second.stdout) == (78, "")
    assert second.stderr.count("\n") == 1
    assert f"127.0.0.1:{port}" in second.stderr
    assert "--port" in second.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7"])  # noqa: S104
def test_public_address_without_keys_gives_one_line_and_exit_code_78(tmp_path: Path, host: str) -> None:
    done = failed_start(tmp_path, "--bind", host, "--port", str(free_port()))
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.count("\n") == 1
    assert "--bind" in done.stderr
    assert host in done.stderr


@pytest.mark.parametrize("host", ["::", "*"])
def test_invalid_address_gives_one_line_and_exit_code_78(tmp_path: Path, host: str) -> None:
    done = failed_start(tmp_path, "--bind", host)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (78, "", 1)
    assert host in done.stderr


@pytest.mark.parametrize("port", ["0", "65534", "-1", "http"])
def test_invalid_port_is_a_usage_error(tmp_path: Path, port: str) -> None:
    done = failed_start(tmp_path, "--port", port)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr

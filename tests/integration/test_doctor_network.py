"""The checks of the connection to a broker: no listener, another server, a firewall, denied access."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from links import aggregator, running_broker
from services import run_fedmq

from fedmq.deploy.network_checks import check_access, check_ports, check_reachable
from fedmq.deploy.processes import free_port
from fedmq.protocol.codec import encode
from fedmq.protocol.messages import PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Beacon
from fedmq.security.keyring import Credentials, FederationInfo
from fedmq.security.keys import Identity
from fedmq.transport.address import PORTS

ANSWER_S = 60.0  # by when a broker that runs answers, on a busy machine


@pytest.fixture
def port() -> int:
    """Return the first of five free ports."""
    return free_port()


@pytest.fixture
def address(port: int) -> str:
    """Return the address of a broker at these ports."""
    return f"tcp://127.0.0.1:{port}"


@contextmanager
def silent_server(port: int, ports: int = PORTS) -> Iterator[None]:
    """Run a server on these ports that accepts connections and sends nothing."""
    with ExitStack() as stack:
        for offset in range(ports):
            stack.enter_context(socket.create_server(("127.0.0.1", port + offset)))
        yield


@contextmanager
def full_queue() -> Iterator[str]:
    """Yield an address that neither accepts nor refuses connections, as behind a firewall: its queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"


def member(port: int) -> Credentials:
    """Return a trainer with keys that no broker knows."""
    broker, aggregator_key = Identity.new("broker", "broker"), Identity.new("aggregator", "aggregator")
    address = f"tcp://127.0.0.1:{port}"
    federation = FederationInfo(os.urandom(16), address, broker.public.transport, aggregator_key.public)
    return Credentials(federation, Identity.new("trainer", "zoe"))


def test_free_ports_are_ok(port: int) -> None:
    result = check_ports("127.0.0.1", port)
    assert result is not None
    assert result.state == "ok"


def test_port_in_use_is_named(port: int) -> None:
    with silent_server(port + 2, ports=1):
        result = check_ports("127.0.0.1", port)
    assert result is not None
    assert result.state == "problem"
    assert str(port + 2) in result.found
    assert f"sport = :{port + 2}" in result.advice


def test_ports_of_another_machine_are_not_checked() -> None:
    assert check_ports("192.0.2.1", 5550) is None


@pytest.mark.parametrize(("wanted", "state"), [(True, "problem"), (False, "warning")])
def test_missing_broker_is_a_problem_only_if_wanted(address: str, wanted: bool, state: str) -> None:
    result = check_reachable(address, wanted=wanted)
    assert result.state == state
    assert address.removeprefix("tcp://") in result.found
    assert "fedmq broker" in result.advice


def test_unknown_host_name_is_a_problem() -> None:
    result = check_reachable("tcp://no-such-host.invalid:5550", wanted=True)
    assert (result.state, "no-such-host.invalid" in result.found) == ("problem", True)
    assert "getent hosts" in result.advice


def test_silent_port_advises_about_firewalls() -> None:
    with full_queue() as address:
        result = check_reachable(address, wanted=True, timeout_s=0.2)
    assert ("0.2 s" in result.found, "firewalls" in result.advice) == (True, True)


def test_second_port_of_a_broker_advises_about_the_first(port: int) -> None:
    with running_broker(port):
        result = check_reachable(f"tcp://127.0.0.1:{port + 1}", wanted=True)
    assert result.state == "problem"
    assert "--broker" in result.advice


def test_server_that_is_no_broker_is_a_problem(port: int, address: str) -> None:
    with silent_server(port):
        assert check_reachable(address, wanted=True).state == "ok"
        (result,) = check_access(address, None, wait_s=0.5)
    assert (result.check, result.state) == ("access", "problem")


def test_broker_without_runs_is_ok(port: int, address: str) -> None:
    with running_broker(port):
        assert [(one.check, one.state) for one in check_access(address, None, wait_s=ANSWER_S)] == [
            ("access", "ok"),
            ("runs", "ok"),
        ]


def test_published_run_is_reported(port: int, address: str) -> None:
    beacon = encode("beacon/xor-1", Beacon(run="xor-1", term=1, round=7, open=True))
    state, found = published_run(port, address, beacon)
    assert (state, "xor-1" in found, "7" in found) == ("ok", True, True)


def test_run_of_another_version_is_a_problem(port: int, address: str) -> None:
    topic, header, *rest = encode("beacon/xor-1", Beacon(run="xor-1", term=1, round=7, open=True))
    newer = header.replace(b"\xa1v" + bytes([PROTOCOL_VERSION_MIN]), b"\xa1v" + bytes([PROTOCOL_VERSION + 1]))
    assert newer != header
    state, found = published_run(port, address, [topic, newer, *rest])
    assert (state, "(version)" in found, str(PROTOCOL_VERSION) in found) == ("problem", True, True)


def published_run(port: int, address: str, frames: list[bytes]) -> tuple[str, str]:
    """Return the result for runs while an aggregator publishes `frames` repeatedly."""
    import threading

    stop = threading.Event()

    def publish() -> None:
        with aggregator(address, "xor-1") as publishing:
            while not stop.wait(0.02):
                publishing.link.send(frames)
                list(publishing.link.receive())

    with running_broker(port):
        publisher = threading.Thread(target=publish)
        publisher.start()
        try:
            _, runs = check_access(address, None, wait_s=ANSWER_S)
        finally:
            stop.set()
            publisher.join()
    return runs.state, runs.found


def test_unknown_keys_are_a_problem(port: int, address: str) -> None:
    with running_broker(port):  # without keys
        (result,) = check_access(address, member(port), wait_s=ANSWER_S)
    assert result.state == "problem"
    assert "trainer zoe" in result.found
    assert "fedmq keys accept" in result.advice


def test_command_exits_with_1_on_a_problem(address: str, tmp_path: Path) -> None:
    done = run_fedmq("doctor", "--broker", address, cwd=tmp_path)
    assert done.returncode == 1
    assert "problem  broker  127.0.0.1" in done.stdout
    assert done.stderr == ""


def test_command_exits_with_0_at_a_broker(port: int, address: str, tmp_path: Path) -> None:
    with running_broker(port):
        done = run_fedmq("doctor", "--broker", address, "--data", "xor:1/2", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    results = {one["check"]: one["state"] for one in json.loads(done.stdout)}
    assert {results[check] for check in ("python", "libzmq", "folder", "broker", "access", "runs", "data")} == {"ok"}

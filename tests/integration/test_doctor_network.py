"""The checks of the way to a broker, each with the trouble made: nobody there, somebody else there, a shut door."""

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

from fedmq.deploy.network_checks import check_door, check_ports, check_way
from fedmq.deploy.processes import free_port
from fedmq.protocol.codec import encode
from fedmq.protocol.messages import Beacon
from fedmq.security.keyring import Credentials, FederationInfo
from fedmq.security.keys import Identity
from fedmq.transport.address import PORTS


@pytest.fixture
def port() -> int:
    """The first of ports that nobody uses."""
    return free_port()


@pytest.fixture
def address(port: int) -> str:
    """Where a broker would be."""
    return f"tcp://127.0.0.1:{port}"


@contextmanager
def mute(port: int, ports: int = PORTS) -> Iterator[None]:
    """Somebody else on these ports, who takes connections and says nothing."""
    with ExitStack() as stack:
        for offset in range(ports):
            stack.enter_context(socket.create_server(("127.0.0.1", port + offset)))
        yield


@contextmanager
def deaf() -> Iterator[str]:
    """An address where connections are neither taken nor refused, as behind a firewall: its queue is full."""
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
    """Somebody with keys that no broker has heard of."""
    broker, above = Identity.new("broker", "broker"), Identity.new("aggregator", "aggregator")
    federation = FederationInfo(os.urandom(16), f"tcp://127.0.0.1:{port}", broker.public.transport, above.public)
    return Credentials(federation, Identity.new("trainer", "zoe"))


def test_free_ports_are_free_for_a_broker(port: int) -> None:
    finding = check_ports("127.0.0.1", port)
    assert finding is not None
    assert finding.state == "ok"


def test_a_port_in_use_is_named(port: int) -> None:
    with mute(port + 2, ports=1):
        finding = check_ports("127.0.0.1", port)
    assert finding is not None
    assert finding.state == "problem"
    assert finding.found.endswith(f": {port + 2}")
    assert f"sport = :{port + 2}" in finding.advice


def test_the_ports_of_another_machine_are_not_looked_at() -> None:
    assert check_ports("192.0.2.1", 5550) is None


@pytest.mark.parametrize(("wanted", "state"), [(True, "problem"), (False, "warning")])
def test_that_nobody_listens_is_a_problem_for_who_wants_a_broker(address: str, wanted: bool, state: str) -> None:
    finding = check_way(address, wanted=wanted)
    assert finding.state == state
    assert "nobody listens" in finding.found
    assert "fedmq broker" in finding.advice


def test_a_name_that_does_not_resolve_has_advice_of_its_own() -> None:
    finding = check_way("tcp://no-such-host.invalid:5550", wanted=True)
    assert (finding.state, finding.found.partition(" (")[0]) == (
        "problem",
        "no-such-host.invalid: the name does not resolve",
    )
    assert "getent hosts" in finding.advice


def test_a_silent_port_has_advice_of_its_own() -> None:
    with deaf() as address:
        finding = check_way(address, wanted=True, timeout_s=0.2)
    assert "no answer in 0.2 s" in finding.found
    assert "firewalls" in finding.advice


def test_the_wrong_one_of_a_brokers_ports_has_advice_of_its_own(port: int) -> None:
    with running_broker(port):
        finding = check_way(f"tcp://127.0.0.1:{port + 1}", wanted=True)
    assert finding.state == "problem"
    assert "first of its ports" in finding.advice


def test_somebody_who_is_no_broker_is_noticed(port: int, address: str) -> None:
    with mute(port):
        assert check_way(address, wanted=True).state == "ok"
        (finding,) = check_door(address, None, wait_s=0.5)
    assert finding.state == "problem"
    assert "does not greet as a broker" in finding.found


def test_a_broker_lets_in_and_is_quiet(port: int, address: str) -> None:
    with running_broker(port):
        assert [(one.check, one.state) for one in check_door(address, None)] == [("door", "ok"), ("runs", "ok")]


def test_a_run_is_heard(port: int, address: str) -> None:
    beacon = encode("beacon/xor-1", Beacon(run="xor-1", term=1, round=7, open=True))
    assert heard(port, address, beacon) == ("ok", "run xor-1 is at round 7")


def test_a_run_of_another_version_is_noticed(port: int, address: str) -> None:
    topic, header, *rest = encode("beacon/xor-1", Beacon(run="xor-1", term=1, round=7, open=True))
    newer = header.replace(b"\xa1v\x01", b"\xa1v\x02")
    assert newer != header
    state, found = heard(port, address, [topic, newer, *rest])
    assert (state, found) == ("problem", "what is published cannot be read (header): expected version 1")


def heard(port: int, address: str, frames: list[bytes]) -> tuple[str, str]:
    """What is found behind the door while an aggregator publishes `frames` again and again."""
    import threading

    over = threading.Event()

    def publish() -> None:
        with aggregator(address, "xor-1") as above:
            while not over.wait(0.02):
                above.link.send(frames)
                list(above.link.receive())

    with running_broker(port):
        publisher = threading.Thread(target=publish)
        publisher.start()
        try:
            _, runs = check_door(address, None)
        finally:
            over.set()
            publisher.join()
    return runs.state, runs.found


def test_keys_that_a_broker_does_not_know_are_not_let_in(port: int, address: str) -> None:
    with running_broker(port):  # one without keys
        (finding,) = check_door(address, member(port))
    assert finding.state == "problem"
    assert "does not let in trainer zoe" in finding.found
    assert "fedmq keys accept" in finding.advice


def test_the_command_ends_with_1_when_something_is_a_problem(address: str, tmp_path: Path) -> None:
    done = run_fedmq("doctor", "--broker", address, cwd=tmp_path)
    assert done.returncode == 1
    assert "problem  broker  127.0.0.1" in done.stdout
    assert done.stderr == ""


def test_the_command_ends_with_0_at_a_broker(port: int, address: str, tmp_path: Path) -> None:
    with running_broker(port):
        done = run_fedmq("doctor", "--broker", address, "--data", "xor:1/2", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    findings = {one["check"]: one["state"] for one in json.loads(done.stdout)}
    assert {findings[check] for check in ("python", "libzmq", "folder", "broker", "door", "runs", "data")} == {"ok"}

"""A broker with few descriptors: strangers and members that open connections end neither it nor those of others."""

from __future__ import annotations

import re
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
import pytest
import zmq
from keyed import Keyed, Peers, peers_of
from services import Services, until

from fedmq.broker.access_control import CONNECTIONS_MAX
from fedmq.deploy.processes import free_port
from fedmq.protocol import topics
from fedmq.transport.link import LinkUp, Port
from fedmq.transport.zeromq import TrainerSockets

FEW = 128
HERE = [topics.HERE.encode()]


@pytest.fixture
def keyed(tmp_path: Path) -> Keyed:
    return Keyed(tmp_path, "alice", "mallory")


class Served:
    """An aggregator, and alice as a member that has sent a message; none of their connections may end."""

    def __init__(self, peers: Peers) -> None:
        self._number = 0
        self._above = peers.member("aggregator", zmq.XPUB, Port.PUBLISH)
        assert self._above.receive() == [b"\x01"]
        self._collects = peers.member("aggregator", zmq.XSUB, Port.COLLECT, "up/")
        self._subscribes = peers.member("alice", zmq.XSUB, Port.SUBSCRIBE, "beacon/", "to/alice/")
        self._pushes = peers.member("alice", zmq.PUSH, Port.PUSH)
        self._pushes.socket.send_multipart(HERE)
        self.check()

    def check(self) -> None:
        """Send a message in each direction, over the first connections."""
        self._number += 1
        marker = b"%d" % self._number
        self._pushes.socket.send_multipart([b"up/r", marker])
        self._collects.until([b"up/r/alice", marker])
        self._above.socket.send_multipart([b"beacon/r", marker])
        self._subscribes.until([b"beacon/r", marker])
        for raw in (self._above, self._collects, self._subscribes, self._pushes):
            assert not raw.monitor.poll(0), "a connection of a member has ended"


def strangers(port: int, count: int, stack: ExitStack) -> Iterator[int]:
    """Open silent connections at all ports."""
    for number in range(count):
        peer = stack.enter_context(socket.socket())
        peer.setblocking(False)
        peer.connect_ex(("127.0.0.1", port + number % len(Port)))
        yield number


def test_silent_strangers_do_not_end_the_broker(keyed: Keyed) -> None:
    keyed.services.descriptors = FEW, FEW
    with keyed.running_broker() as pid, peers_of(keyed) as peers, ExitStack() as stack:
        served = Served(peers)
        for number in strangers(keyed.port, 3 * FEW, stack):
            if number % FEW == 0:
                served.check()
        served.check()
        assert psutil.Process(pid).num_fds() < FEW


def test_member_can_connect_while_strangers_keep_silent_connections(keyed: Keyed) -> None:
    keyed.services.descriptors = FEW, FEW
    with keyed.running_broker(), ExitStack() as stack:
        assert len(list(strangers(keyed.port, 3 * FEW, stack))) == 3 * FEW
        link = stack.enter_context(closing(TrainerSockets(keyed.federation.broker, "alice", keyed.of["alice"])))
        until(lambda: link.wait(0.05) or any(isinstance(one, LinkUp) for one in link.receive()), "the connection")


def test_member_that_keeps_silent_connections_does_not_end_those_of_others(keyed: Keyed) -> None:
    keyed.services.descriptors = FEW, FEW
    with keyed.running_broker(), peers_of(keyed) as peers:
        for _ in range(30):
            peers.member("mallory", zmq.PUSH, Port.PUSH)
        served = Served(peers)
        for _ in range(FEW):
            peers.make(zmq.PUSH, Port.PUSH, keyed.transport("mallory"))
        served.check()
        keyed.revoke("mallory")  # the broker can still read its own files
        until(lambda: "no longer a member" in keyed.services.err("broker"), "the revocation")
        served.check()


def test_key_has_a_limit_of_connections_and_its_first_ones_stay(keyed: Keyed) -> None:
    with keyed.running_broker(), peers_of(keyed) as peers:
        served = Served(peers)
        first = peers.member("mallory", zmq.XSUB, Port.SUBSCRIBE, "to/mallory/")
        for _ in range(CONNECTIONS_MAX - 1):
            peers.member("mallory", zmq.PUSH, Port.PUSH).socket.send_multipart(HERE)
        served.check()
        late = peers.member("mallory", zmq.PUSH, Port.PUSH)
        late.socket.send_multipart(HERE)
        late.event(zmq.EVENT_DISCONNECTED)
        assert not first.monitor.poll(0)
        served.check()


def test_trainer_names_its_connection_before_it_has_a_result() -> None:
    port, context = free_port(), zmq.Context()
    with closing(context.socket(zmq.PULL)) as pull, closing(TrainerSockets(f"tcp://127.0.0.1:{port}", "alice")) as link:
        pull.linger = 0
        pull.bind(f"tcp://127.0.0.1:{port + Port.PUSH}")

        def arrived() -> int:
            link.wait(0.01)
            assert list(link.receive()) == []
            return pull.poll(10)

        until(arrived, "a message")
        assert pull.recv_multipart() == HERE
    context.term()


def test_soft_limit_is_raised_to_the_hard_one(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Services(tmp_path) as services:
        services.descriptors = 40, hard
        services.start_broker()
        assert psutil.Process(services.running["broker"].pid).rlimit(psutil.RLIMIT_NOFILE) == (hard, hard)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (64, ["broker"]),
        (8, ["broker"]),
        (12, ["trainer", "--data", "parity4:1/2"]),
        (8, ["watch"]),
        (8, ["aggregator", "--task", "xor"]),  # the store comes first
        (16, ["aggregator", "--task", "xor"]),
    ],
)
def test_limit_that_is_too_low_gives_one_line_and_exit_code_78(limit: int, words: list[str], tmp_path: Path) -> None:
    with Services(tmp_path) as services:
        services.descriptors = limit, limit
        services.start("service", *words, OPENBLAS_NUM_THREADS="1")
        assert services.wait("service") == 78
        line = services.err("service").splitlines()[-1]
        assert re.search(r"expected a (limit of at least \d+ open files, got \d+|free file descriptor)", line)
        assert "raise the limit (ulimit -n" in line

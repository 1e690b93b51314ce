"""Links over real ZeroMQ sockets: delivery, presence, and a missing broker."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
import zmq
from links import DEADLINE_S, Edge, aggregator, running_broker, says, trainer

from fedmq.broker.routing import INBOXES_OF_NAME_MAX
from fedmq.deploy.processes import free_port
from fedmq.errors import BadConfiguration
from fedmq.protocol import topics
from fedmq.protocol.codec import decode
from fedmq.protocol.messages import Presence
from fedmq.transport.address import PORTS
from fedmq.transport.link import Delivered, LinkDown, LinkUp, Port
from fedmq.transport.zeromq import AggregatorSockets, BrokerSockets, ObserverSockets, TrainerSockets
from fedmq.transport.zeromq.edge import EdgeSockets
from fedmq.transport.zeromq.endpoint import HEARTBEAT_TIMEOUT_MS, Endpoint

NOTICED_S = 0.75e-3 * HEARTBEAT_TIMEOUT_MS  # the end of a process is known before a heartbeat is missed
PEER = """
import sys
from fedmq.transport.zeromq import TrainerSockets
link = TrainerSockets(sys.argv[1], sys.argv[2])
while True:
    link.wait(None)
    for _ in link.receive():
        pass
"""


@pytest.fixture
def port() -> int:
    """The first port of a broker."""
    return free_port()


@pytest.fixture
def address(port: int) -> Iterator[str]:
    """The address of a running broker."""
    with running_broker(port):
        yield f"tcp://127.0.0.1:{port}"


def inbox_works(below: Edge, above: Edge, name: str) -> None:
    """Check that a message for `name` arrives."""
    above.send(topics.inbox_of(name).encode(), b"ping")
    below.until(says(topics.inbox_of(name), b"ping"))


def test_round_and_result_are_forwarded(address: str) -> None:
    with aggregator(address) as above, trainer(address) as below:
        assert above.presence(1) == [("alice", True)]
        above.send(b"round/r", b"header", b"", b"array")
        below.until(says("round/r", b"header", b"", b"array"))
        below.send(b"up/r", b"header", b"", b"array")
        above.until(says("up/r/", b"header", b"", b"array"))


def test_aggregator_receives_only_its_own_run(address: str) -> None:
    with aggregator(address, "r") as first, aggregator(address, "r2") as second, trainer(address) as below:
        first.presence(1)
        second.presence(1)
        for run in (b"r2", b"r"):
            below.send(b"up/" + run, b"1")
            below.send(b"up/" + run, b"2")
        assert first.messages(says("up/r/", b"2")) == [says("up/r/", b"1"), says("up/r/", b"2")]
        assert second.messages(says("up/r2/", b"2")) == [says("up/r2/", b"1"), says("up/r2/", b"2")]


def test_only_late_trainer_gets_kept_rounds(address: str) -> None:
    with aggregator(address) as above, trainer(address, "alice") as alice:
        above.presence(1)
        for frames in ([b"round/r", b"1"], [b"round/r", b"2"], [b"round/s", b"7"], [b"event/r", b"e"]):
            above.send(*frames)
        alice.until(says("round/s", b"7"))
        with trainer(address, "bob") as bob:
            assert bob.messages(says("to/bob/", b"7")) == [says("to/bob/", b"2"), says("to/bob/", b"7")]
            above.send(b"round/r", b"3")
            assert alice.messages(says("round/r", b"3")) == [says("round/r", b"3")]


def test_early_trainer_gets_each_round_once(address: str) -> None:
    with aggregator(address) as above, trainer(address) as below:
        above.presence(1)
        for number in (b"1", b"2"):
            above.send(b"round/r", number)
        assert below.messages(says("round/r", b"2")) == [says("round/r", b"1"), says("round/r", b"2")]


def test_trainer_receives_only_its_own_inbox(address: str) -> None:
    with aggregator(address) as above, trainer(address, "alice") as alice, trainer(address, "alicia") as alicia:
        above.presence(2)
        above.send(b"to/alicia/", b"for alicia")
        above.send(b"to/alice/", b"for alice")
        assert alicia.messages(says("to/alicia/", b"for alicia")) == [says("to/alicia/", b"for alicia")]
        assert alice.messages(says("to/alice/", b"for alice")) == [says("to/alice/", b"for alice")]


def test_closed_link_makes_a_trainer_absent(address: str) -> None:
    with aggregator(address) as above:
        with trainer(address):
            assert above.presence(1) == [("alice", True)]
        assert above.presence(1) == [("alice", False)]


def test_subscription_of_an_ended_connection_is_ignored(port: int) -> None:
    hub, context = BrokerSockets("127.0.0.1", port), zmq.Context()
    with closing(hub):
        subscriber = context.socket(zmq.SUB)
        subscriber.subscribe(b"to/alice/")
        subscriber.connect(f"tcp://127.0.0.1:{port + Port.SUBSCRIBE}")
        assert hub._socket_of[Port.SUBSCRIBE].poll(DEADLINE_S * 1000) == zmq.POLLIN
        hub._read_monitor(hub._subscriber_monitor)
        assert hub.connections
        context.destroy(linger=0)
        deadline = time.monotonic() + DEADLINE_S
        while hub.connections:
            assert time.monotonic() < deadline
            hub._subscriber_monitor.poll(100)
            hub._read_monitor(hub._subscriber_monitor)
        assert list(hub.receive()) == []


def test_killed_trainer_is_absent_at_once(address: str) -> None:
    with aggregator(address) as above:
        process = subprocess.Popen([sys.executable, "-c", PEER, address, "carol"])
        try:
            assert above.presence(1) == [("carol", True)]
            process.kill()
            killed_at = time.monotonic()
            assert above.presence(1) == [("carol", False)]
            assert time.monotonic() - killed_at < NOTICED_S
        finally:
            process.kill()
            process.wait(DEADLINE_S)


def test_trainer_that_reconnects_early_stays_present(address: str) -> None:
    with aggregator(address) as above, ExitStack() as later:
        with trainer(address, "alice") as old:
            assert above.presence(1) == [("alice", True)]
            above.send(b"round/r", b"1")
            old.until(says("round/r", b"1"))
            new = later.enter_context(trainer(address, "alice"))
            new.until(says("to/alice/", b"1"))
        inbox_works(new, above, "alice")
        with trainer(address, "bob"):  # an end of the old connection would have been reported before this
            assert above.presence(1) == [("bob", True)]
            later.close()
            assert above.presence(1) == [("alice", False)]


def test_late_aggregator_receives_present_trainers(address: str) -> None:
    with aggregator(address) as first, trainer(address, "alice"), trainer(address, "bob"):
        assert set(first.presence(2)) == {("alice", True), ("bob", True)}
        with aggregator(address, "s") as second:
            assert set(second.presence(2)) == {("alice", True), ("bob", True)}


def test_links_reconnect_to_a_restarted_broker(port: int) -> None:
    address = f"tcp://127.0.0.1:{port}"
    with ExitStack() as links:
        with running_broker(port):
            above, below = links.enter_context(aggregator(address)), links.enter_context(trainer(address))
            above.until(LinkUp())
            below.until(LinkUp())
        above.until(LinkDown())
        below.until(LinkDown())
        assert not above.link.send([b"round/r", b"into nothing"])
        with running_broker(port):  # each link is two connections: what is sent before both are back is lost
            above.send_until(below, says("to/alice/", b"again"), b"to/alice/", b"again")
            below.send_until(above, says("up/r/", b"again"), b"up/r", b"again")


def test_messages_are_not_accepted_without_a_broker(port: int) -> None:
    address = f"tcp://127.0.0.1:{port}"
    with trainer(address) as below, aggregator(address) as above:
        assert not below.link.send([b"up/r", b"early"])
        assert not above.link.send([b"round/r", b"early"])
        with running_broker(port):
            assert above.presence(1) == [("alice", True)]
            below.send(b"up/r", b"in time")
            assert above.messages(says("up/r/", b"in time")) == [says("up/r/", b"in time")]


def test_wake_from_another_thread_ends_a_wait(port: int) -> None:
    with trainer(f"tcp://127.0.0.1:{port}") as below:
        thread = threading.Thread(target=below.link.wake)
        thread.start()
        below.link.wait(None)
        thread.join(DEADLINE_S)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "*", "", "::", "example.invalid"])  # noqa: S104
def test_without_keys_only_loopback_is_bound(host: str, port: int) -> None:
    with pytest.raises(BadConfiguration, match=r"expected --bind 127\.0\.0\.1, got"):
        BrokerSockets(host, port)


@pytest.mark.parametrize("offset", range(PORTS - 1))
def test_port_in_use_is_an_error_with_its_number(port: int, offset: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port + offset))
        taken.listen()
        with pytest.raises(BadConfiguration) as refusal:
            BrokerSockets("127.0.0.1", port)
    line = str(refusal.value)
    assert f"127.0.0.1:{port + offset}" in line
    assert "--port" in line
    assert "\n" not in line
    BrokerSockets("127.0.0.1", port).close()  # what was bound before the failure is free again


def test_second_connection_of_a_name_is_reported_and_further_ones_are_closed(port: int) -> None:
    address = f"tcp://127.0.0.1:{port}"
    links: list[EdgeSockets] = [AggregatorSockets(address, "r")]
    reported, give_up_at = list[int](), time.monotonic() + DEADLINE_S

    def until(holds: Callable[[], bool]) -> None:
        while not holds():
            assert time.monotonic() < give_up_at, f"got {reported}"
            links[0].wait(0.02)
            for event in [event for link in links for event in link.receive()]:
                message = decode(event.frames).message if isinstance(event, Delivered) else None
                if isinstance(message, Presence):
                    reported.append(message.inboxes)

    with running_broker(port) as broker:
        links += [TrainerSockets(address, "alice") for _ in range(2)]
        until(lambda: reported[-1:] == [2])
        links += [TrainerSockets(address, "alice") for _ in range(4)]
        until(lambda: broker._hub.cuts > 4)  # type: ignore[attr-defined]  # they try again
        assert broker.routing.inboxes["alice"] == INBOXES_OF_NAME_MAX
        while len(links) > 2:
            links.pop().close()
        until(lambda: reported[-1:] == [1])
        for link in links:
            link.close()


def test_every_socket_has_limits_and_heartbeats(port: int) -> None:
    address = f"tcp://127.0.0.1:{port}"
    ends: list[Endpoint] = [
        BrokerSockets("127.0.0.1", port),
        TrainerSockets(address, "alice"),
        AggregatorSockets(address, "r"),
        ObserverSockets(address, "t"),
    ]
    with ExitStack() as stack:
        for end in ends:
            stack.callback(end.close)
            end.wait(0)  # makes the sockets of an edge
        sockets = [one for end in ends for one in end._sockets if one.type != zmq.PAIR]
        assert len(sockets) == 4 + 2 + 2 + 1
        for one in sockets:
            assert one.sndhwm == one.rcvhwm == 10_000, "0 would be no limit"
            assert 0 < one.maxmsgsize < 1 << 30
            assert (one.heartbeat_ivl, one.heartbeat_timeout, one.handshake_ivl) == (1_000, 8_000, 3_000)
            assert 0 <= one.linger <= 1_000
